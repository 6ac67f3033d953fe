"""SIGTERM: what is to happen before the server acts on it.

Servers close every socket as soon as they are told to end, and show the application its shutdown only
then. So a handler is put before the server's own, where that can be found: one of `signal.signal`
(uvicorn, daphne), or of asyncio's own event loop (hypercorn without workers, granian).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol
from weakref import WeakSet

from ..logs import log_event

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
    """Return the handler that stands before the server's own; None where none can be seen."""
    handlers = _handlers_of(loop)
    handle = None if handlers is None else handlers.get(signal.SIGTERM)
    if handle is not None:
        return _before_loops_own(loop, handle)
    current = signal.getsignal(signal.SIGTERM)
    if isinstance(current, Termination):
        return current if current.loop is loop else _put(loop, current.go_on)
    if not callable(current):
        return None
    # What a loop leaves there is no handler: it gets its signals in another way.
    if _module_of(current).startswith(("asyncio", "uvloop")) or _module_of(current) == type(loop).__module__:
        if handlers is None:
            _warn_of_unseen(_kind_of(loop))
        return None
    return _put(loop, functools.partial(current, signal.SIGTERM, None))


def _put(loop: asyncio.AbstractEventLoop, go_on: Callable[[], object]) -> Termination:
    termination = Termination(loop, go_on)
    signal.signal(signal.SIGTERM, termination)
    return termination


def _before_loops_own(loop: Any, handle: Any) -> Termination | None:
    try:
        callback, arguments = _call_of(handle)
    except AttributeError:
        _warn_of_unseen(_kind_of(loop))
        return None
    if isinstance(callback, Termination):
        return callback
    if callback is None:  # cancelled
        return None
    termination = Termination(loop, functools.partial(callback, *arguments))
    loop.add_signal_handler(signal.SIGTERM, termination)
    return termination


# --- how asyncio's own loop keeps its handlers: nothing public tells


def _handlers_of(loop: Any) -> Mapping[int, Any] | None:
    """Return the handles that a loop runs at a signal; None where it keeps them otherwise, as uvloop does."""
    handlers = getattr(loop, "_signal_handlers", None)
    return handlers if isinstance(handlers, Mapping) else None


def _call_of(handle: Any) -> tuple[Any, Any]:
    """Return the function of an `asyncio.Handle` and its arguments. Raises `AttributeError` for another."""
    return handle._callback, handle._args


@functools.lru_cache(maxsize=16)
def _warn_of_unseen(loop: str) -> None:
    """Log once that this kind of loop has a handler of SIGTERM that nothing can be put before."""
    meaning = (
        "the server's SIGTERM handler cannot be found in this event loop: sockets are closed before they are "
        "drained; call `await manager.drain()`, or POST /drain, before the server ends"
    )
    log_event(logging.WARNING, "sigterm.unseen", loop=loop, meaning=meaning)


def _kind_of(loop: Any) -> str:
    return f"{type(loop).__module__}.{type(loop).__qualname__}"


def _module_of(handler: Any) -> str:
    return getattr(handler, "__module__", None) or ""
