"""Messages that the manager answers itself: a table of types, what answers each, and how large it may be."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import msgspec

from ..connections.connection import Connection
from ..connections.seams import WATCHED
from ..decisions.registry import Registry
from ..errors import ConfigurationError, Forbidden, InvalidMessage, InvalidPayload
from ..messages import ConnectionStatus, Frame, InboundMessage, SystemType
from ..names import is_name, require_name
from ..protocols import Authorizer, Clock
from ..tasks.calls import Runs
from ..tasks.supervision import is_being_cancelled
from ..wire.outgoing import size_of
from ..wire.words import Reply, RoomData, pong

__all__ = ["Answer", "SystemMessages"]

Answer: TypeAlias = Callable[[Connection, InboundMessage], Awaitable[None] | None]
"""Answers one system type, and raises what the client is told. What it returns to be awaited is awaited in
its turn: such answers of one connection take effect in the order of its messages."""

# As much of a frame as tells most system messages from all others.
_TEXT_HEAD: Final = 13
_BINARY_HEAD: Final = 9
_SHORTEST: Final = 3
"""Characters of a type that fill these."""


class _System(msgspec.Struct, frozen=True):
    """One system type."""

    answer: Answer
    max_bytes: int


class SystemMessages:
    """The table of the system types of one manager."""

    def __init__(
        self,
        registry: Registry[Connection],
        authorizer: Authorizer | None,
        clock: Clock,
        runs: Runs,
        *,
        max_name_length: int,
    ) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._clock = clock
        self._runs = runs
        self._max_name_length = max_name_length
        self._table: dict[str, _System] = {}
        self._texts: tuple[str, ...] = ()
        self._binaries: tuple[bytes, ...] = ()
        self._pending: dict[Connection, asyncio.Task[Any]] = {}
        """The last answer of each connection that is not through yet."""
        self._is_fixed = False
        self.fail: Callable[[Connection, BaseException, InboundMessage], None] = _unheard
        """Told of an awaited answer that raised."""
        self.answers: dict[str, Callable[[Connection, InboundMessage], None]] = {}
        """What answers each type, at once or in its turn."""
        self.reserved: set[str] = set(SystemType)
        """Types that no handler may take and no client may speak for."""
        self.heads: frozenset[Frame] = frozenset()
        """How frames begin that `begins_like_one` looks at more closely."""
        self.register(SystemType.PING, self._ping)
        self.register(SystemType.PONG, self._pong)
        self.register(SystemType.SESSION_JOIN, self._join)
        self.register(SystemType.SESSION_LEAVE, self._leave)

    # --- the table

    def register(self, type: str, answer: Answer, *, cheap: bool = True, max_bytes: int = 1024) -> None:
        """Have `answer` answer every message of `type`, before the first connection.

        A `cheap` one is charged to the bucket of system messages when its frame begins with its type. One
        of more than `max_bytes` is refused. Raises `ConfigurationError` for a type that is taken.
        """
        if self._is_fixed:
            raise ConfigurationError(f"system type {type!r}: register it before the first connection")
        if not is_name(type):
            raise ConfigurationError(
                f"system type {type!r} must be 1 to 255 characters, none of them control"
            )
        if cheap and len(type) < _SHORTEST:
            raise ConfigurationError(f"system type {type!r}: a cheap one has {_SHORTEST} characters or more")
        if type in self._table:
            raise ConfigurationError(f"system type {type!r} is answered already")
        self._table[type] = _System(answer, max_bytes)
        self.reserved.add(type)
        self.answers[type] = functools.partial(self._answer, answer)
        if cheap:
            self._texts += tuple(f'{{"type":{space}"{type}"' for space in ("", " "))
            # Of MessagePack the first byte, the number of fields, is left out.
            self._binaries += (b"\xa4type" + msgspec.msgpack.encode(str(type)),)
            texts = {start[:_TEXT_HEAD] for start in self._texts}
            self.heads = frozenset(texts | {start[:_BINARY_HEAD] for start in self._binaries})

    def fix(self) -> None:
        """Take no more types: connections come from now on."""
        self._is_fixed = True

    def begins_like_one(self, frame: Frame) -> bool:
        """True if a frame begins like a cheap system message.

        One that only pretends is charged to the user's bucket as well, once its type is known.
        """
        if isinstance(frame, str):
            return frame.startswith(self._texts)
        return frame.startswith(self._binaries, 1)

    def measure(self, type: str, frame: Frame) -> None:
        """Raise `InvalidMessage` for a system message that is larger than its type may be."""
        limit = self._table[type].max_bytes
        if len(frame) * 4 > limit and size_of(frame) > limit:
            raise InvalidMessage(f"A {type} message may have {limit} bytes.", code="too_large")

    # --- answers that take a while: in turn, though the second may be quicker than the first

    def _answer(self, answer: Answer, conn: Connection, message: InboundMessage) -> None:
        rest = answer(conn, message)
        if rest is not None:
            self._in_turn(conn, message, lambda _: rest, rest)

    def _in_turn(
        self,
        conn: Connection,
        message: InboundMessage,
        finish: Callable[[Any], Awaitable[None] | None],
        rest: Any,
        *,
        asks: bool = False,
    ) -> None:
        """Call `finish`, and await what it returns, once the answers before it are through.

        With `asks`, `rest` is what `finish` takes: where it is to be awaited, that begins at once. It is
        closed if it comes to nothing.
        """
        before = self._pending.get(conn)
        errand = self._finish(conn, message, finish, rest if asks else None, before)
        task = conn.owner.run_errand(errand, "answer")
        if task is None:
            _close(rest)
            raise RuntimeError("too much is going on to answer")
        self._pending[conn] = task
        task.add_done_callback(functools.partial(self._done, conn, rest))

    def _done(self, conn: Connection, rest: Any, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            _close(rest)
        if self._pending.get(conn) is task:
            del self._pending[conn]

    async def _finish(
        self,
        conn: Connection,
        message: InboundMessage,
        finish: Callable[[Any], Awaitable[None] | None],
        asked: Any,
        before: asyncio.Task[Any] | None,
    ) -> None:
        try:
            try:
                if inspect.isawaitable(asked):
                    asked = await self._runs.run(asked)
            finally:
                if before is not None:
                    await asyncio.wait({before})
            rest = finish(asked)
            if rest is not None:
                await self._runs.run(rest)
        except (Exception, asyncio.CancelledError) as error:  # the authorizer's own too
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            self.fail(conn, error, message)

    # --- life signs

    def _ping(self, conn: Connection, message: InboundMessage) -> None:
        conn.flags |= WATCHED
        conn.answer(pong(message))

    def _pong(self, conn: Connection, message: InboundMessage) -> None:
        del message
        asked, conn.health.pinged_at = conn.health.pinged_at, None
        if asked is not None:  # unasked and repeated pongs measure nothing
            conn.health.record_latency((self._clock() - asked) * 1000.0)

    # --- rooms that a client asks for

    def _join(self, conn: Connection, message: InboundMessage) -> None:
        room = self._room_of(message)
        allowed = self._authorizer is not None and self._authorizer.may_join(conn, room)
        finish = functools.partial(self._join_now, conn, message, room)
        if conn in self._pending or inspect.isawaitable(allowed):
            self._in_turn(conn, message, finish, allowed, asks=True)
        else:
            finish(allowed)

    def _join_now(self, conn: Connection, message: InboundMessage, room: str, allowed: bool) -> None:
        if conn.status is not ConnectionStatus.OPEN:
            return
        if not allowed:
            raise Forbidden("You may not join this room.")
        self._registry.join(conn, room)
        _confirm(conn, message, room)

    def _leave(self, conn: Connection, message: InboundMessage) -> None:
        room = self._room_of(message)
        if conn in self._pending:
            self._in_turn(conn, message, lambda _: self._leave_now(conn, message, room), None)
        else:
            self._leave_now(conn, message, room)

    def _leave_now(self, conn: Connection, message: InboundMessage, room: str) -> None:
        self._registry.leave(conn, room)
        _confirm(conn, message, room)

    def _room_of(self, message: InboundMessage) -> str:
        if not isinstance(message.data, dict) or "room" not in message.data:
            raise InvalidPayload('Name the room: {"data": {"room": ...}}.')
        return require_name("room", message.data["room"], self._max_name_length)

    async def may_publish(self, conn: Connection, room: str) -> bool:
        """True if what this client says may go to `room`; without an authorizer, if it is in it."""
        if self._authorizer is None:
            return conn.joined is not None and room in conn.joined
        allowed = self._authorizer.may_publish(conn, room)
        return await allowed if inspect.isawaitable(allowed) else allowed


def _confirm(conn: Connection, message: InboundMessage, room: str) -> None:
    if message.id is not None:
        conn.answer(Reply(message.id, RoomData(room)))


def _close(rest: Any) -> None:
    """Give up what was not begun to be awaited."""
    close = getattr(rest, "close", None) or getattr(rest, "cancel", None)
    if close is not None:
        close()


def _unheard(*_: Any) -> None: ...
