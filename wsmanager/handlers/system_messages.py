"""Messages that the manager answers itself: life signs, and rooms that a client asks for."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from ..connections.connection import Connection
from ..decisions.registry import Registry
from ..errors import Forbidden, InvalidPayload
from ..messages import ConnectionStatus, InboundMessage, SystemType
from ..names import require_name
from ..protocols import Authorizer, Clock
from ..tasks.calls import Runs
from ..tasks.supervision import is_being_cancelled

__all__ = ["SystemMessages"]

_Finish = Callable[[bool], None]


class SystemMessages:
    """One answer per system type. An answer raises what the client is told."""

    def __init__(
        self,
        registry: Registry[Connection],
        authorizer: Authorizer | None,
        clock: Clock,
        runs: Runs,
        *,
        max_name_length: int,
        fail: Callable[[Connection, BaseException, InboundMessage], None],
    ) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._clock = clock
        self._runs = runs
        self._max_name_length = max_name_length
        self._fail = fail
        self._pending: dict[Connection, asyncio.Task[Any]] = {}
        """The last join or leave of each connection that has not taken effect yet."""
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
            conn.health.record_latency((self._clock() - asked) * 1000.0)

    def _join(self, conn: Connection, message: InboundMessage) -> None:
        room = self._room_of(message)
        allowed = self._authorizer is not None and self._authorizer.may_join(conn, room)
        self._in_turn(conn, message, allowed, functools.partial(self._finish_join, conn, message, room))

    def _finish_join(self, conn: Connection, message: InboundMessage, room: str, allowed: bool) -> None:
        if conn.status is not ConnectionStatus.OPEN:
            return
        if not allowed:
            raise Forbidden("You may not join this room.")
        self._registry.join(conn, room)
        _confirm(conn, message, room)

    def _leave(self, conn: Connection, message: InboundMessage) -> None:
        room = self._room_of(message)
        self._in_turn(conn, message, True, functools.partial(self._finish_leave, conn, message, room))

    def _finish_leave(self, conn: Connection, message: InboundMessage, room: str, allowed: bool) -> None:
        del allowed
        self._registry.leave(conn, room)
        _confirm(conn, message, room)

    # Joins and leaves of a connection take effect in the order they came, though an authorizer may take
    # longer over one of them than over the next.

    def _in_turn(
        self, conn: Connection, message: InboundMessage, allowed: bool | Awaitable[bool], finish: _Finish
    ) -> None:
        before = self._pending.get(conn)
        if before is None and not inspect.isawaitable(allowed):
            finish(allowed)
            return
        task = conn.host.run_errand(self._finish_later(conn, message, allowed, finish, before), "session")
        if task is None:
            raise RuntimeError("too much is going on to ask the authorizer")
        self._pending[conn] = task
        task.add_done_callback(functools.partial(self._done, conn))

    def _done(self, conn: Connection, task: asyncio.Task[Any]) -> None:
        if self._pending.get(conn) is task:
            del self._pending[conn]

    async def _finish_later(
        self,
        conn: Connection,
        message: InboundMessage,
        allowed: Any,
        finish: _Finish,
        before: asyncio.Task[Any] | None,
    ) -> None:
        try:
            try:
                if inspect.isawaitable(allowed):
                    allowed = await self._runs.run(allowed)
            finally:
                if before is not None:
                    await asyncio.wait({before})
            finish(allowed)
        except (Exception, asyncio.CancelledError) as error:  # the authorizer's own too
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            self._fail(conn, error, message)

    async def may_publish(self, conn: Connection, room: str) -> bool:
        """Whether what this client says may go to `room`; without an authorizer, whether it is in it."""
        if self._authorizer is None:
            return conn.joined is not None and room in conn.joined
        allowed = self._authorizer.may_publish(conn, room)
        return await allowed if inspect.isawaitable(allowed) else allowed

    def _room_of(self, message: InboundMessage) -> str:
        if not isinstance(message.data, dict) or "room" not in message.data:
            raise InvalidPayload('Name the room: {"data": {"room": ...}}.')
        return require_name("room", message.data["room"], self._max_name_length)


def _confirm(conn: Connection, message: InboundMessage, room: str) -> None:
    if message.id is not None:
        conn.answer({"type": SystemType.REPLY, "re": message.id, "data": {"room": room}})
