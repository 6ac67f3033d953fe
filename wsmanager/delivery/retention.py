"""Durable messages that nobody took yet: kept, and handed over as soon as somebody can take them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import msgspec

from ..config import WebSocketConfig
from ..connections.connection import Connection
from ..connections.seams import priority_of
from ..connections.sending import is_reachable
from ..decisions.analytics import MessageAnalytics
from ..decisions.registry import Registry
from ..errors import EncodeError
from ..logs import Journal
from ..messages import ConnectionStatus, Delivery, MessagePriority, Pushed, UserKey
from ..protocols import Clock, Codec
from ..wire.encodings import AS_GIVEN, Encodings
from ..wire.outgoing import Outgoing, Prepared
from .offline import Kept, OfflineMessages, StoredMessage

__all__ = ["Retention"]


class Retention:
    """Keeps what its user has not got. Guaranteed: a durable message is handed to a server, kept, or counted
    among the drops; what is kept leaves in the order of sending, and only to its user."""

    def __init__(
        self,
        config: WebSocketConfig,
        registry: Registry[Connection],
        encodings: Encodings,
        analytics: MessageAnalytics,
        drops: Counter[str],
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._registry = registry
        self._encodings = encodings
        self._analytics = analytics
        self._drops = drops
        self._clock = clock
        self._journal = journal
        self._ttl = config.offline_ttl
        # Connections that close and have not sent everything yet.
        self._leaving: dict[UserKey, set[Connection]] = {}
        self._flushing: set[UserKey] = set()
        # The kept message that waits in the queue of a congested connection.
        self._turns: dict[Connection, Outgoing] = {}
        self._offline = OfflineMessages(
            config.offline_max_messages,
            config.offline_max_bytes,
            config.offline_ttl,
            config.offline_max_users,
        )

    # --- coming

    def expiry(self) -> float:
        """Return when a message expires that says nothing of it."""
        return self._clock() + self._ttl

    def prepare(self, outgoing: Outgoing) -> None:
        """Write a message as it would be kept, whoever changes it later. Raises `EncodeError`."""
        self._written(outgoing)

    def _written(self, outgoing: Outgoing) -> Prepared:
        return outgoing.for_codec(self._encodings.for_nobody(typed=outgoing.is_typed))

    def must_wait(self, key: UserKey, outgoing: Outgoing, targets: Collection[Connection]) -> bool:
        """Whether a durable message is better kept for now, although the user is there: older ones wait
        still, or it would push one of them out. Only a critical message may overtake."""
        if outgoing.delivery is not Delivery.DURABLE or outgoing.priority is MessagePriority.CRITICAL:
            return False
        if self._offline.count(key) or key in self._leaving:
            return True
        is_full = False
        for conn in targets:
            if is_reachable(conn):
                if _has_room(conn, outgoing.for_codec(conn.codec).size):
                    return False
                is_full = True
        return is_full

    def keep(self, key: UserKey, outgoing: Outgoing) -> bool:
        """Keep a message for its user as the newest; False when that is refused."""
        now = self._clock()
        kept = self._offline.keep(key, self._stored(outgoing, now), now=now)
        self._count(key, kept, 1)
        return bool(kept)

    def given_up(self, conn: Connection, messages: Iterable[Outgoing], reason: str) -> Sequence[Outgoing]:
        """Keep again what was queued for `conn`, is durable and was handed to nobody; return the rest."""
        now = self._clock()
        kept: list[StoredMessage] = []
        lost: list[Outgoing] = []
        for outgoing in messages:
            if _may_be_kept(outgoing, reason, now):
                if reason == "evicted":  # it will not give way a second time
                    outgoing.priority = max(priority_of(conn, outgoing), MessagePriority.HIGH)
                kept.append(self._stored(outgoing, now))
            else:
                lost.append(outgoing)
        if kept:
            self._put_back(conn.key, kept)
            self.flush(conn.key)
        return lost

    def _put_back(self, key: UserKey, messages: Sequence[StoredMessage]) -> None:
        self._count(key, self._offline.restore(key, messages, now=self._clock()), len(messages))

    def _count(self, key: UserKey, kept: Kept, messages: int) -> None:
        if kept:
            self._drops["offline_evicted"] += len(kept.evicted)
        else:
            self._drops["offline_refused"] += messages
            self._journal.note(logging.WARNING, "offline.refused", user=key.user_id, tenant=key.tenant)

    def _stored(self, outgoing: Outgoing, now: float) -> StoredMessage:
        frame: str = self._written(outgoing).event["text"]
        return self._offline.stamp(
            frame.encode(),
            type=outgoing.type if outgoing.is_typed else None,
            priority=MessagePriority.MEDIUM if outgoing.priority is None else outgoing.priority,
            ttl=None if outgoing.expires_at is None else outgoing.expires_at - now,
            sequence=outgoing.sequence,
            now=now,
        )

    # --- going

    def flush(self, key: UserKey) -> None:
        """Hand over what is kept for a user, oldest first. Of those messages at most one waits in the queue
        of each connection: so their priorities cannot change their order."""
        if not self._offline.count(key) or key in self._leaving:
            return  # a connection that closes may still send older ones, or give them back
        if key in self._flushing:
            return  # a queue of the application's own may give up one message for the next
        self._flushing.add(key)
        try:
            while self._offline.count(key) and (conn := self._readiest(key)) is not None:
                oldest = self._offline.take(key, 1, now=self._clock())
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
            if is_reachable(conn) and not ((turn := self._turns.get(conn)) is not None and turn.waiting)
        ]
        return min(ready, key=lambda conn: conn.waiting, default=None)

    def _hand_over(self, conn: Connection, stored: StoredMessage) -> bool:
        """Push one kept message; False when it must be kept on."""
        try:
            prepared = self._revived(stored, conn.codec)
        except EncodeError as error:  # a codec of the application's has no words for it
            self._drops["unencodable"] += 1
            self._journal.note(logging.ERROR, "offline.unencodable", error=error, type=stored.type)
            return True
        if not _has_room(conn, prepared.size):
            return False
        pushed = conn.push(prepared)
        if pushed is Pushed.QUEUED:
            self._turns[conn] = prepared.outgoing
        elif pushed is Pushed.SENT:
            self._analytics.record_sent(prepared.counted_as, 1, prepared.size, now=self._clock())
        return pushed in (Pushed.SENT, Pushed.QUEUED)

    def _revived(self, stored: StoredMessage, codec: Codec) -> Prepared:
        """A kept message as `codec` writes it. Raises `EncodeError`."""
        kept_as_is = codec in (self._encodings.kept, AS_GIVEN)
        return Outgoing(
            msgspec.Raw(stored.payload) if kept_as_is else msgspec.json.decode(stored.payload),
            type=stored.type,
            priority=stored.priority,
            delivery=Delivery.DURABLE,
            expires_at=stored.expires_at,
            sequence=stored.sequence,
        ).for_codec(codec)

    # --- what becomes of connections

    def leaving(self, conn: Connection) -> None:
        """Note that `conn` is open no more while messages still wait for it; `drained` follows."""
        self._leaving.setdefault(conn.key, set()).add(conn)

    def drained(self, conn: Connection) -> None:
        """Nothing waits for `conn` any more: go on with what is kept for its user."""
        self._turns.pop(conn, None)
        leaving = self._leaving.get(conn.key)
        if leaving is not None:
            leaving.discard(conn)  # unless it was dropped while others were told that it closes
            if not leaving:
                del self._leaving[conn.key]
        self.flush(conn.key)

    # --- time passes

    def drop_expired(self, now: float) -> None:
        """Remove what was kept too long for absent users."""
        expired = self._offline.cleanup_expired(now=now)
        if expired:
            self._drops["offline_expired"] += expired

    def figures(self) -> dict[str, int]:
        """Count what is kept."""
        self.drop_expired(self._clock())  # nobody else does while nobody is connected
        return {
            "offline_users": self._offline.users,
            "offline_messages": self._offline.messages,
            "offline_bytes": self._offline.bytes_waiting,
        }


def _has_room(conn: Connection, size: int) -> bool:
    """True if a message of `size` bytes can go out or wait without another giving way."""
    return conn.congestion is None or conn.congestion.has_room_for(size)


def _may_be_kept(outgoing: Outgoing, reason: str, now: float) -> bool:
    """True if a message that was given up has a right to be kept."""
    return (
        outgoing.delivery is Delivery.DURABLE
        and reason not in ("expired", "conflated")
        and not outgoing.handed_over
        and not outgoing.waiting
        and (outgoing.expires_at is None or outgoing.expires_at > now)
    )
