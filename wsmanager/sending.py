"""Sending to users, rooms and everybody; keeping what an absent user has not got yet."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

import msgspec

from .analytics import MessageAnalytics
from .codecs import JSONCodec
from .config import WebSocketConfig
from .connection import Connection
from .errors import EncodeError
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
from .offline import Kept, OfflineMessages, StoredMessage
from .outbound import Outgoing, Prepared
from .protocols import Clock, Codec
from .registry import Registry

__all__ = ["Exclude", "Sender"]

T = TypeVar("T")

Exclude = Connection | str | Iterable[Connection | str] | None
"""Connections, or ids of connections, that a send leaves out."""


class Tally:
    """Counts what became of one send."""

    __slots__ = ("dropped", "failed", "max_ids", "offline", "queued", "sent")

    def __init__(self, max_ids: int) -> None:
        self.sent = self.queued = self.dropped = self.offline = 0
        self.failed: list[str] = []
        self.max_ids = max_ids

    def add(self, pushed: Pushed, target: str) -> None:
        """Count one target that the message was not handed to."""
        if pushed is Pushed.QUEUED:
            self.queued += 1
            return
        if pushed is Pushed.DROPPED:
            self.dropped += 1
        else:
            self.offline += 1
        if len(self.failed) < self.max_ids:
            self.failed.append(target)

    def report(self, *, kept: int = 0, attempts: int = 1) -> DeliveryReport:
        return DeliveryReport(
            sent=self.sent,
            queued=self.queued,
            dropped=self.dropped,
            offline=self.offline,
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
        self._appearing: dict[UserKey, dict[asyncio.Future[None], None]] = {}
        self._appearing_count = 0
        # Users of connections that close and have not sent everything yet.
        self._leaving: Counter[UserKey] = Counter()
        self._flushing: set[UserKey] = set()
        # The kept message that waits in the queue of a congested connection.
        self._turns: dict[Connection, Outgoing] = {}
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
        self, targets: Collection[Connection], outgoing: Outgoing, exclude: Exclude = None
    ) -> DeliveryReport:
        """Push one message to each target. Raises `EncodeError` before anything was sent."""
        return self._push_all(targets, outgoing, _ids(exclude)).report()

    def _push_all(self, targets: Collection[Connection], outgoing: Outgoing, skip: frozenset[str]) -> Tally:
        frames = self._encode(outgoing, targets)
        sent = dict.fromkeys(frames, 0)
        tally = Tally(self._config.max_report_ids)
        for conn in targets:
            if skip and conn.id in skip:
                continue
            codec = conn.codec
            prepared = frames.get(codec)
            # Where there is no frame, this connection is about to be the first open one of its codec.
            pushed = Pushed.OFFLINE if prepared is None else conn.push(prepared)
            if pushed is Pushed.SENT:
                sent[codec] += 1
            else:
                tally.add(pushed, conn.id)
        for codec, count in sent.items():
            if count:
                outgoing.handed_over = True
                tally.sent += count
                self._analytics.record_sent(outgoing.type, count, frames[codec].size, now=self._clock())
        return tally

    def _encode(self, outgoing: Outgoing, targets: Collection[Connection]) -> dict[Codec, Prepared]:
        """The message for every codec among the targets: one that cannot be encoded reaches nobody."""
        codecs: Collection[Codec] = self.codecs_in_use
        if len(codecs) > 1:
            codecs = {conn.codec for conn in targets}
        return {codec: outgoing.for_codec(codec) for codec in codecs or (self._json,)}

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
        """Send to every connection of a user; what nobody took is tried again, kept, or reported.

        Who is cancelled while waiting for the user has sent a durable message nevertheless: it is kept.
        """
        durable = delivery is Delivery.DURABLE
        if ttl is None and durable:
            ttl = self._config.offline_ttl
        outgoing = Outgoing(
            message,
            priority=priority,
            delivery=delivery,
            expires_at=None if ttl is None else self._clock() + ttl,
            key=conflate,
            sequence=next(self._sequence),
        )
        if durable:
            outgoing.for_codec(self._json)  # the form to keep it in: whoever changes the message later
        skip = _ids(exclude)
        try:
            tally, attempts = await self._attempt(key, outgoing, skip, wait)
        except asyncio.CancelledError:
            if durable:
                self._keep(key, outgoing)
            raise
        if tally.sent or tally.queued or not durable or (skip and self.is_reachable(key)):
            return tally.report(attempts=attempts)
        kept = self._keep(key, outgoing)
        if not kept:
            tally.add(Pushed.DROPPED, key.user_id)
        return tally.report(kept=int(kept), attempts=attempts)

    async def _attempt(
        self, key: UserKey, outgoing: Outgoing, skip: frozenset[str], wait: float | None
    ) -> tuple[Tally, int]:
        """Push, several times if need be: the outcome of the last attempt, and how many there were."""
        if wait is not None and not self.is_reachable(key):
            await self._appearance(key, wait)
        tally, attempts = self._try(key, outgoing, skip), 1
        if outgoing.priority is MessagePriority.CRITICAL and not skip:
            pause = self._config.critical_backoff
            while not (tally.sent or tally.queued) and attempts <= self._config.critical_retries:
                await self._appearance(key, pause)
                tally, attempts, pause = self._try(key, outgoing, skip), attempts + 1, pause * 2
        return tally, attempts

    def _try(self, key: UserKey, outgoing: Outgoing, skip: frozenset[str]) -> Tally:
        targets = self._registry.of_user(key)
        if targets and not skip and self._must_wait_its_turn(key, outgoing, targets):
            return Tally(self._config.max_report_ids)
        tally = self._push_all(targets, outgoing, skip)
        if not targets:
            tally.add(Pushed.OFFLINE, key.user_id)
        return tally

    def _must_wait_its_turn(self, key: UserKey, outgoing: Outgoing, targets: Collection[Connection]) -> bool:
        """Whether a durable message is better kept for now, although the user is there: older ones wait
        still, or it would push one of them out. Only a critical message may overtake."""
        if outgoing.delivery is not Delivery.DURABLE or outgoing.priority is MessagePriority.CRITICAL:
            return False
        if self.offline.count(key) or key in self._leaving:
            return True
        is_full = False
        for conn in targets:
            if conn.status is ConnectionStatus.OPEN:
                if conn.has_room_for(outgoing.for_codec(conn.codec).size):
                    return False
                is_full = True
        return is_full

    def is_reachable(self, key: UserKey) -> bool:
        """Whether the user has an open connection."""
        return any(conn.status is ConnectionStatus.OPEN for conn in self._registry.of_user(key))

    async def _appearance(self, key: UserKey, timeout: float) -> None:
        """Wait until the user connects, at most `timeout`; at once when too many sends wait already."""
        if self._appearing_count >= self._config.max_waiting_sends:
            self.drops["wait_refused"] += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._appearing.setdefault(key, {})[waiter] = None
        self._appearing_count += 1
        try:
            await asyncio.wait({waiter}, timeout=timeout)
        finally:
            self._appearing_count -= 1
            waiters = self._appearing[key]
            del waiters[waiter]
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
        self.flush(conn.key)
        for waiter in self._appearing.get(conn.key, ()):
            if not waiter.done():
                waiter.set_result(None)

    def disappeared(self, conn: Connection) -> None:
        """`conn` was open and is not any more; when it is congested, `drained` is called later."""
        _count_down(self.codecs_in_use, conn.codec)
        if conn.congested:
            self._leaving[conn.key] += 1

    # --- kept for later

    def _keep(self, key: UserKey, outgoing: Outgoing) -> bool:
        now = self._clock()
        kept = self.offline.keep(key, self._stored(outgoing, now), now=now)
        self._count(key, kept, 1)
        return bool(kept)

    def _put_back(self, key: UserKey, messages: Sequence[StoredMessage]) -> None:
        self._count(key, self.offline.restore(key, messages, now=self._clock()), len(messages))

    def _count(self, key: UserKey, kept: Kept, messages: int) -> None:
        if kept:
            self.drops["offline_evicted"] += len(kept.evicted)
        else:
            self.drops["offline_refused"] += messages
            log_event(logging.WARNING, "offline.refused", user=key.user_id, tenant=key.tenant)

    def _stored(self, outgoing: Outgoing, now: float) -> StoredMessage:
        frame: str = outgoing.for_codec(self._json).event["text"]
        return self.offline.stamp(
            frame.encode(),
            type=outgoing.type,
            priority=MessagePriority.MEDIUM if outgoing.priority is None else outgoing.priority,
            ttl=None if outgoing.expires_at is None else outgoing.expires_at - now,
            sequence=outgoing.sequence,
            now=now,
        )

    def flush(self, key: UserKey) -> None:
        """Hand over what is kept for a user, oldest first. Of those messages at most one waits in the queue
        of each connection: so their priorities cannot change their order."""
        if not self.offline.count(key) or key in self._leaving:
            return  # a connection that closes may still send older ones, or give them back
        if key in self._flushing:
            return  # a queue of the application's own may give up one message for the next
        self._flushing.add(key)
        try:
            while self.offline.count(key) and (conn := self._readiest(key)) is not None:
                oldest = self.offline.take(key, 1, now=self._clock())
                if oldest and not self._hand_over(conn, oldest[0]):
                    self._put_back(key, oldest)
                    if conn.status is ConnectionStatus.OPEN:
                        return  # it has no room
        finally:
            self._flushing.discard(key)

    def _readiest(self, key: UserKey) -> Connection | None:
        """The open connection of a user for which the fewest messages wait, and no kept one."""
        ready = [
            conn
            for conn in self._registry.of_user(key)
            if conn.status is ConnectionStatus.OPEN
            and not ((turn := self._turns.get(conn)) is not None and turn.waiting)
        ]
        return min(ready, key=lambda conn: conn.waiting, default=None)

    def _hand_over(self, conn: Connection, stored: StoredMessage) -> bool:
        """Push one kept message; False when it must be kept on."""
        try:
            prepared = self._revived(stored, conn.codec)
        except EncodeError as error:  # a codec of the application's has no words for it
            self.drops["unencodable"] += 1
            log_event(logging.ERROR, "offline.unencodable", error=error, type=stored.type)
            return True
        if not conn.has_room_for(prepared.size):
            return False
        pushed = conn.push(prepared)
        if pushed is Pushed.QUEUED:
            self._turns[conn] = prepared.outgoing
        elif pushed is Pushed.SENT:
            self._analytics.record_sent(stored.type, 1, prepared.size, now=self._clock())
        return pushed in (Pushed.SENT, Pushed.QUEUED)

    def _revived(self, stored: StoredMessage, codec: Codec) -> Prepared:
        """A kept message as `codec` writes it. Raises `EncodeError`."""
        kept_as_is = codec is self._json
        return Outgoing(
            msgspec.Raw(stored.payload) if kept_as_is else msgspec.json.decode(stored.payload),
            type=stored.type,
            priority=stored.priority,
            delivery=Delivery.DURABLE,
            expires_at=stored.expires_at,
            sequence=stored.sequence,
        ).for_codec(codec)

    def given_up(self, conn: Connection, messages: Iterable[Outgoing], reason: str) -> None:
        """Messages that had been queued for `conn` will not go out on it. What is durable and was handed
        to nobody goes back."""
        now = self._clock()
        lost: list[StoredMessage] = []
        for outgoing in messages:
            if _is_lost(outgoing, reason, now):
                if reason == "evicted":  # it will not give way a second time
                    outgoing.priority = max(conn.priority_of(outgoing), MessagePriority.HIGH)
                lost.append(self._stored(outgoing, now))
            else:
                self.drops[reason] += 1
        if lost:
            self._put_back(conn.key, lost)
            self.flush(conn.key)

    def handed_over(self, conn: Connection, prepared: Prepared) -> None:
        """The server took a message for `conn`: a kept one may take its place."""
        if prepared.outgoing.type:
            self._analytics.record_sent(prepared.outgoing.type, 1, prepared.size, now=self._clock())
        self.flush(conn.key)

    def drained(self, conn: Connection) -> None:
        """Nothing waits for `conn` any more: go on with what is kept for its user."""
        self._turns.pop(conn, None)
        if conn.status is not ConnectionStatus.OPEN:
            _count_down(self._leaving, conn.key)
        self.flush(conn.key)


def _is_lost(outgoing: Outgoing, reason: str, now: float) -> bool:
    """Whether a message that was given up has a right to be kept."""
    return (
        outgoing.delivery is Delivery.DURABLE
        and reason not in ("expired", "conflated")
        and not outgoing.handed_over
        and not outgoing.waiting
        and (outgoing.expires_at is None or outgoing.expires_at > now)
    )


def _count_down(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _ids(exclude: Exclude) -> frozenset[str]:
    if exclude is None:
        return frozenset()
    if isinstance(exclude, Connection | str):
        exclude = (exclude,)
    return frozenset(one if isinstance(one, str) else one.id for one in exclude)
