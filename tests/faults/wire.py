"""A WebSocket client that breaks the rules: every byte is the test's own."""

from __future__ import annotations

import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager, suppress

__all__ = ["CONTINUATION", "PING", "PONG", "TEXT", "Wire", "dial", "frame"]

CONTINUATION, TEXT, CLOSE, PING, PONG = 0, 1, 8, 9, 10


def frame(opcode: int, payload: bytes, *, fin: bool = True, compressed: bool = False) -> bytes:
    """A client's frame (RFC 6455, 5.2); the mask is zero, which leaves the payload as it is."""
    head = bytes([fin << 7 | compressed << 6 | opcode])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + bytes(4) + payload


class Wire:
    """A socket whose handshake is through."""

    def __init__(self, sock: socket.socket, headers: str) -> None:
        self._socket = sock
        self.headers = headers.lower()

    def send(self, data: bytes) -> None:
        """Whether the server still takes it is not asked."""
        with suppress(OSError):
            self._socket.sendall(data)

    def receive(self, size: int) -> bytes:
        """Exactly `size` bytes, or what came before the end."""
        data = b""
        while len(data) < size and (more := self._some()):
            data += more
        return data

    def close_code(self) -> int | None:
        """The code of the close frame that comes next; None where the socket just ends."""
        head = self.receive(4)
        return int.from_bytes(head[2:4], "big") if len(head) == 4 and head[0] == 0x80 | CLOSE else None

    def _some(self) -> bytes:
        with suppress(ConnectionError):
            return self._socket.recv(1)
        return b""


@contextmanager
def dial(address: str, path: str, *headers: str) -> Generator[Wire]:
    """Open a WebSocket; `headers` are lines."""
    host, _, port = address.partition(":")
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {address}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += sock.recv(1)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        yield Wire(sock, answer.decode())
