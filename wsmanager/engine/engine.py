"""The machinery behind the manager: every part, and what moves a connection from door to end."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from ..auth.gate import Accept, Gate, Replaced, ShuttingDown, Visitor
from ..config import Tier, WebSocketConfig
from ..connections.connection import Connection
from ..connections.heartbeat import Heartbeat
from ..connections.sending import Sender
from ..decisions.analytics import MessageAnalytics
from ..decisions.health import ConnectionHealthMonitor
from ..decisions.rate_limit import AdaptiveRateLimiter
from ..decisions.registry import Registry
from ..delivery.retention import Retention
from ..errors import (
    CloseCode,
    ConfigurationError,
    FailureKind,
    Refused,
    WrongEventLoop,
)
from ..handlers.dispatch import Pipeline
from ..handlers.hooks import Hooks
from ..handlers.router import Router
from ..handlers.system_messages import SystemMessages
from ..logs import log_event
from ..messages import ConnectionStatus, SystemType, Tenant, UserKey
from ..names import require_name
from ..protocols import (
    Authenticator,
    Authorizer,
    Clock,
    Codec,
    HealthScorer,
    Identity,
    MessageQueue,
    MessageValidator,
    RateLimiter,
)
from ..tasks.calls import Runs
from ..tasks.signals import drain_first
from ..tasks.supervision import Supervisor
from ..wire.asgi import Receive, Scope, Send
from ..wire.below import advice_for
from ..wire.codecs import JSONCodec
from ..wire.outgoing import Prepared
from ..wire.stepping import direct_for
from .drain import Drain

__all__ = ["Engine"]

# 15 characters, 88 random bits: the id is no secret, and a str of 15 fills its memory block exactly.
_ID_BYTES = 11
_CODES = range(1000, 5000)
_MAX_CODES = 100


class Engine:
    """Holds the parts of one manager together. Implements `wsmanager.connections.seams.Host`."""

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        auth: Authenticator | None,
        limiter: RateLimiter,
        queue: Callable[[], MessageQueue[Prepared]],
        validator: MessageValidator,
        health: HealthScorer,
        authorizer: Authorizer | None,
        codecs: Sequence[Codec],
        analytics: MessageAnalytics,
        clock: Clock,
    ) -> None:
        self.config = config
        self.now = clock
        self.typed = True
        """Whether messages of the application need a type: not where it has a protocol of its own."""
        self.new_queue = queue
        self.analytics = analytics
        self.registry: Registry[Connection] = Registry(
            max_connections=config.max_connections,
            max_per_user=config.max_connections_per_user,
            max_per_address=config.max_connections_per_ip,
            max_per_tenant=config.max_connections_per_tenant,
            max_rooms=config.max_rooms_per_connection,
            max_name_length=config.max_name_length,
        )
        self.router = Router(Connection)
        self.gate = Gate(config, auth, codecs, clock)
        self.retention = Retention(config, self.registry, analytics, _json_among(codecs), clock)
        self.sender = Sender(config, self.registry, analytics, self.retention, clock)
        self.heartbeat = Heartbeat(config, self.registry, clock, sweep=self._sweep)
        self.supervisor = Supervisor()
        self.runs = Runs(config.handler_timeout, config.close_timeout)
        self.system = SystemMessages(
            self.registry,
            authorizer,
            clock,
            self.runs,
            max_name_length=config.max_name_length,
            fail=self._fail,
        )
        self.pipeline = Pipeline(
            config,
            limiter=limiter,
            system_limiter=_plain_limiter(config, config.system_rate_limit_max),
            tenant_limiter=(
                None
                if config.tenant_rate_limit_max is None
                else _plain_limiter(config, config.tenant_rate_limit_max)
            ),
            validator=validator,
            router=self.router,
            analytics=analytics,
            system=self.system.answers,
            runs=self.runs,
            clock=clock,
        )
        self.hooks = Hooks(self.pipeline)
        self.default_codec = codecs[0]
        self.limiter = limiter
        self.validator = validator
        self.refused: Counter[str] = Counter()
        self.closed: Counter[int] = Counter()
        self._scorer = health
        self._loop: asyncio.AbstractEventLoop | None = None
        self._shutting_down = False
        self._leaving: set[Connection] = set()
        self._advised: set[str] = set()
        self._forget_sigterm: Callable[[], None] | None = None

    def _fail(self, conn: Connection, error: BaseException, message: Any) -> None:
        self.pipeline.fail(conn, error, message)

    # --- in

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
        """An open connection, accepted and reachable; or `Refused`, once the client was told so.

        A given `user_id` stands for authentication, not for the limits or the Origin check.
        """
        self.bind()
        identity = self._given_identity(user_id, tenant)
        name = self._name(connection_id)
        visitor = self.gate.meet(scope, receive, send, accept)
        try:
            conn = await self._register(visitor, identity, name, metadata)
        except Refused as refusal:
            await self.turn_away(visitor, refusal)
            raise
        return await self.let_in(visitor, conn)

    async def examine(self, scope: Scope, receive: Receive, send: Send) -> tuple[Visitor, Connection]:
        """A connecting connection, for an application that accepts by itself; or `Refused`, once the client
        was told so. Whoever has it calls `open`, or ends it."""
        self.bind()
        visitor = self.gate.meet(scope, receive, send)
        try:
            conn = await self._register(visitor, None, self._name(None), None, may_ask=False)
        except Refused as refusal:
            with suppress(TimeoutError):  # there are test clients that never say connect
                async with asyncio.timeout(self.config.close_timeout):
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
        """What an endpoint knows better of a connecting `conn` than its handshake told. Raises `Refused`,
        and `DuplicateConnectionId`; then nothing has changed."""
        given = self._given_identity(user_id, tenant)
        name = conn.id if connection_id is None else self._name(connection_id)
        if given is None and self.gate.is_anonymous(conn.user_id):
            given = self.gate.anonymous(name)
        key = conn.key if given is None else UserKey(given.tenant, given.user_id)
        if given is None or key == conn.key:
            self.registry.rename(conn, name, key)
        else:
            self.registry.rename(conn, name, key, max_per_user=self._make_room(name, key, None, conn))
            # What its token said was said of somebody else.
            conn.claims, conn.scopes, conn.tier = given.claims, given.scopes, None
        if metadata:
            conn.metadata.update(metadata)

    async def turn_away(self, visitor: Visitor, refusal: Refused) -> None:
        """Count a refusal, and tell the client."""
        self.count_refusal(refusal.code)
        self.failed(refusal.kind)
        await self.gate.refuse(visitor, refusal)

    def _name(self, connection_id: str | None) -> str:
        name = secrets.token_urlsafe(_ID_BYTES) if connection_id is None else connection_id
        return require_name("connection", name, self.config.max_name_length)

    def count_refusal(self, code: str) -> None:
        """Count one handshake that was refused."""
        # An authenticator makes up codes of its own; the figures must not grow with them.
        known = code in self.refused or len(self.refused) < _MAX_CODES
        self.refused[code if known else "other"] += 1

    def _given_identity(self, user_id: str | None, tenant: Tenant) -> Identity | None:
        limit = self.config.max_name_length
        if user_id is None:
            if tenant is not None:
                raise ConfigurationError("tenant= needs user_id=: else the authenticator tells both")
            return None
        require_name("user", user_id, limit)
        if tenant is not None:
            require_name("tenant", tenant, limit)
        return Identity(user_id, tenant=tenant)

    def bind(self) -> None:
        """A manager lives on one loop; it moves to another only while it holds nothing.

        Raises `WrongEventLoop`.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self.registry.arrived or self.sender.waiting_sends:
            raise WrongEventLoop(
                "this manager holds connections of another event loop; use one manager per loop"
            )
        self._loop = loop
        self._shutting_down = False
        self.supervisor = Supervisor()
        self.pipeline.rebind()
        self._forget_sigterm = None

    def start(self) -> None:
        """Take connections, again if the manager was closed. A first connection does the same."""
        self.bind()
        self._shutting_down = False
        self._mind_sigterm()

    def _mind_sigterm(self) -> None:
        """Drain at a SIGTERM, before the server acts on it. It may set its handler late, or show no lifespan,
        so that this is tried again with a first connection."""
        if self._forget_sigterm is None and self.config.drain_on_sigterm:
            self._forget_sigterm = drain_first(self)

    async def _register(
        self,
        visitor: Visitor,
        identity: Identity | None,
        name: str,
        metadata: dict[str, Any] | None,
        *,
        may_ask: bool = True,
    ) -> Connection:
        """A connecting connection, which counts against every limit. When this raises, nothing does."""
        self._refuse_at_the_end()
        self.gate.admit_address(visitor)
        self.registry.arrive(visitor.address)
        try:
            if identity is None:
                identity = await self.gate.identify(visitor, name, may_ask=may_ask)
                self._refuse_at_the_end()
            conn = self._make(name, identity, visitor, metadata)
            self.registry.add(conn, max_per_user=self._make_room(conn.id, conn.key, conn.tier))
        except BaseException:
            self.registry.depart(visitor.address)
            raise
        return conn

    def _refuse_at_the_end(self) -> None:
        if self._shutting_down:
            after_ms = 1_000 + random.randrange(1_000)  # noqa: S311 - no secret
            raise ShuttingDown("The server is shutting down.", retry_after_ms=after_ms)

    def require_ready(self) -> None:
        """Raises `Refused` when whoever came now would be sent away."""
        self._refuse_at_the_end()
        self.registry.require_room()

    async def let_in(self, visitor: Visitor, conn: Connection) -> Connection:
        """Accept and open a connecting connection; or `Refused`, once the client was told so."""
        try:
            await self.gate.let_in(visitor)
            self.refuse_if_closed(conn)
        except Refused as refusal:
            conn.ended()
            await self.turn_away(visitor, refusal)
            raise
        except BaseException:
            conn.ended()
            raise
        self.open(conn)
        return conn

    def refuse_if_closed(self, conn: Connection) -> None:
        """Raises `Refused` when a connecting `conn` was closed meanwhile."""
        if conn.status is ConnectionStatus.CLOSED:
            self._refuse_at_the_end()
            raise Replaced("This connection was closed before it was open.")

    def _make(
        self,
        name: str,
        identity: Identity,
        visitor: Visitor,
        metadata: dict[str, Any] | None,
    ) -> Connection:
        tier = None if identity.tier is None else self.config.tiers.get(identity.tier)
        return Connection(
            self,
            visitor.receive,
            visitor.send,
            id=name,
            key=UserKey(identity.tenant, identity.user_id),
            codec=visitor.codec or self.default_codec,
            health=ConnectionHealthMonitor(self._scorer, now=self.now()),
            claims=identity.claims,
            scopes=identity.scopes,
            tier=tier,
            address=visitor.address,
            metadata=None if metadata is None else dict(metadata),
            negotiated=visitor.codec is not None,
            direct=direct_for(visitor.scope, visitor.send),
        )

    def _make_room(self, name: str, key: UserKey, tier: Tier | None, conn: Connection | None = None) -> int:
        """How many connections of a user may be registered. Where the oldest gives way to the newest, there
        is one more while that is connecting: its handshake may come to nothing."""
        limit = self._max_connections(tier)
        if self.config.over_limit != "replace_oldest":
            return limit
        if self.registry.get(name) in (None, conn):  # another's id is refused
            while len(own := self.registry.of_user(key)) > limit:
                connecting = (conn for conn in own if conn.status is ConnectionStatus.CONNECTING)
                next(connecting, own[0]).close_soon(CloseCode.REPLACED, "replaced")
        return limit + 1

    def _replace_oldest(self, conn: Connection) -> None:
        """`conn` is open: those of its user that came first give way, where there are too many."""
        if self.config.over_limit == "replace_oldest":
            own = self.registry.of_user(conn.key)
            surplus = own.index(conn) + 1 - self._max_connections(conn.tier)
            for oldest in own[: max(0, surplus)]:
                oldest.close_soon(CloseCode.REPLACED, "replaced")

    def _max_connections(self, tier: Tier | None) -> int:
        own = None if tier is None else tier.max_connections
        return self.config.max_connections_per_user if own is None else own

    def open(self, conn: Connection) -> None:
        """From connecting to reachable in one step: what waited goes out before anything new."""
        try:
            self._open(conn)
        except BaseException:  # of a replaced codec or queue
            conn.ended()
            raise

    def _open(self, conn: Connection) -> None:
        self.registry.open(conn)
        self.sender.opened(conn)
        conn.opened()
        self._replace_oldest(conn)
        if conn.negotiated:
            conn.answer(self._welcome(conn))
        self.sender.appeared(conn)
        if self.supervisor.keep_alive("heartbeat", self.heartbeat.run):
            self._mind_sigterm()

    def _welcome(self, conn: Connection) -> dict[str, Any]:
        config = self.config
        data = {
            "connection_id": conn.id,
            "heartbeat_ms": round(config.heartbeat_interval * 1000),
            "max_message_size": config.max_message_size,
        }
        return {"type": SystemType.WELCOME, "data": data}

    # --- out

    async def disconnect(self, conn: Connection, code: int, reason: str) -> None:
        """Close `conn` if it is open, and say farewell, unless the endpoint does that in its own task."""
        try:
            await conn.close(code, reason)
        except BaseException:
            self.abandon(conn)
            raise
        if conn.guard is None:
            return
        if conn.beside and asyncio.current_task() in conn.beside:
            self.hooks.farewell_soon(conn)  # which waits for the caller
        else:
            await self.hooks.farewell(conn)

    def abandon(self, conn: Connection) -> None:
        """Forget `conn` without another word to its peer."""
        conn.ended()
        self.hooks.farewell_soon(conn)

    async def drain(self, *, paced: bool = True) -> None:
        """Send everyone away; whoever comes then is refused."""
        self.bind()
        self._shutting_down = True
        await Drain(self, paced=paced).run()

    async def aclose(self) -> None:
        """Send everyone away, and stop all background work."""
        self.bind()
        try:
            await self.drain(paced=False)
        finally:
            if self._forget_sigterm is not None:
                self._forget_sigterm()
                self._forget_sigterm = None
            await self.supervisor.stop()

    def everyone(self) -> tuple[Connection, ...]:
        """Every connection that is not closed."""
        return (*self.registry, *self._leaving)

    # --- what connections ask for

    def congested(self, conn: Connection) -> None:
        self.heartbeat.congested.add(conn)

    def drained(self, conn: Connection) -> None:
        self.heartbeat.congested.discard(conn)
        self.retention.drained(conn)

    def dropped(self, reason: str) -> None:
        self.retention.drops[reason] += 1

    def handed_over(self, conn: Connection, prepared: Prepared) -> None:
        self.retention.handed_over(conn, prepared)

    def failed(self, kind: FailureKind) -> None:
        self.analytics.record_failure(kind)

    def given_up(self, conn: Connection, messages: Sequence[Prepared], reason: str) -> None:
        self.retention.given_up(conn, [prepared.outgoing for prepared in messages], reason)

    def leave_indexes(self, conn: Connection, status: ConnectionStatus) -> None:
        before = conn.status
        if before is ConnectionStatus.OPEN:
            self.sender.disappeared(conn)
        if before is ConnectionStatus.OPEN and status is ConnectionStatus.DRAINING:
            self.registry.drain(conn)
            self._leaving.add(conn)
        elif self.registry.remove(conn):
            self._leaving.discard(conn)
            self.registry.depart(conn.address)
            if before is not ConnectionStatus.CONNECTING:  # else a handshake that came to nothing
                self._count_close(1006 if conn.closing is None else conn.closing[0])

    def _count_close(self, code: int) -> None:
        known = code in self.closed or (code in _CODES and len(self.closed) < _MAX_CODES)
        self.closed[code if known else 1006] += 1

    def cannot_abort(self, conn: Connection) -> None:
        server = conn.server
        if server not in self._advised:  # one of the few that are known, or none
            self._advised.add(server)
            meaning = f"a peer that reads nothing cannot be cut off here: {advice_for(server)}"
            log_event(logging.WARNING, "abort.unsupported", server=server, meaning=meaning)

    def run_errand(self, errand: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any] | None:
        return self.supervisor.run_errand(errand, name)

    def _sweep(self, now: float) -> None:
        for conn in tuple(self.heartbeat.congested):
            conn.drop_expired()
        self.drop_expired(now)

    def drop_expired(self, now: float) -> None:
        """Remove what was kept too long for absent users."""
        expired = self.retention.offline.cleanup_expired(now=now)
        if expired:
            self.retention.drops["offline_expired"] += expired


def _json_among(codecs: Sequence[Codec]) -> JSONCodec:
    """The codec in which messages are kept: that of the connections, so that it is not done twice."""
    return next((codec for codec in codecs if isinstance(codec, JSONCodec)), None) or JSONCodec()


def _plain_limiter(config: WebSocketConfig, limit: int) -> AdaptiveRateLimiter:
    return AdaptiveRateLimiter(limit, config.rate_limit_window, 0.0, max_keys=config.rate_limit_max_keys)
