"""From a handshake to an open connection: every limit, who the client is, and what it is told."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from ..auth.gate import Gate
from ..auth.visitors import Accept, Replaced, Visitor
from ..config import Tier, WebSocketConfig
from ..connections.connection import Connection
from ..connections.ending import end
from ..connections.residents import Residents
from ..connections.seams import NEGOTIATED, Owner
from ..decisions.health import ConnectionHealthMonitor
from ..decisions.registry import Registry
from ..errors import CloseCode, ConfigurationError, Refused
from ..messages import ConnectionStatus, Tenant, UserKey
from ..names import require_name
from ..protocols import HealthScorer, Identity
from ..wire.asgi import Receive, Scope, Send
from ..wire.encodings import Encodings
from ..wire.stepping import direct_for
from ..wire.words import WelcomeData, welcome

__all__ = ["Admission"]

# 15 characters, 88 random bits: the id is no secret, and a str of 15 fills its memory block exactly.
_ID_BYTES: Final = 11
_MAX_CODES: Final = 100


class Admission:
    """Lets clients in, or tells them why not. While anything here waits, what it registered counts."""

    def __init__(
        self,
        owner: Owner[Connection],
        config: WebSocketConfig,
        gate: Gate,
        registry: Registry[Connection],
        encodings: Encodings,
        scorer: HealthScorer,
        *,
        bind: Callable[[], None],
        refuse_at_the_end: Callable[[], None],
        on_open: Callable[[Connection], None],
    ) -> None:
        self._owner = owner
        self._config = config
        self._gate = gate
        self._registry = registry
        self._encodings = encodings
        self.residents = Residents()
        self._scorer = scorer
        self._bind = bind
        self._refuse_at_the_end = refuse_at_the_end
        self._on_open = on_open
        self.refused: Counter[str] = Counter()
        """Handshakes that were refused, by code."""

    # --- the ways in

    async def enter(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        user_id: str | None = None,
        tenant: Tenant = None,
        connection_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        accept: Accept | None = None,
    ) -> Connection:
        """Return an open connection, accepted and reachable; or raise `Refused`, once the client was told.

        A given `user_id` stands for authentication, not for the limits or the Origin check.
        """
        self._bind()
        identity = self._given_identity(user_id, tenant)
        name = self._name(connection_id)
        visitor = self._gate.meet(scope, receive, send, accept)
        try:
            conn = await self._register(visitor, identity, name, metadata)
        except Refused as refusal:
            await self.turn_away(visitor, refusal)
            raise
        return await self.let_in(visitor, conn)

    async def examine(self, scope: Scope, receive: Receive, send: Send) -> tuple[Visitor, Connection]:
        """Return a connecting connection, for an application that accepts by itself; or raise `Refused`,
        once the client was told. Whoever has it calls `open`, or ends it."""
        self._bind()
        visitor = self._gate.meet(scope, receive, send)
        try:
            conn = await self._register(visitor, None, self._name(None), None, may_ask=False)
        except Refused as refusal:
            with suppress(TimeoutError):  # there are test clients that never say connect
                async with asyncio.timeout(self._config.close_timeout):
                    await receive()
            await self.turn_away(visitor, refusal)
            raise
        return visitor, conn

    def rename(
        self,
        conn: Connection,
        *,
        user_id: str | None,
        tenant: Tenant,
        connection_id: str | None,
        metadata: dict[str, Any] | None,
    ) -> None:
        """Take in what an endpoint knows better of a connecting `conn` than its handshake told.

        Raises `Refused`, and `DuplicateConnectionId`; then nothing has changed.
        """
        given = self._given_identity(user_id, tenant)
        name = conn.id if connection_id is None else self._name(connection_id)
        if given is None and self._gate.is_anonymous(conn.user_id):
            given = self._gate.anonymous(name)
        key = conn.key if given is None else UserKey(given.tenant, given.user_id)
        if given is None or key == conn.key:
            self._registry.rename(conn, name, key)
        else:
            self._registry.rename(conn, name, key, max_per_user=self._make_room(name, key, None, conn))
            # What its token said was said of somebody else.
            conn.claims, conn.scopes, conn.tier = given.claims, given.scopes, None
        if metadata:
            conn.metadata.update(metadata)

    async def let_in(self, visitor: Visitor, conn: Connection) -> Connection:
        """Accept and open a connecting connection; or raise `Refused`, once the client was told."""
        try:
            await self._gate.usher.let_in(visitor)
            self.refuse_if_closed(conn)
        except Refused as refusal:
            end(conn)
            await self.turn_away(visitor, refusal)
            raise
        except BaseException:
            end(conn)
            raise
        self.open(conn)
        return conn

    # --- the limits

    async def _register(
        self,
        visitor: Visitor,
        identity: Identity | None,
        name: str,
        metadata: dict[str, Any] | None,
        *,
        may_ask: bool = True,
    ) -> Connection:
        """Return a connecting connection that counts against every limit. When this raises, none does."""
        self._refuse_at_the_end()
        self._gate.admit_address(visitor)
        self._registry.arrive(visitor.address)
        try:
            if identity is None:
                identity = await self._gate.identify(visitor, name, may_ask=may_ask)
                self._refuse_at_the_end()
            conn = self._make(name, identity, visitor, metadata)
            self._registry.add(conn, max_per_user=self._make_room(conn.id, conn.key, conn.tier))
        except BaseException:
            self._registry.depart(visitor.address)
            raise
        for entering in self.residents.entering:
            try:
                await entering(conn)
                self.refuse_if_closed(conn)
            except BaseException:
                end(conn)
                raise
        return conn

    def _make(
        self, name: str, identity: Identity, visitor: Visitor, metadata: dict[str, Any] | None
    ) -> Connection:
        return Connection(
            self._owner,
            visitor.receive,
            visitor.send,
            identity,
            id=name,
            codec=visitor.codec or self._encodings.default,
            health=ConnectionHealthMonitor(self._scorer, now=self._owner.now()),
            tier=None if identity.tier is None else self._config.tiers.get(identity.tier),
            address=visitor.address,
            metadata=None if metadata is None else dict(metadata),
            negotiated=visitor.codec is not None,
            direct=direct_for(visitor.scope, visitor.send),
        )

    def _make_room(self, name: str, key: UserKey, tier: Tier | None, conn: Connection | None = None) -> int:
        """Return how many connections of a user may be registered.

        Where the oldest gives way to the newest, there is one more while that is connecting: its handshake
        may come to nothing.
        """
        limit = self._max_connections(tier)
        if self._config.over_limit != "replace_oldest":
            return limit
        if self._registry.get(name) in (None, conn):  # another's id is refused
            while len(own := self._registry.of_user(key)) > limit:
                connecting = (conn for conn in own if conn.status is ConnectionStatus.CONNECTING)
                next(connecting, own[0]).close_soon(CloseCode.REPLACED, "replaced")
        return limit + 1

    def _replace_oldest(self, conn: Connection) -> None:
        """`conn` is open: those of its user that came first give way, where there are too many."""
        if self._config.over_limit == "replace_oldest":
            own = self._registry.of_user(conn.key)
            surplus = own.index(conn) + 1 - self._max_connections(conn.tier)
            for oldest in own[: max(0, surplus)]:
                oldest.close_soon(CloseCode.REPLACED, "replaced")

    def _max_connections(self, tier: Tier | None) -> int:
        own = None if tier is None else tier.max_connections
        return self._config.max_connections_per_user if own is None else own

    def _name(self, connection_id: str | None) -> str:
        name = secrets.token_urlsafe(_ID_BYTES) if connection_id is None else connection_id
        return require_name("connection", name, self._config.max_name_length)

    def _given_identity(self, user_id: str | None, tenant: Tenant) -> Identity | None:
        limit = self._config.max_name_length
        if user_id is None:
            if tenant is not None:
                raise ConfigurationError("tenant= needs user_id=: else the authenticator tells both")
            return None
        require_name("user", user_id, limit)
        if tenant is not None:
            require_name("tenant", tenant, limit)
        return Identity(user_id, tenant=tenant)

    # --- open

    def open(self, conn: Connection) -> None:
        """Go from connecting to reachable in one step: what waited goes out before anything new."""
        try:
            self._open(conn)
        except BaseException:  # of a replaced codec or queue
            end(conn)
            raise

    def _open(self, conn: Connection) -> None:
        self._registry.open(conn)
        self._encodings.in_use[conn.codec] += 1
        conn.weigh()
        self._on_open(conn)
        self._replace_oldest(conn)
        if conn.flags & NEGOTIATED:
            more: dict[str, Any] = {}
            for ask in self.residents.welcome:
                more.update(ask(conn))
            conn.answer(welcome(self._welcome(conn), more))
        for opened in self.residents.opened:
            if conn.status is ConnectionStatus.OPEN:  # else its end was told already
                opened(conn)

    def _welcome(self, conn: Connection) -> WelcomeData:
        heartbeat_ms = round(self._config.heartbeat_interval * 1000)
        return WelcomeData(conn.id, heartbeat_ms, self._config.max_message_size)

    # --- refusals

    def require_ready(self) -> None:
        """Raise `Refused` when whoever came now would be sent away."""
        self._refuse_at_the_end()
        self._registry.require_room()

    def refuse_if_closed(self, conn: Connection) -> None:
        """Raise `Refused` when a connecting `conn` was closed meanwhile."""
        if conn.status is ConnectionStatus.CLOSED:
            self._refuse_at_the_end()
            raise Replaced("This connection was closed before it was open.")

    async def turn_away(self, visitor: Visitor, refusal: Refused) -> None:
        """Count a refusal, and tell the client."""
        self.count_refusal(refusal.code)
        self._owner.failed(refusal.kind)
        await self._gate.usher.refuse(visitor, refusal)

    def count_refusal(self, code: str) -> None:
        """Count one handshake that was refused."""
        # An authenticator makes up codes of its own; the figures must not grow with them.
        known = code in self.refused or len(self.refused) < _MAX_CODES
        self.refused[code if known else "other"] += 1

    def figures(self) -> dict[str, int]:
        """Return the handshakes that were refused, by code."""
        return dict(self.refused)
