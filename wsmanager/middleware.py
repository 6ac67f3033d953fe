"""One line around an application that exists: the first door."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

from .connections.ending import let_go
from .doors.guard import GuardedSocket, guarded
from .doors.modes import EnvelopeMode, JSONMode, Mode, OnViolation, OpaqueMode
from .engine.engine import Engine
from .errors import ConfigurationError, Refused
from .manager import ConnectionManager
from .wire.asgi import Event, Receive, Scope, Send
from .wire.codecs import OPAQUE
from .wire.encodings import AS_GIVEN

__all__ = ["ModeName", "WebSocketMiddleware"]

App: TypeAlias = Callable[[Any, Any, Any], Awaitable[Any]]
_SLASHES: Final = re.compile("//+")
ModeName: TypeAlias = Literal["opaque", "json", "envelope"]


class WebSocketMiddleware:
    """Guards every WebSocket of an ASGI application: authenticated, limited, watched, reachable.

    `mode` says how far the manager understands the application's protocol: ``"opaque"`` (the default),
    ``"json"`` or ``"envelope"``; or a mapping of path prefixes to one of these, or to None for sockets
    that are left alone. The longest prefix wins; a path that none fits is opaque. A prefix ends at a
    slash: ``/chat`` is ``/chat`` and ``/chat/room``, and not ``/chats``.

    In the json mode `on_violation(conn, error)` may return a message of the application's own to send to
    a client whose frame was refused; without one, and where it returns None, the socket is closed.

    HTTP and lifespan pass through. All state is the manager's: any number of instances may share one.
    """

    def __init__(
        self,
        app: App,
        manager: ConnectionManager,
        mode: ModeName | Mapping[str, ModeName | None] = "opaque",
        *,
        on_violation: OnViolation | None = None,
    ) -> None:
        self.app = app
        self.manager = manager
        self._engine = engine = manager.engine
        by_prefix = {"": mode} if isinstance(mode, str) else dict(mode)
        made = _modes(engine, on_violation)
        for name in by_prefix.values():
            if name is not None and name not in made:
                raise ConfigurationError(f"{name!r} is no mode: {', '.join(made)}, or None for a path")
        if "json" in by_prefix.values():
            engine.encodings.has_given = True
        modes: dict[str, Mode | None] = {"": made["opaque"]}
        for prefix, name in by_prefix.items():
            modes[_bare(prefix)] = None if name is None else made[name]
        self._modes = sorted(modes.items(), key=lambda item: -len(item[0]))

    # Any: each framework has its own types for these, which fit no other's.
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        mode = self._mode_of(scope)
        if mode is None:
            if scope["type"] == "lifespan":
                receive, send = self._following(receive, send)
            await self.app(scope, receive, send)
            return
        socket = await self._meet(mode, scope, receive, send)
        if socket is None:
            return
        try:
            try:
                await self.app(scope, socket.receive, socket.send)
            except Exception:
                await socket.finish()
                raise
            await socket.finish()
        except BaseException:
            self._engine.hooks.farewell_soon(socket.conn)
            raise
        finally:
            let_go(socket.conn)
        self._engine.hooks.farewell_soon(socket.conn)  # the server closes when this returns

    def _mode_of(self, scope: Scope) -> Mode | None:
        """How to guard; None for what is no socket, or guarded already, or to be left alone."""
        if scope["type"] != "websocket":
            return None
        mode, outer = self._strictest(_paths_of(scope)), guarded(scope, self._engine)
        if outer is None:
            return mode
        if mode is not None and mode.strictness > outer.mode.strictness:
            outer.mode = mode
        return None

    def _strictest(self, paths: set[str]) -> Mode | None:
        modes = [mode for mode in map(self._mode_at, paths) if mode is not None]
        return max(modes, key=lambda mode: mode.strictness, default=None)

    def _mode_at(self, path: str) -> Mode | None:
        for prefix, mode in self._modes:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                return mode
        return self._modes[-1][1]  # a path without a leading slash

    async def _meet(self, mode: Mode, scope: Scope, receive: Receive, send: Send) -> GuardedSocket | None:
        """The guard around a socket that may come in; None when the client was told why it may not."""
        try:
            visitor, conn = await self._engine.admission.examine(scope, receive, send)
        except Refused:
            return None
        return GuardedSocket(self._engine, visitor, conn, mode)

    def _following(self, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """The lifespan's own: the manager starts once the application has, and ends before it does, whose
        hooks may need what it holds."""

        async def receive_lifespan() -> Event:
            event = await receive()
            if event["type"] == "lifespan.shutdown":
                await self._engine.life.aclose()
            return event

        async def send_lifespan(event: Event) -> None:
            if event["type"] == "lifespan.startup.complete":
                self._engine.life.start()
            await send(event)

        return receive_lifespan, send_lifespan


def _modes(engine: Engine, on_violation: OnViolation | None) -> dict[str, Mode]:
    return {
        "opaque": OpaqueMode(engine.inspection, OPAQUE, engine.journal),
        "json": JSONMode(engine.inspection, AS_GIVEN, engine.journal, on_violation),
        "envelope": EnvelopeMode(engine.inspection, engine.encodings.default, label="envelope"),
    }


def _bare(prefix: str) -> str:
    if prefix and not prefix.startswith("/"):
        raise ConfigurationError(f"a path prefix begins with a slash; {prefix!r} does not")
    return prefix.rstrip("/")


def _paths_of(scope: Scope) -> set[str]:
    """The path as the application's own routes may see it: without what it is mounted at. Some routers take
    several slashes for one and a newline at the end for none, others do not, and no client may choose its
    guard by writing them."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    mounted = root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")
    path = path[len(root) :] if mounted else path
    if not path.startswith("/"):  # a request may name the whole URL
        path = "/" + path.partition("://")[2].partition("/")[2]
    return {path, _SLASHES.sub("/", path).rstrip("\n")}
