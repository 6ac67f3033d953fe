"""What the clients talk to: the manager as an endpoint, and an application that it guards."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable
from typing import Any, ClassVar

import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from wsmanager import Connection, ConnectionManager, JWTAuth, WebSocketConfig, WebSocketMiddleware

__all__ = ["Pings", "Service", "make_manager", "token"]

SECRET = "a secret of at least 32 characters"


def token(user: str = "ann", **claims: str) -> str:
    claims = {"sub": user, **claims}
    return jwt.encode({**claims, "exp": int(time.time()) + 600}, SECRET, algorithm="HS256")


def make_manager(**settings: Any) -> ConnectionManager:
    """One that minds no number of handshakes, and of messages only by its settings."""
    limits: dict[str, Any] = {"rate_limit_max": 100_000, "handshake_exempt": ("127.0.0.0/8",), **settings}
    return ConnectionManager(WebSocketConfig(**limits), auth=JWTAuth(SECRET, algorithms=["HS256"]))


class Pings(WebSocketsSansIOProtocol):
    """Uvicorn's own, which tells of pongs."""

    tell: ClassVar[Callable[[Frame], object]] = repr

    def handle_pong(self, event: Frame) -> None:
        super().handle_pong(event)
        Pings.tell(event)


class Service:
    """``/ws`` is the manager's endpoint; ``/opaque`` sends back what it hears, and tells `ends` how its
    client left; ``/`` is a page, so that a script of the same origin can be there."""

    def __init__(self) -> None:
        self.manager = manager = make_manager()
        self.ends: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        manager.on("echo")(echo)
        manager.on("add")(add)
        manager.on("await.pongs")(await_pongs)
        routes = [
            Route("/", page),
            WebSocketRoute("/ws", manager.endpoint),
            WebSocketRoute("/opaque", self.echo_frames),
        ]
        self.app = WebSocketMiddleware(Starlette(routes=routes), manager, {"/opaque": "opaque", "/": None})

    async def echo_frames(self, websocket: WebSocket) -> None:
        await websocket.accept()
        while (event := await websocket.receive())["type"] == "websocket.receive":
            await websocket.send({**event, "type": "websocket.send"})
        self.ends.put((event["code"], event["reason"]))


async def page(request: Request) -> HTMLResponse:
    return HTMLResponse("<!doctype html><title>empty</title><link rel=icon href=data:>")


async def echo(conn: Connection, data: Any) -> None:
    await conn.send({"type": "echo", "data": data})


async def add(conn: Connection, data: list[int]) -> int:
    return sum(data)


async def await_pongs(conn: Connection) -> bool:
    """Replies when the client has answered two pings of the server's."""
    pongs: asyncio.Queue[Frame] = asyncio.Queue()
    Pings.tell = pongs.put_nowait
    async with asyncio.timeout(10):
        await pongs.get()
        await pongs.get()
    return True
