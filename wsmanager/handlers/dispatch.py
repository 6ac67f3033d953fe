"""The way of an inbound message, from the raw frame to the reply."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from anyio import CapacityLimiter

from ..config import WebSocketConfig
from ..connections.connection import Connection
from ..connections.read_ahead import Item, ReadAhead
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
    UnknownMessageType,
    kind_of,
    to_client,
)
from ..logs import log_event
from ..messages import ConnectionStatus, Frame, InboundMessage, SystemType
from ..protocols import Clock, MessageValidator, RateLimiter
from ..tasks.calls import Running, Runs
from ..tasks.supervision import cancellations, is_being_cancelled
from ..wire.asgi import Event, frame_of
from ..wire.codecs import fields_beyond_envelope
from ..wire.outgoing import size_of
from .dependencies import call
from .router import Route, Router

__all__ = ["Pipeline", "Work"]

# Replies that say that the client did wrong; any other is a handler's ordinary answer.
_FAULTS = (InvalidMessage, InvalidName, Forbidden, RateLimited, RoomLimitReached)

SystemAnswer = Callable[[Connection, InboundMessage], None]

_OPEN = ConnectionStatus.OPEN

# A frame that begins so is charged to the bucket of system messages before it is decoded. One that
# only pretends is charged to the user's bucket as well, once its type is known. Of MessagePack the first
# byte, the number of fields, is left out.
_CHEAP = ("ping", "pong", "session.join", "session.leave")
_TEXTS = tuple(f'{{"type":{space}"{name}"' for name in _CHEAP for space in ("", " "))
_BINARIES = tuple(b"\xa4type" + bytes([0xA0 + len(name)]) + name.encode() for name in _CHEAP)
_HEADS: frozenset[Frame] = frozenset(start[:13] for start in _TEXTS) | {start[:9] for start in _BINARIES}


def _is_like_system(frame: Frame) -> bool:
    return frame.startswith(_TEXTS) if isinstance(frame, str) else frame.startswith(_BINARIES, 1)


class Work(msgspec.Struct, frozen=True, gc=False):
    """A message that passed every check, with the handler that takes it."""

    route: Route
    message: InboundMessage
    data: Any
    size: int
    """Of the frame."""


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
        runs: Runs,
        clock: Clock,
    ) -> None:
        self._config = config
        self._limiter = limiter
        self._system_limiter = system_limiter
        self._tenant_limiter = tenant_limiter
        self._validator = validator
        self._validates_raw = "raw" in inspect.signature(validator.validate_message).parameters
        self._router = router
        self._analytics = analytics
        self._system = system
        self._clock = clock
        self._threads: CapacityLimiter | None = None
        self.runs = runs

    # --- in: synchronous, one call a stage

    def admit(self, conn: Connection, frame: Frame) -> Work | None:
        """What there is to do for `frame`; None when it was answered here."""
        message = self.inspect(conn, frame)
        return None if message is None else self.assign(conn, message, size_of(frame))

    def inspect(self, conn: Connection, frame: Frame) -> InboundMessage | None:
        """The message in `frame`, when it is the application's to see; None when it was answered here,
        with an error or because it is the manager's own, and when it came after the end."""
        if conn.status is not _OPEN and not conn.is_heard:
            return None
        now, message = self._clock(), None
        conn.health.heard(now)
        try:
            # What `measure` and `validate` do for most frames is written out: every message comes this way.
            if len(frame) * 4 > self._config.max_message_size:
                self.measure(frame)
            head = frame[:13] if isinstance(frame, str) else frame[1:10]
            if as_system := head in _HEADS and _is_like_system(frame):
                self._charge_system(conn, now)
            else:
                self.charge(conn, 1, now)
            codec = conn.codec
            message = codec.decode(frame)
            if self._validates_raw and codec.transparent:
                self._validator.validate_message(message, raw=frame)
            else:
                self._validator.validate_message(message)
            answer = self._system.get(message.type)
            if answer is None and as_system:
                self.charge(conn, 1, now)
            if answer is None:
                return message
            answer(conn, message)
            self._analytics.record_message(message.type, size=size_of(frame), now=now)
        except (Exception, asyncio.CancelledError) as error:  # of a replaced part too
            self.fail(conn, error, message, size=size_of(frame))
        return None

    def inspect_whole(self, conn: Connection, frame: Frame) -> InboundMessage | None:
        """As `inspect`, for an application that decodes the frame by itself: fields that a message does
        not have are checked as its data is."""
        message = self.inspect(conn, frame)
        if message is None or not conn.codec.transparent:
            return message
        try:
            beyond = fields_beyond_envelope(frame)
            if beyond:
                self._validator.validate_message(InboundMessage(message.type, beyond))
        except (Exception, asyncio.CancelledError) as error:
            self.fail(conn, error, message, size=size_of(frame))
            return None
        return message

    def count(self, kind: str, *, size: int, error: str | None, now: float) -> None:
        """Count a frame whose handler, if it has one, is none of the manager's business."""
        self._analytics.record_message(kind, size=size, error=error, now=now)

    def validate(self, message: InboundMessage, raw: Frame | None) -> None:
        """Ask the validator; `raw` is the frame, where its texts can be looked at."""
        if raw is not None and self._validates_raw:
            self._validator.validate_message(message, raw=raw)
        else:
            self._validator.validate_message(message)

    def assign(self, conn: Connection, message: InboundMessage, size: int) -> Work | None:
        """The handler of an inspected message, with its data converted; None when it was answered here."""
        route = self._router.find(message.type)
        if route is None:
            unknown = UnknownMessageType("No handler takes this type of message.")
            self.fail(conn, unknown, message, size=size)
            return None
        try:
            if route.cost > 1:
                self.charge(conn, route.cost - 1, self._clock())
            if route.restricted:
                self._authorize(conn, route, message)
            data = message.data if route.convert is None else route.convert(message.data)
        except (Exception, asyncio.CancelledError) as error:
            self.fail(conn, error, message, size=size)
            return None
        return Work(route, message, data, size)

    def measure(self, frame: Frame) -> None:
        """Raises `InvalidMessage` for a frame that is too large."""
        limit = self._config.max_message_size
        # A character takes up to four bytes: only frames near the limit are measured exactly.
        if len(frame) * 4 > limit and size_of(frame) > limit:
            raise InvalidMessage(f"A message may have {limit} bytes.", code="too_large")

    def _charge_system(self, conn: Connection, now: float) -> None:
        """Charge the bucket of system messages. Raises `RateLimited`."""
        decision = self._system_limiter.check_rate_limit(conn.key, now=now)
        if not decision.allowed:
            raise _too_many(decision.retry_after_ms)

    def charge(self, conn: Connection, cost: int, now: float) -> None:
        """Charge the user and the tenant. Raises `RateLimited`."""
        if conn.tier is None:
            decision = self._limiter.check_rate_limit(conn.key, cost=cost, now=now)
        else:
            factor = conn.tier.rate_factor
            decision = self._limiter.check_rate_limit(conn.key, cost=cost, factor=factor, now=now)
        if not decision.allowed:
            raise _too_many(decision.retry_after_ms)
        if self._tenant_limiter is not None:
            decision = self._tenant_limiter.check_rate_limit(("tenant", conn.tenant), cost=cost, now=now)
            if not decision.allowed:
                raise _too_many(decision.retry_after_ms)

    def _authorize(self, conn: Connection, route: Route, message: InboundMessage) -> None:
        if not route.scopes <= conn.scopes:
            raise Forbidden("You may not send this type of message.")
        if route.features and not (conn.tier is not None and route.features <= conn.tier.features):
            raise Forbidden("Your plan does not include this.")
        if route.allow is not None:
            allowed = route.allow(conn, message)
            if inspect.isawaitable(allowed):  # true, whatever it would have answered
                raise TypeError(f"allow= of {route.type!r} must answer at once")
            if not allowed:
                raise Forbidden("You may not send this type of message.")

    # --- the handler

    def handle(self, conn: Connection, frame: Frame) -> Awaitable[None] | None:
        """The whole way of one frame. None: it is done; else the caller must await the rest of it."""
        message = self.inspect(conn, frame)
        if message is None:
            return None
        work = self.assign(conn, message, size_of(frame))
        return None if work is None else self.start(conn, work)

    def start(self, conn: Connection, work: Work) -> Awaitable[None] | None:
        """Start the handler in the calling task. None: it is done; else the caller must await the rest.

        The first step is made without a coroutine around it: a handler that never suspends costs no
        timer and no second reader. It is the calling task that makes the step and awaits the rest, so
        timeouts and cancel scopes of the handler bind to the right task.
        """
        route, data = work.route, work.data
        if route.concurrent and self._start_beside(conn, work):
            return None
        started = self._clock()
        if not route.direct:
            coroutine = call(route, conn, work.message, data, self.threads())
            return self._see_through(conn, work, self.watch(conn, self.runs.run(coroutine)), started)
        try:
            coroutine = route.handler(conn, data) if route.takes_data else route.handler(conn)
            waits_for = coroutine.send(None)
        except StopIteration as end:
            self._complete(conn, work, end.value, started)
        except (Exception, asyncio.CancelledError) as error:
            self._fail_unless_cancelled(conn, error, work, cancellations())
        else:
            rest = self.watch(conn, Running(self.runs, coroutine, waits_for))
            return self._see_through(conn, work, rest, started)
        return None

    def _start_beside(self, conn: Connection, work: Work) -> bool:
        """Start the handler in a task of its own, while the connection is read as ever; False when as
        many run as may, counting the one in the connection's own task."""
        running = 0 if conn.beside is None else len(conn.beside)
        if running + 1 >= self._config.max_concurrent_handlers:
            return False
        task = conn.host.run_errand(self._beside(conn, work), "handler")
        if task is None:
            return False
        beside = conn.beside = set() if conn.beside is None else conn.beside
        beside.add(task)
        task.add_done_callback(functools.partial(_done_beside, conn, beside))
        return True

    async def _beside(self, conn: Connection, work: Work) -> None:
        route, data = work.route, work.data
        if route.direct:
            coroutine = route.handler(conn, data) if route.takes_data else route.handler(conn)
        else:
            coroutine = call(route, conn, work.message, data, self.threads())
        await self._see_through(conn, work, self.runs.run(coroutine), self._clock())

    async def _see_through(self, conn: Connection, work: Work, rest: Awaitable[Any], started: float) -> None:
        """Await a handler; whatever it raises is answered here."""
        before = cancellations()
        try:
            result = await rest
        except asyncio.CancelledError as error:
            self._fail_unless_cancelled(conn, error, work, before)
        except Exception as error:
            self.fail(conn, error, work.message, size=work.size)
        else:
            self._complete(conn, work, result, started)

    def _complete(self, conn: Connection, work: Work, result: Any, started: float) -> None:
        if work.message.id is not None:
            try:
                conn.answer({"type": "reply", "re": work.message.id, "data": result})
            except Exception as error:
                self.fail(conn, error, work.message, size=work.size)
                return
        now = self._clock()
        self._analytics.record_message(
            work.route.type, size=work.size, latency_ms=(now - started) * 1000.0, now=now
        )

    def _fail_unless_cancelled(self, conn: Connection, error: BaseException, work: Work, before: int) -> None:
        """A handler may meet a cancellation of its own making; one of its task goes on."""
        if isinstance(error, asyncio.CancelledError) and is_being_cancelled(before):
            raise error
        self.fail(conn, error, work.message, size=work.size)

    def threads(self) -> CapacityLimiter:
        """The limit of worker threads for synchronous code of the application."""
        if self._threads is None:
            self._threads = CapacityLimiter(self._config.sync_handler_threads)
        return self._threads

    def rebind(self) -> None:
        """Forget what belongs to an event loop."""
        self._threads = None
        self.runs.forget()

    async def watch(self, conn: Connection, running: Running) -> Any:
        """Await code of the application in the connection's own task, while somebody else reads."""
        if conn.reader is None and conn.status is not ConnectionStatus.CLOSED:
            if conn.ahead is None:
                conn.ahead = ReadAhead(conn, self._reader(conn) if conn.guard is None else conn.guard.admit)
            conn.ahead.start_soon()
        return await running

    def _reader(self, conn: Connection) -> Callable[[Event], Item | None]:
        """What a second reader of `conn` does with an event."""

        def admit(event: Event) -> Item | None:
            work = self.admit(conn, frame_of(event))
            if work is None or (work.route.concurrent and self._start_beside(conn, work)):
                return None
            return work, work.size

        return admit

    # --- errors

    def fail(
        self,
        conn: Connection,
        error: BaseException,
        message: InboundMessage | None = None,
        *,
        size: int = 0,
    ) -> None:
        """Answer `error` as its family demands, and count it. A bug is logged, and told to nobody."""
        now, kind, answer = self._clock(), self._label(message), to_client(error)
        if isinstance(error, ConnectionClosed) and conn.status is not _OPEN:
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
            log_event(logging.ERROR, "handler.failed", error=error, **who)
        elif isinstance(answer, HandlerTimeout):
            log_event(logging.WARNING, "handler.timeout", **who)
        elif isinstance(answer, Unavailable):
            log_event(logging.WARNING, "handler.unavailable", **who)
        elif isinstance(answer, _FAULTS):
            self._blame(conn, answer, now)

    def _tell(self, conn: Connection, answer: ReplyError, message: InboundMessage | None) -> ReplyError:
        """Send `answer`, or what can be sent in its place; returns which it was."""
        try:
            conn.answer(error_message(answer, message))
        except Exception:  # a text of the application that no frame can carry
            answer = HandlerFailed()
            conn.answer(error_message(answer, message))
        return answer

    def _blame(self, conn: Connection, fault: ReplyError, now: float) -> None:
        """The client's own fault: it weighs on its health, and too many end the connection."""
        conn.health.record_error()
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


def _done_beside(conn: Connection, beside: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
    beside.discard(task)
    if not beside:
        conn.beside = None


def error_message(error: ReplyError, message: InboundMessage | None) -> dict[str, Any]:
    """What a client is told of `error`."""
    data: dict[str, Any] = {"code": error.code, "message": error.message, "temporary": error.temporary}
    if error.retry_after_ms is not None:
        data["retry_after_ms"] = error.retry_after_ms
    if message is not None and message.id is not None:
        data["re"] = message.id
        return {"type": SystemType.ERROR, "re": message.id, "data": data}
    return {"type": SystemType.ERROR, "data": data}


def _too_many(retry_after_ms: int) -> RateLimited:
    return RateLimited("Too many messages; slow down.", retry_after_ms=retry_after_ms)
