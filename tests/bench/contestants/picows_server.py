"""The server of `picows`, which is written in Cython and calls back instead of awaiting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from .launch import HOST, on_uvloop
from .messages import FRAME, Crowd, reply_to, user_of

TEXT = WSMsgType.TEXT
READY = FRAME.encode()
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode


async def tell(transport: WSTransport, text: str) -> None:
    transport.send(TEXT, text.encode())


async def broadcast(everybody: Iterable[WSTransport]) -> None:
    for transport in everybody:
        transport.send(TEXT, READY)


crowd = Crowd(tell, broadcast)
# A task that nobody holds may be collected while it waits.
at_work: set[asyncio.Task[None]] = set()


class Listener(WSListener):
    def __init__(self, request: WSUpgradeRequest) -> None:
        self._user = user_of(request.path.decode())

    def on_ws_connected(self, transport: WSTransport) -> None:
        crowd.enter(self._user, transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is not TEXT:
            return
        message = decode(frame.get_payload_as_memoryview())
        if message["type"] == "chat.message":
            transport.send(TEXT, encode(reply_to(message)))
        else:
            task = asyncio.ensure_future(crowd.obey(transport, message["type"], message["data"]))
            at_work.add(task)
            task.add_done_callback(at_work.discard)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        crowd.leave(self._user, transport)


async def main(port: int) -> None:
    server = await ws_create_server(Listener, HOST, port, enable_auto_ping=False, backlog=2_048)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    on_uvloop(main)
