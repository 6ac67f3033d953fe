"""Sending to users, rooms and everybody; keeping what an absent user has not got yet."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Iterable

import msgspec

from .analytics import MessageAnalytics
from .codecs import JSONCodec
from .config import WebSocketConfig
from .connection import Connection
from .logs import log_event
from .messages import (
    ConnectionStatus,
    Delivery,
    DeliveryReport,
    MessagePriority,
    OutboundMessage,
    Pushed,
    UserKey,
)
from .offline import OfflineMessages, StoredMessage
from .outbound import Outgoing, Prepared
from .protocols import Clock, Codec
from .registry import Registry

__all__ = ["Exclude", "Sender"]

Exclude = Connection | str | Iterable[Connection | str] | None
"""Connections, or ids of connections, that a send leaves out."""


class Tally:
    """Counts what became of one send."""

    __slots__ = ("counts", "failed", "max_ids")

    def __init__(self, max_ids: int) -> None:
        self.counts = dict.fromkeys(Pushed, 0)
        self.failed: list[str] = []
        self.max_ids = max_ids

    def add(self, pushed: Pushed, target: str) -> None:
        self.counts[pushed] += 1
        if pushed is not Pushed.QUEUED and len(self.failed) < self.max_ids:
            self.failed.append(target)

    @property
    def taken(self) -> bool:
        return self.counts[Pushed.SENT] + self.counts[Pushed.QUEUED] > 0

    def report(self, *, kept: int = 0, attempts: int = 1) -> DeliveryReport:
        counts = self.counts
        return DeliveryReport(
            sent=counts[Pushed.SENT],
            queued=counts[Pushed.QUEUED],
            dropped=counts[Pushed.DROPPED],
            offline=counts[Pushed.OFFLINE],
            kept=kept,
            attempts=attempts,
            failed=tuple(self.failed),
        )


class Sender:
    """Everything that leaves for more than the connection at hand."""

    def __init__(
        self,
        config: WebSocketConfig,
        registry: Registry[Connection],
        analytics: MessageAnalytics,
        json: JSONCodec,
        clock: Clock,
    ) -> None:
        self._config = config
        self._registry = registry
        self._analytics = analytics
        self._json = json
        self._clock = clock
        self._sequence = itertools.count(1)
        self._appearing: dict[UserKey, list[asyncio.Future[None]]] = {}
        self._appearing_count = 0
        self._lost: dict[UserKey, list[StoredMessage]] = {}
        self.codecs_in_use: Counter[Codec] = Counter()
        self.drops: Counter[str] = Counter()
        """Messages that did not go out, by reason; the reasons are this package's own."""
        self.offline = OfflineMessages(
            config.offline_max_messages,
            config.offline_max_bytes,
            config.offline_ttl,
            config.offline_max_users,
        )

    # --- to many

    def fan_out(
        self, targets: Iterable[Connection], outgoing: Outgoing, exclude: Exclude = None
    ) -> DeliveryReport:
        """Push one message to each target. Raises `EncodeError` before anything was sent."""
        return self._push_all(targets, outgoing, _ids(exclude)).report()

    def _push_all(self, targets: Iterable[Connection], outgoing: Outgoing, skip: frozenset[str]) -> Tally:
        self._encode(outgoing)
        tally = Tally(self._config.max_report_ids)
        sent = size = 0
        codec: Codec | None = None
        prepared: Prepared | None = None
        for conn in targets:
            if skip and conn.id in skip:
                continue
            if prepared is None or conn.codec is not codec:
                codec = conn.codec
                prepared = outgoing.for_codec(codec)
            pushed = conn.push(prepared)
            if pushed is Pushed.SENT:
                sent += 1
                size += prepared.size
            else:
                tally.add(pushed, conn.id)
        tally.counts[Pushed.SENT] = sent
        if sent:
            outgoing.handed_over = True
            self._analytics.record_sent(outgoing.type, sent, size)
        return tally

    def _encode(self, outgoing: Outgoing) -> None:
        """Encode for every codec in use, so that a message that cannot be encoded reaches nobody."""
        for codec in self.codecs_in_use or (self._json,):
            outgoing.for_codec(codec)

    # --- to a user

    async def to_user(
        self,
        key: UserKey,
        message: OutboundMessage,
        *,
        priority: MessagePriority | None = None,
        delivery: Delivery = Delivery.DURABLE,
        exclude: Exclude = None,
        wait: float | None = None,
        ttl: float | None = None,
        conflate: str | None = None,
    ) -> DeliveryReport:
        """Send to every connection of a user; what nobody took is tried again, kept, or reported."""
        outgoing = Outgoing(
            message,
            priority=priority,
            delivery=delivery,
            ttl=ttl,
            key=conflate,
            sequence=next(self._sequence),
        )
        skip = _ids(exclude)
        self._encode(outgoing)
        if wait is not None and not self.is_reachable(key):
            await self._appearance(key, wait)
        tally, attempts = self._try_user(key, outgoing, skip), 1
        if priority is MessagePriority.CRITICAL:
            pause = self._config.critical_backoff
            while not tally.taken and not skip and attempts <= self._config.critical_retries:
                await self._appearance(key, pause)
                tally, attempts, pause = self._try_user(key, outgoing, skip), attempts + 1, pause * 2
        if tally.taken or delivery is not Delivery.DURABLE or (skip and self.is_reachable(key)):
            return tally.report(attempts=attempts)
        kept = self._keep(key, outgoing)
        if not kept:
            log_event(logging.WARNING, "offline.refused", user=key.user_id, tenant=key.tenant)
            tally.add(Pushed.DROPPED, key.user_id)
        return tally.report(kept=int(kept), attempts=attempts)

    def _try_user(self, key: UserKey, outgoing: Outgoing, skip: frozenset[str]) -> Tally:
        targets = self._registry.of_user(key)
        if targets and self._must_wait_its_turn(key, outgoing):
            tally = Tally(self._config.max_report_ids)
            tally.add(Pushed.QUEUED if self._keep(key, outgoing) else Pushed.DROPPED, key.user_id)
            return tally
        tally = self._push_all(targets, outgoing, skip)
        if not targets:
            tally.add(Pushed.OFFLINE, key.user_id)
        return tally

    def _must_wait_its_turn(self, key: UserKey, outgoing: Outgoing) -> bool:
        """Older durable messages still wait for this user: only a critical one may overtake them."""
        return (
            outgoing.delivery is Delivery.DURABLE
            and outgoing.priority is not MessagePriority.CRITICAL
            and (key in self._lost or self.offline.count(key) > 0)
        )

    def is_reachable(self, key: UserKey) -> bool:
        """Whether the user has an open connection."""
        return any(conn.status is ConnectionStatus.OPEN for conn in self._registry.of_user(key))

    async def _appearance(self, key: UserKey, timeout: float) -> None:
        """Wait until the user connects, at most `timeout`; at once when too many sends wait already."""
        if self._appearing_count >= self._config.max_waiting_sends:
            self.drops["wait_refused"] += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._appearing.setdefault(key, []).append(waiter)
        self._appearing_count += 1
        try:
            await asyncio.wait({waiter}, timeout=timeout)
        finally:
            self._appearing_count -= 1
            waiters = self._appearing[key]
            waiters.remove(waiter)
            if not waiters:
                del self._appearing[key]

    @property
    def waiting_sends(self) -> int:
        """Sends that wait for a user to appear."""
        return self._appearing_count

    def opened(self, conn: Connection) -> None:
        """`conn` is open from now on; `disappeared` is called once it no longer is."""
        self.codecs_in_use[conn.codec] += 1

    def appeared(self, conn: Connection) -> None:
        """Give a fresh `conn` what waits for its user, before anything new."""
        self.flush(conn)
        for waiter in self._appearing.get(conn.key, ()):
            if not waiter.done():
                waiter.set_result(None)

    def disappeared(self, conn: Connection) -> None:
        """`conn` was open and is not any more."""
        self.codecs_in_use[conn.codec] -= 1
        if not self.codecs_in_use[conn.codec]:
            del self.codecs_in_use[conn.codec]

    # --- kept for later

    def flush(self, conn: Connection) -> None:
        """Hand over what waits for the user, oldest first, as far as the peer keeps up."""
        if conn.status is not ConnectionStatus.OPEN or not self.offline.count(conn.key):
            return
        waiting = self.offline.take(conn.key, now=self._clock())
        for place, stored in enumerate(waiting):
            room = conn.waiting * 2 < self._config.queue_max_messages
            if not room or conn.push(self._revived(stored, conn.codec)) in (Pushed.OFFLINE, Pushed.DROPPED):
                self.offline.restore(conn.key, waiting[place:], now=self._clock())
                return

    def _revived(self, stored: StoredMessage, codec: Codec) -> Prepared:
        kept_as_is = codec is self._json
        return Outgoing(
            msgspec.Raw(stored.payload) if kept_as_is else msgspec.json.decode(stored.payload),
            type=stored.type,
            priority=stored.priority,
            delivery=Delivery.DURABLE,
            ttl=max(stored.expires_at - self._clock(), 0.001),
            sequence=stored.sequence,
        ).for_codec(codec)

    def _keep(self, key: UserKey, outgoing: Outgoing) -> bool:
        now = self._clock()
        kept = self.offline.keep(key, self._stored(outgoing, now), now=now)
        self.drops["offline_evicted"] += len(kept.evicted)
        if not kept:
            self.drops["offline_refused"] += 1
        return bool(kept)

    def _stored(self, outgoing: Outgoing, now: float) -> StoredMessage:
        priority = MessagePriority.MEDIUM if outgoing.priority is None else outgoing.priority
        return self.offline.stamp(
            self._json.encode(outgoing.message).encode(),
            type=outgoing.type,
            priority=priority,
            ttl=outgoing.ttl,
            sequence=outgoing.sequence,
            now=now,
        )

    def given_up(self, conn: Connection, outgoing: Outgoing, reason: str) -> None:
        """A message that had been queued for `conn` will not go out on it."""
        self.drops[reason] += 1
        if outgoing.delivery is not Delivery.DURABLE or reason in ("expired", "conflated"):
            return
        if not outgoing.handed_over and not outgoing.waiting:
            self._lost.setdefault(conn.key, []).append(self._stored(outgoing, self._clock()))

    def drained(self, conn: Connection) -> None:
        """Nothing waits for `conn` any more: put back what it lost, and go on with what waits."""
        lost = self._lost.pop(conn.key, None)
        if lost is not None:
            now = self._clock()
            lost += self.offline.take(conn.key, now=now)
            lost.sort(key=lambda stored: stored.sequence)
            kept = self.offline.restore(conn.key, lost, now=now)
            self.drops["offline_evicted"] += len(kept.evicted)
            if not kept:
                self.drops["offline_refused"] += len(lost)
        self.flush(conn)


def _ids(exclude: Exclude) -> frozenset[str]:
    if exclude is None:
        return frozenset()
    if isinstance(exclude, Connection | str):
        exclude = (exclude,)
    return frozenset(one if isinstance(one, str) else one.id for one in exclude)
