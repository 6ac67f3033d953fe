"""python-socketio, on WebSockets alone, with its own rooms."""

from __future__ import annotations

from typing import Any

import socketio

from .launch import on_uvicorn
from .messages import BURST, MESSAGE, rounds, user_of

HOUR = 3_600  # longer than any run: no pings

sio = socketio.AsyncServer(
    async_mode="asgi", transports=["websocket"], ping_interval=HOUR, ping_timeout=HOUR, compression=False
)


@sio.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    await sio.enter_room(sid, user_of("?" + environ["QUERY_STRING"]))


@sio.on("chat.message")
async def chat(sid: str, data: Any) -> None:
    await sio.emit("reply", data, to=sid)


async def broadcast() -> None:
    await sio.emit("chat.message", MESSAGE["data"])


@sio.event
async def fan(sid: str, count: int) -> None:
    await rounds(count, 1, broadcast)


@sio.event
async def burst(sid: str, count: int) -> None:
    await rounds(count, BURST, broadcast)


@sio.event
async def join(sid: str, data: Any) -> None:
    await sio.enter_room(sid, "room")


@sio.event
async def room(sid: str, data: Any) -> None:
    await sio.emit("room", MESSAGE["data"], to="room")


@sio.event
async def personal(sid: str, user: str) -> None:
    await sio.emit("personal", MESSAGE["data"], to=user)


if __name__ == "__main__":
    on_uvicorn(socketio.ASGIApp(sio))
