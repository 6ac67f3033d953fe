"""What the manager does with the frames of an application that has its own endpoints: three modes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from ..connections.connection import Connection
from ..connections.ending import is_heard
from ..errors import CloseCode, Disconnect, RateLimited, ReplyError, to_client
from ..handlers.inspection import Inspection
from ..logs import Journal
from ..messages import ConnectionStatus, Frame, InboundMessage, OutboundMessage
from ..protocols import Codec
from ..wire.codecs import decode_json
from ..wire.outgoing import Outgoing, size_of

__all__ = ["EnvelopeMode", "JSONMode", "Mode", "OnViolation", "OpaqueMode"]

_OPEN: Final = ConnectionStatus.OPEN

OnViolation: TypeAlias = Callable[[Connection, ReplyError], OutboundMessage | None]
"""Says what to send to a client whose frame was refused, or None to close the socket. Runs at once,
like everything between the frame and its answer: it must neither block nor wait."""


class Mode(Protocol):
    """How far the manager understands a protocol. Stateless but for its parts: one serves many sockets."""

    @property
    def speaks(self) -> bool:
        """Whether the manager writes messages of its own: errors, pongs, the word before a close."""
        ...

    @property
    def strictness(self) -> int:
        """More for a mode that checks more."""
        ...

    def codec_for(self, chosen: Codec | None) -> Codec:
        """The codec of a connection; `chosen` is that of the accepted subprotocol, if it has one."""
        ...

    def inspect(self, conn: Connection, frame: Frame) -> InboundMessage | None:
        """What `frame` says, when the application may see it; None when it was answered here."""
        ...


class EnvelopeMode:
    """Messages of the manager's own form: system messages are answered, a violator gets an error."""

    speaks = True
    strictness = 2

    def __init__(self, inspection: Inspection, codec: Codec, *, label: str | None = None) -> None:
        self._inspection = inspection
        self._codec = codec
        # What its messages are counted as, where the manager has no part in what becomes of them.
        self._label = label

    def codec_for(self, chosen: Codec | None) -> Codec:
        return self._codec if chosen is None else chosen

    def inspect(self, conn: Connection, frame: Frame) -> InboundMessage | None:
        message = self._inspection.inspect_whole(conn, frame)
        if message is not None and self._label is not None:
            self._inspection.count(self._label, size=size_of(frame), error=None, now=conn.owner.now())
        return message


class _ForeignMode:
    """A protocol of the application's own: a frame passes, or the socket is closed."""

    speaks = False
    strictness: int
    _label: str
    """What its frames are counted as."""

    def __init__(
        self,
        inspection: Inspection,
        codec: Codec,
        journal: Journal,
        on_violation: OnViolation | None = None,
    ) -> None:
        self._inspection = inspection
        self._codec = codec
        self._journal = journal
        self._on_violation = on_violation

    def codec_for(self, chosen: Codec | None) -> Codec:
        del chosen
        return self._codec

    def inspect(self, conn: Connection, frame: Frame) -> InboundMessage | None:
        if conn.status is not _OPEN and not is_heard(conn):
            return None
        now, size, code = conn.owner.now(), size_of(frame), None
        try:
            return self._inspection.inspect_foreign(conn, frame, now, self._decode)
        except (Exception, asyncio.CancelledError) as error:  # of a replaced part too
            code = self._refuse(conn, error)
        finally:
            self._inspection.count(self._label, size=size, error=code, now=now)
        return None

    _decode: Callable[[Frame], InboundMessage] | None = None
    """Reads a frame, where it is read at all. Raises what is wrong with it."""

    def _refuse(self, conn: Connection, error: BaseException) -> str:
        """Answer in the application's own words if it has some, else close; returns the error's code."""
        answer = to_client(error)
        if isinstance(answer, Disconnect):
            conn.close_soon(answer.code, answer.reason)
            return answer.reason
        if answer is not error:
            self._journal.note(
                logging.ERROR, "guard.failed", error=error, connection=conn.id, user=conn.user_id
            )
            conn.close_soon(CloseCode.SERVER_ERROR, "server error")
            return answer.code
        conn.health.record_error()
        is_rate = isinstance(answer, RateLimited)
        if not self._answered(conn, answer):
            code = CloseCode.TOO_MANY_REQUESTS if is_rate else CloseCode.BAD_REQUEST
            conn.close_soon(code, answer.code)
        elif conn.give_trouble().count_fault(conn.owner.now()):
            code = CloseCode.TOO_MANY_REQUESTS if is_rate else CloseCode.TOO_MANY_ERRORS
            conn.close_soon(code, "too many errors")
        return answer.code

    def _answered(self, conn: Connection, answer: ReplyError) -> bool:
        if self._on_violation is None:
            return False
        try:
            message = self._on_violation(conn, answer)
            if message is None:
                return False
            conn.push(Outgoing(message).for_codec(conn.codec))
        except Disconnect as end:
            conn.close_soon(end.code, end.reason)
        except Exception as error:
            self._journal.note(logging.ERROR, "on_violation.failed", error=error, connection=conn.id)
            return False
        return True


class OpaqueMode(_ForeignMode):
    """Any frames at all. They are measured and counted, and the manager never writes."""

    _label = "opaque"
    strictness = 0


class JSONMode(_ForeignMode):
    """JSON of the application's own. What the application sends through the manager is written as given,
    and nothing else is; an inbound frame is decoded and validated, and passed on as it came."""

    _label = "json"
    strictness = 1

    @staticmethod
    def _decode(frame: Frame) -> InboundMessage:
        # Never a type of the client's: a rule for that type may be a looser one, and the application may not
        # know of it.
        return InboundMessage("json", decode_json(frame))
