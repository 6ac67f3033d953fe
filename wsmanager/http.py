"""What the manager tells over HTTP: a small Starlette application to mount."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import __version__
from .auth.gate import Gate
from .auth.visitors import denial_of
from .engine.figures import Analytics
from .errors import ConfigurationError, Refused
from .manager import ConnectionManager
from .messages import ALL, HealthStatus
from .protocols import Identity
from .wire.asgi import Receive, Scope, Send

__all__ = ["OPERATOR", "Overview", "endpoints"]

OPERATOR: Final = "wsmanager.operator"
"""The scope of a token whose bearer is an operator."""

_LAG: Final = 1.0
_MANY: Final = 0.25
_MOST: Final = 0.5

T = TypeVar("T")


class Overview(msgspec.Struct, frozen=True):
    """The detailed health of one process."""

    status: HealthStatus
    """``unhealthy`` when nobody is let in, or most connections are unhealthy; ``degraded`` when more than a
    quarter of them are not healthy, a background task has crashed, or the event loop is a second late."""
    reasons: tuple[str, ...]
    """Why it is not healthy."""
    version: str
    uptime: float
    connections: dict[str, int]
    """By status."""
    arrived: int
    """Sockets that count against `max_connections`: these, and those whose handshake is under way."""
    max_connections: int
    health: dict[HealthStatus, int]
    congested: int
    waiting: int
    kept: int
    """Messages for users who are not there."""
    drops: dict[str, int]
    refused: dict[str, int]
    closed: dict[int, int]
    tasks: dict[str, Any]
    loop_lag: float
    loop_stalls: int


def is_operator(identity: Identity) -> bool:
    """Whether the token grants the scope `OPERATOR`."""
    return OPERATOR in identity.scopes


def endpoints(
    manager: ConnectionManager,
    *,
    is_operator: Callable[[Identity], bool] = is_operator,
    public: bool = False,
) -> Starlette:
    """An application with these paths; ``Mount("/status", app=endpoints(manager))``.

    - ``/live``: 200 while the event loop turns.
    - ``/ready``: 200, or 503 with the reason while nobody is let in.
    - ``/health``, ``/analytics``: for operators. An `Overview`, and `ConnectionManager.get_analytics`.
    - ``/me``: the health of the caller's own connections.
    - ``POST /drain``: for operators; `ConnectionManager.drain`, answered when it is done. For servers that
      give no time for it when they are told to end.

    Who asks is found out by the manager's authenticator, which takes what it takes in a handshake; an
    authenticator whose tokens are good for one use needs another for these. `is_operator` says who is one.
    A manager without an authenticator has none: then these refuse everybody, unless `public` shows
    ``/health`` and ``/analytics`` to everybody, always. They look at every connection: call them every few
    seconds, not every few milliseconds.

    Raises `ConfigurationError` for an `is_operator` that is no plain function.
    """
    if inspect.iscoroutinefunction(is_operator) or not callable(is_operator):
        raise ConfigurationError(
            f"is_operator must be a function, not async, of an Identity: {is_operator!r}"
        )
    who = _Callers(manager.engine.gate, is_operator, public=public)

    async def drain(_: None) -> Any:
        await manager.drain()
        return {"status": "drained"}

    def ready(_: None) -> Any:
        manager.engine.admission.require_ready()
        return {"status": "ready"}

    app = _Redacted(
        routes=[
            _route("/live", who.anybody, lambda _: {"status": "live"}),
            _route("/ready", who.anybody, ready),
            _route("/health", who.operator, lambda _: _overview(manager)),
            _route("/analytics", who.operator, lambda _: manager.get_analytics()),
            _route("/me", who.user, lambda me: manager.get_connection_health(me.user_id, me.tenant)),
            _route("/drain", who.commander, drain, method="POST"),
        ],
        exception_handlers={Refused: _refuse, HTTPException: _fail, Exception: _crash},
    )
    app.router.redirect_slashes = False
    app.gate = manager.engine.gate
    return app


class _Callers:
    """Finds out who asks, and raises `Refused` for who may not."""

    def __init__(self, gate: Gate, is_operator: Callable[[Identity], bool], *, public: bool) -> None:
        self._gate = gate
        self._is_operator = is_operator
        self._public = public

    async def anybody(self, _: Request) -> None: ...

    async def user(self, request: Request) -> Identity:
        return await self._gate.authenticate(request.scope)

    async def operator(self, request: Request) -> None:
        if not self._public:
            self._require_operator(await self.user(request))

    async def commander(self, request: Request) -> None:
        self._require_operator(await self._gate.authenticate(request.scope, changes=True))

    def _require_operator(self, identity: Identity) -> None:
        # Only True will do: what an async callable returns is true whatever it would say.
        if self._is_operator(identity) is not True:
            raise Refused("This is for operators.", code="not_an_operator")


def _route(
    path: str, admit: Callable[[Request], Awaitable[T]], answer: Callable[[T], Any], *, method: str = "GET"
) -> Route:
    async def respond(request: Request) -> Response:
        value = answer(await admit(request))
        return _response(msgspec.json.encode(await value if inspect.isawaitable(value) else value))

    return Route(path, respond, methods=[method])


class _Redacted(Starlette):
    """Keeps a token in the query out of the server's log, which is written when an answer starts: even that
    to a crash, which Starlette gives outside of every middleware."""

    gate: Gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            send = self.gate.usher.redacting(scope, send)
        await super().__call__(scope, receive, send)


def _response(body: bytes, status: int = 200, headers: Any = ()) -> Response:
    # Figures of a moment, and of a user: nobody on the way may keep them, and no browser guess at them.
    safe = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(body, status, {**safe, **dict(headers)}, media_type="application/json")


async def _refuse(_: Request, refusal: Any) -> Response:
    headers, body = denial_of(refusal)
    return _response(body, refusal.status, [(name.decode(), value.decode()) for name, value in headers])


async def _fail(_: Request, error: Any) -> Response:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "failed")
    body = msgspec.json.encode({"error": {"code": code, "message": error.detail}})
    return _response(body, error.status_code, error.headers or ())


async def _crash(_: Request, __: Exception) -> Response:
    # Starlette raises the error again once this is sent: the server logs it.
    error = {"code": "server_error", "message": "The server could not answer."}
    return _response(msgspec.json.encode({"error": error}), 500)


def _overview(manager: ConnectionManager) -> Overview:
    figures = manager.get_analytics()
    down, weak = _reasons(manager, figures)
    status = HealthStatus.UNHEALTHY if down else HealthStatus.DEGRADED if weak else HealthStatus.HEALTHY
    return Overview(
        status=status,
        reasons=(*down, *weak),
        version=__version__,
        uptime=figures.messages.uptime,
        connections=dict(Counter(str(conn.status) for conn in manager.connections(tenant=ALL))),
        arrived=figures.indexes["arrived"],
        max_connections=manager.config.max_connections,
        health=figures.health,
        congested=figures.congested,
        waiting=figures.waiting,
        kept=figures.offline_messages,
        drops=figures.drops,
        refused=figures.refused,
        closed=figures.closed,
        tasks=dict(figures.tasks),
        loop_lag=figures.loop_lag,
        loop_stalls=figures.loop_stalls,
    )


def _reasons(manager: ConnectionManager, figures: Analytics) -> tuple[list[str], list[str]]:
    """What makes it unhealthy, and what degrades it."""
    down, weak = list[str](), list[str]()
    try:
        manager.engine.admission.require_ready()
    except Refused as refusal:
        down.append(refusal.code)
    count = sum(figures.health.values())
    well, dying = figures.health.get(HealthStatus.HEALTHY, 0), figures.health.get(HealthStatus.UNHEALTHY, 0)
    if dying > count * _MOST:
        down.append("connections_unhealthy")
    elif count - well > count * _MANY:
        weak.append("connections_degraded")
    weak += [f"task_crashed: {name}" for name, task in figures.tasks.items() if task.state == "waiting"]
    if figures.loop_lag > _LAG:
        weak.append("loop_late")
    return down, weak
