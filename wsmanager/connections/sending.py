"""Sending to users, rooms and everybody who is here now."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from types import NoneType
from typing import Any

from ..decisions.analytics import MessageAnalytics
from ..decisions.registry import Registry
from ..messages import AllTenants, ConnectionStatus, DeliveryReport, Pushed, RoomKey, Tenant
from ..protocols import Clock, Codec
from ..wire.codecs import OPAQUE
from ..wire.encodings import Encodings
from ..wire.outgoing import Outgoing, Prepared
from ..wire.stepping import Transport
from .connection import Connection

__all__ = ["Exclude", "Sender", "Tally", "ids_of", "is_reachable"]

Exclude = Connection | str | Iterable[Connection | str] | None
"""Connections, or ids of connections, that a send leaves out."""


def is_reachable(conn: Connection) -> bool:
    """True while what the application sends through the manager can be written to `conn`."""
    return conn.status is ConnectionStatus.OPEN and conn.codec is not OPAQUE


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
    """Reaches connections: all that leaves for them ends in `fan_out`.

    Nothing here waits, keeps or asks; what is promised beyond that is the publisher's. A message that a codec
    in use cannot write reaches nobody: then `EncodeError` is raised before anything was sent.
    """

    def __init__(
        self,
        registry: Registry[Connection],
        encodings: Encodings,
        analytics: MessageAnalytics,
        clock: Clock,
        *,
        max_report_ids: int,
    ) -> None:
        self._registry = registry
        self._encodings = encodings
        self._analytics = analytics
        self._clock = clock
        self._max_ids = max_report_ids

    def to_room(self, key: RoomKey, outgoing: Outgoing, exclude: Exclude = None) -> DeliveryReport:
        """Send to every connection in a room."""
        return self.fan_out(self._registry.of_room(key), outgoing, ids_of(exclude)).report()

    def to_tenant(
        self, tenant: Tenant | AllTenants, outgoing: Outgoing, exclude: Exclude = None
    ) -> DeliveryReport:
        """Send to every connection of a tenant."""
        return self.fan_out(self._registry.of_tenant(tenant), outgoing, ids_of(exclude)).report()

    def to_connection(self, connection_id: str, outgoing: Outgoing) -> DeliveryReport:
        """Send to one connection."""
        conn = self._registry.get(connection_id)
        if conn is None:
            return DeliveryReport(offline=1, failed=(connection_id,))
        return self.fan_out((conn,), outgoing).report()

    def fan_out(
        self,
        targets: Collection[Connection],
        outgoing: Outgoing,
        skip: frozenset[str] = frozenset(),
    ) -> Tally:
        """Push one message to each target but those with an id in `skip`, and count."""
        tally = Tally(self._max_ids)
        frames = self._encode(outgoing, targets)
        if skip:
            targets = [conn for conn in targets if conn.id not in skip]
        for codec, prepared in frames.items():
            of_codec = targets
            if len(frames) > 1:
                of_codec = [conn for conn in targets if conn.codec is codec]
            # With one codec in use, whoever has another is not open.
            if count := _push_each(prepared, of_codec, tally):
                outgoing.handed_over = True
                tally.sent += count
                self._analytics.record_sent(outgoing.type, count, prepared.size, now=self._clock())
        if len(frames) > 1 and not outgoing.is_typed:
            for conn in targets:
                if conn.codec not in frames:
                    tally.add(Pushed.OFFLINE, conn.id)
        return tally

    def _encode(self, outgoing: Outgoing, targets: Collection[Connection]) -> dict[Codec, Prepared]:
        """Write the message for every codec among the targets."""
        codecs: Collection[Codec] = self._encodings.in_use
        if not outgoing.is_typed:  # which whoever is not open cannot mind
            codecs = {conn.codec for conn in targets if conn.status is ConnectionStatus.OPEN}
        elif len(codecs) > 1:
            codecs = {conn.codec for conn in targets}
        codecs = codecs or (self._encodings.for_nobody(typed=outgoing.is_typed),)
        return {codec: outgoing.for_codec(codec) for codec in codecs}


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


def ids_of(exclude: Exclude) -> frozenset[str]:
    """Return the ids of the connections that a send leaves out."""
    if exclude is None:
        return frozenset()
    if isinstance(exclude, Connection | str):
        exclude = (exclude,)
    return frozenset(one if isinstance(one, str) else one.id for one in exclude)
