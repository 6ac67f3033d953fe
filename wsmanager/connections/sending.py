"""Sending to users, rooms and everybody, and waiting for a user to appear."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from types import NoneType
from typing import Any

from ..config import WebSocketConfig
from ..decisions.analytics import MessageAnalytics
from ..decisions.registry import Registry
from ..delivery.retention import Retention
from ..messages import (
    Delivery,
    DeliveryReport,
    MessagePriority,
    OutboundMessage,
    Pushed,
    UserKey,
)
from ..protocols import Clock, Codec
from ..wire.outgoing import Outgoing, Prepared
from ..wire.stepping import Transport
from .connection import Connection

__all__ = ["Exclude", "Sender"]

Exclude = Connection | str | Iterable[Connection | str] | None
"""Connections, or ids of connections, that a send leaves out."""


class Tally:
    """Counts what became of one send."""

    __slots__ = ("dropped", "failed", "max_ids", "offline", "queued", "sent", "unsupported")

    def __init__(self, max_ids: int) -> None:
        self.sent = self.queued = self.dropped = self.offline = self.unsupported = 0
        self.failed: list[str] = []
        self.max_ids = max_ids

    def add(self, pushed: Pushed, target: str) -> None:
        """Count one target that the message was not handed to."""
        if pushed is Pushed.QUEUED:
            self.queued += 1
            return
        if pushed is Pushed.DROPPED:
            self.dropped += 1
        elif pushed is Pushed.UNSUPPORTED:
            self.unsupported += 1
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
            unsupported=self.unsupported,
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
        retention: Retention,
        clock: Clock,
    ) -> None:
        self._config = config
        self._registry = registry
        self._analytics = analytics
        self._retention = retention
        self._clock = clock
        self._sequence = itertools.count(1)
        self._appearing: dict[UserKey, dict[asyncio.Future[None], None]] = {}
        self._appearing_count = 0
        self.codecs_in_use: Counter[Codec] = Counter()

    # --- to many

    def fan_out(
        self, targets: Collection[Connection], outgoing: Outgoing, exclude: Exclude = None
    ) -> DeliveryReport:
        """Push one message to each target. Raises `EncodeError` before anything was sent."""
        return self._push_all(targets, outgoing, _ids(exclude)).report()

    def _push_all(self, targets: Collection[Connection], outgoing: Outgoing, skip: frozenset[str]) -> Tally:
        frames = self._encode(outgoing, targets)
        if skip:
            targets = [conn for conn in targets if conn.id not in skip]
        tally = Tally(self._config.max_report_ids)
        for codec, prepared in frames.items():
            of_codec = targets
            if len(frames) > 1:
                of_codec = [conn for conn in targets if conn.codec is codec]
            # With one codec in use, whoever has another is not open.
            if count := _push_each(prepared, of_codec, tally):
                outgoing.handed_over = True
                tally.sent += count
                self._analytics.record_sent(outgoing.type, count, prepared.size, now=self._clock())
        return tally

    def _encode(self, outgoing: Outgoing, targets: Collection[Connection]) -> dict[Codec, Prepared]:
        """The message for every codec among the targets: one that cannot be encoded reaches nobody."""
        codecs: Collection[Codec] = self.codecs_in_use
        if len(codecs) > 1:
            codecs = {conn.codec for conn in targets}
        return {codec: outgoing.for_codec(codec) for codec in codecs or (self._retention.codec,)}

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
        typed: bool = True,
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
            typed=typed,
        )
        if durable:
            self._retention.prepare(outgoing)
        skip = _ids(exclude)
        try:
            tally, attempts = await self._attempt(key, outgoing, skip, wait)
        except asyncio.CancelledError:
            if durable:
                self._retention.keep(key, outgoing)
            raise
        if tally.sent or tally.queued or not durable or (skip and self.is_reachable(key)):
            return tally.report(attempts=attempts)
        kept = self._retention.keep(key, outgoing)
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
        if targets and not skip and self._retention.must_wait(key, outgoing, targets):
            return Tally(self._config.max_report_ids)
        tally = self._push_all(targets, outgoing, skip)
        if not targets:
            tally.add(Pushed.OFFLINE, key.user_id)
        return tally

    def is_reachable(self, key: UserKey) -> bool:
        """Whether the user has an open connection that the manager may write to."""
        return any(conn.is_reachable for conn in self._registry.of_user(key))

    async def _appearance(self, key: UserKey, timeout: float) -> None:
        """Wait until the user connects, at most `timeout`; at once when too many sends wait already."""
        if self._appearing_count >= self._config.max_waiting_sends:
            self._retention.drops["wait_refused"] += 1
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
        self._retention.flush(conn.key)
        for waiter in self._appearing.get(conn.key, ()):
            if not waiter.done():
                waiter.set_result(None)

    def disappeared(self, conn: Connection) -> None:
        """`conn` was open and is not any more."""
        self.codecs_in_use[conn.codec] -= 1
        if not self.codecs_in_use[conn.codec]:
            del self.codecs_in_use[conn.codec]
        self._retention.disappeared(conn)


def _push_each(prepared: Prepared, targets: Collection[Connection], tally: Tally) -> int:
    """Push to connections of one codec; how many took it at once."""
    lanes: list[Any] = [conn.lane for conn in targets]
    kinds, sent = set(map(type, lanes)), 0
    if NoneType in kinds:
        sent = _push_one_by_one(prepared, [conn for conn in targets if conn.lane is None], tally)
        targets = [conn for conn in targets if conn.lane is not None]
        lanes = [conn.lane for conn in targets]
        kinds = set(map(type, lanes))
    if not kinds:
        return sent
    directs = [kind for kind in kinds if hasattr(kind, "fan_out")]
    if not directs:
        return sent + _send_to_all(prepared, tuple(targets), lanes, tally)
    if len(kinds) > 1:  # sockets of different servers
        return sent + _push_one_by_one(prepared, targets, tally)
    directs[0].fan_out(lanes, prepared.packed or prepared.pack())
    return sent + len(lanes)


def _push_one_by_one(prepared: Prepared, targets: Iterable[Connection], tally: Tally) -> int:
    sent = 0
    for conn in targets:
        pushed = conn.push(prepared)
        if pushed is Pushed.SENT:
            sent += 1
        else:
            tally.add(pushed, conn.id)
    return sent


def _send_to_all(
    prepared: Prepared, targets: Sequence[Connection], sends: Sequence[Any], tally: Tally
) -> int:
    """Send by ASGI; how many servers took it at once."""
    others = Transport.fan_out(sends, prepared.event)
    for place, answer in others:
        tally.add(targets[place].not_taken(answer, prepared), targets[place].id)
    return len(targets) - len(others)


def _ids(exclude: Exclude) -> frozenset[str]:
    if exclude is None:
        return frozenset()
    if isinstance(exclude, Connection | str):
        exclude = (exclude,)
    return frozenset(one if isinstance(one, str) else one.id for one in exclude)
