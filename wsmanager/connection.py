"""One socket: who is at its other end, and the one order in which frames leave for it.

A push is synchronous and has two states. *Idle*: the server takes the frame and that is all; no task,
no queue, no lock. *Congested*: the first frame that the server does not take at once becomes a drain
task; what follows waits in a bounded priority queue; when both are empty they are gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

from .breaker import CircuitBreaker
from .config import Tier, WebSocketConfig
from .errors import CloseCode, ConnectionClosed, should_reconnect
from .health import ConnectionHealthMonitor
from .logs import log_event
from .messages import (
    ConnectionStatus,
    Delivery,
    Frame,
    HealthStatus,
    InboundMessage,
    MessagePriority,
    OutboundMessage,
    Pushed,
    SystemType,
    Tenant,
    UserKey,
)
from .outbound import OWN, Outgoing, Prepared, prepare_event
from .protocols import Claims, Codec, MessageQueue
from .transport import Event, Receive, Send, transport_for

if TYPE_CHECKING:
    from .inbound import ReadAhead

__all__ = ["Connection", "Host"]

_OPEN = ConnectionStatus.OPEN
_SENT = Pushed.SENT
_LOST = (1006, "")


class Host(Protocol):
    """What a connection needs of its manager. Every method is synchronous and returns at once."""

    @property
    def config(self) -> WebSocketConfig: ...

    def now(self) -> float: ...

    def new_queue(self) -> MessageQueue[Prepared]: ...

    def congested(self, conn: Connection) -> None:
        """`conn` waits for its peer from now on."""

    def drained(self, conn: Connection) -> None:
        """Nothing waits for `conn` any more."""

    def dropped(self, reason: str) -> None:
        """A message was not taken in; the caller of the push is told."""

    def given_up(self, conn: Connection, prepared: Prepared, reason: str) -> None:
        """A message that had been taken in will not be sent on `conn`."""

    def leave_indexes(self, conn: Connection, status: ConnectionStatus) -> None:
        """Make `conn` unreachable and give it `status`."""

    def run_errand(self, errand: Any, name: str) -> asyncio.Task[Any] | None:
        """Run `errand` in a task of its own; None when too many run already."""


class SocketGuard(Protocol):
    """Checks what a loop of the application's own receives."""

    def admit(self, event: Event) -> tuple[Any, int] | None:
        """What is left of `event` for the application, and its size."""

    def take_passed(self, frame: Frame) -> InboundMessage | None:
        """The message of `frame`, if it was checked and handed over last."""

    def read_on(self) -> None:
        """Read in the application's stead, for it does not."""


class Congestion:
    """What exists only while a peer does not keep up."""

    __slots__ = ("in_flight", "queue", "since", "task", "timeouts", "waiters")

    def __init__(self, queue: MessageQueue[Prepared], in_flight: Prepared | None, now: float) -> None:
        self.queue = queue
        self.in_flight = in_flight
        self.since = now
        """When the server last took a frame."""
        self.timeouts = 0
        self.task: asyncio.Task[None] | None = None
        self.waiters: list[asyncio.Future[None]] = []


class Connection:
    """One authenticated socket. Made by the manager; handlers get it as their first argument."""

    __slots__ = (
        "__weakref__",
        "_breaker",
        "_congestion",
        "_faults",
        "_host",
        "_impaired",
        "_metadata",
        "_receive",
        "_send",
        "_transport",
        "_woken",
        "address",
        "ahead",
        "beside",
        "claims",
        "closing",
        "codec",
        "greeted",
        "guard",
        "health",
        "id",
        "joined",
        "key",
        "negotiated",
        "pinged_at",
        "reader",
        "scopes",
        "status",
        "tier",
        "watched",
    )

    def __init__(
        self,
        host: Host,
        receive: Receive,
        send: Send,
        *,
        id: str,
        key: UserKey,
        codec: Codec,
        health: ConnectionHealthMonitor,
        claims: Claims,
        scopes: frozenset[str],
        tier: Tier | None = None,
        address: str | None = None,
        metadata: dict[str, Any] | None = None,
        negotiated: bool = False,
    ) -> None:
        self.id = id
        self.key = key
        self.claims = claims
        self.scopes = scopes
        self.tier = tier
        self.address = address
        self.codec = codec
        self.health = health
        self.negotiated = negotiated
        """Whether the client asked for a wsmanager subprotocol."""
        self.watched = negotiated
        """Whether silence closes it: it negotiated, or it has exchanged ping and pong."""
        self.status = ConnectionStatus.CONNECTING
        self.joined: set[str] | None = None
        self.closing: tuple[int, str] | None = None
        """Code and reason of the close, from whichever side came first."""
        self.pinged_at: float | None = None
        self.beside: set[asyncio.Task[Any]] | None = None
        """Handlers that run beside the others (``concurrent=True``)."""
        self.ahead: ReadAhead | None = None
        self.guard: SocketGuard | None = None
        """Stands between the socket and a loop of the application's own."""
        self.greeted = False
        """Whether ``on_connect`` ran and ``on_disconnect`` did not yet."""
        self._host = host
        self._receive = receive
        self._send = send
        self._transport = transport_for(send)
        self._metadata = metadata
        self._congestion: Congestion | None = None
        self._breaker: CircuitBreaker | None = None
        self._faults: tuple[float, int] | None = None
        # Anything but "open, idle and well": the one question of the hot path.
        self._impaired = True
        self.reader: asyncio.Task[Any] | None = None
        """The task that waits for the server now: a close from another task wakes it."""
        self._woken = False

    # --- who

    @property
    def user_id(self) -> str:
        return self.key.user_id

    @property
    def tenant(self) -> Tenant:
        return self.key.tenant

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms it is in."""
        return frozenset(self.joined or ())

    @property
    def metadata(self) -> dict[str, Any]:
        """Whatever the application wants to remember of it."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    def __repr__(self) -> str:
        return f"<Connection {self.id} of {self.user_id!r} ({self.status})>"

    # --- out

    async def send(
        self,
        message: OutboundMessage,
        *,
        priority: MessagePriority | None = None,
        ttl: float | None = None,
        conflate: str | None = None,
    ) -> Pushed:
        """Send one message to this connection, with backpressure.

        Returns at once while the peer keeps up. While more than half of its queue is taken, waits.
        Raises `ConnectionClosed` when the connection is closed before the message was handed over or
        queued, and `EncodeError` when the message cannot be encoded.
        """
        pushed = self.push(Outgoing(message, priority=priority, ttl=ttl, key=conflate).for_codec(self.codec))
        if pushed is _SENT:
            return pushed
        if pushed is Pushed.OFFLINE:
            raise ConnectionClosed(f"connection {self.id} is closed")
        congestion = self._congestion
        if congestion is not None and len(congestion.queue) * 2 > self._host.config.queue_max_messages:
            await self.writable()
        return pushed

    def answer(self, message: Any) -> Pushed:
        """Push a message of the manager's own. Raises `EncodeError`, and nothing else."""
        frame = self.codec.encode(message)
        return self.push(Prepared(prepare_event(frame), len(frame), OWN))

    def push(self, prepared: Prepared) -> Pushed:
        """Hand one message over, or queue it. Never waits and never raises."""
        if self._impaired:
            return self._push_impaired(prepared)
        try:
            rest = self._transport.write(self._send, prepared.event)
        except Exception as error:  # one failing target must never harm the others
            self._peer_failed(error)
            return Pushed.OFFLINE
        if rest is None:
            return _SENT
        return self._congest(rest, prepared)

    def _push_impaired(self, prepared: Prepared) -> Pushed:
        if self.status is not _OPEN:
            return Pushed.OFFLINE
        priority = self._priority_of(prepared.outgoing)
        if priority is MessagePriority.LOW and self.health.status is not HealthStatus.HEALTHY:
            return self._drop("shed")
        if self._congestion is not None:
            return self._enqueue(self._congestion, prepared, priority)
        try:
            rest = self._transport.write(self._send, prepared.event)
        except Exception as error:  # as in push
            self._peer_failed(error)
            return Pushed.OFFLINE
        return _SENT if rest is None else self._congest(rest, prepared)

    def _priority_of(self, outgoing: Outgoing) -> MessagePriority:
        if outgoing.priority is not None:
            return outgoing.priority
        return MessagePriority.MEDIUM if self.tier is None else self.tier.priority

    def _enqueue(self, congestion: Congestion, prepared: Prepared, priority: MessagePriority) -> Pushed:
        outgoing, now = prepared.outgoing, self._host.now()
        durable = outgoing.delivery is Delivery.DURABLE
        if self._breaker is not None and not durable and not self._breaker.allow(now=now):
            return self._drop("breaker")
        outcome = congestion.queue.enqueue(
            prepared, priority, size=prepared.size, ttl=outgoing.ttl, key=outgoing.key, now=now
        )
        for evicted in outcome.evicted:
            self._give_up(evicted, "evicted")
        if outcome.replaced is not None:
            self._give_up(outcome.replaced, "conflated")
        if outcome.accepted:
            outgoing.waiting += 1
            return Pushed.QUEUED
        if priority is MessagePriority.CRITICAL:
            self.close_soon(CloseCode.SLOW, "slow", flush=False)
        return self._drop("queue_full")

    def _drop(self, reason: str) -> Pushed:
        self._host.dropped(reason)
        return Pushed.DROPPED

    def _give_up(self, prepared: Prepared, reason: str) -> None:
        prepared.outgoing.waiting -= 1
        self._host.given_up(self, prepared, reason)

    def _congest(self, rest: Awaitable[None], prepared: Prepared | None) -> Pushed:
        """From here on frames wait; the drain task owns the order until nothing does."""
        congestion = Congestion(self._host.new_queue(), prepared, self._host.now())
        if prepared is not None:
            prepared.outgoing.waiting += 1
        self._congestion = congestion
        self._impaired = True
        congestion.task = asyncio.ensure_future(self._drain(congestion, rest))
        self._host.congested(self)
        return Pushed.QUEUED

    async def _drain(self, congestion: Congestion, rest: Awaitable[None]) -> None:
        try:
            await rest
            self._took(congestion)
            while (prepared := congestion.queue.dequeue(now=self._host.now())) is not None:
                congestion.in_flight = prepared
                again = self._transport.write(self._send, prepared.event)
                if again is not None:
                    await again
                self._took(congestion)
        except Exception as error:
            self._peer_failed(error)
        else:
            # No await since the queue was found empty: nothing can have slipped in.
            self._settle(congestion)

    def _took(self, congestion: Congestion) -> None:
        """The server took the frame in flight."""
        if congestion.timeouts == 0 and self._breaker is not None:
            self._breaker.record_success()
        congestion.timeouts = 0
        congestion.since = self._host.now()
        if congestion.in_flight is not None:
            congestion.in_flight.outgoing.waiting -= 1
            congestion.in_flight.outgoing.handed_over = True
            congestion.in_flight = None
        if len(congestion.queue) * 2 <= self._host.config.queue_max_messages:
            _wake_all(congestion.waiters)

    def _settle(self, congestion: Congestion) -> None:
        for expired in congestion.queue.cleanup_expired(now=self._host.now()):
            self._give_up(expired, "expired")
        self._congestion = None
        self.weigh()
        _wake_all(congestion.waiters)
        self._host.drained(self)

    def weigh(self) -> None:
        """Decide anew whether a push needs a second look."""
        self._impaired = (
            self.status is not _OPEN
            or self._congestion is not None
            or self.health.status is not HealthStatus.HEALTHY
        )

    @property
    def congested(self) -> bool:
        """Whether frames wait for this peer."""
        return self._congestion is not None

    @property
    def waiting(self) -> int:
        """How many messages wait for this peer."""
        congestion = self._congestion
        if congestion is None:
            return 0
        return len(congestion.queue) + (congestion.in_flight is not None)

    async def writable(self) -> None:
        """Wait until less than half of the queue is taken; raises `ConnectionClosed` at the end."""
        if self._congestion is not None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._congestion.waiters.append(waiter)
            await waiter
        if self.status is not _OPEN:
            raise ConnectionClosed(f"connection {self.id} is closed")

    async def send_event(self, event: Event) -> None:
        """An ASGI send of the application's own: in the one order, waiting as long as the server does."""
        while self._congestion is not None:
            await self._flushed()
        if self.status is not _OPEN:
            raise ConnectionClosed(f"connection {self.id} is closed")
        rest = self._transport.write(self._send, event)
        if rest is not None:
            self._congest(rest, None)
            await self._flushed()

    async def _flushed(self) -> None:
        """Wait for the drain task, whoever else waits; its cancellation is not ours."""
        congestion = self._congestion
        if congestion is not None and congestion.task is not None:
            await asyncio.wait({congestion.task})

    # --- time passes; called by the heartbeat

    def check_congestion(self, now: float) -> str | None:
        """What the time without progress means: None, "overdue" (once per send timeout) or "slow"."""
        congestion = self._congestion
        if congestion is None:
            return None
        config, stuck = self._host.config, now - congestion.since
        if stuck >= config.slow_timeout:
            return "slow"
        if stuck < config.send_timeout * (congestion.timeouts + 1):
            return None
        congestion.timeouts += 1
        if self._breaker is None:
            self._breaker = CircuitBreaker(config.breaker_failures, config.breaker_reset)
        self._breaker.record_failure(now=now)
        return "overdue"

    def drop_expired(self, now: float) -> None:
        """Remove what waited too long."""
        if self._congestion is not None:
            for expired in self._congestion.queue.cleanup_expired(now=now):
                self._give_up(expired, "expired")

    def count_fault(self, now: float) -> bool:
        """Count one fault of the client; True when that was one too many within a minute."""
        since, count = self._faults or (now, 0)
        if now - since >= 60.0:
            since, count = now, 0
        self._faults = (since, count + 1)
        return count + 1 > self._host.config.max_errors

    @property
    def breaker(self) -> CircuitBreaker | None:
        """The circuit breaker, once a send has timed out."""
        return self._breaker

    # --- the end

    def opened(self) -> None:
        """The registry made it reachable: from now on pushes reach the server."""
        self.weigh()

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Flush what waits, say why, and close. Closing twice is no error; the first code stands."""
        if self._begin_close(code, reason):
            await self._finish_close(flush=True)

    def close_soon(self, code: int, reason: str, *, flush: bool = True) -> None:
        """Decide the close now and carry it out in the background."""
        if not self._begin_close(code, reason):
            return
        if self._host.run_errand(self._finish_close(flush=flush), "close") is None:
            self.ended()

    def _begin_close(self, code: int, reason: str) -> bool:
        if self.status in (ConnectionStatus.DRAINING, ConnectionStatus.CLOSED):
            return False
        connecting = self.status is ConnectionStatus.CONNECTING
        self.closing = (int(code), reason)
        self._impaired = True
        self._host.leave_indexes(self, ConnectionStatus.DRAINING)
        return not connecting  # whose handshake tells the client

    async def _finish_close(self, *, flush: bool) -> None:
        code, reason = self.closing or (CloseCode.NORMAL, "")
        try:
            async with asyncio.timeout(self._host.config.close_timeout):
                if flush:
                    await self._flushed()
                elif self._congestion is not None:
                    await self._stop_draining(self._congestion)
                await self._say_goodbye(code, reason)
        except TimeoutError:
            log_event(logging.WARNING, "close.timeout", connection=self.id, code=code)
        except Exception as error:
            _log_send_failure(self, error)
        finally:
            self.ended()

    async def _stop_draining(self, congestion: Congestion) -> None:
        if congestion.task is not None and congestion.task.cancel():
            await asyncio.wait({congestion.task})

    async def _say_goodbye(self, code: int, reason: str) -> None:
        data = {"code": code, "reason": reason, "reconnect": should_reconnect(code)}
        frame = self.codec.encode({"type": SystemType.DISCONNECT, "data": data})
        await self._send(prepare_event(frame))
        await self._send({"type": "websocket.close", "code": code, "reason": reason[:100]})

    def _peer_failed(self, error: Exception) -> None:
        _log_send_failure(self, error)
        self._left(_LOST)

    def peer_left(self, code: int, reason: str) -> None:
        """The peer is gone: unreachable at once, whatever handler still runs."""
        self._left((code, reason))

    def _left(self, closing: tuple[int, str]) -> None:
        if self.closing is None:
            self.closing = closing
            if self.ahead is not None:
                self.ahead.peer_left = True
        self.ended()

    @property
    def lost(self) -> bool:
        """Whether a send found the peer gone, before the server said so."""
        return self.closing is _LOST

    def ended(self) -> None:
        """Nothing more will be sent. Idempotent; releases everything but the handlers."""
        self._impaired = True
        if self.status is not ConnectionStatus.CLOSED:
            self._host.leave_indexes(self, ConnectionStatus.CLOSED)
        congestion, self._congestion = self._congestion, None
        if congestion is not None:
            self._abandon(congestion)
        if self.ahead is not None:
            self.ahead.stop()
        self._wake()

    def _abandon(self, congestion: Congestion) -> None:
        if congestion.task is not None and congestion.task is not _current_task():
            congestion.task.cancel()
        if congestion.in_flight is not None:
            self._give_up(congestion.in_flight, "abandoned")
        now = self._host.now()
        while (prepared := congestion.queue.dequeue(now=now)) is not None:
            self._give_up(prepared, "abandoned")
        for expired in congestion.queue.cleanup_expired(now=now):
            self._give_up(expired, "expired")
        _wake_all(congestion.waiters)
        self._host.drained(self)

    # --- the task that serves it

    @property
    def host(self) -> Host:
        return self._host

    async def receive(self) -> Event:
        """The next event of the server, or a disconnect once the connection has ended."""
        if self.status is ConnectionStatus.CLOSED:
            return self._end_event()
        self.reader = asyncio.current_task()
        try:
            return await self._receive()
        except asyncio.CancelledError:
            return self.woken()
        finally:
            self.reader = None

    async def receive_aside(self) -> Event:
        """The next event of the server, for a second reader: not woken by a close, but cancelled."""
        return await self._receive()

    def woken(self) -> Event:
        """What the cancellation of `reader` means: the end of the connection, else it is raised again."""
        woken, self._woken = self._woken, False
        if not woken or self.reader is None or self.reader.uncancel() > 0:
            raise asyncio.CancelledError
        return self._end_event()

    def _end_event(self) -> Event:
        code, reason = self.closing or (1006, "")
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    def ensure_reader(self) -> None:
        """Where the application reads by itself and does not now, somebody must, or its end goes unseen."""
        if self.guard is not None and self.reader is None:
            self.guard.read_on()

    def _wake(self) -> None:
        if self.reader is not None and not self._woken:
            self._woken = True
            self.reader.cancel()


def _wake_all(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _log_send_failure(conn: Connection, error: Exception) -> None:
    """A peer that went away is no news; anything else a server raises is."""
    level = logging.DEBUG if isinstance(error, OSError | RuntimeError) else logging.WARNING
    log_event(level, "send.failed", connection=conn.id, kind=type(error).__name__, error=error)
