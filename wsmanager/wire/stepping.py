"""The one place that knows how servers take a frame.

A push must not wait, yet every ASGI server's ``send`` is awaitable. `Transport.write` starts it and
answers None when the server took the frame at once, or else what remains to be awaited. How the first
step is made depends on what ``send`` is:

* A server's own coroutine function, bare or inside wrappers of frameworks that are known by name, binds
  nothing to the running task. It is stepped by hand: no task is made.
* Any other may hold a timeout or a cancel scope, which would bind itself to the wrong task when stepped
  by hand. From Python 3.12 on it is started as an eager task. Before, it is stepped where its code shows
  that it binds nothing, and else left to a task of its own.
* What is no coroutine function may start at the call (granian): its result is awaited later.
"""

from __future__ import annotations

import asyncio
import dis
import functools
import inspect
import sys
import types
from collections.abc import Awaitable, Coroutine, Generator, Sequence
from typing import Any

from .asgi import Event, Scope, Send
from .below import EXTENSION, Direct, expect_wire, never_waits, server_of, wire_of, written

__all__ = [
    "SEND_FAILED",
    "Resumed",
    "Transport",
    "direct_for",
    "discard",
    "transport_for",
]

# Packages whose `send` is known to suspend on plain futures only. Servers stay by package: a server's `send`
# is the innermost, all that it awaits is the server's own, and only its `send` of WebSockets gets here.
_SERVERS = ("uvicorn.", "hypercorn.", "daphne.", "wsmanager.")

# What frameworks wrap a server's `send` in, and the variable in which each function holds it. These pass on
# the messages of an open socket as they are, and bind nothing to the task. By name, since the next function
# of the same package may hold a timeout; checked from Starlette 0.50 to 1.10, FastAPI 0.121 to 0.165, which
# uses Starlette's.
_WRAPPERS = {
    "starlette._exception_handler.wrap_app_handling_exceptions.<locals>.wrapped_app.<locals>.sender": "send",
    "starlette.middleware.sessions.SessionMiddleware.__call__.<locals>.send_wrapper": "send",
}

SEND_FAILED = (Exception, asyncio.CancelledError)
"""What a write may raise: it waits for nothing, so that a cancellation in it is the server's own."""

# As asyncio's own transports have them.
_HIGH_WATER = 65_536
_LOW_WATER = 16_384

# ``await send(event)`` in a closure, as Python 3.11 compiles it. 3.11 leaves support in October 2027: then
# all that reads bytecode here goes, and with it `DeferredTransport`.
_AWAIT_OF_CLOSURE = ["PUSH_NULL", "LOAD_DEREF", "LOAD_FAST", "PRECALL", "CALL", "GET_AWAITABLE"]


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
                    waits_for = self._throw(error)
                except StopIteration as end:
                    return end.value
            else:
                try:
                    waits_for = self._send(sent)
                except StopIteration as end:
                    return end.value

    def _send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def _throw(self, error: BaseException) -> Any:
        return self._coroutine.throw(error)

    def close(self) -> None:
        """End the coroutine where it stands."""
        self._coroutine.close()


def discard(rest: Awaitable[None]) -> None:
    """Give up what `Transport.write` left to be awaited, if nobody has begun to."""
    give_up = getattr(rest, "cancel", None) or getattr(rest, "close", None)
    if give_up is not None:
        give_up()


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

    def is_simple(self) -> bool:
        """Whether `fan_out` does all that `write` does."""
        return type(self) is Transport

    @staticmethod
    def fan_out(sends: Sequence[Send], event: Event) -> list[tuple[int, Awaitable[None] | BaseException]]:
        """`write` to many: what it answered or raised, and at which place, where it was not plain None."""
        others: list[tuple[int, Awaitable[None] | BaseException]] = []
        for place, send in enumerate(sends):
            try:
                step: Any = send(event)
                for waits_for in step.__await__():
                    others.append((place, Resumed(step, waits_for)))
                    break
            except SEND_FAILED as error:
                others.append((place, error))
        return others


class EagerTransport(Transport):
    """For a ``send`` that must run in a task of its own, where tasks can start at once (Python 3.12)."""

    def write(self, send: Send, event: Event) -> Awaitable[None] | None:
        rest = send(event)
        if not asyncio.iscoroutine(rest):
            return rest
        loop = asyncio.get_running_loop()
        task = asyncio.Task(rest, loop=loop, eager_start=True)  # type: ignore[call-arg]  # 3.12
        if not task.done():
            return task
        task.result()
        return None


class DeferredTransport(Transport):
    """For a ``send`` that must run in a task of its own, where tasks cannot start at once."""

    def write(self, send: Send, event: Event) -> Awaitable[None] | None:
        return send(event)


class PacedTransport(Transport):
    """For servers whose ``send`` waits for nobody: here it waits until they have written most of it."""

    def write(self, send: Send, event: Event) -> Awaitable[None] | None:
        rest, wire = super().write(send, event), wire_of(send)
        if rest is None and wire is not None and wire.get_write_buffer_size() > _HIGH_WATER:
            return written(wire, _LOW_WATER)
        return rest


_STEPPED = Transport()
_PACED = PacedTransport()
_EAGER = EagerTransport()
_DEFERRED = DeferredTransport()
_EAGER_TASKS = sys.version_info >= (3, 12)


def transport_for(send: Send) -> Transport:
    """The transport that is right for this `send`."""
    server = server_of(send)
    expect_wire(server, send)
    if never_waits(server):
        return _PACED
    function = getattr(send, "__func__", None)
    if function is not None and not function.__closure__:
        return _transport_of_method(function)
    return _transport_by_code(send)


@functools.lru_cache(maxsize=64)
def _transport_of_method(function: Any) -> Transport:
    """The same for all objects that have this method: most servers' protocols do."""
    return _transport_by_code(function)


def _transport_by_code(send: Any) -> Transport:
    if _is_known(send):
        return _STEPPED
    if _EAGER_TASKS:
        return _EAGER
    return _STEPPED if _binds_nothing(send) else _DEFERRED


def direct_for(scope: Scope, send: Send) -> Direct | None:
    """The server's transport, where messages may go past `send`: nobody in between would see them."""
    offered = scope.get("extensions", {}).get(EXTENSION)
    if not offered or _unwrapped(send) != offered["send"]:
        return None
    direct: Direct = offered["transport"]
    return direct


def _unwrapped(send: Any) -> Any:
    """Return what a framework was given as `send`; everything else is nobody's wrapper."""
    while (wrapped := _wrapped_by(send)) is not None:
        send = wrapped
    return send


def _wrapped_by(send: Any) -> Any:
    """Return what a function of `_WRAPPERS` passes messages on to; None where `send` is no such function."""
    if not inspect.isfunction(send):
        return None
    code = send.__code__
    # Not `__module__` and `__qualname__`, which `functools.wraps` copies from the function that is wrapped.
    holder = _WRAPPERS.get(f"{send.__globals__['__name__']}.{code.co_qualname}")
    if holder not in code.co_freevars:
        return None
    return _content((send.__closure__ or ())[code.co_freevars.index(holder)])


def _is_known(send: Any) -> bool:
    """True when `send` is a coroutine function of a server or of `_WRAPPERS`, and all that it wraps is."""
    function = _function(send)
    if not inspect.iscoroutinefunction(function):
        return False
    wrapped = _wrapped_by(function)
    if wrapped is not None:
        return _is_known(wrapped)
    if not f"{function.__globals__['__name__']}.".startswith(_SERVERS):
        return False
    return all(
        inner is function or not callable(inner) or inspect.isbuiltin(inner) or _is_known(inner)
        for inner in map(_content, function.__closure__ or ())
    )


def _function(callable_: Any) -> Any:
    """What a call of `callable_` runs."""
    while isinstance(callable_, functools.partial):
        callable_ = callable_.func
    return getattr(callable_, "__func__", callable_)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _binds_nothing(send: Any) -> bool:
    """Whether `send` is a coroutine function without a ``with`` that awaits nothing but others of its kind
    in its closure. Code is understood so far as a plain wrapper needs it; the rest is not trusted."""
    function = _function(send)
    if not inspect.iscoroutinefunction(function):
        return False
    awaited = _awaited_by(function.__code__)
    if awaited is None:
        return False
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    inner = [_content(cells[name]) if name in cells else None for name in awaited]
    return all(each is not function and (_is_known(each) or _binds_nothing(each)) for each in inner)


@functools.lru_cache(maxsize=256)
def _awaited_by(code: types.CodeType) -> frozenset[str] | None:
    """The names in the closure of `code` whose calls it awaits; None when it awaits something else, or
    may wait inside a ``with``."""
    steps = list(dis.get_instructions(code))
    names: set[str] = set()
    for place, step in enumerate(steps):
        if step.opname in {"BEFORE_WITH", "GET_ANEXT"}:
            return None
        if step.opname == "GET_AWAITABLE":
            call = steps[max(0, place - 5) : place + 1]
            if [part.opname for part in call] != _AWAIT_OF_CLOSURE:
                return None
            names.add(call[1].argval)
    return frozenset(names)
