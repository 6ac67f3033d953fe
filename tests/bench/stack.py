"""What a server and its application compute for an echo and for a delivery, the kernel left out.

uvicorn's protocols on a transport that goes nowhere: so there is neither a system call nor a client, and the
figures are steadier than those of real sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI, WebSocket
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from wsmanager.servers.uvicorn import WebSocketProtocol

from .fakes import FRAME, App, make_manager, token_for
from .options import Options
from .rows import Row

__all__ = ["measure_stack"]

SOCKETS = 50
_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: testserver\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Authorization: Bearer %b\r\n\r\n"
)
_ECHO = bytes([0x81, 0x80 | len(FRAME)]) + bytes(4) + FRAME.encode()


class Nowhere(asyncio.Transport):
    """Counts what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, data: object) -> None:
        self.writes += 1

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 50_000) if name in ("peername", "sockname") else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Served:
    """An application on so many sockets of one protocol, and the least that an echo took."""

    def __init__(self, app: App, protocol: Callable[..., Any]) -> None:
        config = Config(app, ws_per_message_deflate=False, ws_ping_interval=None, log_level="critical")
        config.load()
        state = ServerState()
        self.best = float("inf")
        self._sockets: list[tuple[Any, Nowhere]] = []
        for number in range(SOCKETS):
            socket, transport = protocol(config, state, {}), Nowhere()
            socket.connection_made(transport)
            socket.data_received(_HANDSHAKE % token_for(f"user-{number}"))
            self._sockets.append((socket, transport))

    async def echo(self) -> None:
        expected = self._writes() + SOCKETS
        started = time.perf_counter()
        for socket, _ in self._sockets:
            socket.data_received(_ECHO)
        while self._writes() < expected:  # noqa: ASYNC110 - turns of the loop are what is measured
            await asyncio.sleep(0)
        self.best = min(self.best, (time.perf_counter() - started) / SOCKETS)

    def _writes(self) -> int:
        return sum(transport.writes for _, transport in self._sockets)

    async def close(self) -> None:
        for socket, _ in self._sockets:
            socket.connection_lost(None)
        for _ in range(10):
            await asyncio.sleep(0)


_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """What an application without any library does that answers in JSON."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        message = _decode(event["text"])
        reply = {"type": "reply", "re": message["id"], "data": message["data"]}
        await send({"type": "websocket.send", "text": _encode(reply).decode()})


fastapi = FastAPI()


@fastapi.websocket("/ws")
async def echo_json(websocket: WebSocket) -> None:
    await websocket.accept()
    async for message in websocket.iter_json():
        await websocket.send_json({"type": "reply", "re": message["id"], "data": message["data"]})


async def measure_stack(options: Options) -> list[Row]:
    manager = make_manager(2 * SOCKETS)
    served = {
        "bare": Served(bare, WebSocketsSansIOProtocol),
        "FastAPI": Served(fastapi, WebSocketsSansIOProtocol),
        "wsmanager": Served(manager.endpoint, WebSocketsSansIOProtocol),
        "bare, own transport": Served(bare, WebSocketProtocol),
        "wsmanager, own transport": Served(manager.endpoint, WebSocketProtocol),
    }
    for _ in range(10):
        await asyncio.sleep(0)
    for _ in range(int(200 * options.scale)):  # in turns, so that a slow moment of the machine meets all
        for each in served.values():
            await each.echo()
    for each in served.values():
        await each.close()
    await manager.aclose()
    unit = served["bare"].best
    return [
        {
            "id": "P1",
            "measure": f"computed for an echo / bare, {name} ({each.best * 1e6:.1f} µs)",
            "value": each.best / unit,
        }
        for name, each in served.items()
    ]
