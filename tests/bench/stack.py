"""What a server and its application compute for an echo and for a delivery, the kernel left out.

uvicorn's protocols on a transport that goes nowhere: so there is neither a system call nor a client, and the
figures are steadier than those of real sockets.
"""

from __future__ import annotations

import asyncio
import copy
import time
import timeit
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import msgspec
from fastapi import FastAPI, WebSocket
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from wsmanager.servers.uvicorn import WebSocketProtocol
from wsmanager.wire.framing import wire_frame

from .fakes import FRAME, App, Nowhere, make_manager, token_for
from .growth import MESSAGE
from .options import Options
from .rows import Row

__all__ = ["measure_stack"]

SOCKETS = 50
SUBSCRIBERS = 1_000
_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: testserver\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Authorization: Bearer %b\r\n\r\n"
)
_ECHO = bytes([0x81, 0x80 | len(FRAME)]) + bytes(4) + FRAME.encode()


class Counted(Nowhere):
    """All that uvicorn asks of a transport. It counts what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, data: object) -> None:
        self.writes += 1

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 50_000) if name in ("peername", "sockname") else default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Served:
    """An application on so many sockets of one protocol, and the least that a message took."""

    def __init__(self, app: App, protocol: Callable[..., Any], sockets: int = SOCKETS) -> None:
        config = Config(app, ws_per_message_deflate=False, ws_ping_interval=None, log_level="critical")
        config.load()
        state = ServerState()
        self.best = float("inf")
        self._sockets: list[tuple[Any, Counted]] = []
        for number in range(sockets):
            socket, transport = protocol(config, state, {}), Counted()
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

    async def deliver(self, broadcast: Callable[[], Coroutine[Any, Any, object]], *, messages: int) -> None:
        """So many broadcasts in one turn of the loop, down to what the transports are given."""
        started = time.perf_counter()
        for _ in range(messages):
            await broadcast()
        await asyncio.sleep(0)
        elapsed = time.perf_counter() - started
        self.best = min(self.best, elapsed / (messages * len(self._sockets)))

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


class BareFanOut:
    """A loop of sends over everybody."""

    def __init__(self) -> None:
        self._sends: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self._sends.append(send)
        await receive()

    async def broadcast(self) -> None:
        event = {"type": "websocket.send", "text": _encode(MESSAGE).decode()}
        for send in self._sends:
            await send(event)


async def measure_stack(options: Options) -> list[Row]:
    return await _echoes(options) + await _deliveries(options) + _compressions()


async def _deliveries(options: Options) -> list[Row]:
    loop, plain, direct = BareFanOut(), make_manager(SUBSCRIBERS), make_manager(SUBSCRIBERS)
    served = {
        "bare": Served(loop, WebSocketsSansIOProtocol, SUBSCRIBERS),
        "wsmanager": Served(plain.endpoint, WebSocketsSansIOProtocol, SUBSCRIBERS),
        "wsmanager, own transport": Served(direct.endpoint, WebSocketProtocol, SUBSCRIBERS),
    }
    burst = copy.copy(served["wsmanager, own transport"])  # the same sockets, and a best of its own
    for _ in range(20):
        await asyncio.sleep(0)
    for _ in range(int(100 * options.scale)):
        await served["bare"].deliver(loop.broadcast, messages=1)
        await served["wsmanager"].deliver(lambda: plain.broadcast(MESSAGE), messages=1)
        await served["wsmanager, own transport"].deliver(lambda: direct.broadcast(MESSAGE), messages=1)
        await burst.deliver(lambda: direct.broadcast(MESSAGE), messages=10)
    for each in served.values():
        await each.close()
    await plain.aclose()
    await direct.aclose()
    return _rows("P4", "a delivery", served | {"the same, ten in a turn": burst})


async def _echoes(options: Options) -> list[Row]:
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
    return _rows("P1", "an echo", served)


def _compressions() -> list[Row]:
    """What it costs and saves to compress a list of JSON objects by itself."""
    rows: list[Row] = []
    for count in (5, 20, 80):
        items = [{"id": 7_919 * n % 10_000, "name": "alpha", "ok": n % 2 == 0} for n in range(count)]
        message = wire_frame(_encode({"type": "list", "data": items}).decode())
        cost = min(timeit.repeat(partial(message.compressed, 12), number=200, repeat=9)) / 200
        size, deflated = len(message.plain), len(message.deflated(12))
        measure = f"permessage-deflate: {size} bytes to {deflated}, in {cost * 1e6:.1f} µs"
        rows.append({"id": "P4", "measure": measure, "value": deflated / size})
    return rows


def _rows(id: str, what: str, served: Mapping[str, Served]) -> list[Row]:
    unit = served["bare"].best
    return [
        {
            "id": id,
            "measure": f"computed for {what} / bare, {name} ({each.best * 1e6:.2f} µs)",
            "value": each.best / unit,
        }
        for name, each in served.items()
    ]
