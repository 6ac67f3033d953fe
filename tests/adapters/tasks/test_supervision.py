"""Background work that is restarted, counted, and gone at the end."""

from __future__ import annotations

import asyncio

import pytest

from wsmanager.tasks.supervision import Supervisor, TaskHealth, is_being_cancelled

pytestmark = pytest.mark.anyio


def now() -> float:
    return asyncio.get_running_loop().time()


class Work:
    """Fails so many times, after so many seconds each, and then runs until it is told to end."""

    def __init__(self, failures: int = 0, seconds: float = 0.0) -> None:
        self.failures = failures
        self.seconds = seconds
        self.starts: list[float] = []
        self.may_end = asyncio.Event()

    async def run(self) -> None:
        self.starts.append(now())
        if len(self.starts) <= self.failures:
            await asyncio.sleep(self.seconds)
            raise LookupError("a secret")
        await self.may_end.wait()


async def test_work_runs_until_it_ends_by_itself() -> None:
    supervisor, work = Supervisor(), Work()
    supervisor.keep_alive("work", work.run)
    await asyncio.sleep(1)
    assert supervisor.figures() == {"work": TaskHealth("running")}
    assert "wsmanager.work" in {task.get_name() for task in asyncio.all_tasks()}
    work.may_end.set()
    await asyncio.sleep(1)
    assert supervisor.figures() == {"work": TaskHealth("ended")}


async def test_work_that_runs_is_not_started_twice_and_work_that_ended_is() -> None:
    supervisor, work = Supervisor(), Work()
    for _ in range(2):
        for _ in range(3):
            supervisor.keep_alive("work", work.run)
            await asyncio.sleep(1)
        work.may_end.set()
        await asyncio.sleep(1)
    assert len(work.starts) == 4  # thrice it ended at once
    await supervisor.stop()


async def test_a_crash_is_reported_and_work_starts_again_ever_later(caplog: pytest.LogCaptureFixture) -> None:
    supervisor, work = Supervisor(backoff=1, max_backoff=5), Work(failures=5)
    supervisor.keep_alive("work", work.run)
    await asyncio.sleep(0.5)
    assert supervisor.figures() == {"work": TaskHealth("waiting", 1, "LookupError")}
    await asyncio.sleep(60)
    started = work.starts[0]
    assert [start - started for start in work.starts] == [0, 1, 3, 7, 12, 17]
    assert supervisor.figures() == {"work": TaskHealth("running", 5, "LookupError")}
    assert caplog.text.count("task.crashed") == 5
    await supervisor.stop()


async def test_a_crash_long_after_the_last_is_a_first_one() -> None:
    supervisor, work = Supervisor(backoff=1, max_backoff=5), Work(failures=4, seconds=6)
    supervisor.keep_alive("work", work.run)
    await asyncio.sleep(60)
    gaps = [later - earlier for earlier, later in zip(work.starts, work.starts[1:], strict=False)]
    assert gaps == [7, 7, 7, 7]
    await supervisor.stop()


async def test_errands_run_once_and_are_counted() -> None:
    supervisor, done = Supervisor(), list[int]()

    async def errand(number: int) -> None:
        await asyncio.sleep(number)
        done.append(number)

    for number in (2, 1, 3):
        assert supervisor.run_errand(errand(number), "count") is not None
    assert supervisor.errands == 3
    await asyncio.sleep(2.5)
    assert (done, supervisor.errands) == ([1, 2], 1)
    await supervisor.finish_errands()
    assert (done, supervisor.errands) == ([1, 2, 3], 0)


async def test_an_errand_that_crashes_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor()

    async def errand() -> None:
        raise LookupError

    supervisor.run_errand(errand(), "bad")
    await asyncio.sleep(1)
    assert supervisor.errands == 0
    assert "errand.crashed name=wsmanager.bad" in caplog.text


async def test_there_are_never_more_errands_than_may_be(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor(max_errands=2)
    tasks = [supervisor.run_errand(asyncio.sleep(1), "nap") for _ in range(4)]
    assert [task is None for task in tasks] == [False, False, True, True]
    assert caplog.text.count("errand.refused") == 2
    await asyncio.sleep(2)
    assert supervisor.run_errand(asyncio.sleep(1), "nap") is not None
    await supervisor.stop()


async def test_finishing_waits_for_errands_of_errands_and_not_for_itself() -> None:
    supervisor, done = Supervisor(), list[str]()

    async def inner() -> None:
        await asyncio.sleep(1)
        done.append("inner")

    async def outer() -> None:
        await asyncio.sleep(1)
        supervisor.run_errand(inner(), "inner")
        done.append("outer")

    async def last() -> None:
        await supervisor.finish_errands()
        done.append("last")

    supervisor.run_errand(outer(), "outer")
    supervisor.run_errand(last(), "last")
    await supervisor.finish_errands()
    assert done == ["outer", "inner", "last"]


async def test_stopping_ends_everything_but_the_task_that_stops(caplog: pytest.LogCaptureFixture) -> None:
    supervisor, work, done = Supervisor(), Work(), list[str]()

    async def stop() -> None:
        await supervisor.stop()
        done.append("stopped")

    supervisor.keep_alive("work", work.run)
    supervisor.run_errand(asyncio.sleep(100), "long")
    supervisor.run_errand(stop(), "stop")
    await asyncio.sleep(1)
    assert done == ["stopped"]
    assert supervisor.figures() == {"work": TaskHealth("ended")}
    assert supervisor.errands == 0
    assert caplog.records == []


async def test_work_may_be_stopped_while_it_waits_to_start_again() -> None:
    supervisor = Supervisor(backoff=100, max_backoff=100)
    supervisor.keep_alive("work", Work(failures=1).run)
    await asyncio.sleep(1)
    await supervisor.stop()
    assert supervisor.figures() == {"work": TaskHealth("ended", 1, "LookupError")}


async def test_a_task_knows_whether_it_is_being_cancelled() -> None:
    answers: list[bool] = []

    async def task() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            answers.append(is_being_cancelled())

    running = asyncio.create_task(task())
    await asyncio.sleep(1)
    running.cancel()
    await asyncio.wait({running})
    assert answers == [True]
    assert not is_being_cancelled()
