"""How a connection ends: who ends it, what is still due, and who is told.

A connection has no `Ending` until somebody ends it. The first decision stands, and `RULES` says what follows
from it. Whoever closes carries the decision out, in its own task or in an errand.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from ..errors import (
    RECONNECT_CODES,
    SENDABLE,
    CloseCode,
    EncodeError,
    FailureKind,
    require_close_code,
)
from ..messages import ConnectionStatus
from ..wire.asgi import Event, Receive, Send
from ..wire.below import Wire, wire_of, written
from ..wire.words import disconnect
from .congestion import Congestion
from .seams import Ahead, Line

__all__ = [
    "RULES",
    "By",
    "Ending",
    "EndingLine",
    "Rules",
    "close_for_application",
    "close_soon",
    "cut_off",
    "decide",
    "end",
    "is_heard",
    "let_go",
    "peer_failed",
    "peer_left",
    "woken",
]

# The first code that is theirs to give a meaning (RFC 6455, 7.4.2).
_APPLICATIONS: Final = 3000
_MAX_REASON: Final = 123
_CLOSED: Final = ConnectionStatus.CLOSED
_DRAINING: Final = ConnectionStatus.DRAINING
_OPEN: Final = ConnectionStatus.OPEN
_LOST: Final = 1006


class By(enum.Enum):
    """Who ends a connection."""

    MANAGER = "manager"
    """`Connection.close`, and every limit, fault, takeover or drain: what waits goes out, the client is told
    why where it is spoken to, and gets a close frame of ours."""
    APPLICATION = "application"
    """A guarded application: what waits goes out, then exactly its own close event."""
    PEER = "peer"
    """The server said that the client left."""
    FAILED_SEND = "failed send"
    """A send found the peer gone before the server said so."""
    NOBODY = "nobody"
    """Dropped without a word: its task was cancelled, or its handshake came to nothing."""


class Rules(NamedTuple):
    """What follows from who ends a connection."""

    is_due: bool
    """What was read ahead before is still the application's."""
    is_heard: bool
    """So is what the server still holds."""


RULES: Final[dict[By, Rules]] = {
    By.MANAGER: Rules(is_due=False, is_heard=False),
    By.APPLICATION: Rules(is_due=True, is_heard=True),
    By.PEER: Rules(is_due=True, is_heard=False),
    By.FAILED_SEND: Rules(is_due=True, is_heard=True),
    By.NOBODY: Rules(is_due=False, is_heard=False),
}


class EndingLine(Line, Protocol):
    """A connection that can end."""

    @property
    def ahead(self) -> Ahead | None: ...

    congestion: Congestion | None
    ending: Ending | None
    reader: asyncio.Task[Any] | None
    receive: Receive
    send_raw: Send

    def weigh(self) -> None: ...


class Ending:
    """One decision to end a connection, and how far it is carried out."""

    __slots__ = ("after_ms", "by", "code", "done", "is_hushed", "reason", "told", "woken")

    def __init__(
        self, by: By, code: int, reason: str, *, told: int | None = None, after_ms: int | None = None
    ) -> None:
        self.by = by
        self.code = code
        self.reason = reason
        self.told = code if told is None else told
        """The code in the word before the close frame."""
        self.after_ms = after_ms
        """When the client is asked to come back."""
        self.is_hushed = False
        """True once nobody may wait for the server any more: the close is being sent."""
        self.woken: asyncio.Task[Any] | None = None
        """The task that it woke from waiting for the server."""
        self.done: asyncio.Future[None] | None = None
        """Done when it is carried out; made for whoever waits for that."""

    def event(self) -> Event:
        """Return the event that tells an application of an end of ours."""
        return {"type": "websocket.disconnect", "code": self.code, "reason": self.reason}

    async def carry_out(self, line: EndingLine, congestion: Congestion | None) -> None:
        """Let what waits go out, tell the client and close. A peer that takes too long is cut off.

        `congestion` is that of the moment of the decision: where it was given up since, its last send may
        still be on its way back.
        """
        try:
            async with asyncio.timeout(line.owner.config.close_timeout):
                if congestion is not None:
                    await congestion.drained()
                if line.status is _DRAINING:
                    await self._say(line)
                    await _written(line)
        except TimeoutError:
            line.owner.note(logging.WARNING, "close.timeout", connection=line.id)
            cut_off(line)
        except Exception as error:
            _log_send_failure(line, error)
        finally:
            end(line)

    async def _say(self, line: EndingLine) -> None:
        if line.is_spoken_to:
            with suppress(EncodeError):  # a codec of the application's may have no words for it
                frame = line.codec.encode(disconnect(self.told, self.reason, after_ms=self.after_ms))
                key = "text" if isinstance(frame, str) else "bytes"  # as `prepare_event` has it
                await line.send_raw({"type": "websocket.send", key: frame})
        # Nobody may wait for the server any more: granian sends no close while somebody does.
        reader, line.reader = line.reader, None
        self.is_hushed, self.woken = True, reader
        if line.ahead is not None:
            await line.ahead.stopped()
        if reader is not None and reader is not asyncio.current_task():
            reader.cancel()
        await asyncio.sleep(0)  # one turn for whoever is being woken, by this or by somebody else
        await self._send_close(line)

    async def _send_close(self, line: EndingLine) -> None:
        try:
            await line.send_raw({"type": "websocket.close", "code": self.code, "reason": self.reason})
        except OSError:
            raise
        except Exception:
            if self.code == CloseCode.NORMAL or self.code >= _APPLICATIONS:
                raise
            # daphne sends no other, and leaves the socket open
            if self.told >= _APPLICATIONS:
                code = self.told
            else:
                code = CloseCode.CLOSED if self.code in RECONNECT_CODES else CloseCode.NORMAL
            await line.send_raw({"type": "websocket.close", "code": int(code), "reason": self.reason})

    async def finished(self, line: Line) -> None:
        """Wait until a close that is under way is carried out."""
        if line.status is _DRAINING:
            if self.done is None:
                self.done = asyncio.get_running_loop().create_future()
            await asyncio.wait({self.done})


# --- the decision: synchronous


def decide(
    line: EndingLine, code: int, reason: str, *, told: int | None = None, after_ms: int | None = None
) -> Ending | None:
    """End `line` on the manager's behalf. Return what is to be carried out; None where nothing is.

    Raises `ConfigurationError` for a code that no close frame may carry.
    """
    status = line.status
    if status is _DRAINING or status is _CLOSED:
        return None
    if code not in SENDABLE:
        require_close_code(code)
    if len(reason) > _MAX_REASON or not reason.isascii():
        reason = _fitting(reason)
    ending = line.ending = Ending(By.MANAGER, int(code), reason, told=told, after_ms=after_ms)
    if status is not _OPEN:  # its handshake tells the client
        end(line)
        return None
    line.weigh()
    line.owner.leave(line, _DRAINING)
    return ending


def peer_left(line: EndingLine, code: int, reason: str) -> None:
    """End `line` because its peer is gone: unreachable at once, whatever handler still runs."""
    if line.ending is None or not line.ending.is_hushed:  # else it is only told of the close being sent
        _left(line, By.PEER, code, reason)


def peer_failed(line: EndingLine, error: BaseException) -> None:
    """End `line` because the server refused a frame."""
    line.owner.failed(FailureKind.TRANSIENT)
    _log_send_failure(line, error)
    _left(line, By.FAILED_SEND, _LOST, "")


def _left(line: EndingLine, by: By, code: int, reason: str) -> None:
    if line.ending is None:
        line.ending = Ending(by, code, reason)
        if line.ahead is not None:
            line.ahead.due = RULES[by].is_due
    let_go(line)


def let_go(line: EndingLine) -> None:
    """Send nothing more: the server is about to close the socket, or does already."""
    end(line)
    wire = _wire(line)
    if wire is not None and wire.get_write_buffer_size():
        line.owner.run_errand(_see_off(line, wire), "see_off")


def end(line: EndingLine) -> None:
    """Send nothing more, and release everything but the handlers. Idempotent."""
    if line.status is not _CLOSED:
        ending = line.ending
        if ending is None:
            ending = line.ending = Ending(By.NOBODY, _LOST, "")
        if line.status is _OPEN:
            line.weigh()
        if line.direct is not None:
            line.direct.listen(None)
        line.owner.leave(line, _CLOSED)
        _abandon(line)
        if ending.done is not None:
            ending.done.set_result(None)
        if line.reader is not None:
            line.reader.cancel()
    if line.ahead is not None:
        line.ahead.stop()


def _abandon(line: EndingLine) -> None:
    congestion, line.congestion = line.congestion, None
    if congestion is not None:
        congestion.abandon()
        line.owner.drained(line)


def close_soon(
    line: EndingLine,
    code: int,
    reason: str,
    *,
    flush: bool = True,
    told: int | None = None,
    after_ms: int | None = None,
) -> None:
    """Decide to close `line` now, and carry that out in the background.

    Without `flush`, what waits is given up at once. The client is told the code `told` before the close
    frame, and to come back after `after_ms`.
    """
    congestion = line.congestion
    ending = decide(line, code, reason, told=told, after_ms=after_ms)
    if ending is None:
        return
    if not flush:
        _abandon(line)
    if line.owner.run_errand(ending.carry_out(line, congestion), "close") is None:
        end(line)


# --- what the task that serves it asks


def is_heard(line: EndingLine) -> bool:
    """True while a frame is still due to the application although `line` is not open."""
    if line.guard is not None and line.guard.is_direct:
        return True
    return line.ending is not None and RULES[line.ending.by].is_heard


def woken(line: EndingLine, since: int = 0) -> Event:
    """Return the end of the connection where that cancelled its reader; else raise the cancellation again.

    The task had been cancelled `since` times before, and had not minded.
    """
    task, ending = asyncio.current_task(), line.ending
    if ending is None or task is None:
        raise asyncio.CancelledError
    is_end = ending.woken is task or (line.status is _CLOSED and task is line.reader)
    if not is_end or task.uncancel() > since:
        raise asyncio.CancelledError
    return ending.event()


# --- closes that are no decision of the manager's


async def close_for_application(line: EndingLine, event: Event) -> None:
    """Close as an application does that knows nothing of the manager: what waits goes out first, then
    exactly `event`. A peer that takes neither in time is cut off. Raises what the server says to it."""
    line.ending = Ending(By.APPLICATION, event.get("code", CloseCode.NORMAL), event.get("reason") or "")
    line.weigh()
    line.owner.leave(line, _DRAINING)
    # The application still receives: the server has a word to say about this end.
    line.reader = None
    if line.ahead is not None:
        line.ahead.keep()
    limit = asyncio.timeout(line.owner.config.close_timeout)
    try:
        async with limit:
            if line.congestion is not None:
                await line.congestion.drained()
            if line.ahead is not None:
                await line.ahead.stopped()
            await line.send_raw(event)
            await _written(line)
    except TimeoutError:
        if not limit.expired():
            raise
        line.owner.note(logging.WARNING, "close.timeout", connection=line.id)
        cut_off(line)
    finally:
        end(line)


async def _see_off(line: Line, wire: Wire) -> None:
    """Give a peer that has left as long as any other to take what the server still holds for it: by itself a
    server would wait for ever."""
    try:
        async with asyncio.timeout(line.owner.config.close_timeout):
            await written(wire)
    except TimeoutError:
        wire.abort()


def cut_off(line: EndingLine) -> None:
    """End the connection below ASGI, where that can be done."""
    wire = _wire(line)
    if wire is None:
        line.owner.cannot_abort(line)
    else:
        wire.abort()


def _wire(line: EndingLine) -> Wire | None:
    """Find what lies below ASGI."""
    return line.direct or wire_of(line.receive, line.send_raw)


async def _written(line: EndingLine) -> None:
    """Wait until the server has written everything: it takes more than the network does, and then waits for
    the peer as long as that likes."""
    wire = line.direct or wire_of(line.receive, line.send_raw)
    if wire is not None:
        await written(wire)


def _log_send_failure(line: Line, error: BaseException) -> None:
    """A peer that went away is no news; anything else a server raises is."""
    level = logging.DEBUG if isinstance(error, OSError | RuntimeError) else logging.WARNING
    line.owner.note(level, "send.failed", connection=line.id, kind=type(error).__name__, error=error)


def _fitting(reason: str) -> str:
    """`reason` as a close frame can carry it: 123 bytes of UTF-8 (RFC 6455, 5.5)."""
    return reason.encode("utf-8", "replace")[:_MAX_REASON].decode("utf-8", "ignore")
