"""One application behind each of the three doors: it answers every message with what it got."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from starlette.websockets import WebSocket, WebSocketDisconnect

from wsmanager import Connection, ConnectionManager, WebSocketMiddleware

__all__ = ["DOORS", "EVERY_DOOR", "Door"]

App: TypeAlias = Callable[[Any, Any, Any], Any]
Door: TypeAlias = Callable[[ConnectionManager], App]


def managed(manager: ConnectionManager) -> App:
    async def echo(conn: Connection, data: Any) -> None:
        await conn.send({"type": "echo", "data": data})

    manager.on("echo")(echo)
    return manager.endpoint


def adopted(manager: ConnectionManager) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        with contextlib.suppress(WebSocketDisconnect):
            async with manager.connect(websocket):
                await _echo(websocket)

    return app


def guarded(manager: ConnectionManager) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept(next(iter(scope["subprotocols"]), None))
        with contextlib.suppress(WebSocketDisconnect):
            await _echo(websocket)

    return WebSocketMiddleware(app, manager, mode="envelope")


async def _echo(websocket: WebSocket) -> None:
    async for message in websocket.iter_json():
        await websocket.send_json({"type": "echo", "data": message.get("data")})


DOORS: dict[str, Door] = {"managed": managed, "adopted": adopted, "guarded": guarded}
EVERY_DOOR = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
