"""What every server serves in these tests: the doors of a manager, and a way to look into its process.

``/ws`` is the manager's endpoint; ``/json`` and ``/opaque`` echo by a loop of their own, behind the guard.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.ends import closing_of
from wsmanager import Connection, ConnectionManager, JWTAuth, WebSocketConfig, WebSocketMiddleware

SECRET = "a secret of at least 32 characters"

manager = ConnectionManager(
    WebSocketConfig.from_env(),
    auth=JWTAuth(
        SECRET, algorithms=["HS256"], sources=("header", "subprotocol", "query", "cookie", "message")
    ),
)
ends: list[Any] = []


@manager.on("echo")
async def echo(conn: Connection, data: Any) -> Any:
    return data


@manager.on("kick")
async def kick(conn: Connection, data: list[Any]) -> None:
    await conn.close(*data)


@manager.on("fail")
async def fail(conn: Connection) -> None:
    raise RuntimeError("a fault of this handler")


@manager.on("stubborn")
async def stubborn(conn: Connection) -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)


@manager.on("stall")
async def stall(conn: Connection, data: float) -> None:
    time.sleep(data)  # noqa: ASYNC251 - blocks the whole event loop, as it should not


@manager.on("flood")
async def flood(conn: Connection, data: list[int]) -> int:
    """Answers with as many messages of as many bytes as asked for, as fast as the peer takes them."""
    number, size = data
    for _ in range(number):
        await conn.send({"type": "flood", "data": "x" * size})
    return number


@manager.on("fan")
async def fan(conn: Connection, data: Any) -> None:
    """Tells everybody."""
    await manager.broadcast({"type": "fan", "data": data})


@manager.on_disconnect
async def gone(conn: Connection) -> None:
    ends.append((conn.user_id, closing_of(conn)))


async def echo_by_itself(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect as error:
        ends.append((websocket.url.path, (error.code, error.reason)))


def as_json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def figures(request: Request) -> Response:
    return as_json(
        {
            "ends": ends,
            "figures": manager.get_analytics(),
            "tasks": len(asyncio.all_tasks()),
            "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    )


async def broadcast(request: Request) -> Response:
    return as_json(await manager.broadcast(await request.json()))


async def drain(request: Request) -> Response:
    await manager.drain()
    return as_json(manager.get_analytics())


app = Starlette(
    routes=[
        Route("/figures", figures),
        Route("/broadcast", broadcast, methods=["POST"]),
        Route("/drain", drain, methods=["POST"]),
        WebSocketRoute("/ws", manager.endpoint),
        WebSocketRoute("/json", echo_by_itself),
        WebSocketRoute("/opaque", echo_by_itself),
    ],
    lifespan=manager.lifespan,
)
app.add_middleware(
    WebSocketMiddleware, manager=manager, mode={"/json": "json", "/opaque": "opaque", "/": None}
)
