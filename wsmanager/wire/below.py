"""What lies below ASGI: how much of what the server took is still to be written, and the end without a word.

ASGI can neither ask nor abort, and a close waits like any frame behind what a peer does not read. So the
socket's transport is looked for in the server's own ``receive`` and ``send``, where the server is known
to keep it there; found it is not on every server.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Final, Protocol, cast

from ..logs import log_event
from .framing import WireFrame

__all__ = ["EXTENSION", "Direct", "Wire", "advice_for", "never_waits", "server_of", "wire_of", "written"]

EXTENSION: Final = "wsmanager.transport"
"""The ASGI extension by which a server offers its transport. Its value has a `Direct` as ``"transport"``, and
as ``"send"`` what ASGI's own is before anybody wraps it."""

_STEPS: Final = 32
_LOOK_AGAIN: Final = 0.02
# Hypercorn keeps it behind the stream, the connection and the task of the socket; with HTTP/2 it carries
# other streams, too, which an abort would take along.
_SHARED: Final = ("H2Protocol", "H3Protocol")
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

    def get_write_buffer_size(self) -> int:
        if getattr(self._transport, "disconnected", False):  # and keeps what it did not write
            return 0
        # No method of theirs tells; where the names are not these any more, nothing is known of it.
        held = getattr(self._transport, "dataBuffer", b""), getattr(self._transport, "_tempDataLen", 0)
        return len(held[0]) - getattr(self._transport, "offset", 0) + held[1]

    def abort(self) -> None:
        self._transport.abortConnection()


async def written(wire: Wire, down_to: int = 0) -> None:
    """Wait until no more than `down_to` bytes are still to be written."""
    while wire.get_write_buffer_size() > down_to:  # noqa: ASYNC110 - a transport tells nobody but its protocol
        await asyncio.sleep(_LOOK_AGAIN)


def wire_of(*callables: Any) -> Wire | None:
    """The transport behind a server's ``receive`` or ``send``, however wrapped; None where none is found."""
    if all(_is_foreign(each) for each in callables):
        return None
    for thing in _behind(callables):
        holder = getattr(thing, "writer", thing)
        transport: Any = getattr(holder, "transport", None)
        if hasattr(transport, "abort") and hasattr(transport, "get_write_buffer_size"):
            return cast("Wire", transport)
        if hasattr(transport, "abortConnection"):
            return _Twisted(transport)
    return None


def server_of(*callables: Any) -> str:
    """The top module of the server that `receive` or `send` belong to; empty where it is not known."""
    if all(_is_foreign(each) for each in callables):
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
            if type(thing).__name__ in _SHARED:
                return
            yield thing
            found += [getattr(thing, "send", None)]
        else:
            found += [_content(cell) for cell in getattr(thing, "__closure__", None) or ()]


def _is_foreign(callable_: Any) -> bool:
    """Whether it is a method of something that is no server's: the short way for most sockets of tests."""
    owner = getattr(callable_, "__self__", None)
    return owner is not None and not _server(type(owner).__module__)


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
