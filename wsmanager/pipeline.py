"""The way of an inbound message, from the raw frame to the reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, NamedTuple

from anyio import CapacityLimiter

from .analytics import MessageAnalytics
from .config import WebSocketConfig
from .connection import Connection
from .dependencies import call
from .errors import (
    CloseCode,
    Disconnect,
    Forbidden,
    HandlerTimeout,
    InvalidMessage,
    RateLimited,
    ReplyError,
    UnknownMessageType,
    to_client,
)
from .inbound import Item, ReadAhead
from .logs import log_event
from .messages import Frame, InboundMessage, SystemType
from .outbound import Outgoing
from .protocols import Clock, MessageValidator, RateLimiter
from .routing import Route, Router
from .transport import Event, Resumed, frame_of

__all__ = ["Pipeline", "Work"]

SystemAnswer = Callable[[Connection, InboundMessage], None]

# A frame that starts so is charged to the bucket of system messages before it is decoded. One that
# only pretends is charged to the user's bucket once its type is known.
_SYSTEM_STARTS = tuple(
    f'{{"type":{space}"{name}"' for name in ("ping", "pong", "ack", "session.") for space in ("", " ")
)
_SYSTEM_STARTS_BINARY = tuple(
    bytes([0x80 + fields]) + b"\xa4type" + bytes([0xA0 + len(name)]) + name
    for name in (b"ping", b"pong", b"ack", b"session.join", b"session.leave")
    for fields in (1, 2, 3)
)


class Work(NamedTuple):
    """A message that passed every check, with the handler that takes it."""

    route: Route
    message: InboundMessage
    data: Any


class Pipeline:
    """Every stage between the server's event and the handler, in order. One serves all connections."""

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        limiter: RateLimiter,
        system_limiter: RateLimiter,
        tenant_limiter: RateLimiter | None,
        validator: MessageValidator,
        router: Router,
        analytics: MessageAnalytics,
        system: dict[str, SystemAnswer],
        clock: Clock,
    ) -> None:
        self._config = config
        self._limiter = limiter
        self._system_limiter = system_limiter
        self._tenant_limiter = tenant_limiter
        self._validator = validator
        self._router = router
        self._analytics = analytics
        self._system = system
        self._clock = clock
        self._threads: CapacityLimiter | None = None

    # --- in: synchronous, one call a stage

    def admit(self, conn: Connection, frame: Frame) -> Work | None:
        """What there is to do for `frame`; None when it was answered here."""
        message = self.inspect(conn, frame)
        return None if message is None else self.assign(conn, message)

    def inspect(self, conn: Connection, frame: Frame) -> InboundMessage | None:
        """The message in `frame`, when it is the application's to see; None when it was answered here,
        with an error or because it is the manager's own."""
        now, message = self._clock(), None
        try:
            self._measure(frame)
            as_system = self._charge_frame(conn, frame, now)
            message = conn.codec.decode(frame)
            self._validator.validate_message(message, raw=frame)
            answer = self._system.get(message.type)
            if answer is None and as_system:
                self._charge(conn, 1, now)
            conn.health.record_message(now=now)
            if answer is None:
                return message
            answer(conn, message)
        except Exception as error:  # of a replaced part too; `to_client` tells them apart
            self.fail(conn, error, message, size=len(frame))
        return None

    def assign(self, conn: Connection, message: InboundMessage) -> Work | None:
        """The handler of an inspected message, with its data converted; None when it was answered here."""
        try:
            route = self._route(message)
            if route.cost > 1:
                self._charge(conn, route.cost - 1, self._clock())
            self._authorize(conn, route, message)
            data = message.data if route.convert is None else route.convert(message.data)
        except Exception as error:
            self.fail(conn, error, message)
            return None
        return Work(route, message, data)

    def _measure(self, frame: Frame) -> None:
        limit = self._config.max_message_size
        size = len(frame)
        # A character takes up to four bytes: only texts near the limit are measured exactly.
        if size * 4 > limit and isinstance(frame, str) and not frame.isascii():
            size = len(frame.encode("utf-8", "surrogatepass"))
        if size > limit:
            raise InvalidMessage(f"A message may have {limit} bytes.", code="too_large")

    def _charge_frame(self, conn: Connection, frame: Frame, now: float) -> bool:
        """Charge one unit. True: to the bucket of system messages."""
        starts: Any = _SYSTEM_STARTS if isinstance(frame, str) else _SYSTEM_STARTS_BINARY
        if frame.startswith(starts):
            decision = self._system_limiter.check_rate_limit(conn.key, now=now)
            if not decision:
                raise _too_many(decision.retry_after_ms)
            return True
        self._charge(conn, 1, now)
        return False

    def _charge(self, conn: Connection, cost: int, now: float) -> None:
        factor = 1.0 if conn.tier is None else conn.tier.rate_factor
        decision = self._limiter.check_rate_limit(conn.key, cost=cost, factor=factor, now=now)
        if not decision:
            raise _too_many(decision.retry_after_ms)
        if self._tenant_limiter is not None:
            decision = self._tenant_limiter.check_rate_limit(("tenant", conn.tenant), cost=cost, now=now)
            if not decision:
                raise _too_many(decision.retry_after_ms)

    def _route(self, message: InboundMessage) -> Route:
        route = self._router.find(message.type)
        if route is None:
            raise UnknownMessageType("No handler takes this type of message.")
        return route

    def _authorize(self, conn: Connection, route: Route, message: InboundMessage) -> None:
        if not route.scopes <= conn.scopes:
            raise Forbidden("You may not send this type of message.")
        if route.features and not (conn.tier is not None and route.features <= conn.tier.features):
            raise Forbidden("Your plan does not include this.")
        if route.allow is not None and not route.allow(conn, message):
            raise Forbidden("You may not send this type of message.")

    # --- the handler

    async def run(self, conn: Connection, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run code of the application in the calling task, under the handler's clock; while it is
        suspended, somebody else reads."""
        return await _Watched(coroutine, self, conn)

    async def attend(self, conn: Connection, work: Work, *, beside: bool = False) -> None:
        """Run the handler and send what it returns; whatever it raises is answered here.

        `beside`: in a task of its own, while the connection is read as ever.
        """
        route, message, data = work
        started = self._clock()
        try:
            coroutine = self._call(conn, route, message, data)
            result = await (self._timed(coroutine) if beside else _Watched(coroutine, self, conn))
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self.fail(conn, cancelled, message)
        except Exception as error:
            self.fail(conn, error, message)
        else:
            if message.id is not None:
                self._reply(conn, message, result)
            self._analytics.record_message(route.type, latency_ms=(self._clock() - started) * 1000.0)

    def _call(
        self, conn: Connection, route: Route, message: InboundMessage, data: Any
    ) -> Coroutine[Any, Any, Any]:
        if not route.direct:
            return call(route, conn, message, data, self.threads())
        coroutine: Coroutine[Any, Any, Any] = (
            route.handler(conn, data) if route.takes_data else route.handler(conn)
        )
        return coroutine

    def threads(self) -> CapacityLimiter:
        """The limit of worker threads for synchronous code of the application."""
        if self._threads is None:
            self._threads = CapacityLimiter(self._config.sync_handler_threads)
        return self._threads

    def rebind(self) -> None:
        """Forget what belongs to an event loop."""
        self._threads = None

    async def watch(self, conn: Connection, rest: Resumed) -> Any:
        """Wait for a suspended handler, while somebody else reads."""
        if not conn.receiving:
            if conn.ahead is None:
                conn.ahead = ReadAhead(conn, self._reader(conn) if conn.guard is None else conn.guard.admit)
            conn.ahead.start_soon()
        return await self._timed(rest)

    async def _timed(self, rest: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._config.handler_timeout) as deadline:
                return await rest
        except TimeoutError:
            if not deadline.expired():
                raise
            raise HandlerTimeout("The server took too long over this message.") from None

    def _reader(self, conn: Connection) -> Callable[[Event], Item | None]:
        """What a second reader of `conn` does with an event."""

        def admit(event: Event) -> Item | None:
            frame = frame_of(event)
            work = self.admit(conn, frame)
            return None if work is None else (work, len(frame))

        return admit

    def _reply(self, conn: Connection, message: InboundMessage, result: Any) -> None:
        reply = Outgoing({"type": SystemType.REPLY, "re": message.id, "data": result})
        try:
            prepared = reply.for_codec(conn.codec)
        except Exception as error:
            self.fail(conn, error, message)
            return
        conn.push(prepared)

    # --- errors

    def fail(
        self, conn: Connection, error: BaseException, message: InboundMessage | None = None, *, size: int = 0
    ) -> None:
        """Answer `error` as its family demands, and count it. A bug is logged, and told to nobody."""
        answer = to_client(error)
        if isinstance(answer, Disconnect):
            conn.close_soon(answer.code, answer.reason)
            return
        kind = self._label(message)
        self._analytics.record_message(kind, size=size, error=answer.code)
        conn.push(error_message(answer, message).for_codec(conn.codec))
        if answer is not error:
            log_event(
                logging.ERROR, "handler.failed", error=error, connection=conn.id, user=conn.user_id, type=kind
            )
        elif not isinstance(answer, HandlerTimeout):
            self._blame(conn, answer)

    def _blame(self, conn: Connection, fault: ReplyError) -> None:
        """The client's own fault: it weighs on its health, and too many end the connection."""
        now = self._clock()
        conn.health.record_message(error=True, now=now)
        if not conn.count_fault(now):
            return
        if isinstance(fault, RateLimited):
            conn.close_soon(CloseCode.TOO_MANY_REQUESTS, fault.code)
        else:
            conn.close_soon(CloseCode.TOO_MANY_ERRORS, "too many errors")

    def _label(self, message: InboundMessage | None) -> str:
        """A name to count by that no client can invent."""
        if message is None:
            return "unreadable"
        if message.type in self._system:
            return message.type
        route = self._router.find(message.type)
        return "unknown" if route is None else route.type


class _Watched:
    """Awaits a handler in the task that awaits this, and tells when it suspends for the first time.

    A handler that never suspends costs no timer and no second reader.
    """

    __slots__ = ("_conn", "_coroutine", "_pipeline")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], pipeline: Pipeline, conn: Connection) -> None:
        self._coroutine = coroutine
        self._pipeline = pipeline
        self._conn = conn

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            waits_for = self._coroutine.send(None)
        except StopIteration as end:
            return end.value
        rest = Resumed(self._coroutine, waits_for)
        return (yield from self._pipeline.watch(self._conn, rest).__await__())


def error_message(error: ReplyError, message: InboundMessage | None) -> Outgoing:
    """What a client is told of `error`."""
    data: dict[str, Any] = {"code": error.code, "message": error.message, "temporary": error.temporary}
    if error.retry_after_ms is not None:
        data["retry_after_ms"] = error.retry_after_ms
    if message is not None and message.id is not None:
        data["re"] = message.id
        return Outgoing({"type": SystemType.ERROR, "re": message.id, "data": data})
    return Outgoing({"type": SystemType.ERROR, "data": data})


def _too_many(retry_after_ms: int) -> RateLimited:
    return RateLimited("Too many messages; slow down.", retry_after_ms=retry_after_ms)
