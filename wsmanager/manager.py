"""The one object that knows every socket of the process: what an application talks to."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

from .config import WebSocketConfig
from .connections.connection import Connection
from .connections.sending import Exclude
from .decisions.analytics import MessageAnalytics
from .delivery.publisher import Publisher
from .delivery.retention import Retention
from .doors.adoption import Adoption, WebSocketLike
from .doors.endpoint import Endpoint
from .doors.guard import guarded
from .engine.engine import Engine, Tower
from .engine.figures import Analytics, UserHealth, analytics_of, health_of
from .engine.parts import make_parts, require_config
from .errors import CloseCode, ConfigurationError, ConnectionClosed
from .messages import (
    AllTenants,
    ConnectionStatus,
    Delivery,
    DeliveryReport,
    Frame,
    MessagePriority,
    OutboundMessage,
    RoomKey,
    Tenant,
    UserKey,
)
from .protocols import (
    Authenticator,
    Authorizer,
    Clock,
    Codec,
    HealthScorer,
    MessageQueue,
    MessageValidator,
    Observer,
    RateLimiter,
)
from .wire.outgoing import Outgoing

__all__ = ["ConnectionManager"]

H = TypeVar("H", bound=Callable[..., Any])


class ConnectionManager:
    """Authenticates, limits, validates, watches and reaches every WebSocket of the process.

    Lives on one event loop. Each part can be replaced by anything that keeps the promises of its
    protocol in `wsmanager.protocols`: `limiter`, `validator`, `health`, `auth`, `authorizer` and the
    `codecs` are one instance for all connections; `queue` is a factory, called per congested one. An
    `observer` sees what happens. Each of `residents` is called with the manager's engine, and returns a
    `wsmanager.connections.residents.Resident`, which takes part in the life of every connection.
    """

    def __init__(
        self,
        config: WebSocketConfig | None = None,
        *,
        auth: Authenticator | None = None,
        limiter: RateLimiter | None = None,
        queue: Callable[[], MessageQueue[Any]] | None = None,
        validator: MessageValidator | None = None,
        health: HealthScorer | None = None,
        authorizer: Authorizer | None = None,
        codecs: Sequence[Codec] | None = None,
        observer: Observer | None = None,
        clock: Clock = time.monotonic,
        residents: Iterable[Tower] = (),
    ) -> None:
        config = WebSocketConfig() if config is None else config
        require_config(config)
        parts = make_parts(
            config,
            limiter=limiter,
            queue=queue,
            validator=validator,
            health=health,
            auth=auth,
            authorizer=authorizer,
            codecs=codecs,
            observer=observer,
            clock=clock,
        )
        self.config = config
        self.analytics = MessageAnalytics(max_types=config.analytics_max_types, now=clock())
        self.engine = Engine(config, parts, self.analytics, (self._make_publisher, *residents))
        """What is behind the manager: for residents, and for whoever extends it."""
        self.endpoint = Endpoint(self.engine)
        """The manager as an ASGI application: mount it, or run it alone."""

    def _make_publisher(self, engine: Engine) -> Publisher:
        retention = Retention(
            engine.config,
            engine.registry,
            engine.encodings,
            engine.analytics,
            engine.drops,
            engine.now,
            engine.journal,
        )
        self._publisher = Publisher(
            engine.config,
            engine.registry,
            engine.sender,
            retention,
            engine.appearances,
            engine.drops,
            is_anonymous=engine.gate.is_anonymous,
            may_publish=engine.system.may_publish,
        )
        return self._publisher

    # --- handlers

    def on(
        self,
        type: str,
        *,
        scopes: Iterable[str] = (),
        allow: Callable[..., bool] | None = None,
        features: Iterable[str] = (),
        cost: int = 1,
        concurrent: bool = False,
    ) -> Callable[[H], H]:
        """Register a handler for a message type, a ``prefix.*`` or ``*``.

        The handler takes the connection and, if it likes, the data, converted to the type its
        annotation names, and dependencies (`wsmanager.Provide`). What it returns is the reply.
        `scopes`, `features` and `allow(conn, message)` say who may send the type; `cost` is its price
        in the rate limit; `concurrent` gives up the order for it.
        """

        def register(handler: H) -> H:
            self.engine.router.add(
                type,
                handler,
                scopes=scopes,
                allow=allow,
                features=features,
                cost=cost,
                concurrent=concurrent,
            )
            return handler

        return register

    def on_connect(self, hook: H) -> H:
        """Call `hook(conn)` when a connection is open, before its first message. Raising
        `Disconnect` in it closes the connection with that code."""
        self.engine.hooks.on_connect.append(hook)
        return hook

    def on_disconnect(self, hook: H) -> H:
        """Call `hook(conn)` once a connection is closed and its last handler is done."""
        self.engine.hooks.on_disconnect.append(hook)
        return hook

    async def dispatch(self, conn: Connection, raw: Frame) -> None:
        """Run the handler for a frame that a loop of the application's own received.

        A frame that came through the connection's own guarded ``receive`` is not checked twice. Errors
        are answered to the client and never raised here.
        """
        rest = self.engine.dispatch.handle_received(conn, raw)
        if rest is not None:
            await rest

    # --- connections

    def connect(
        self,
        websocket: WebSocketLike,
        *,
        user_id: str | None = None,
        tenant: Tenant = None,
        connection_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Adoption:
        """Adopt a Starlette ``WebSocket`` that is still connecting: ``async with`` it, or await it.

        Accepts the socket; what the endpoint then receives is checked, and what it sends keeps its
        order with the manager's. A given `user_id` stands for authentication. Raises `Refused` after
        the client was told; `DuplicateConnectionId` for an id in use.
        """
        return Adoption(
            self.engine,
            websocket,
            user_id=user_id,
            tenant=tenant,
            connection_id=connection_id,
            metadata=metadata,
        )

    async def disconnect(self, conn: Connection, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close `conn`, if it is not closed yet. The ``on_disconnect`` hooks of an adopted socket have run
        when this returns; those of another run once its last handler is done."""
        await self.engine.disconnect(conn, code, reason)

    def connections(
        self,
        *,
        user_id: str | None = None,
        room: str | None = None,
        tenant: Tenant | AllTenants = None,
        status: ConnectionStatus | None = None,
        where: Callable[[Connection], bool] | None = None,
    ) -> list[Connection]:
        """The connections of a tenant that fit every condition; ``tenant=ALL`` crosses tenants."""
        return list(
            self.engine.registry.find(user_id=user_id, room=room, tenant=tenant, status=status, where=where)
        )

    def connection_of(self, websocket: Any) -> Connection:
        """The connection that `WebSocketMiddleware` made of a WebSocket: of anything that has a ``scope``,
        or of the scope itself. Raises `ConfigurationError` where no middleware of this manager guards it."""
        scope = getattr(websocket, "scope", websocket)
        socket = guarded(scope, self.engine) if isinstance(scope, MutableMapping) else None
        if socket is None:
            raise ConfigurationError(
                "no middleware guards this WebSocket: put WebSocketMiddleware(app, manager) around the app"
            )
        return socket.conn

    def get_connection(self, connection_id: str) -> Connection | None:
        """The connection of this id, if it is open or about to be."""
        return self.engine.registry.get(connection_id)

    # --- sending

    async def send_personal_message(
        self,
        user_id: str,
        message: OutboundMessage,
        *,
        tenant: Tenant = None,
        priority: MessagePriority | None = None,
        delivery: Delivery = Delivery.DURABLE,
        exclude: Exclude = None,
        wait: float | None = None,
        ttl: float | None = None,
        conflate: str | None = None,
    ) -> DeliveryReport:
        """Send to every connection of a user.

        Durable by default: kept for an absent user until `ttl`, and delivered on connect, oldest
        first. `wait` gives an absent user that many seconds to appear. A CRITICAL message is tried
        again with backoff before it is kept. `conflate`: while a peer is congested, only the latest
        message of that key waits. Nothing is kept for an anonymous user, who never comes back.
        """
        self.engine.bind()
        outgoing = self._outgoing(message, priority, ttl, conflate, delivery)
        return await self._publisher.to_user(UserKey(tenant, user_id), outgoing, exclude=exclude, wait=wait)

    async def send_to_session(
        self,
        room: str,
        message: OutboundMessage,
        *,
        tenant: Tenant = None,
        sender: Connection | None = None,
        priority: MessagePriority | None = None,
        delivery: Delivery = Delivery.VOLATILE,
        exclude: Exclude = None,
        ttl: float | None = None,
        conflate: str | None = None,
    ) -> DeliveryReport:
        """Send to every connection in a room.

        With `sender` the message is that client's: the authorizer is asked whether it may publish
        there (`Forbidden` if not), and the room is one of its own tenant.
        """
        self.engine.bind()
        outgoing = self._outgoing(message, priority, ttl, conflate, delivery)
        return await self._publisher.to_room(RoomKey(tenant, room), outgoing, exclude=exclude, author=sender)

    async def broadcast(
        self,
        message: OutboundMessage,
        *,
        tenant: Tenant | AllTenants = None,
        priority: MessagePriority | None = None,
        delivery: Delivery = Delivery.VOLATILE,
        exclude: Exclude = None,
        ttl: float | None = None,
        conflate: str | None = None,
    ) -> DeliveryReport:
        """Send to every connection of a tenant; ``tenant=ALL`` crosses tenants."""
        self.engine.bind()
        outgoing = self._outgoing(message, priority, ttl, conflate, delivery)
        return self._publisher.to_tenant(tenant, outgoing, exclude=exclude)

    async def send_to_connection(
        self,
        connection_id: str,
        message: OutboundMessage,
        *,
        priority: MessagePriority | None = None,
        ttl: float | None = None,
        conflate: str | None = None,
    ) -> DeliveryReport:
        """Send to one connection; a connection that is not there is reported as offline."""
        self.engine.bind()
        outgoing = self._outgoing(message, priority, ttl, conflate, Delivery.VOLATILE)
        return self._publisher.to_connection(connection_id, outgoing)

    def _outgoing(
        self,
        message: OutboundMessage,
        priority: MessagePriority | None,
        ttl: float | None,
        key: str | None,
        delivery: Delivery,
    ) -> Outgoing:
        expires_at = None if ttl is None else self.engine.now() + ttl
        return Outgoing(
            message, priority=priority, delivery=Delivery(delivery), expires_at=expires_at, key=key
        )

    # --- rooms

    async def join_session(self, conn: Connection, room: str) -> bool:
        """Put a connection into a room of its tenant; False when it was there. The server's own decision:
        the authorizer is not asked. Raises `InvalidName`, `RoomLimitReached` and `ConnectionClosed`."""
        if conn.status is not ConnectionStatus.OPEN:
            raise ConnectionClosed(f"connection {conn.id} is not open")
        return self.engine.registry.join(conn, room)

    async def leave_session(self, conn: Connection, room: str) -> bool:
        """Take a connection out of a room; False when it was not there."""
        return self.engine.registry.leave(conn, room)

    # --- figures

    def get_connection_health(self, user_id: str, tenant: Tenant = None) -> UserHealth:
        """How each connection of a user does, and the worst of them."""
        return health_of(self.engine, UserKey(tenant, user_id))

    def get_analytics(self) -> Analytics:
        """The manager's figures, as a value that msgspec encodes."""
        return analytics_of(self.engine, self._publisher.figures())

    # --- life

    async def drain(self) -> None:
        """Send everyone away before the server does: from now on sockets are refused; each client is told
        its own moment to come back, and closed with 1012 once what waits for it went out. Returns when the
        last handler has ended, or after ``drain_timeout``, with what is left stopped. A handler that calls
        this is not waited for.

        Call it before the server is told to end, where the server's own end gives no time for that.
        """
        await self.engine.life.drain()

    async def aclose(self) -> None:
        """Close every connection with a reconnect code and stop all background work.

        From then on sockets are refused, until ``async with`` or a lifespan starts the manager again, or
        it is used on another event loop.
        """
        await self.engine.life.aclose()

    async def __aenter__(self) -> Self:
        self.engine.life.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:
        """For ``Starlette(lifespan=manager.lifespan)``: closes everything when the application stops."""
        del app
        async with self:
            yield
