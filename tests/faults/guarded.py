"""The application that the tests of this package run on real servers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import jwt
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute

from wsmanager import Connection, ConnectionManager, JWTAuth, WebSocketConfig
from wsmanager.http import endpoints

__all__ = ["app", "sign"]

_SECRET = "a secret of at least 32 characters"


def sign(user: str = "ann", secret: str = _SECRET, **claims: str) -> str:
    """A token of `user`."""
    return jwt.encode({"sub": user, "exp": int(time.time()) + 600, **claims}, secret, algorithm="HS256")


manager = ConnectionManager(WebSocketConfig.from_env(), auth=JWTAuth(_SECRET, algorithms=["HS256"]))


@manager.on("block")
async def block(conn: Connection, data: float) -> None:
    """The mistake of many applications: nothing else runs meanwhile."""
    time.sleep(data)  # noqa: ASYNC251 - it is what the tests need


async def by_turns(scope: Any, receive: Any, send: Any) -> None:
    """The endpoint on servers that hand every frame from task to task before the application has it."""

    async def receive_later() -> Any:
        event = await receive()
        for _ in range(20):
            await asyncio.sleep(0)
        return event

    await manager.endpoint(scope, receive_later, send)


app = Starlette(
    routes=[
        Mount("/status", app=endpoints(manager)),
        WebSocketRoute("/ws", manager.endpoint),
        Mount("/turns", app=by_turns),
    ],
    lifespan=manager.lifespan,
)
