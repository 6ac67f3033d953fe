"""Code of the application that is suspended: under a clock, which ends it even if it does not mind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Final

from ..errors import HandlerTimeout
from ..logs import Note, log_event
from ..wire.stepping import Resumed

__all__ = ["Running", "Runs"]

_FRESH: Final = object()


class Running(Resumed):
    """Awaits a coroutine in the awaiting task, and raises `HandlerTimeout` once that takes too long.

    As `asyncio.timeout` does, it cancels the task and takes that back, and with it every cancellation that
    did not end the coroutine. One that goes on nevertheless is closed a little later: what it awaits raises
    `GeneratorExit` in it. One that waits for another task is closed once that has ended.
    """

    __slots__ = ("_done", "_is_killed", "_runs", "_stops", "_timer", "task")

    def __init__(self, runs: Runs, coroutine: Any, waits_for: Any = _FRESH) -> None:
        """`waits_for` is what a coroutine waits for that has made its first step."""
        super().__init__(coroutine, waits_for)
        self._runs = runs
        self._stops = 0
        self._is_killed = False
        self._timer: asyncio.TimerHandle | None = None
        self._done: asyncio.Future[None] | None = None
        self.task: asyncio.Task[Any] | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("code of the application runs in tasks")
        self.task = task
        before = task.cancelling()
        self._runs.begun(self)
        if self._runs.limit is not None:
            self._timer = asyncio.get_running_loop().call_later(self._runs.limit, self._run_out)
        try:
            if self._waits_for is _FRESH:
                try:
                    self._waits_for = self._coroutine.send(None)
                except StopIteration as end:
                    return end.value
            return (yield from super().__await__())
        except asyncio.CancelledError:
            of_others = task.cancelling() - self._stops
            if of_others > before:
                before = of_others
            elif self._stops:
                raise HandlerTimeout("The server took too long over this message.") from None
            raise
        finally:
            self._end(task, before)

    def _end(self, task: asyncio.Task[Any], before: int) -> None:
        while task.cancelling() > before:  # in Python 3.11 and 3.12 a failed task group leaves one behind
            task.uncancel()
        self._runs.ended(self)
        self.task = None
        if self._timer is not None:
            self._timer.cancel()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _run_out(self) -> None:
        self.stop()
        self._timer = asyncio.get_running_loop().call_later(self._runs.grace, self.kill)

    def stop(self) -> None:
        """Cancel it, once."""
        if self._stops == 0:
            self._cancel()

    def kill(self) -> None:
        """End it, whatever it says to that."""
        self._is_killed = True
        self._cancel()

    def _cancel(self) -> None:
        if self.task is not None:
            self._stops += 1
            self.task.cancel()

    def _send(self, value: Any) -> Any:
        if self._is_killed:  # what it waited for took the cancellation for itself
            self._close()
            raise asyncio.CancelledError
        return super()._send(value)

    def _throw(self, error: BaseException) -> Any:
        if self._is_killed:
            self._close()
            raise error
        return super()._throw(error)

    def _close(self) -> None:
        try:
            self._coroutine.close()
        except RuntimeError:  # it awaits even then: it is left where it stands
            self._runs.note(logging.ERROR, "handler.stuck", what=self._coroutine)

    @property
    def done(self) -> asyncio.Future[None]:
        """Done when it has ended."""
        if self._done is None:
            self._done = asyncio.get_running_loop().create_future()
        return self._done


class Runs:
    """Everything of the application's that is suspended now."""

    def __init__(self, limit: float | None, grace: float, note: Note = log_event) -> None:
        self.limit = limit
        """Seconds until one is cancelled."""
        self.grace = grace
        """Seconds from then until it is closed."""
        self.note = note
        self._running: set[Running] = set()

    def run(self, rest: Awaitable[Any]) -> Running:
        """Code that has not begun, as something to await."""
        return Running(self, rest if isinstance(rest, Coroutine) else _await(rest))

    def begun(self, running: Running) -> None:
        self._running.add(running)

    def ended(self, running: Running) -> None:
        self._running.discard(running)

    def forget(self) -> None:
        """What an event loop has left behind that is no more."""
        self._running.clear()

    def others(self, task: asyncio.Task[Any] | None) -> set[Running]:
        """All but what `task` is in."""
        return {running for running in self._running if running.task is not task}


async def _await(rest: Awaitable[Any]) -> Any:
    return await rest
