from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.to_thread
import pytest

from wsmanager.protocols import Clock
from wsmanager.testing import Deadlock, ManualClock, VirtualTimeLoop

T = TypeVar("T")


class Impatient(VirtualTimeLoop):
    patience = 0.02
    deadlock_after = 0.02


class Patient(VirtualTimeLoop):
    """Where it waits although nobody is at work, a test runs into its own timeout."""

    patience = 3600.0


class Slow(VirtualTimeLoop):
    """Where it waits once, that is no matter; at each of hundreds of timers a test runs into its timeout."""

    patience = 0.5
    deadlock_after = 0.5


def run(test: Callable[[], Awaitable[T]], loop: type[VirtualTimeLoop] = VirtualTimeLoop) -> T:
    async def main() -> T:
        return await test()

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


async def beat(seconds: float) -> None:
    for _ in itertools.count():
        await asyncio.sleep(seconds)


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(10.0)
    seam: Clock = clock

    assert seam() == seam() == 10.0
    clock.advance(2.5)
    clock.advance(0)
    assert seam() == 12.5


def test_a_manual_clock_starts_at_zero() -> None:
    assert ManualClock()() == 0.0


def test_a_manual_clock_never_goes_back() -> None:
    clock = ManualClock(10.0)

    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)
    assert clock() == 10.0


def test_an_hour_of_sleep_takes_no_time() -> None:
    async def test() -> float:
        await asyncio.sleep(3600)
        return now()

    assert run(test) == 3600  # in real time the test would run into its own timeout


def test_a_sleep_of_many_days_arrives_in_full() -> None:
    async def test() -> float:
        await asyncio.sleep(6 * 86_400)
        return now()

    assert run(test) == 6 * 86_400


def test_timers_fire_in_the_order_of_their_times() -> None:
    fired: list[tuple[float, int]] = []

    async def sleeper(seconds: int) -> None:
        await anyio.sleep(seconds)
        fired.append((now(), seconds))

    async def test() -> None:
        async with anyio.create_task_group() as group:
            for seconds in (300, 1, 20):
                group.start_soon(sleeper, seconds)

    run(test)
    assert fired == [(1, 1), (20, 20), (300, 300)]


def test_what_is_ready_runs_before_the_clock_moves() -> None:
    seen: list[float] = []

    async def busy() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        seen.append(now())

    async def test() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1e-6))
            group.create_task(busy())

    run(test)
    assert seen == [0.0]


def test_time_limits_are_virtual() -> None:
    async def test() -> float:
        with anyio.move_on_after(60) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        return now()

    assert run(test) == 60


@pytest.mark.anyio
async def test_the_pytest_plugin_of_anyio_runs_tests_on_it() -> None:
    assert now() == 0.0
    await anyio.sleep(3600)
    assert now() == 3600


@pytest.mark.parametrize("in_thread", [anyio.to_thread.run_sync, asyncio.to_thread])
def test_a_job_in_a_thread_ends_before_the_clock_moves(
    in_thread: Callable[[Callable[[], None]], Awaitable[None]],
) -> None:
    order: list[str] = []

    async def job() -> None:
        await in_thread(lambda: time.sleep(0.02))
        order.append("job")

    async def timer() -> None:
        await asyncio.sleep(0.001)
        order.append("timer")

    async def test() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(timer())
            group.create_task(job())

    run(test, Patient)
    assert order == ["job", "timer"]


@pytest.mark.parametrize("in_thread", [anyio.to_thread.run_sync, asyncio.to_thread])
def test_idle_threads_do_not_hold_the_clock(
    in_thread: Callable[[Callable[[], None]], Awaitable[None]],
) -> None:
    async def test() -> None:
        await in_thread(lambda: None)
        await asyncio.sleep(1)

    run(test, Patient)


def test_the_threads_of_another_loop_do_not_hold_the_clock() -> None:
    release = threading.Event()

    async def other() -> None:
        await anyio.to_thread.run_sync(release.wait)

    thread = threading.Thread(target=run, args=(other,), daemon=True)
    thread.start()
    run(lambda: asyncio.sleep(3600), Patient)
    release.set()
    thread.join()


def test_a_stuck_thread_holds_the_clock_only_once() -> None:
    release = threading.Event()

    async def test() -> float:
        with anyio.move_on_after(3600):
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: anyio.to_thread.run_sync(release.wait, abandon_on_cancel=True))
                await beat(10)
        release.set()
        return now()

    assert run(test, Slow) == 3600


def test_a_socket_gets_time_to_answer() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)

    async def test() -> tuple[bytes, float]:
        thread = threading.Timer(0.02, far.send, [b"hello"])
        thread.start()
        async with asyncio.timeout(1):
            heard = await asyncio.get_running_loop().sock_recv(near, 10)
        thread.join()
        return heard, now()

    with near, far:
        assert run(test, Patient) == (b"hello", 0.0)


def test_without_timers_the_loop_really_waits_for_other_threads() -> None:
    async def test() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        thread = threading.Timer(0.02, loop.call_soon_threadsafe, [future.set_result, "from outside"])
        thread.start()
        return await future

    assert run(test) == "from outside"


def test_waiting_for_nothing_is_a_deadlock() -> None:
    with pytest.raises(Deadlock, match="no timer is set"):
        run(anyio.sleep_forever, Impatient)


def test_waiting_for_a_silent_thread_is_a_deadlock() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, daemon=True)
    thread.start()

    with pytest.raises(Deadlock, match="nothing came from outside"):
        run(anyio.sleep_forever, Impatient)
    release.set()
    thread.join()


def test_sleeping_for_ever_can_be_cancelled() -> None:
    async def test() -> float:
        sleeping = asyncio.create_task(asyncio.sleep(float("inf")))
        await asyncio.sleep(10)
        sleeping.cancel()
        await asyncio.wait({sleeping})
        assert sleeping.cancelled()
        return now()

    assert run(test) == 10


def test_periodic_timers_alone_are_a_deadlock() -> None:
    async def test() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(beat, 3600)
            await anyio.Event().wait()

    with pytest.raises(Deadlock, match="nothing but periodic timers"):
        run(test)


def test_after_a_deadlock_the_clean_up_has_time_left() -> None:
    cleaned: list[float] = []

    async def test() -> None:
        try:
            await beat(86_400)
        finally:
            await asyncio.sleep(10)
            cleaned.append(now())

    with pytest.raises(Deadlock):
        run(test)
    assert cleaned == [8 * 86_400 + 10]
