"""What the application publishes, and the promise that each message carries."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from ..config import WebSocketConfig
from ..connections.appearances import Appearances
from ..connections.connection import Connection
from ..connections.residents import Resident
from ..connections.seams import Waiting
from ..connections.sending import Exclude, Sender, Tally, ids_of, is_reachable
from ..decisions.registry import Registry
from ..errors import ConfigurationError, Forbidden
from ..messages import (
    AllTenants,
    Delivery,
    DeliveryReport,
    MessagePriority,
    Pushed,
    RoomKey,
    Tenant,
    UserKey,
)
from ..wire.outgoing import Outgoing
from .retention import Retention

__all__ = ["Publisher"]

_VOLATILE: Final = Delivery.VOLATILE


class Publisher(Resident):
    """Publishes to users, rooms, tenants and connections, above the `Sender`.

    Volatile messages go out at once. A durable one that nobody took is kept by the `Retention`.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        registry: Registry[Connection],
        sender: Sender,
        retention: Retention,
        appearances: Appearances,
        drops: Counter[str],
        *,
        is_anonymous: Callable[[str], bool],
        may_publish: Callable[[Connection, str], Awaitable[bool]],
    ) -> None:
        self._config = config
        self._registry = registry
        self._sender = sender
        self._retention = retention
        self._appearances = appearances
        self._drops = drops
        self._is_anonymous = is_anonymous
        self._may_publish = may_publish
        self._sequence = itertools.count(1)

    # --- to many

    async def to_room(
        self, key: RoomKey, outgoing: Outgoing, *, exclude: Exclude = None, author: Connection | None = None
    ) -> DeliveryReport:
        """Publish to a room. With `author` the message is that client's, and the room one of its tenant.

        Raises `Forbidden` when the client may not publish there.
        """
        if outgoing.delivery is not _VOLATILE:
            raise _not_volatile(outgoing)
        if author is not None:
            key = RoomKey(author.tenant, key.room)
            if not await self._may_publish(author, key.room):
                raise Forbidden("You may not send to this room.")
        return self._sender.to_room(key, outgoing, exclude)

    def to_tenant(
        self, tenant: Tenant | AllTenants, outgoing: Outgoing, *, exclude: Exclude = None
    ) -> DeliveryReport:
        """Publish to everybody of a tenant."""
        if outgoing.delivery is not _VOLATILE:
            raise _not_volatile(outgoing)
        return self._sender.to_tenant(tenant, outgoing, exclude)

    def to_connection(self, connection_id: str, outgoing: Outgoing) -> DeliveryReport:
        """Publish to one connection; one that is not here is reported as offline."""
        return self._sender.to_connection(connection_id, outgoing)

    # --- to a user

    async def to_user(
        self, key: UserKey, outgoing: Outgoing, *, exclude: Exclude = None, wait: float | None = None
    ) -> DeliveryReport:
        """Publish to every connection of a user; what nobody took is tried again, kept, or reported.

        Who is cancelled while waiting for the user has sent a durable message nevertheless: it is kept.
        Nothing is kept for an anonymous user, who never comes back.
        """
        if self._is_anonymous(key.user_id):
            outgoing.delivery = Delivery.VOLATILE
        durable = outgoing.delivery is Delivery.DURABLE
        if durable:
            outgoing.sequence = next(self._sequence)
            if outgoing.expires_at is None:
                outgoing.expires_at = self._retention.expiry()
            self._retention.prepare(outgoing)
        skip = ids_of(exclude)
        try:
            tally, attempts = await self._attempt(key, outgoing, skip, wait)
        except asyncio.CancelledError:
            if durable:
                self._retention.keep(key, outgoing)
            raise
        if tally.sent or tally.queued or not durable or (skip and self._is_reachable(key)):
            return tally.report(attempts=attempts)
        kept = self._retention.keep(key, outgoing)
        if not kept:
            tally.add(Pushed.DROPPED, key.user_id)
        return tally.report(kept=int(kept), attempts=attempts)

    async def _attempt(
        self, key: UserKey, outgoing: Outgoing, skip: frozenset[str], wait: float | None
    ) -> tuple[Tally, int]:
        """Push, several times if need be: the outcome of the last attempt, and how many there were."""
        if wait is not None and not self._is_reachable(key):
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
        tally = self._sender.fan_out(targets, outgoing, skip)
        if not targets:
            tally.add(Pushed.OFFLINE, key.user_id)
        return tally

    async def _appearance(self, key: UserKey, timeout: float) -> None:
        if not await self._appearances.wait_for(key, timeout):
            self._drops["wait_refused"] += 1

    def _is_reachable(self, key: UserKey) -> bool:
        """True if the user has an open connection that the manager may write to."""
        return any(map(is_reachable, self._registry.of_user(key)))

    # --- as a resident

    def opened(self, conn: Connection) -> None:
        self._retention.flush(conn.key)

    def handed_over(self, conn: Connection, item: Waiting) -> None:
        del item
        self._retention.flush(conn.key)

    def given_up(self, conn: Connection, messages: Sequence[Outgoing], reason: str) -> Sequence[Outgoing]:
        return self._retention.given_up(conn, messages, reason)

    def leaving(self, conn: Connection) -> None:
        self._retention.leaving(conn)

    def drained(self, conn: Connection) -> None:
        self._retention.drained(conn)

    def sweep(self, now: float) -> None:
        self._retention.drop_expired(now)

    def figures(self) -> dict[str, Any]:
        return self._retention.figures()


def _not_volatile(outgoing: Outgoing) -> ConfigurationError:
    return ConfigurationError(
        f"{outgoing.delivery} delivery is for personal messages; rooms and broadcasts are volatile"
    )
