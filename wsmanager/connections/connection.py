"""One socket: who is at its other end, and the one order in which frames leave for it.

A push is synchronous and has two states. *Idle*: the server takes the frame and that is all; no task,
no queue, no lock. *Congested*: the first frame that the server does not take at once begins a
`Congestion`, in which what follows waits; when nothing does any more, it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from ..config import Tier
from ..decisions.breaker import CircuitBreaker
from ..decisions.health import ConnectionHealthMonitor
from ..decisions.trouble import Trouble
from ..errors import CloseCode, ConnectionClosed
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
from ..protocols import Claims, Codec, Identity
from ..wire.asgi import Event, Receive, Send
from ..wire.below import Direct
from ..wire.codecs import OPAQUE
from ..wire.outgoing import OWN, Outgoing, Prepared, prepare_own
from ..wire.stepping import SEND_FAILED, discard, transport_for
from .congestion import AppEvent, Congestion
from .ending import Ending, close_soon, decide, peer_failed
from .read_ahead import ReadAhead
from .seams import NEGOTIATED, WATCHED, Guard, Owner, Waiting, priority_of

__all__ = ["Connection"]

_OPEN = ConnectionStatus.OPEN
_SENT = Pushed.SENT


class _Rare:
    """What most connections never have."""

    __slots__ = ("metadata", "trouble")

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.metadata = metadata
        self.trouble: Trouble | None = None


class Connection:
    """One authenticated socket. Made by the manager; handlers get it as their first argument.

    For applications: `send`, `close`, `id`, `user_id`, `tenant`, `claims`, `scopes`, `tier`, `metadata`,
    `rooms`, `status`, `health`. The rest belongs to the manager.
    """

    __slots__ = (
        "__weakref__",
        "_rare",
        "_transport",
        "address",
        "ahead",
        "claims",
        "codec",
        "congestion",
        "direct",
        "ending",
        "flags",
        "guard",
        "health",
        "id",
        "joined",
        "key",
        "lane",
        "owner",
        "reader",
        "receive",
        "scopes",
        "send_raw",
        "status",
        "tier",
    )

    def __init__(
        self,
        owner: Owner[Connection],
        receive: Receive,
        send: Send,
        identity: Identity,
        *,
        id: str,
        codec: Codec,
        health: ConnectionHealthMonitor,
        tier: Tier | None = None,
        address: str | None = None,
        metadata: dict[str, Any] | None = None,
        negotiated: bool = False,
        direct: Direct | None = None,
    ) -> None:
        self.id = id
        self.key = UserKey(identity.tenant, identity.user_id)
        self.claims: Claims = identity.claims
        self.scopes = identity.scopes
        self.tier = tier
        self.address = address
        self.codec = codec
        self.health = health
        self.status = ConnectionStatus.CONNECTING
        self.joined: set[str] | None = None
        self.owner = owner
        # Any for Receive and Send: pyright takes a function in a slot for a method.
        self.receive: Any = receive
        """The server's own. Whoever is to be woken from it by a close is the `reader` meanwhile."""
        self.send_raw: Any = send
        """The server's own, for what is said before the connection is open and after its end."""
        self.direct = direct
        """The server's transport, where messages go past ASGI."""
        self.guard: Guard | None = None
        """Stands between the socket and a loop of the application's own."""
        self.flags = NEGOTIATED | WATCHED if negotiated else 0
        self.reader: asyncio.Task[Any] | None = None
        """The task that waits for the server now: a close from another task wakes it."""
        self.ahead: ReadAhead | None = None
        self.congestion: Congestion | None = None
        self.ending: Ending | None = None
        self._rare = None if metadata is None else _Rare(metadata)
        self._transport = transport_for(send)
        self.lane: Direct | Send | None = None
        """What a message can simply be written into: the server's transport, or its ``send`` where that is
        stepped by hand. None unless it is open, idle and well: the one question of the hot path."""
        if direct is not None:
            direct.listen(self.weigh)

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
        if self._rare is None:
            self._rare = _Rare({})
        return self._rare.metadata

    @property
    def trouble(self) -> Trouble | None:
        """What is remembered of its faults and of sends that timed out; None before the first."""
        return None if self._rare is None else self._rare.trouble

    def give_trouble(self) -> Trouble:
        """Return the same for a fault to be counted."""
        if self._rare is None:
            self._rare = _Rare({})
        if self._rare.trouble is None:
            config = self.owner.config
            breaker = CircuitBreaker(config.breaker_failures, config.breaker_reset)
            self._rare.trouble = Trouble(config.max_errors, breaker)
        return self._rare.trouble

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
        expires_at = None if ttl is None else self.owner.now() + ttl
        outgoing = Outgoing(message, priority=priority, expires_at=expires_at, key=conflate)
        prepared = outgoing.for_codec(self.codec)
        pushed = self.push(prepared)
        if pushed is _SENT:
            self.owner.handed_over(self, prepared)
            return pushed
        if pushed is not Pushed.OFFLINE and self.congestion is not None:
            await self.congestion.room()
            if self.status is _OPEN:
                return pushed
            pushed = Pushed.OFFLINE
        if pushed is Pushed.OFFLINE:
            raise ConnectionClosed(f"connection {self.id} is closed")
        return pushed

    def answer(self, message: Any) -> Pushed:
        """Push a message of the manager's own. Raises `EncodeError`, and nothing else."""
        # As `is_spoken_to`, without the call: every reply comes this way.
        if self.guard is not None and not self.guard.speaks:
            return Pushed.UNSUPPORTED
        return self.push(prepare_own(message, self.codec))

    @property
    def is_spoken_to(self) -> bool:
        """True where the manager writes messages of its own to it."""
        return self.guard is None or self.guard.speaks

    def push(self, prepared: Prepared) -> Pushed:
        """Hand one message over, or queue it. Never waits and never raises."""
        if self.lane is None and (held := self._hold_back(prepared)) is not None:
            return held
        direct = self.direct
        try:
            if direct is not None:
                rest = direct.write_prepared(prepared.packed or prepared.pack())
            else:
                rest = self._transport.write(self.send_raw, prepared.event)
        except SEND_FAILED as error:  # one failing target must never harm the others
            self.peer_failed(error)
            return Pushed.OFFLINE
        return _SENT if rest is None else self._wait_for(rest, prepared)

    def not_taken(self, answer: Awaitable[None] | BaseException, prepared: Prepared) -> Pushed:
        """Take back a message that was written into the `lane` and not simply taken."""
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

    def _hold_back(self, prepared: Prepared) -> Pushed | None:
        """Return what becomes of a message that cannot simply be written; None where it can after all."""
        if self.status is not _OPEN or self.ending is not None:
            return Pushed.OFFLINE
        if self.codec is OPAQUE:
            return Pushed.UNSUPPORTED
        outgoing = prepared.outgoing
        if self.health.status is not HealthStatus.HEALTHY and self._may_shed(outgoing):
            return self._drop("shed")
        if self.congestion is not None:
            return self._enqueue(self.congestion, prepared)
        return None

    def _may_shed(self, outgoing: Outgoing) -> bool:
        """Messages of the manager's own keep the connection alive, and durable ones must arrive."""
        return (
            priority_of(self, outgoing) is MessagePriority.LOW
            and outgoing.delivery is Delivery.VOLATILE
            and outgoing is not OWN
        )

    def _enqueue(self, congestion: Congestion, prepared: Prepared) -> Pushed:
        outgoing, trouble = prepared.outgoing, self.trouble
        volatile = outgoing.delivery is Delivery.VOLATILE
        if volatile and trouble is not None and not trouble.breaker.allow(now=self.owner.now()):
            return self._drop("breaker")
        try:
            if congestion.push(prepared):
                return Pushed.QUEUED
        except Exception as error:  # of a replaced queue: as if the send had failed
            self.peer_failed(error)
            return Pushed.OFFLINE
        fits = prepared.size <= self.owner.config.queue_max_bytes
        if fits and priority_of(self, outgoing) is MessagePriority.CRITICAL:
            self.close_soon(CloseCode.SLOW, "slow", flush=False)
        return self._drop("queue_full")

    def _drop(self, reason: str) -> Pushed:
        self.owner.dropped(reason)
        return Pushed.DROPPED

    async def send_event(self, event: Event) -> None:
        """An ASGI send of the application's own: in the one order, and waiting until the server has it.

        Raises what the server says to it, an `OSError` when the peer is gone, and `ConnectionClosed`.
        """
        if self.status is not _OPEN:
            raise ConnectionClosed(f"connection {self.id} is closed")
        if self.congestion is not None:
            await self.congestion.send_event(event)
            return
        try:
            rest = self._transport.write(self.send_raw, event)
        except OSError as error:
            self.peer_failed(error)
            raise
        if rest is not None:
            own = AppEvent(event)
            self._congest(rest, own)
            await own.done

    def _congest(self, rest: Awaitable[None], item: Waiting) -> None:
        """From here on frames wait, until the server has taken all of them."""
        congestion = self.congestion = Congestion(self, rest, item)
        self.weigh()
        self.owner.congested(self)
        congestion.start()

    @property
    def waiting(self) -> int:
        """How many messages wait for this peer."""
        return 0 if self.congestion is None else len(self.congestion)

    def weigh(self) -> None:
        """Decide anew whether a push needs a second look."""
        direct = self.direct
        is_well = (
            self.status is _OPEN
            and self.ending is None
            and self.congestion is None
            and self.health.status is HealthStatus.HEALTHY
            and self.codec is not OPAQUE
        )
        if not is_well:
            self.lane = None
        elif direct is not None:
            self.lane = direct if direct.takes else None
        else:
            self.lane = self.send_raw if self._transport.is_simple() else None

    # --- as a `Line`: what its own parts call

    def write(self, item: Waiting) -> Awaitable[None] | None:
        """Start sending an item of the queue; see `Transport.write`."""
        frame = None if self.direct is None else item.frame()
        if self.direct is None or frame is None:
            return self._transport.write(self.send_raw, item.event)
        return self.direct.write_prepared(frame)

    def caught_up(self, congestion: Congestion) -> None:
        """Nothing waits any more."""
        if congestion is self.congestion:
            self.congestion = None
            self.weigh()
            self.owner.drained(self)

    def peer_failed(self, error: BaseException) -> None:
        """End it: the server refused a frame, so the peer is gone."""
        peer_failed(self, error)

    # --- the end; see `wsmanager.connections.ending`

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Flush what waits, say why, and close; that is done when this returns. Closing twice is no error,
        and the first code stands. Raises `ConfigurationError` for a code that no close frame may carry."""
        congestion = self.congestion
        ending = decide(self, code, reason)
        if ending is not None:
            await ending.carry_out(self, congestion)
        elif self.ending is not None:
            await self.ending.finished(self)

    def close_soon(self, code: int, reason: str, *, flush: bool = True) -> None:
        """Decide to close it now, and carry that out in the background. Without `flush`, what waits is
        given up at once."""
        close_soon(self, code, reason, flush=flush)
