"""Code of the application under a clock: it ends in time, and its task is left as it was found."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from wsmanager.errors import HandlerTimeout
from wsmanager.tasks.calls import Running, Runs

pytestmark = pytest.mark.anyio

LIMIT, GRACE = 10.0, 5.0
FOREVER = 3_600.0


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def runs() -> Runs:
    return Runs(LIMIT, GRACE)


def begin(running: Running) -> asyncio.Task[Any]:
    """Await it in a task of its own."""

    async def run() -> Any:
        task = asyncio.current_task()
        assert task is not None
        try:
            return await running
        finally:
            if task.cancelling():
                marks.append(task.cancelling())

    marks: list[int] = []
    task = asyncio.create_task(run())
    task.marks = marks  # type: ignore[attr-defined]
    return task


def left_behind(task: asyncio.Task[Any]) -> int:
    """How many cancellations the task had when what it awaited was over."""
    marks: list[int] = task.marks  # type: ignore[attr-defined]
    return sum(marks)


def stepped(runs: Runs, coroutine: Coroutine[Any, Any, Any]) -> Running:
    return Running(runs, coroutine, coroutine.send(None))


async def stubborn() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(FOREVER)


async def deaf(times: int, answer: str) -> str:
    """Minds no cancellation but the last."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(FOREVER)
    return answer


# --- as if it were awaited


@pytest.mark.parametrize("first_step_made", [False, True])
async def test_its_result_is_the_coroutines(runs: Runs, first_step_made: bool) -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(LIMIT - 1)
        await asyncio.sleep(0.5)
        return number * 2

    running = stepped(runs, double(4)) if first_step_made else runs.run(double(4))
    assert await running == 8
    assert runs.others(None) == set()


async def test_a_coroutine_that_never_suspends_is_done_at_once(runs: Runs) -> None:
    async def at_once() -> str:
        return "done"

    started = now()
    assert await runs.run(at_once()) == "done"
    assert now() == started


async def test_what_is_no_coroutine_can_be_run(runs: Runs) -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_result(7)
    assert await runs.run(future) == 7


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_its_errors_are_the_coroutines(error: type[BaseException]) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise error

    async def main() -> None:
        runs = Runs(LIMIT, GRACE)
        try:
            await runs.run(fail())
        finally:
            assert runs.others(None) == set()

    with pytest.raises(error):
        asyncio.run(main())


async def test_it_is_of_tasks_only(runs: Runs) -> None:
    running, failures = runs.run(asyncio.sleep(0)), list[BaseException]()

    def step() -> None:
        try:
            next(running.__await__())
        except RuntimeError as error:
            failures.append(error)

    asyncio.get_running_loop().call_soon(step)
    await asyncio.sleep(0)
    running.close()
    assert len(failures) == 1


async def test_one_that_is_dropped_closes_the_coroutine(runs: Runs) -> None:
    diary: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(FOREVER)
        finally:
            diary.append("closed")

    awaiting = runs.run(work()).__await__()
    next(awaiting)
    awaiting.close()
    assert diary == ["closed"]
    assert runs.others(None) == set()


# --- the clock


@pytest.mark.parametrize("first_step_made", [False, True])
async def test_it_ends_when_its_time_is_over(runs: Runs, first_step_made: bool) -> None:
    rest = asyncio.sleep(FOREVER)
    started, task = now(), begin(stepped(runs, rest) if first_step_made else runs.run(rest))
    with pytest.raises(HandlerTimeout):
        await task
    assert now() - started == LIMIT
    assert left_behind(task) == 0


async def test_its_clock_keeps_nothing_that_has_ended(runs: Runs) -> None:
    async def work() -> None:
        await asyncio.sleep(1)

    working = work()
    ended = weakref.ref(working)
    await runs.run(working)
    del working
    gc.collect()
    assert ended() is None


async def test_without_a_limit_it_may_take_as_long_as_it_likes() -> None:
    started = now()
    await Runs(None, GRACE).run(asyncio.sleep(FOREVER))
    assert now() - started == FOREVER


async def test_what_it_answers_to_its_cancellation_counts(runs: Runs) -> None:
    task = begin(runs.run(deaf(1, "sorry")))
    assert await task == "sorry"
    assert left_behind(task) == 0


async def test_what_it_raises_at_its_cancellation_counts(runs: Runs) -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            raise LookupError from None

    task = begin(runs.run(work()))
    with pytest.raises(LookupError):
        await task
    assert left_behind(task) == 0


async def test_one_that_goes_on_is_closed_after_the_grace(runs: Runs) -> None:
    diary: list[str] = []

    async def work() -> None:
        try:
            await stubborn()
        finally:
            diary.append("closed")

    started, task = now(), begin(runs.run(work()))
    with pytest.raises(HandlerTimeout):
        await task
    assert now() - started == LIMIT + GRACE
    assert diary == ["closed"]
    assert left_behind(task) == 0


async def test_one_that_ends_within_the_grace_is_not_closed(runs: Runs) -> None:
    async def work() -> str:
        try:
            await asyncio.sleep(FOREVER)
        finally:
            await asyncio.sleep(GRACE - 1)
        return "unreachable"

    task = begin(runs.run(work()))
    started = now()
    with pytest.raises(HandlerTimeout):
        await task
    assert now() - started == LIMIT + GRACE - 1
    await asyncio.sleep(GRACE)
    assert left_behind(task) == 0


async def test_one_that_awaits_even_when_it_is_closed_is_left_and_logged(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    async def hopeless() -> None:
        try:
            await stubborn()
        except GeneratorExit:
            await asyncio.sleep(0)

    with pytest.raises(HandlerTimeout):
        await begin(runs.run(hopeless()))
    stuck = [record for record in caplog.records if getattr(record, "event", "") == "handler.stuck"]
    assert [record.levelno for record in stuck] == [logging.ERROR]


async def test_one_whose_child_took_the_cancellations_is_closed_when_that_has_ended(runs: Runs) -> None:
    diary: list[str] = []

    async def work() -> None:
        diary.append(await asyncio.create_task(deaf(2, "child")))

    working = work()
    started, task = now(), begin(runs.run(working))
    with pytest.raises(HandlerTimeout):
        await task
    assert now() - started == LIMIT + GRACE
    assert inspect.getcoroutinestate(working) == inspect.CORO_CLOSED
    assert diary == []
    assert left_behind(task) == 0


# --- other cancellations


async def test_a_cancellation_of_its_task_goes_on(runs: Runs) -> None:
    task = begin(runs.run(asyncio.sleep(FOREVER)))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert left_behind(task) == 1


@pytest.mark.parametrize("first", ["the clock", "somebody"])
async def test_a_cancellation_at_the_very_moment_of_its_own_goes_on(runs: Runs, first: str) -> None:
    running = runs.run(asyncio.sleep(FOREVER))
    task = begin(running)
    await asyncio.sleep(1)
    acts: list[Callable[[], object]] = [running.stop, task.cancel]
    for act in acts if first == "the clock" else acts[::-1]:
        act()
    await asyncio.wait({task})
    assert task.cancelled()
    assert left_behind(task) == 1


async def test_a_cancellation_that_its_task_had_survived_before_is_no_reason_to_end(runs: Runs) -> None:
    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(asyncio.CancelledError):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(HandlerTimeout):
            await runs.run(asyncio.sleep(FOREVER))
        return task.cancelling()

    assert await asyncio.create_task(main()) == 1


async def test_a_cancellation_of_its_own_making_is_raised_and_counts_for_nothing(runs: Runs) -> None:
    async def work() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    task = begin(runs.run(work()))
    await asyncio.wait({task})
    assert task.cancelled()
    assert left_behind(task) == 0


async def test_a_cancellation_that_did_not_end_it_is_taken_back(runs: Runs) -> None:
    """Before Python 3.13 a failed task group leaves one."""

    async def fail() -> None:
        raise ValueError

    async def work() -> str:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        return "done"

    task = begin(runs.run(work()))
    assert await task == "done"
    assert left_behind(task) == 0


async def by_asyncio(seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await asyncio.sleep(FOREVER)


async def by_anyio(seconds: float) -> None:
    with anyio.fail_after(seconds):
        await asyncio.sleep(FOREVER)


async def by_group(seconds: float) -> None:
    async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(FOREVER))
        await asyncio.sleep(FOREVER)


WAYS = pytest.mark.parametrize("way", [by_asyncio, by_anyio, by_group])


@WAYS
async def test_a_limit_inside_is_its_own_affair(runs: Runs, way: Any) -> None:
    task = begin(runs.run(way(LIMIT / 2)))
    with pytest.raises(TimeoutError):
        await task
    assert left_behind(task) == 0


@WAYS
@pytest.mark.parametrize("seconds", [LIMIT, 2 * LIMIT])
async def test_the_clock_ends_what_is_inside_limits_of_its_own(runs: Runs, way: Any, seconds: float) -> None:
    task = begin(runs.run(way(seconds)))
    with pytest.raises((HandlerTimeout, TimeoutError)):
        await task
    assert left_behind(task) == 0


@pytest.mark.parametrize("seconds", [LIMIT / 2, LIMIT])
async def test_a_limit_around_it_is_not_its_own(runs: Runs, seconds: float) -> None:
    async def main() -> None:
        async with asyncio.timeout(seconds):
            await runs.run(asyncio.sleep(FOREVER))

    with pytest.raises(TimeoutError):
        await asyncio.create_task(main())


async def test_one_inside_another_ends_with_it(runs: Runs) -> None:
    outer, diary = Runs(LIMIT / 2, GRACE), list[str]()

    async def work() -> None:
        try:
            await runs.run(asyncio.sleep(FOREVER))
        except asyncio.CancelledError:
            diary.append("cancelled")
            raise

    task = begin(outer.run(work()))
    with pytest.raises(HandlerTimeout):
        await task
    assert diary == ["cancelled"]
    assert left_behind(task) == 0


# --- by hand


async def test_it_is_stopped_once_and_killed_once(runs: Runs) -> None:
    running = runs.run(deaf(2, "survived"))
    task = begin(running)
    for end in (running.stop, running.stop):
        await asyncio.sleep(1)
        end()
    await asyncio.sleep(1)
    assert not task.done()
    for _ in range(2):
        running.kill()
    with pytest.raises(HandlerTimeout):
        await task
    assert left_behind(task) == 0


async def test_what_has_ended_or_not_begun_cannot_be_stopped(runs: Runs) -> None:
    running = runs.run(asyncio.sleep(1))
    running.stop()
    await running
    running.stop()
    running.kill()
    await asyncio.sleep(0)


async def test_who_waits_for_its_end_learns_of_it(runs: Runs) -> None:
    running = runs.run(asyncio.sleep(FOREVER))
    task = begin(running)
    await asyncio.sleep(0)
    assert running.done is running.done
    running.stop()
    await asyncio.wait({running.done})
    await asyncio.wait({task})
    assert isinstance(task.exception(), HandlerTimeout)


async def test_who_waited_for_its_end_and_gave_up_is_no_obstacle(runs: Runs) -> None:
    running = runs.run(asyncio.sleep(1))
    task = begin(running)
    await asyncio.sleep(0)
    running.done.cancel()
    await task


async def test_what_runs_is_known_by_its_task(runs: Runs) -> None:
    one, other = runs.run(asyncio.sleep(1)), runs.run(asyncio.sleep(2))
    task, _ = begin(one), begin(other)
    assert runs.others(None) == set()
    await asyncio.sleep(0)
    assert runs.others(None) == {one, other}
    assert runs.others(task) == {other}
    await asyncio.sleep(1)
    assert runs.others(task) == {other}
    runs.forget()
    assert runs.others(None) == set()
    await asyncio.sleep(1)
