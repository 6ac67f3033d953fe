"""Runs the handler of an inspected message, and sends its reply."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from anyio import CapacityLimiter

from ..config import WebSocketConfig
from ..connections.connection import Connection
from ..connections.read_ahead import Item, ReadAhead
from ..decisions.analytics import MessageAnalytics
from ..errors import Forbidden, UnknownMessageType
from ..messages import ConnectionStatus, Frame, InboundMessage
from ..protocols import Clock
from ..tasks.calls import Running, Runs
from ..tasks.supervision import cancellations, is_being_cancelled
from ..wire.asgi import Event, frame_of
from ..wire.outgoing import size_of
from ..wire.words import Reply
from .around import Around, Stored, Work, ask, tell
from .dependencies import call
from .faults import Faults
from .inspection import Inspection
from .router import Route, Router

__all__ = ["Dispatch"]

_CLOSED: Final = ConnectionStatus.CLOSED


class Dispatch:
    """Finds the handler, runs it and answers. One serves all connections."""

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        inspection: Inspection,
        faults: Faults,
        router: Router,
        analytics: MessageAnalytics,
        runs: Runs,
        clock: Clock,
    ) -> None:
        self._config = config
        self._inspection = inspection
        self._faults = faults
        self._router = router
        self._analytics = analytics
        self._clock = clock
        self._threads: CapacityLimiter | None = None
        self.runs = runs
        self.beside: dict[Connection, set[asyncio.Task[Any]]] = {}
        """Handlers that run beside the others of their connection (``concurrent=True``)."""
        self.around: tuple[Around, ...] = ()
        """The first is the outermost."""

    # --- from the frame

    def handle(self, conn: Connection, frame: Frame) -> Awaitable[None] | None:
        """Go the whole way of one frame. None: it is done; else the caller must await the rest of it."""
        message = self._inspection.inspect(conn, frame)
        if message is None:
            return None
        work = self.assign(conn, message, size_of(frame))
        return None if work is None else self.start(conn, work)

    def handle_received(self, conn: Connection, frame: Frame) -> Awaitable[None] | None:
        """Handle a frame that a loop of the application's own received; its guard may have checked it."""
        message = None if conn.guard is None else conn.guard.take_passed(frame)
        if message is None:
            return self.handle(conn, frame)
        work = self.assign(conn, message, size_of(frame))
        return None if work is None else self.start(conn, work)

    def admit(self, conn: Connection, frame: Frame) -> Work | None:
        """Return what there is to do for `frame`; None when it was answered here."""
        message = self._inspection.inspect(conn, frame)
        return None if message is None else self.assign(conn, message, size_of(frame))

    def assign(self, conn: Connection, message: InboundMessage, size: int) -> Work | None:
        """Return an inspected message with its handler and converted data; None when it was answered."""
        route = self._router.find(message.type)
        if route is None:
            unknown = UnknownMessageType("No handler takes this type of message.")
            self._faults.fail(conn, unknown, message, size=size)
            return None
        try:
            if route.cost > 1:
                self._inspection.charge(conn, route.cost - 1, self._clock())
            if route.restricted:
                _authorize(conn, route, message)
            data = message.data if route.convert is None else route.convert(message.data)
        except (Exception, asyncio.CancelledError) as error:
            self._faults.fail(conn, error, message, size=size)
            return None
        return Work(route, message, data, size)

    # --- the handler

    def start(self, conn: Connection, work: Work) -> Awaitable[None] | None:
        """Start the handler in the calling task. None: it is done; else the caller must await the rest.

        The first step is made without a coroutine around it: a handler that never suspends costs no
        timer and no second reader. It is the calling task that makes the step and awaits the rest, so
        timeouts and cancel scopes of the handler bind to the right task.
        """
        route, data = work.route, work.data
        if route.concurrent and self._start_beside(conn, work):
            return None
        if self.around and self._is_answered(conn, work):
            return None
        started = self._clock()
        if not route.direct:
            coroutine = call(route, conn, work.message, data, self.threads())
            return self._see_through(conn, work, self.watch(conn, self.runs.run(coroutine)), started)
        try:
            coroutine = route.handler(conn, data) if route.takes_data else route.handler(conn)
            waits_for = coroutine.send(None)
        except StopIteration as end:
            self._complete(conn, work, end.value, started, self.around)
        except (Exception, asyncio.CancelledError) as error:
            self._fail_unless_cancelled(conn, error, work, cancellations())
        else:
            rest = self.watch(conn, Running(self.runs, coroutine, waits_for))
            return self._see_through(conn, work, rest, started)
        return None

    def _is_answered(self, conn: Connection, work: Work) -> bool:
        """Ask who stands round the handler; True when that answered the message."""
        answer, passed = ask(self.around, conn, work)
        if answer is None:
            return False
        if isinstance(answer, Stored):
            self._complete(conn, work, answer.reply, self._clock(), passed)
        else:
            self._fail(conn, answer, work, passed)
        return True

    def _start_beside(self, conn: Connection, work: Work) -> bool:
        """Start the handler in a task of its own, while the connection is read as ever; False when as
        many run as may, counting the one in the connection's own task."""
        running = len(self.beside.get(conn, ()))
        if running + 1 >= self._config.max_concurrent_handlers:
            return False
        task = conn.owner.run_errand(self._beside(conn, work), "handler")
        if task is None:
            return False
        self.beside.setdefault(conn, set()).add(task)
        task.add_done_callback(functools.partial(self._done_beside, conn))
        return True

    def _done_beside(self, conn: Connection, task: asyncio.Task[Any]) -> None:
        beside = self.beside.get(conn, set())
        beside.discard(task)
        if not beside:
            self.beside.pop(conn, None)

    def wait_not_for(self, task: asyncio.Task[Any] | None) -> None:
        """Let no farewell wait for a handler that itself waits for the farewells."""
        for beside in self.beside.values():
            beside.discard(task)

    async def _beside(self, conn: Connection, work: Work) -> None:
        if self.around and self._is_answered(conn, work):
            return
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
            self._fail(conn, error, work, self.around)
        else:
            self._complete(conn, work, result, started, self.around)

    def _complete(
        self, conn: Connection, work: Work, result: Any, started: float, around: Sequence[Around]
    ) -> None:
        if work.message.id is not None:
            try:
                conn.answer(Reply(work.message.id, result))
            except Exception as error:
                self._fail(conn, error, work, around)
                return
        now = self._clock()
        self._analytics.record_message(
            work.route.type, size=work.size, latency_ms=(now - started) * 1000.0, now=now
        )
        if around:
            tell(around, conn, work, reply=result, broken=self._faults.broken)

    def _fail_unless_cancelled(self, conn: Connection, error: BaseException, work: Work, before: int) -> None:
        """A handler may meet a cancellation of its own making; one of its task goes on."""
        if isinstance(error, asyncio.CancelledError) and is_being_cancelled(before):
            tell(self.around, conn, work, error=error, broken=self._faults.broken)
            raise error
        self._fail(conn, error, work, self.around)

    def _fail(self, conn: Connection, error: BaseException, work: Work, around: Sequence[Around]) -> None:
        try:
            self._faults.fail(conn, error, work.message, size=work.size)
        finally:  # a codec of the application's may have no words even for an error
            tell(around, conn, work, error=error, broken=self._faults.broken)

    # --- what it takes

    def threads(self) -> CapacityLimiter:
        """Return the limit of worker threads for synchronous code of the application."""
        if self._threads is None:
            self._threads = CapacityLimiter(self._config.sync_handler_threads)
        return self._threads

    def rebind(self) -> None:
        """Forget what belongs to an event loop."""
        self._threads = None
        self.beside.clear()
        self.runs.forget()

    async def watch(self, conn: Connection, running: Running) -> Any:
        """Await code of the application in the connection's own task, while somebody else reads."""
        if conn.reader is None and conn.status is not _CLOSED:
            if conn.ahead is None:
                conn.ahead = ReadAhead(conn, self._reader(conn) if conn.guard is None else conn.guard.admit)
            conn.ahead.start_soon()
        return await running

    def _reader(self, conn: Connection) -> Callable[[Event], Item | None]:
        """Return what a second reader of `conn` does with an event."""

        def admit(event: Event) -> Item | None:
            work = self.admit(conn, frame_of(event))
            if work is None or (work.route.concurrent and self._start_beside(conn, work)):
                return None
            return work, work.size

        return admit


def _authorize(conn: Connection, route: Route, message: InboundMessage) -> None:
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
