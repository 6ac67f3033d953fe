"""Protocols that the guard does not understand: their own servers behind it, and their own clients."""

# python-socketio has no types of its own.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import queue
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import aiohttp
import socketio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from socketio import exceptions

from tests.clients.drivers import Actor
from tests.clients.programs import TIMEOUT, Script, require_node
from tests.clients.service import make_manager
from tests.frameworks.servers import Running, serving
from tests.matrix import Matrix
from wsmanager import ConnectionManager, WebSocketMiddleware

__all__ = ["GRAPHQL", "HASTE", "PROTOCOLS", "SOCKETIO", "Client", "Ends", "Site", "site_of"]

Client: TypeAlias = Callable[..., AbstractContextManager[Actor]]
"""Opened with a URL, and what else the client takes."""
Ends: TypeAlias = "queue.SimpleQueue[tuple[str, str]]"
"""Of whom the application heard that it left, and how."""


@dataclass
class Site:
    """A server of the protocol."""

    server: Running
    manager: ConnectionManager
    ends: Ends

    def end_of(self, name: str) -> str:
        """How the client of this name left."""
        while True:
            who, how = self.ends.get(timeout=TIMEOUT)
            if who == name:
                return how

    @contextmanager
    def restarting(self) -> Generator[None]:
        """The guard sends everybody away, and lets nobody in for a while."""
        self.server.do(self.manager.aclose())
        try:
            yield
        finally:
            self.server.do(self.manager.__aenter__())


@contextmanager
def site_of(make: Callable[[Ends], Any], *, is_guarded: bool = True, **settings: Any) -> Generator[Site]:
    ends: Ends = queue.SimpleQueue()
    app, manager = make(ends), make_manager(**settings)
    with serving(WebSocketMiddleware(app, manager) if is_guarded else app) as server:
        yield Site(server, manager, ends)


class PythonSocketIO:
    """With the commands and events of ``socketio.mjs``."""

    def __init__(self, portal: BlockingPortal, session: aiohttp.ClientSession, url: str, auth: Any) -> None:
        self._portal = portal
        self._events: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        portal.call(self._connect, session, url, auth)

    async def _connect(self, session: aiohttp.ClientSession, url: str, auth: Any) -> None:
        tell = self._events.put
        delays: dict[str, Any] = {"reconnection_delay": 0.02, "reconnection_delay_max": 0.05}
        # A session of its own it would not close where it is refused.
        client: Any = socketio.AsyncClient(http_session=session, handle_sigint=False, **delays)
        self._client = client
        client.on("connect", lambda: tell(["connected"]))
        client.on("connect_error", lambda error: tell(["refused", _message_of(error)]))
        client.on("disconnect", lambda reason: tell(["left"]))
        client.on("news", lambda data: tell(["news", data]))
        client.on("question", lambda data: ["re", data])
        with suppress(exceptions.ConnectionError):
            await client.connect(url, auth=auth, transports=["websocket"], wait_timeout=TIMEOUT)

    async def _do(self, name: str, *values: Any) -> None:
        match name:
            case "call":
                self._events.put(["answer", await self._client.call(*values, timeout=TIMEOUT)])
            case "emit":
                with suppress(exceptions.BadNamespaceError):  # not connected: other clients keep silent, too
                    await self._client.emit(*values)
            case _:
                await self._client.disconnect()

    def do(self, *command: Any) -> None:
        self._portal.call(self._do, *command)

    def next(self) -> list[Any]:
        return self._events.get(timeout=TIMEOUT)

    def end(self) -> None:
        self._portal.call(self._client.shutdown)


def _message_of(error: Any) -> str:
    return error["message"] if isinstance(error, dict) else str(error)


@contextmanager
def in_python(url: str, auth: Any = None) -> Generator[Actor]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(portal.call(aiohttp.ClientSession)) as session,
    ):
        client = PythonSocketIO(portal, session, url, auth)
        try:
            yield client
        finally:
            client.end()


@contextmanager
def on_node(script: str, *arguments: Any) -> Generator[Actor]:
    require_node()
    client = Script(script, *arguments)
    try:
        yield client
    finally:
        client.end()


HASTE: dict[str, Any] = {"rate_limit_max": 20, "rate_limit_window": 0.5}
"""Settings under which a client is soon over the limit, and soon welcome again."""

SOCKETIO = {"`python-socketio`": in_python, "`socket.io-client`": partial(on_node, "socketio.mjs")}
GRAPHQL = {"`graphql-ws`": partial(on_node, "graphql.mjs")}
PROTOCOLS = Matrix("protocols", "behind the guard", "client", {**SOCKETIO, **GRAPHQL})
