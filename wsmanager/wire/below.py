"""What lies below ASGI: how much of what the server took is still to be written, and the end without a word.

ASGI can neither ask nor abort, and a close waits like any frame behind what a peer does not read. So the
socket's transport is looked for in the server's own ``receive`` and ``send``, where the server is known
to keep it there; found it is not on every server.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import logging
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from operator import attrgetter
from typing import Any, Final, Protocol, cast

from ..logs import log_event
from .framing import WireFrame

__all__ = [
    "EXTENSION",
    "Direct",
    "Wire",
    "advice_for",
    "expect_wire",
    "never_waits",
    "server_of",
    "wire_of",
    "written",
]

EXTENSION: Final = "wsmanager.transport"
"""The ASGI extension by which a server offers its transport. Its value has a `Direct` as ``"transport"``, and
as ``"send"`` what ASGI's own is before anybody wraps it."""

_STEPS: Final = 32
_LOOK_AGAIN: Final = 0.02
# Where what `receive` or `send` belongs to keeps the transport, on each server that shows one.
_TRANSPORTS: Final = {
    "uvicorn": attrgetter("transport"),
    "hypercorn": attrgetter("writer.transport"),
    "daphne": attrgetter("transport"),
}
# Hypercorn's way down: from each the next is the owner of its `send`. Nothing else is passed, since with
# HTTP/2 and HTTP/3 a transport carries other streams, too, which an abort would take along.
_OF_ONE_STREAM: Final = ("WSStream", "H11Protocol", "TCPServer")
_OF_MANY_STREAMS: Final = ("H2Protocol", "H3Protocol")
# By which Twisted tells how much is still to be written.
_OF_TWISTED: Final = ("dataBuffer", "offset", "_tempDataLen")
# The protocol of our own, which runs on uvicorn.
_OWN: Final = "wsmanager.servers."
# What each server has against peers that vanish or stall, where it can be told to end them by itself.
_FLAGS: Final = {
    "uvicorn": "--ws-ping-interval and --ws-ping-timeout",
    "hypercorn": "--websocket-ping-interval",
    "granian": None,
    "daphne": "--ping-interval and --ping-timeout",
}


class Wire(Protocol):
    """An asyncio transport, as far as it is needed."""

    def get_write_buffer_size(self) -> int: ...
    def abort(self) -> None: ...


class Direct(Wire, Protocol):
    """A transport that takes whole messages past ASGI."""

    takes: bool
    """Whether a message that is written now is taken at once."""
    latency: float | None
    """Seconds that the peer took to answer the last ping of the protocol; None before."""
    heard_at: float | None
    """When it did, on the loop's clock."""

    def write_prepared(self, frame: WireFrame) -> Awaitable[None] | None:
        """Write one message, in order with what goes by ASGI. None: it is taken. Else the caller must await
        the answer, and write nothing before it is done; or give it up with `discard`.

        Raises `OSError` when the peer is gone.
        """
        ...

    @staticmethod
    def fan_out(directs: Sequence[Any], frame: WireFrame) -> None:
        """Write one message into many of this very class, all of which take it."""
        ...

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Have `listener`, and nobody else, called whenever `takes` may have changed."""
        ...


class _Twisted:
    """The same of Twisted's transports."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    @property
    def tells(self) -> bool:
        """True when its private names are these: no method tells how much is still to be written."""
        return all(hasattr(self._transport, name) for name in _OF_TWISTED)

    def get_write_buffer_size(self) -> int:
        # What is disconnected keeps what it did not write.
        if not self.tells or getattr(self._transport, "disconnected", False):
            return 0
        held, offset, more = attrgetter(*_OF_TWISTED)(self._transport)
        return int(len(held) - offset + more)

    def abort(self) -> None:
        self._transport.abortConnection()


async def written(wire: Wire, down_to: int = 0) -> None:
    """Wait until no more than `down_to` bytes are still to be written."""
    while wire.get_write_buffer_size() > down_to:  # noqa: ASYNC110 - a transport tells nobody but its protocol
        await asyncio.sleep(_LOOK_AGAIN)


def wire_of(*callables: Any) -> Wire | None:
    """The transport behind a server's ``receive`` or ``send``, however wrapped; None where none is found."""
    if _are_foreign(callables):
        return None
    for thing in _behind(callables):
        wire = _wire_in(thing)
        if wire is not None:
            return wire
    return None


def _wire_in(thing: Any) -> Wire | None:
    """Return the transport that an object of a server keeps; None where it is not as expected."""
    find = _TRANSPORTS.get(_server(type(thing).__module__))
    if find is None or not _is_passed(thing):
        return None
    try:
        transport: Any = find(thing)
    except AttributeError:
        return None
    if hasattr(transport, "abort") and hasattr(transport, "get_write_buffer_size"):
        return cast("Wire", transport)
    return _Twisted(transport) if hasattr(transport, "abortConnection") else None


def expect_wire(server: str, send: Any) -> None:
    """Log once per server when its first socket shows no transport, although it is known to have one.

    So a version that moved it is seen at once, and not when the first peer stalls.
    """
    if server in _looked_into or server not in _TRANSPORTS:
        return
    if any(type(thing).__name__ in _OF_MANY_STREAMS for thing in _behind((send,))):
        return  # there is none for it alone
    _looked_into.add(server)
    wire = wire_of(send)
    if wire is None or (isinstance(wire, _Twisted) and not wire.tells):
        meaning = f"a peer that reads nothing is not noticed, or cannot be cut off: {advice_for(server)}"
        log_event(logging.WARNING, "wire.moved", server=server, version=_version(server), meaning=meaning)


_looked_into: Final = set[str]()


def _version(server: str) -> str:
    try:
        return importlib.metadata.version(server)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def server_of(*callables: Any) -> str:
    """The top module of the server that `receive` or `send` belong to; empty where it is not known."""
    if _are_foreign(callables):
        return ""
    for thing in _behind(callables):
        return _server(type(thing).__module__)
    return ""


@functools.lru_cache(maxsize=16)
def never_waits(server: str) -> bool:
    """Whether the ``send`` of this server takes frames without end, whether they are read or not."""
    if server == "daphne":
        return True
    if server != "uvicorn":
        return False
    version = getattr(sys.modules.get("uvicorn"), "__version__", "")
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
    if is_old := (0, 50) <= numbers < (0, 52, 1):
        meaning = "its send waits for no peer (fixed in 0.52.1); here it does, at some cost"
        log_event(logging.WARNING, "server.outdated", server=server, version=version, meaning=meaning)
    return is_old


def advice_for(server: str) -> str:
    """What to do where a server's sockets cannot be aborted from here."""
    flags = _FLAGS.get(server)
    return f"set {server}'s {flags}" if flags else "let a proxy in front end stalled connections"


def _behind(callables: tuple[Any, ...]) -> Generator[Any]:
    """The objects of servers that `callables` are made of, nearest first."""
    found, seen = list(callables), set[int]()
    while found and len(seen) < _STEPS:
        thing = found.pop(0)
        if thing is None or id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, functools.partial):
            found += [thing.func, *thing.args]
        elif hasattr(thing, "__self__"):
            found.append(thing.__self__)
        elif _server(type(thing).__module__):
            yield thing
            if not _is_passed(thing):
                return
            found.append(getattr(thing, "send", None))
        else:
            found += [_content(cell) for cell in getattr(thing, "__closure__", None) or ()]


def _is_passed(thing: Any) -> bool:
    """True when what is below `thing` carries its WebSocket alone."""
    return _server(type(thing).__module__) != "hypercorn" or type(thing).__name__ in _OF_ONE_STREAM


def _are_foreign(callables: tuple[Any, ...]) -> bool:
    """True if all are methods of what is no server's: the short way for most sockets of tests."""
    for callable_ in callables:
        owner = getattr(callable_, "__self__", None)
        if owner is None or _server(type(owner).__module__):
            return False
    return True


@functools.lru_cache(maxsize=256)
def _server(module: str) -> str:
    """The server that `module` belongs to; empty for none that is known."""
    if module.startswith(_OWN):
        return "uvicorn"
    top = module.partition(".")[0]
    return top if top in _FLAGS else ""


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
