"""SIGTERM: what is to happen before the server acts on it.

Servers close every socket as soon as they are told to end, and show the application its shutdown only
then. So a handler is put before the server's own, where that can be found: one of `signal.signal`
(uvicorn, daphne), or of asyncio's own event loop (hypercorn without workers, granian).
"""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol
from weakref import WeakSet

__all__ = ["Drainable", "Termination", "drain_first"]


# Granian takes a frame before it has written it, in threads of its own that end with the process.
_LAST_WORDS: Final = 0.2


class Drainable(Protocol):
    def drain(self) -> Awaitable[None]: ...


class Termination:
    """A handler of SIGTERM that drains everything it knows, and then calls the one that was there before.

    A second signal meanwhile goes to that one at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, go_on: Callable[[], object]) -> None:
        self.first: WeakSet[Drainable] = WeakSet()
        """What is to be drained first."""
        self.loop = loop
        self.go_on = go_on
        self._task: asyncio.Task[None] | None = None

    def __call__(self, *_: object) -> None:
        if self.loop.is_running():
            self.loop.call_soon_threadsafe(self._begin)
        else:  # whoever installed the other handler has the process to itself again
            self.go_on()

    def _begin(self) -> None:
        if self._task is None and self.first:
            self._task = self.loop.create_task(self._drain(), name="wsmanager.sigterm")
        else:
            self.go_on()

    async def _drain(self) -> None:
        try:
            await asyncio.gather(*(one.drain() for one in tuple(self.first)), return_exceptions=True)
            await asyncio.sleep(_LAST_WORDS)
        finally:
            self.go_on()


def drain_first(one: Drainable) -> Callable[[], None] | None:
    """Drain `one` at a SIGTERM, before the server acts on it. Returns what takes that back; None where no
    handler of the server's is found. Called on the event loop."""
    if threading.current_thread() is not threading.main_thread():
        return None
    termination = _before(asyncio.get_running_loop())
    if termination is None:
        return None
    termination.first.add(one)
    return functools.partial(termination.first.discard, one)


def _before(loop: Any) -> Termination | None:
    """The handler that stands before the server's own."""
    # How a loop keeps its handlers is its own affair; where it is not as expected, nothing is done.
    handle = getattr(loop, "_signal_handlers", {}).get(signal.SIGTERM)
    if handle is not None:
        return _before_loops_own(loop, handle)
    current = signal.getsignal(signal.SIGTERM)
    if isinstance(current, Termination):
        return current if current.loop is loop else _put(loop, current.go_on)
    # What a loop leaves there is no handler: it gets its signals in another way.
    if not callable(current) or _module_of(current).startswith(("asyncio", "uvloop")):
        return None
    return _put(loop, functools.partial(current, signal.SIGTERM, None))


def _put(loop: asyncio.AbstractEventLoop, go_on: Callable[[], object]) -> Termination:
    termination = Termination(loop, go_on)
    signal.signal(signal.SIGTERM, termination)
    return termination


def _before_loops_own(loop: Any, handle: Any) -> Termination | None:
    callback = getattr(handle, "_callback", None)
    if isinstance(callback, Termination):
        return callback
    if callback is None:
        return None
    termination = Termination(loop, functools.partial(callback, *handle._args))
    loop.add_signal_handler(signal.SIGTERM, termination)
    return termination


def _module_of(handler: Any) -> str:
    return getattr(handler, "__module__", None) or ""
