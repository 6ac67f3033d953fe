"""Messages that the manager answers itself: life signs, and rooms that a client asks for."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from .connection import Connection
from .errors import Forbidden, InvalidPayload
from .messages import ConnectionStatus, InboundMessage, SystemType
from .names import require_name
from .protocols import Authorizer, Clock
from .registry import Registry

__all__ = ["SystemMessages"]


class SystemMessages:
    """One answer per system type. An answer raises what the client is told."""

    def __init__(
        self,
        registry: Registry[Connection],
        authorizer: Authorizer | None,
        clock: Clock,
        *,
        max_name_length: int,
        fail: Callable[[Connection, BaseException, InboundMessage], None],
    ) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._clock = clock
        self._max_name_length = max_name_length
        self._fail = fail
        self.answers: dict[str, Callable[[Connection, InboundMessage], None]] = {
            SystemType.PING: self._ping,
            SystemType.PONG: self._pong,
            SystemType.SESSION_JOIN: self._join,
            SystemType.SESSION_LEAVE: self._leave,
        }

    def _ping(self, conn: Connection, message: InboundMessage) -> None:
        conn.watched = True
        answer: dict[str, Any] = {"type": SystemType.PONG, "data": message.data}
        if message.id is not None:
            answer["re"] = message.id
        conn.answer(answer)

    def _pong(self, conn: Connection, message: InboundMessage) -> None:
        del message
        asked, conn.pinged_at = conn.pinged_at, None
        if asked is not None:  # unasked and repeated pongs measure nothing
            conn.watched = True
            now = self._clock()
            conn.health.record_latency((now - asked) * 1000.0)

    def _join(self, conn: Connection, message: InboundMessage) -> None:
        room = self._room_of(message)
        allowed = False if self._authorizer is None else self._authorizer.may_join(conn, room)
        if inspect.isawaitable(allowed):
            conn.host.run_errand(self._join_later(conn, message, room, allowed), "join")
        else:
            self._finish_join(conn, message, room, allowed)

    async def _join_later(
        self, conn: Connection, message: InboundMessage, room: str, allowed: Awaitable[bool]
    ) -> None:
        try:
            self._finish_join(conn, message, room, await allowed)
        except Exception as error:  # the authorizer's own too; `to_client` tells them apart
            self._fail(conn, error, message)

    def _finish_join(self, conn: Connection, message: InboundMessage, room: str, allowed: bool) -> None:
        if conn.status is not ConnectionStatus.OPEN:
            return
        if not allowed:
            raise Forbidden("You may not join this room.")
        self._registry.join(conn, room)
        _confirm(conn, message, room)

    async def may_publish(self, conn: Connection, room: str) -> bool:
        """Whether what this client says may go to `room`; without an authorizer, whether it is in it."""
        if self._authorizer is None:
            return conn.joined is not None and room in conn.joined
        allowed = self._authorizer.may_publish(conn, room)
        return await allowed if inspect.isawaitable(allowed) else allowed

    def _leave(self, conn: Connection, message: InboundMessage) -> None:
        room = self._room_of(message)
        self._registry.leave(conn, room)
        _confirm(conn, message, room)

    def _room_of(self, message: InboundMessage) -> str:
        if not isinstance(message.data, dict) or "room" not in message.data:
            raise InvalidPayload('Name the room: {"data": {"room": ...}}.')
        return require_name("room", message.data["room"], self._max_name_length)


def _confirm(conn: Connection, message: InboundMessage, room: str) -> None:
    if message.id is not None:
        conn.answer({"type": SystemType.REPLY, "re": message.id, "data": {"room": room}})
