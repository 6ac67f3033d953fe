"""python-socketio, on WebSockets alone, with its own rooms."""

from __future__ import annotations

from typing import Any

# It has no types of its own.
import socketio  # pyright: ignore[reportMissingTypeStubs]

from .launch import on_uvicorn
from .messages import BURST, MESSAGE, rounds, user_of

HOUR = 3_600  # longer than any run: no pings

sio: Any = socketio.AsyncServer(
    async_mode="asgi", transports=["websocket"], ping_interval=HOUR, ping_timeout=HOUR, compression=False
)


async def connect(sid: str, environ: dict[str, Any]) -> None:
    await sio.enter_room(sid, user_of("?" + environ["QUERY_STRING"]))


async def chat(sid: str, data: Any) -> None:
    await sio.emit("reply", data, to=sid)


async def broadcast() -> None:
    await sio.emit("chat.message", MESSAGE["data"])


async def fan(sid: str, count: int) -> None:
    await rounds(count, 1, broadcast)


async def burst(sid: str, count: int) -> None:
    await rounds(count, BURST, broadcast)


async def join(sid: str, data: Any) -> None:
    await sio.enter_room(sid, "room")


async def room(sid: str, data: Any) -> None:
    await sio.emit("room", MESSAGE["data"], to="room")


async def personal(sid: str, user: str) -> None:
    await sio.emit("personal", MESSAGE["data"], to=user)


sio.on("chat.message", chat)
for handler in (connect, fan, burst, join, room, personal):
    sio.on(handler.__name__, handler)

if __name__ == "__main__":
    on_uvicorn(socketio.ASGIApp(sio))
