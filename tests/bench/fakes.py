"""Sockets without a server: as cheap as they can be, so that what is measured is ours."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import jwt

from wsmanager import ConnectionManager, JWTAuth, WebSocketConfig
from wsmanager.testing import FakeSocket

from .contestants.messages import FRAME

__all__ = [
    "FRAME",
    "SECRET",
    "App",
    "bare",
    "make_manager",
    "open_sockets",
    "quiet",
    "scope_for",
    "settle",
    "token_for",
]

SECRET = "a-key-of-thirty-two-bytes-at-least!"

App = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]


def quiet() -> None:
    logging.getLogger("wsmanager").setLevel(logging.ERROR)


def make_manager(sockets: int, **settings: Any) -> ConnectionManager:
    config = WebSocketConfig(
        max_connections=sockets + 1,
        max_connections_per_ip=sockets + 1,
        max_connections_per_tenant=sockets + 1,
        handshake_rate=1e9,
        handshake_burst=1_000_000_000,
        rate_limit_max=1_000_000,
        **settings,
    )
    manager = ConnectionManager(config, auth=JWTAuth(key=SECRET, algorithms=["HS256"]))

    @manager.on("chat.message")
    async def chat(conn: Any, data: Any) -> Any:
        return data

    return manager


def token_for(user: str) -> bytes:
    return jwt.encode({"sub": user, "exp": int(time.time()) + 86_400, "jti": f"id-{user}"}, SECRET).encode()


def scope_for(number: int, users: int) -> dict[str, Any]:
    user = f"user-{number % users}"
    return {
        "type": "websocket",
        "path": "/ws",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"authorization", b"Bearer " + token_for(user))],
        "client": (f"10.0.{number >> 8 & 255}.{number & 255}", 50_000),
        "subprotocols": [],
        "extensions": {},
    }


class Nowhere(asyncio.Transport):
    """A transport whose peer takes everything at once."""

    def write(self, data: object) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """What an application without any library does."""
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": event["text"]})


def open_sockets(app: App, scopes: list[dict[str, Any]]) -> tuple[list[FakeSocket], list[asyncio.Task[None]]]:
    """A socket for each scope, and the tasks that serve them."""
    sockets = [FakeSocket(scope) for scope in scopes]
    tasks = [asyncio.ensure_future(app(socket.scope, socket.receive, socket.send)) for socket in sockets]
    return sockets, tasks


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
