"""Background work with an owner: named, restarted with backoff when it crashes, and readable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

import msgspec

from ..logs import Note, log_event

__all__ = ["Supervisor", "TaskHealth", "cancellations", "is_being_cancelled"]


def cancellations() -> int:
    """How many cancellations of the running task nobody has taken back."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def is_being_cancelled(since: int = 0) -> bool:
    """Whether somebody cancels the running task, beyond `since` earlier cancellations; if not, a
    `CancelledError` in it is of its own making."""
    return cancellations() > since


class TaskHealth(msgspec.Struct, frozen=True):
    """How one background task is."""

    state: Literal["running", "waiting", "ended"]
    """``waiting`` means that it crashed and starts again after a pause."""
    restarts: int = 0
    last_error: str | None = None
    """The class of the last crash; its text is in the log."""


class Supervisor:
    """Owns tasks. Two kinds: named ones that are kept alive, and errands that run once."""

    def __init__(
        self,
        *,
        backoff: float = 0.5,
        max_backoff: float = 30.0,
        max_errands: int = 100_000,
        note: Note = log_event,
    ) -> None:
        self._backoff = backoff
        self._max_backoff = max_backoff
        self._max_errands = max_errands
        self._note = note
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._health: dict[str, TaskHealth] = {}
        self._errands: set[asyncio.Task[Any]] = set()

    def keep_alive(self, name: str, run: Callable[[], Awaitable[None]]) -> bool:
        """Run `run` until it returns; start it again when it raises. False: it is running already."""
        running = self._tasks.get(name)
        if running is not None and not running.done():
            return False
        self._health[name] = TaskHealth("running")
        self._tasks[name] = asyncio.create_task(self._supervise(name, run), name=f"wsmanager.{name}")
        return True

    async def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        pause, restarts, last_error = self._backoff, 0, None
        time = asyncio.get_running_loop().time
        try:
            while True:
                self._health[name] = TaskHealth("running", restarts, last_error)
                started = time()
                try:
                    await run()
                except Exception as error:
                    restarts, last_error = restarts + 1, type(error).__qualname__
                    self._note(logging.ERROR, "task.crashed", error=error, name=name, restarts=restarts)
                else:
                    return
                if time() - started > self._max_backoff:  # it had recovered from the crash before
                    pause = self._backoff
                self._health[name] = TaskHealth("waiting", restarts, last_error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._max_backoff)
        finally:
            self._health[name] = TaskHealth("ended", restarts, last_error)

    def run_errand(self, errand: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any] | None:
        """Run `errand` once, and return its task. A crash is logged; beyond ``max_errands`` at once it is
        not started, and the answer is None."""
        if len(self._errands) >= self._max_errands:
            errand.close()
            self._note(logging.ERROR, "errand.refused", name=name, limit=self._max_errands)
            return None
        task = asyncio.create_task(errand, name=f"wsmanager.{name}")
        self._errands.add(task)
        task.add_done_callback(self._errand_done)
        return task

    def _errand_done(self, task: asyncio.Task[Any]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._note(logging.ERROR, "errand.crashed", error=error, name=task.get_name())

    def rebind(self) -> None:
        """Forget what belongs to an event loop that is no more."""
        self._tasks.clear()
        self._health.clear()
        self._errands.clear()

    async def finish_errands(self) -> None:
        """Wait until no errand runs, but for the one that calls this."""
        while others := self._errands - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def stop(self) -> None:
        """Cancel everything, but for the task that calls this, and wait for its end."""
        tasks = {*self._tasks.values(), *self._errands} - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    def figures(self) -> dict[str, TaskHealth]:
        """Return the named tasks and how they are."""
        return dict(self._health)

    @property
    def errands(self) -> int:
        """How many errands are running."""
        return len(self._errands)
