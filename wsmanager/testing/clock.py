"""Time under a test's control: a clock that is moved by hand, an event loop that never sleeps."""

from __future__ import annotations

import asyncio
import contextvars
import math
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ClassVar, TypeVar, TypeVarTuple

__all__ = ["Deadlock", "ManualClock", "VirtualTimeLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ManualClock:
    """Seconds that pass when the test says so. Call it to read it."""

    __slots__ = ("_now",)

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Raises `ValueError` for a negative number: a clock never goes back."""
        if seconds < 0:
            raise ValueError(f"a clock never goes back, and {seconds} is negative")
        self._now += seconds


class Deadlock(RuntimeError):
    """What the test waits for can no longer come."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as nothing is ready to run.

    Hours of sleeping take no time, and the same program runs in the same order every time. Use it as
    ``anyio_backend = ("asyncio", {"loop_factory": VirtualTimeLoop})``, or with `asyncio.Runner`.

    What is outside of the loop still takes real time: a job of `anyio.to_thread` or of
    `run_in_executor`, and open sockets or pipes. While there is one, a jump waits until `patience`
    real seconds have passed without a sign of it; after that it counts as stuck, and costs nothing
    more before its next sign. A thread that the loop did not start is not known to it: wait for it
    with ``anyio.to_thread.run_sync(thread.join)``.

    Raises `Deadlock` out of the running loop when nothing can happen any more, and when the clock has
    run `horizon` seconds: then only periodic timers are alive.
    """

    patience: ClassVar[float] = 0.25
    """Real seconds that threads and sockets get before time moves on without them."""
    deadlock_after: ClassVar[float] = 30.0
    """Real seconds of waiting for other threads or sockets while no timer is set."""
    horizon: ClassVar[float] = 7 * 86_400.0
    """Virtual seconds that a test may take."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ends = self.horizon
        self._jobs = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As every loop does; what is due at infinity (`anyio.sleep_forever`) is no timer at all."""
        if when == math.inf:
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As every loop does; the job is known until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002 - see the docstring
        """Join the executor's threads. A virtual `timeout` would be over before they had a chance."""
        await super().shutdown_default_executor()

    def _job_done(self, _: asyncio.Future[T]) -> None:
        self._jobs -= 1

    def _jump(self, seconds: float) -> None:
        self._now += seconds
        if self._now > self._ends:
            self._ends = self._now + self.horizon  # room for the clean-up that follows
            raise Deadlock(f"the clock stands at {self._now:.0f} s: nothing but periodic timers is left")

    def _working(self) -> int:
        """How many jobs in other threads will wake this loop."""
        busy = [thread for thread in threading.enumerate() if _loop_of_busy_worker(thread) is self]
        return self._jobs + len(busy)


class _JumpingSelector(selectors.DefaultSelector):
    """Selects what is ready; where there is nothing, moves the clock instead of waiting."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop
        self._stuck = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            ready = self._wait_for_ever() if timeout is None else self._wait_for_others()
            if timeout is not None and not ready:
                self._loop._jump(timeout)
        if ready:
            self._stuck = 0
        return ready

    def _wait_for_others(self) -> list[tuple[selectors.SelectorKey, int]]:
        outside = self._loop._working() + self._files()
        if outside in (0, self._stuck):
            return []
        ready = super().select(self._loop.patience)
        self._stuck = 0 if ready else outside
        return ready

    def _wait_for_ever(self) -> list[tuple[selectors.SelectorKey, int]]:
        patience = self._loop.deadlock_after if self._files() or _other_threads() else 0.0
        ready = super().select(patience)
        if not ready:
            raise Deadlock("no timer is set, nothing is ready to run, and nothing came from outside")
        return ready

    def _files(self) -> int:
        return len(self.get_map()) - 1  # the loop's own wake-up pipe is no sign of the outside


def _other_threads() -> bool:
    """Whether there is a thread, apart from idle workers, that might yet wake the loop."""
    here = threading.current_thread()
    return any(thread is not here and not _is_idle_worker(thread) for thread in threading.enumerate())


def _is_idle_worker(thread: threading.Thread) -> bool:
    idle = getattr(thread, "idle_workers", None)
    return idle is not None and (thread in idle or getattr(thread, "stopping", False))


def _loop_of_busy_worker(thread: threading.Thread) -> object:
    # anyio has no public way to ask. Its workers leave `idle_workers` before they get a job, and
    # come back to it on the loop, together with the result: so the answer is exact.
    if _is_idle_worker(thread):
        return None
    return getattr(thread, "loop", None)
