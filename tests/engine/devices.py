"""Users and their devices, for tests of what reaches them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from starlette.websockets import WebSocket

from wsmanager import ALL, Connection, ConnectionManager, ConnectionStatus
from wsmanager.connections.seams import NEGOTIATED
from wsmanager.testing import DAPHNE, GRANIAN, HYPERCORN, UVICORN, Peer, connect

JSON, MSGPACK = "wsmanager.v1.json", "wsmanager.v1.msgpack"
SERVERS = [UVICORN, HYPERCORN, GRANIAN, DAPHNE]
every_server = pytest.mark.parametrize("server", SERVERS, ids=["uvicorn", "hypercorn", "granian", "daphne"])
SLOW: dict[str, Any] = {"window": 1, "stalled": True}
"""A device that reads nothing: the server takes one frame for it, holds a second, and no more."""


@asynccontextmanager
async def online(
    manager: ConnectionManager, user: str, *, tenant: str | None = None, query: str = "", **options: Any
) -> AsyncGenerator[tuple[Peer, Connection]]:
    """A device of `user`, and its connection; what a client that negotiates is greeted with is received."""
    known = {conn.id for conn in manager.connections(tenant=ALL)}
    query = f"user={user}&{query}" if tenant is None else f"user={user}&tenant={tenant}&{query}"
    async with connect(manager.endpoint, query=query, **options) as peer:
        (conn,) = (conn for conn in manager.connections(tenant=ALL) if conn.id not in known)
        while conn.status is not ConnectionStatus.OPEN:  # noqa: ASYNC110 - where a server's `send` takes turns
            await asyncio.sleep(0)
        if conn.flags & NEGOTIATED:
            await peer.receive()
        yield peer, conn


@asynccontextmanager
async def adopted(
    manager: ConnectionManager, user: str = "ann", **options: Any
) -> AsyncGenerator[tuple[Peer, WebSocket, Connection]]:
    """A device of `user` whose endpoint is the test: its socket is adopted, and closed at the end."""
    entered: asyncio.Future[tuple[WebSocket, Connection]] = asyncio.get_running_loop().create_future()
    left = asyncio.Event()

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        async with manager.connect(websocket, user_id=user) as conn:
            entered.set_result((websocket, conn))
            await left.wait()

    async with connect(endpoint, **options) as peer:
        websocket, conn = await entered
        try:
            yield peer, websocket, conn
        finally:
            left.set()


def news(data: Any) -> dict[str, Any]:
    return {"type": "news", "data": data}


def decoded(frame: str | bytes) -> Any:
    return msgspec.json.decode(frame) if isinstance(frame, str) else msgspec.msgpack.decode(frame)


def got(peer: Peer) -> list[Any]:
    """The data of every message that came and was not received yet."""
    return [decoded(frame)["data"] for frame in peer.frames]


async def read_all(peer: Peer) -> list[Any]:
    """What a stalled peer gets once it reads."""
    peer.resume()
    await asyncio.sleep(0.5)
    return got(peer)


async def congest(conn: Connection) -> None:
    """Send until the server holds a frame; what comes next waits."""
    while conn.congestion is None:
        await conn.send(news("first"))
        await asyncio.sleep(0.1)
    assert conn.waiting == 1


def drops(manager: ConnectionManager) -> dict[str, int]:
    return {reason: count for reason, count in manager.get_analytics().drops.items() if count}
