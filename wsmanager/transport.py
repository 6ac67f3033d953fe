"""The one place that knows how servers take a frame.

A push must not wait, yet every ASGI server's ``send`` is awaitable. `Transport.write` starts it and
answers None when the server took the frame at once, or else what remains to be awaited. How the first
step is made depends on what ``send`` is:

* A coroutine function that binds nothing to the running task is stepped by hand: no task is made.
  This is every server's own ``send`` and the wrappers that frameworks put around it.
* A coroutine function that may bind a timeout or a cancel scope to the running task would bind it to
  the wrong one when stepped by hand. From Python 3.12 on it is started as an eager task; before, it
  is left to a task of its own, so that nothing of it runs before its turn.
* Any other callable starts at the call (granian): what it returns is awaited later.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from typing import Any, TypeAlias

from .messages import Frame

__all__ = ["Event", "Receive", "Resumed", "Scope", "Send", "Transport", "frame_of", "transport_for"]

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

_EAGER_TASKS = sys.version_info >= (3, 12)

# Code whose `send` is known to suspend on plain futures only.
_KNOWN = ("uvicorn.", "hypercorn.", "daphne.", "starlette.", "fastapi.", "wsmanager.")

# Names whose use inside a coroutine binds something to the task that runs it.
_BINDS_TO_TASK = frozenset(
    {
        "CancelScope",
        "TaskGroup",
        "create_task_group",
        "current_task",
        "fail_after",
        "fail_at",
        "move_on_after",
        "move_on_at",
        "timeout",
        "timeout_at",
    }
)


def frame_of(event: Event) -> Frame:
    """The text or bytes of a ``websocket.receive`` event; servers may give the other key as None."""
    text = event.get("text")
    return text if text is not None else event.get("bytes") or b""


class Resumed:
    """Awaits the rest of a coroutine that was stepped by hand up to its first suspension."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        step, waits_for = self._coroutine, self._waits_for
        while True:
            try:
                sent = yield waits_for
            except GeneratorExit:
                step.close()
                raise
            except BaseException as error:
                try:
                    waits_for = step.throw(error)
                except StopIteration as end:
                    return end.value
            else:
                try:
                    waits_for = step.send(sent)
                except StopIteration as end:
                    return end.value


class Transport:
    """Portable ASGI, stepped by hand. Stateless: one serves all connections of its kind."""

    def write(self, send: Send, event: Event) -> Awaitable[None] | None:
        """Start sending `event`. None: the server has it. Else the caller must await the answer,
        and write nothing before it is done: the order of frames is the caller's.

        Raises what ``send`` raises; `OSError` then means that the peer is gone.
        """
        step: Any = send(event)
        # A loop that ends at once: unlike `step.send`, it makes no StopIteration for a frame that was taken.
        for waits_for in step.__await__():
            return Resumed(step, waits_for)
        return None


class EagerTransport(Transport):
    """For a ``send`` that must run in a task of its own, where tasks can start at once."""

    def write(self, send: Send, event: Event) -> Awaitable[None] | None:
        task = asyncio.Task(_coroutine(send(event)), eager_start=True)  # type: ignore[call-arg]  # 3.12
        if not task.done():
            return task
        task.result()
        return None


class DeferredTransport(Transport):
    """For a ``send`` that starts at the call, or must not start outside a task of its own."""

    def write(self, send: Send, event: Event) -> Awaitable[None] | None:
        return send(event)


_STEPPED, _EAGER, _DEFERRED = Transport(), EagerTransport(), DeferredTransport()


async def _coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


def transport_for(send: Send) -> Transport:
    """The transport that is right for this `send`."""
    if not _is_coroutine_function(send):
        return _DEFERRED
    if _is_known(send) or (not _EAGER_TASKS and not _may_bind_to_task(send)):
        return _STEPPED
    return _EAGER if _EAGER_TASKS else _DEFERRED


def _function(callable_: Any) -> Any:
    while isinstance(callable_, functools.partial):
        callable_ = callable_.func
    return inspect.unwrap(getattr(callable_, "__func__", callable_))


def _is_coroutine_function(send: Send) -> bool:
    return inspect.iscoroutinefunction(_function(send))


def _is_known(send: Any) -> bool:
    function = _function(send)
    if not f"{function.__module__}.".startswith(_KNOWN):
        return False
    return all(_is_known(inner) for inner in _wrapped_by(function))


def _may_bind_to_task(send: Any) -> bool:
    function = _function(send)
    if not _BINDS_TO_TASK.isdisjoint(function.__code__.co_names):
        return True
    return any(_may_bind_to_task(inner) for inner in _wrapped_by(function))


def _wrapped_by(function: Any) -> list[Callable[..., Coroutine[Any, Any, Any]]]:
    """The coroutine functions that a closure refers to: the `send` it wraps is among them."""
    contents = (_content(cell) for cell in function.__closure__ or ())
    return [
        inner
        for inner in contents
        if inner is not function and callable(inner) and _is_coroutine_function(inner)
    ]


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
