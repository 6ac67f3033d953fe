"""The asyncio server of `websockets`, with its ``broadcast()``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from .launch import HOST, on_uvloop
from .messages import FRAME, Crowd, reply_to, user_of

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode


async def to_all(everybody: Iterable[ServerConnection]) -> None:
    broadcast(everybody, FRAME)


crowd = Crowd(ServerConnection.send, to_all)


async def converse(websocket: ServerConnection) -> None:
    async for frame in websocket:
        message = decode(frame)
        if message["type"] == "chat.message":
            await websocket.send(encode(reply_to(message)), text=True)
        else:
            await crowd.obey(websocket, message["type"], message["data"])


async def endpoint(websocket: ServerConnection) -> None:
    assert websocket.request is not None
    user = user_of(websocket.request.path)
    crowd.enter(user, websocket)
    try:
        await converse(websocket)
    except ConnectionClosed:
        pass
    finally:
        crowd.leave(user, websocket)


async def main(port: int) -> None:
    async with serve(endpoint, HOST, port, compression=None, ping_interval=None, backlog=2_048):
        await asyncio.Event().wait()


if __name__ == "__main__":
    on_uvloop(main)
