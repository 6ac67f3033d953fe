"""One socket: who is at its other end, and the one order in which frames leave for it.

A push is synchronous and has two states. *Idle*: the server takes the frame and that is all; no task,
no queue, no lock. *Congested*: the first frame that the server does not take at once begins a
`Congestion`, in which what follows waits; when nothing does any more, it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from ..config import Tier
from ..decisions.breaker import CircuitBreaker
from ..decisions.health import ConnectionHealthMonitor
from ..errors import CloseCode, ConnectionClosed, FailureKind, require_close_code
from ..messages import (
    ConnectionStatus,
    Delivery,
    HealthStatus,
    MessagePriority,
    OutboundMessage,
    Pushed,
    Tenant,
    UserKey,
)
from ..protocols import Claims, Codec
from ..wire.asgi import Event, Receive, Send
from ..wire.below import Direct, Wire, server_of, wire_of
from ..wire.codecs import OPAQUE
from ..wire.outgoing import OWN, Outgoing, Prepared, prepare_own
from ..wire.stepping import SEND_FAILED, discard, transport_for
from .congestion import AppEvent, Congestion
from .ending import Goodbye, finish_app_close, finish_close, log_send_failure, see_off
from .seams import Host, SocketGuard

if TYPE_CHECKING:
    from .read_ahead import ReadAhead

__all__ = ["Connection"]

_OPEN = ConnectionStatus.OPEN
_SENT = Pushed.SENT
_LOST = (1006, "")


class _Ending(asyncio.Future[None]):
    """Done when a close is."""

    is_hushed = False
    """Whether nobody waits for the server any more."""
    woken: asyncio.Task[Any] | None = None
    """Who did until then."""


class Connection:
    """One authenticated socket. Made by the manager; handlers get it as their first argument.

    For applications: `send`, `close`, `id`, `user_id`, `tenant`, `claims`, `scopes`, `tier`, `metadata`,
    `rooms`, `status`, `health`. The rest belongs to the manager.
    """

    __slots__ = (
        "__weakref__",
        "_breaker",
        "_congestion",
        "_direct",
        "_ending",
        "_faults",
        "_host",
        "_impaired",
        "_metadata",
        "_receive",
        "_send",
        "_transport",
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
        "lane",
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
        direct: Direct | None = None,
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
        self._direct = direct
        self._metadata = metadata
        self._congestion: Congestion | None = None
        self._ending: _Ending | None = None
        self._breaker: CircuitBreaker | None = None
        self._faults: tuple[float, int] | None = None
        # Anything but "open, idle and well": the one question of the hot path.
        self._impaired = True
        self.lane: Direct | Send | None = None
        """What a message can simply be written into: the server's transport, or its ``send`` where that is
        stepped by hand; None while there is more to it than that."""
        if direct is not None:
            direct.listen(self.weigh)
        self.reader: asyncio.Task[Any] | None = None
        """The task that waits for the server now: a close from another task wakes it."""

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
        Raises `ConnectionClosed` when the connection is closed, or closes while this waits, and
        `EncodeError` when the message cannot be encoded.
        """
        expires_at = None if ttl is None else self._host.now() + ttl
        outgoing = Outgoing(
            message, priority=priority, expires_at=expires_at, key=conflate, typed=self._host.typed
        )
        prepared = outgoing.for_codec(self.codec)
        pushed = self.push(prepared)
        if pushed is _SENT:
            self._host.handed_over(self, prepared)
        elif pushed is Pushed.OFFLINE:
            raise ConnectionClosed(f"connection {self.id} is closed")
        elif self._congestion is not None:
            await self.writable()
        return pushed

    def answer(self, message: Any) -> Pushed:
        """Push a message of the manager's own. Raises `EncodeError`, and nothing else."""
        # As `is_spoken_to`, without the call: every reply comes this way.
        if self.guard is not None and not self.guard.speaks:
            return Pushed.UNSUPPORTED
        return self.push(prepare_own(message, self.codec))

    @property
    def is_spoken_to(self) -> bool:
        """Whether the manager writes messages of its own to it."""
        return self.guard is None or self.guard.speaks

    @property
    def is_reachable(self) -> bool:
        """Whether what the application sends through the manager can be written to it now."""
        return self.status is _OPEN and self.codec is not OPAQUE

    def push(self, prepared: Prepared) -> Pushed:
        """Hand one message over, or queue it. Never waits and never raises."""
        if self._impaired:
            return self._push_impaired(prepared)
        direct = self._direct
        try:
            if direct is not None:
                rest = direct.write_prepared(prepared.packed or prepared.pack())
            else:
                rest = self._transport.write(self._send, prepared.event)
        except SEND_FAILED as error:  # one failing target must never harm the others
            self.peer_failed(error)
            return Pushed.OFFLINE
        return _SENT if rest is None else self._wait_for(rest, prepared)

    def not_taken(self, answer: Awaitable[None] | BaseException, prepared: Prepared) -> Pushed:
        """What became of a message that was written into the `lane`, and not simply taken."""
        if isinstance(answer, BaseException):
            self.peer_failed(answer)
            return Pushed.OFFLINE
        return self._wait_for(answer, prepared)

    def _wait_for(self, rest: Awaitable[None], prepared: Prepared) -> Pushed:
        try:
            self._congest(rest, prepared)
        except Exception as error:  # of a replaced queue: as if the send had failed
            discard(rest)
            self.peer_failed(error)
            return Pushed.OFFLINE
        return Pushed.QUEUED

    def _push_impaired(self, prepared: Prepared) -> Pushed:
        if self.status is not _OPEN:
            return Pushed.OFFLINE
        if self.codec is OPAQUE:
            return Pushed.UNSUPPORTED
        outgoing = prepared.outgoing
        if self.health.status is not HealthStatus.HEALTHY and self._may_shed(outgoing):
            return self._drop("shed")
        if self._congestion is not None:
            return self._enqueue(self._congestion, prepared)
        self._impaired = False  # only its health was in question
        try:
            return self.push(prepared)
        finally:
            self.weigh()

    def _may_shed(self, outgoing: Outgoing) -> bool:
        """Messages of the manager's own keep the connection alive, and durable ones must arrive."""
        return (
            self.priority_of(outgoing) is MessagePriority.LOW
            and outgoing.delivery is Delivery.VOLATILE
            and outgoing is not OWN
        )

    def priority_of(self, outgoing: Outgoing) -> MessagePriority:
        """The priority that `outgoing` has here."""
        if outgoing.priority is not None:
            return outgoing.priority
        return MessagePriority.MEDIUM if self.tier is None else self.tier.priority

    def _enqueue(self, congestion: Congestion, prepared: Prepared) -> Pushed:
        outgoing = prepared.outgoing
        volatile = outgoing.delivery is Delivery.VOLATILE
        if volatile and self._breaker is not None and not self._breaker.allow(now=self._host.now()):
            return self._drop("breaker")
        try:
            if congestion.push(prepared):
                return Pushed.QUEUED
        except Exception as error:  # of a replaced queue: as if the send had failed
            self.peer_failed(error)
            return Pushed.OFFLINE
        fits = prepared.size <= self._host.config.queue_max_bytes
        if fits and self.priority_of(outgoing) is MessagePriority.CRITICAL:
            self.close_soon(CloseCode.SLOW, "slow", flush=False)
        return self._drop("queue_full")

    def _drop(self, reason: str) -> Pushed:
        self._host.dropped(reason)
        return Pushed.DROPPED

    def _congest(self, rest: Awaitable[None], prepared: Prepared) -> Congestion:
        """From here on frames wait, until the server has taken all of them."""
        congestion = self._congestion = Congestion(self, rest, prepared)
        self._impair()
        self._host.congested(self)
        congestion.start()
        return congestion

    # Called by the congestion.

    def write(self, prepared: Prepared) -> Awaitable[None] | None:
        """Start sending `prepared`; see `Transport.write`."""
        if self._direct is None or isinstance(prepared.outgoing, AppEvent):
            return self._transport.write(self._send, prepared.event)
        return self._direct.write_prepared(prepared.packed or prepared.pack())

    def caught_up(self, congestion: Congestion) -> None:
        """Nothing waits any more."""
        if congestion is self._congestion:
            self._congestion = None
            self.weigh()
            self._host.drained(self)

    def peer_failed(self, error: BaseException) -> None:
        """The server refused a frame: the peer is gone."""
        self._host.failed(FailureKind.TRANSIENT)
        log_send_failure(self, error)
        self._left(_LOST)

    def weigh(self) -> None:
        """Decide anew whether a push needs a second look."""
        direct = self._direct
        self._impaired = (
            self.status is not _OPEN
            or self._congestion is not None
            or self.health.status is not HealthStatus.HEALTHY
            or self.codec is OPAQUE
            or (direct is not None and not direct.takes)
        )
        self.lane = None
        if not self._impaired:
            self.lane = direct or (self._send if self._transport.is_simple() else None)

    def _impair(self) -> None:
        self._impaired, self.lane = True, None

    @property
    def congested(self) -> bool:
        """Whether frames wait for this peer."""
        return self._congestion is not None

    @property
    def waiting(self) -> int:
        """How many messages wait for this peer."""
        return 0 if self._congestion is None else len(self._congestion)

    def has_room_for(self, size: int) -> bool:
        """Whether a message of `size` bytes can go out or wait without another giving way."""
        return self._congestion is None or self._congestion.has_room_for(size)

    async def writable(self) -> None:
        """Wait until at most half of the queue is taken; raises `ConnectionClosed` at the end."""
        if self._congestion is not None and self._congestion.half_full:
            await self._congestion.room()
        if self.status is not _OPEN:
            raise ConnectionClosed(f"connection {self.id} is closed")

    async def send_event(self, event: Event) -> None:
        """An ASGI send of the application's own: in the one order, and waiting until the server has it.

        Raises what the server says to it, an `OSError` when the peer is gone, and `ConnectionClosed`.
        """
        if self.status is not _OPEN:
            raise ConnectionClosed(f"connection {self.id} is closed")
        if self._congestion is not None:
            await self._congestion.send_event(event)
            return
        try:
            rest = self._transport.write(self._send, event)
        except OSError as error:
            self.peer_failed(error)
            raise
        if rest is not None:
            own = AppEvent(event)
            self._congest(rest, Prepared(event, 0, own))
            await own.done

    def send_raw(self, event: Event) -> Awaitable[None]:
        """The server's own send: for what is said before the connection is open, and after its end."""
        return self._send(event)

    # --- time passes; called by the heartbeat

    def check_congestion(self, now: float) -> str | None:
        """What the time without progress means: None, "overdue" (once per send timeout) or "slow"."""
        verdict = None if self._congestion is None else self._congestion.check(now)
        if verdict == "overdue":
            self._host.failed(FailureKind.TRANSIENT)
            if self._breaker is None:
                config = self._host.config
                self._breaker = CircuitBreaker(config.breaker_failures, config.breaker_reset)
            self._breaker.record_failure(now=now)
        return verdict

    def drop_expired(self) -> None:
        """Give up what waited too long."""
        if self._congestion is not None:
            self._congestion.drop_expired()

    def hear_of_pong(self, now: float) -> None:
        """Take in what the server knows of the protocol's own pings, which every client answers."""
        direct = self._direct
        if direct is None or direct.heard_at is None or direct.latency is None:
            return
        heard_at = now - (asyncio.get_running_loop().time() - direct.heard_at)
        self.health.last_active = max(heard_at, self.health.last_active)
        self.health.record_latency(direct.latency * 1000.0)

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
        """Flush what waits, say why, and close; that is done when this returns. Closing twice is no error,
        and the first code stands. Raises `ConfigurationError` for a code that no close frame may carry."""
        congestion = self._congestion
        if self._begin_close(code, reason):
            await finish_close(self, congestion, Goodbye(code, _fitting(reason)))
        else:
            await self.finished()

    def close_soon(self, code: int, reason: str, *, flush: bool = True) -> None:
        """Decide the close now and carry it out in the background. Without `flush`, what waits is given
        up at once."""
        self._close_soon(code, reason, Goodbye(code, _fitting(reason)), flush=flush)

    def send_away(self, after_ms: int) -> None:
        """Close for a restart of the server, in the background. A client that is spoken to is told when to
        come back."""
        self._close_soon(CloseCode.RESTART, "shutdown", Goodbye(CloseCode.SHUTDOWN, "shutdown", after_ms))

    def _close_soon(self, code: int, reason: str, goodbye: Goodbye, *, flush: bool = True) -> None:
        congestion = self._congestion
        if not self._begin_close(code, reason):
            return
        if not flush:
            self._abandon()
        if self._host.run_errand(finish_close(self, congestion, goodbye), "close") is None:
            self.ended()

    async def send_close(self, event: Event) -> None:
        """The close of an application that knows nothing of the manager: what waits goes out first, then
        exactly this. A peer that takes neither within the time for that is cut off. Raises what the server
        says to it."""
        congestion = self._congestion
        self._impair()
        self.closing = (event.get("code", CloseCode.NORMAL), event.get("reason") or "")
        self._ending = _Ending(loop=asyncio.get_running_loop())
        self._host.leave_indexes(self, ConnectionStatus.DRAINING)
        # The application still receives: the server has a word to say about this end.
        self.reader = None
        if self.ahead is not None:
            self.ahead.keep()
        await finish_app_close(self, congestion, event)

    def _begin_close(self, code: int, reason: str) -> bool:
        if self.status in (ConnectionStatus.DRAINING, ConnectionStatus.CLOSED):
            return False
        is_open = self.status is _OPEN
        self.closing = (require_close_code(code), _fitting(reason))
        if not is_open:  # its handshake tells the client
            self.ended()
            return False
        self._ending = _Ending(loop=asyncio.get_running_loop())
        self._impair()
        self._host.leave_indexes(self, ConnectionStatus.DRAINING)
        return True

    def peer_left(self, code: int, reason: str) -> None:
        """The peer is gone: unreachable at once, whatever handler still runs."""
        if not self.is_hushed:  # else it is only told of the close that is being sent
            self._left((code, reason))

    def _left(self, closing: tuple[int, str]) -> None:
        if self.closing is None:
            self.closing = closing
            if self.ahead is not None:
                self.ahead.due = True
        self.let_go()

    def let_go(self) -> None:
        """Nothing more will be sent, and the server is about to close the socket, or does already."""
        self.ended()
        wire = self.wire()
        if wire is not None and wire.get_write_buffer_size():
            self._host.run_errand(see_off(self, wire), "see_off")

    @property
    def is_heard(self) -> bool:
        """Whether a frame is still due to the application: while it is open, when only a send found the peer
        gone, and after a close of the application's own."""
        return self.status is _OPEN or self.lost or (self.guard is not None and self.guard.is_direct)

    @property
    def lost(self) -> bool:
        """Whether a send found the peer gone, before the server said so."""
        return self.closing is _LOST

    def ended(self) -> None:
        """Nothing more will be sent. Idempotent; releases everything but the handlers."""
        if self.status is not ConnectionStatus.CLOSED:
            self._impair()
            if self._direct is not None:
                self._direct.listen(None)
            self._host.leave_indexes(self, ConnectionStatus.CLOSED)
            self._abandon()
            if self._ending is not None:
                self._ending.set_result(None)
            if self.reader is not None:
                self.reader.cancel()
        if self.ahead is not None:
            self.ahead.stop()

    def _abandon(self) -> None:
        congestion, self._congestion = self._congestion, None
        if congestion is not None:
            congestion.abandon()
            self._host.drained(self)

    # --- the task that serves it

    @property
    def host(self) -> Host:
        return self._host

    def wire(self) -> Wire | None:
        """What lies below ASGI, where it can be found."""
        return self._direct or wire_of(self._receive, self._send)

    @property
    def server(self) -> str:
        """The name of the server, where it is known."""
        return server_of(self._receive, self._send)

    def receive(self) -> Awaitable[Event]:
        """The server's own receive. Whoever is to be woken from it by a close is the `reader` meanwhile."""
        return self._receive()

    def woken(self, since: int = 0) -> Event:
        """What the cancellation of `reader` means: the end of the connection, else it is raised again. The
        task had been cancelled `since` times before, and had not minded."""
        task, ending = asyncio.current_task(), self._ending
        is_hushed = ending is not None and ending.woken is task
        is_end = is_hushed or (self.status is ConnectionStatus.CLOSED and task is self.reader)
        if not is_end or task is None or task.uncancel() > since:
            raise asyncio.CancelledError
        return self.end_event()

    @property
    def is_hushed(self) -> bool:
        """Whether a close is being sent, and nobody may wait for the server meanwhile."""
        return self._ending is not None and self._ending.is_hushed

    async def hush(self) -> None:
        """Nobody waits for the server any more: granian sends no close while somebody does."""
        reader, self.reader = self.reader, None
        if self._ending is not None:
            self._ending.is_hushed = True
            self._ending.woken = reader
        if self.ahead is not None:
            await self.ahead.stopped()
        if reader is not None and reader is not asyncio.current_task():
            reader.cancel()
        # One turn for whoever is being woken, by this or by somebody else.
        await asyncio.sleep(0)

    async def finished(self) -> None:
        """Wait for the end of a close that is under way."""
        if self._ending is not None and not self._ending.done():
            await asyncio.wait({self._ending})

    def end_event(self) -> Event:
        """What an application is told of an end of ours."""
        code, reason = self.closing or _LOST
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    def ensure_reader(self) -> None:
        """Where the application reads by itself and does not now, somebody must, or its end goes unseen."""
        if self.guard is not None and self.reader is None:
            self.guard.read_on()


def _fitting(reason: str) -> str:
    """`reason` as a close frame can carry it: 123 bytes of UTF-8 (RFC 6455, 5.5)."""
    return reason.encode("utf-8", "replace")[:123].decode("utf-8", "ignore")
