"""The manager as the endpoint, with every guard on: JWT, limits, validation, health, analytics, registry."""

from __future__ import annotations

from typing import Any

from tests.bench.fakes import make_manager, quiet
from wsmanager import Connection

from .launch import on_uvicorn
from .messages import BURST, MESSAGE, rounds

manager = make_manager(50_000)  # its limits are high, its guards are those of any other


async def broadcast() -> None:
    await manager.broadcast(MESSAGE)


@manager.on("fan")
async def fan(conn: Connection, count: int) -> None:
    await rounds(count, 1, broadcast)


@manager.on("burst")
async def burst(conn: Connection, count: int) -> None:
    await rounds(count, BURST, broadcast)


@manager.on("join")
async def join(conn: Connection, data: Any) -> None:
    await manager.join_session(conn, "room")


@manager.on("room")
async def room(conn: Connection, data: Any) -> None:
    await manager.send_to_session("room", {**MESSAGE, "type": "room"})


@manager.on("personal")
async def personal(conn: Connection, user: str) -> None:
    await manager.send_personal_message(user, {**MESSAGE, "type": "personal"})


if __name__ == "__main__":
    quiet()
    on_uvicorn(manager.endpoint)
