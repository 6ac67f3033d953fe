"""Sockets without a server: as cheap as they can be, so that what is measured is ours."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import jwt

from wsmanager import ConnectionManager, JWTAuth, WebSocketConfig

SECRET = "a-key-of-thirty-two-bytes-at-least!"
FRAME = (
    '{"type":"chat.message","data":{"room":"general","text":"hello, everyone!","n":12345,"ok":true},"id":17}'
)

App = Callable[[Any, Any, Any], Awaitable[None]]


def quiet() -> None:
    logging.getLogger("wsmanager").setLevel(logging.ERROR)


class FakeSocket:
    """The server's side of one socket: takes every frame at once and gives what it is fed."""

    __slots__ = ("_events", "_waiter", "sent")

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = [{"type": "websocket.connect"}]
        self._waiter: asyncio.Future[None] | None = None
        self.sent = 0

    async def receive(self) -> dict[str, Any]:
        while not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._events.pop(0)

    async def send(self, event: dict[str, Any]) -> None:
        self.sent += 1

    def feed(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def make_manager(sockets: int, **settings: Any) -> ConnectionManager:
    config = WebSocketConfig(
        max_connections=sockets + 1,
        max_connections_per_ip=sockets + 1,
        max_connections_per_tenant=sockets + 1,
        handshake_exempt=("10.0.0.0/8",),
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


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """What an application without any library does."""
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": event["text"]})


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
