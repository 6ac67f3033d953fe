"""What is said and counted when something fails for a message."""

from __future__ import annotations

import logging
from collections.abc import Container
from typing import Any, Final

from ..connections.connection import Connection
from ..decisions.analytics import MessageAnalytics
from ..errors import (
    CloseCode,
    ConnectionClosed,
    Disconnect,
    Forbidden,
    HandlerFailed,
    HandlerTimeout,
    InvalidMessage,
    InvalidName,
    RateLimited,
    ReplyError,
    RoomLimitReached,
    Unavailable,
    kind_of,
    to_client,
)
from ..logs import Journal
from ..messages import ConnectionStatus, InboundMessage
from ..protocols import Clock
from ..wire.words import error as error_word
from .router import Router

__all__ = ["Faults"]

# Replies that say that the client did wrong; any other is a handler's ordinary answer.
_CLIENTS_OWN: Final = (InvalidMessage, InvalidName, Forbidden, RateLimited, RoomLimitReached)


class Faults:
    """Answers every error as its family demands. A bug is logged, and told to nobody."""

    def __init__(
        self,
        router: Router,
        system_types: Container[str],
        analytics: MessageAnalytics,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._router = router
        self._system_types = system_types
        self._analytics = analytics
        self._clock = clock
        self._journal = journal

    def fail(
        self,
        conn: Connection,
        error: BaseException,
        message: InboundMessage | None = None,
        *,
        size: int = 0,
    ) -> None:
        """Answer and count `error`, which came of `message`; None where the frame could not be read."""
        now, kind, answer = self._clock(), self._label(message), to_client(error)
        if isinstance(error, ConnectionClosed) and conn.status is not ConnectionStatus.OPEN:
            answer = Disconnect(CloseCode.CLOSED)  # its own end, and no bug
        if isinstance(answer, Disconnect):
            self._analytics.record_message(kind, size=size, now=now)
            conn.close_soon(answer.code, answer.reason)
            if answer is error and conn.ahead is not None:
                conn.ahead.forget()
            return
        answer = self._tell(conn, answer, message)
        self._analytics.record_message(kind, size=size, error=answer.code, now=now)
        self._analytics.record_failure(kind_of(error))
        who: dict[str, Any] = {"connection": conn.id, "user": conn.user_id, "type": kind}
        if answer is not error:
            self._journal.note(logging.ERROR, "handler.failed", error=error, **who)
        elif isinstance(answer, HandlerTimeout):
            self._journal.note(logging.WARNING, "handler.timeout", **who)
        elif isinstance(answer, Unavailable):
            self._journal.note(logging.WARNING, "handler.unavailable", **who)
        elif isinstance(answer, _CLIENTS_OWN):
            self._blame(conn, answer, now)

    def broken(self, error: Exception) -> None:
        """Log a fault of what stands round a handler."""
        self._journal.note(logging.ERROR, "around.failed", error=error)

    def _tell(self, conn: Connection, answer: ReplyError, message: InboundMessage | None) -> ReplyError:
        """Send `answer`, or what can be sent in its place; return which it was."""
        try:
            conn.answer(error_word(answer, message))
        except Exception:  # a text of the application that no frame can carry
            answer = HandlerFailed()
            conn.answer(error_word(answer, message))
        return answer

    def _blame(self, conn: Connection, fault: ReplyError, now: float) -> None:
        """Count the client's own fault: it weighs on its health, and too many end the connection."""
        conn.health.record_error()
        if not conn.give_trouble().count_fault(now):
            return
        if isinstance(fault, RateLimited):
            conn.close_soon(CloseCode.TOO_MANY_REQUESTS, fault.code)
        else:
            conn.close_soon(CloseCode.TOO_MANY_ERRORS, "too many errors")

    def _label(self, message: InboundMessage | None) -> str:
        """Return a name to count by that no client can invent."""
        if message is None:
            return "unreadable"
        if message.type in self._system_types:
            return message.type
        route = self._router.find(message.type)
        return "unknown" if route is None else route.type
