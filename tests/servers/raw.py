"""A client that does what no library would: it stalls, dies without a word, and reads a byte a second."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncGenerator
from typing import Any, Self

__all__ = ["RawClient", "crowd"]

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@contextlib.asynccontextmanager
async def crowd(url: str, number: int = 1, *, headers: str = "") -> AsyncGenerator[list[RawClient]]:
    """As many clients, who are gone afterwards."""
    clients: list[RawClient] = []
    try:
        while len(clients) < number:
            more = min(50, number - len(clients))
            clients += await asyncio.gather(*(RawClient.dial(url, headers=headers) for _ in range(more)))
        yield clients
    finally:
        for client in clients:
            client.drop()
        await asyncio.sleep(0)


class RawClient:
    """One socket, with a small buffer, that reads only when it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, url: str, *, receive_buffer: int = 4_096, headers: str = "") -> Self:
        """Connect, and shake hands."""
        address, _, path = url.removeprefix("ws://").partition("/")
        host, _, port = address.partition(":")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        # The reader, too, stops reading once it holds twice its limit.
        reader, writer = await asyncio.open_connection(sock=sock, limit=2_048)
        writer.write(
            f"GET /{path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
        )
        client = cls(reader, writer)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            client.drop()
            raise ConnectionRefusedError(head.decode())
        return client

    # --- out

    def write_frame(self, opcode: int, payload: bytes, *, fin: bool = True) -> None:
        mask = os.urandom(4)
        size = len(payload)
        head = bytes([opcode | (0x80 if fin else 0)])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65_536:
            head += bytes([0x80 | 126]) + struct.pack("!H", size)
        else:
            head += bytes([0x80 | 127]) + struct.pack("!Q", size)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        self.writer.write(head + mask + masked)

    def say(self, type: str, data: Any = None, **more: Any) -> None:
        self.write_frame(1, json.dumps({"type": type, "data": data, **more}).encode())

    # --- in

    async def read_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame."""
        first, second = await self.reader.readexactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(size)

    async def hear(self) -> Any:
        """The next message; protocol pings are passed over, and a close is its code."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode in (1, 2):
                return json.loads(payload)
            if opcode == 8:
                return struct.unpack("!H", payload[:2])[0] if payload else 1005

    async def ask(self, type: str, data: Any = None) -> Any:
        self.say(type, data, id=1)
        return (await self.hear())["data"]

    # --- the end

    def close(self, code: int) -> None:
        """Send a close frame, and go once the server does."""
        with contextlib.suppress(OSError):  # the server may have gone already
            self.write_frame(8, struct.pack("!H", code))
            self.writer.write_eof()

    def reset(self) -> None:
        """Die: the other side gets a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def drop(self) -> None:
        """Let go of the socket."""
        self.writer.transport.abort()
