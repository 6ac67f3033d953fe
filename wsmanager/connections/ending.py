"""How a connection ends that the server closes: what waits goes out, the client is told, and a peer that does
not take it in time is cut off."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..errors import CloseCode, EncodeError, should_reconnect
from ..logs import log_event
from ..messages import ConnectionStatus, SystemType
from ..wire.asgi import Event
from ..wire.below import Wire, written
from ..wire.outgoing import prepare_own

if TYPE_CHECKING:
    from .congestion import Congestion
    from .connection import Connection

__all__ = ["Goodbye", "cut_off", "finish_app_close", "finish_close", "log_send_failure", "see_off"]

# The first code that is theirs to give a meaning (RFC 6455, 7.4.2).
_APPLICATIONS: Final = 3000


class Goodbye(msgspec.Struct, frozen=True, gc=False):
    """What a client is told before the close frame."""

    code: int
    reason: str = ""
    after_ms: int | None = None
    """When to come back."""

    def message(self) -> dict[str, Any]:
        data = {"code": int(self.code), "reason": self.reason, "reconnect": should_reconnect(self.code)}
        if self.after_ms is not None:
            data["after_ms"] = self.after_ms
        return {"type": SystemType.DISCONNECT, "data": data}


async def finish_close(conn: Connection, congestion: Congestion | None, goodbye: Goodbye) -> None:
    """Carry out a close that was decided."""
    try:
        async with asyncio.timeout(conn.host.config.close_timeout):
            if congestion is not None:
                await congestion.drained()
            if conn.status is ConnectionStatus.DRAINING:
                await _say(conn, goodbye)
                await _written(conn.wire())
    except TimeoutError:
        log_event(logging.WARNING, "close.timeout", connection=conn.id)
        cut_off(conn)
    except Exception as error:
        log_send_failure(conn, error)
    finally:
        conn.ended()


async def finish_app_close(conn: Connection, congestion: Congestion | None, event: Event) -> None:
    """Carry out the close of an application that closes by itself: exactly its event is sent. Raises what
    the server says to it."""
    limit = asyncio.timeout(conn.host.config.close_timeout)
    try:
        async with limit:
            if congestion is not None:
                await congestion.drained()
            if conn.ahead is not None:
                await conn.ahead.stopped()
            await conn.send_raw(event)
            await _written(conn.wire())
    except TimeoutError:
        if not limit.expired():
            raise
        log_event(logging.WARNING, "close.timeout", connection=conn.id)
        cut_off(conn)
    finally:
        conn.ended()


async def _say(conn: Connection, goodbye: Goodbye) -> None:
    code, reason = conn.closing or (CloseCode.NORMAL, "")
    if conn.is_spoken_to:
        with suppress(EncodeError):  # a codec of the application's may have no words for it
            await conn.send_raw(prepare_own(goodbye.message(), conn.codec).event)
    await conn.hush()
    try:
        await conn.send_raw({"type": "websocket.close", "code": code, "reason": reason})
    except OSError:
        raise
    except Exception:
        if code == CloseCode.NORMAL or code >= _APPLICATIONS:
            raise
        # daphne sends no other, and leaves the socket open
        if goodbye.code >= _APPLICATIONS:
            code = goodbye.code
        else:
            code = CloseCode.CLOSED if should_reconnect(code) else CloseCode.NORMAL
        await conn.send_raw({"type": "websocket.close", "code": int(code), "reason": reason})


async def see_off(conn: Connection, wire: Wire) -> None:
    """Give a peer that has left as long as any other to take what the server still holds for it: by itself a
    server would wait for ever."""
    try:
        async with asyncio.timeout(conn.host.config.close_timeout):
            await written(wire)
    except TimeoutError:
        wire.abort()


async def _written(wire: Wire | None) -> None:
    """Wait until the server has written everything: it takes more than the network does, and then waits for
    the peer as long as that likes."""
    if wire is not None:
        await written(wire)


def cut_off(conn: Connection) -> None:
    """End the connection below ASGI, where that can be done."""
    wire = conn.wire()
    if wire is None:
        conn.host.cannot_abort(conn)
    else:
        wire.abort()


def log_send_failure(conn: Connection, error: BaseException) -> None:
    """A peer that went away is no news; anything else a server raises is."""
    level = logging.DEBUG if isinstance(error, OSError | RuntimeError) else logging.WARNING
    log_event(level, "send.failed", connection=conn.id, kind=type(error).__name__, error=error)
