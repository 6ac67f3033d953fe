"""How clients speak to a contestant: in plain messages, or in the events of socket.io.

RFC 6455, section 5, is the frames; the rest is the protocols of Engine.IO 4 and Socket.IO 5.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from .fakes import FRAME, token_for

__all__ = ["PLAIN", "SOCKETIO", "Dialect", "framed", "split"]

_KEY = b"\x1f\x2e\x3d\x4c"
_ECHO: dict[str, Any] = json.loads(FRAME)


class Dialect(NamedTuple):
    path: str
    greeting: bytes
    """What a client sends once the server has taken the handshake."""
    greetings: int
    """How many frames the server sends before the client may go on."""
    events: bool = False

    def request(self, port: int, user: str) -> bytes:
        """The handshake: the same for all, whether or not the server reads the token."""
        lines = [
            f"GET {self.path}user={user} HTTP/1.1".encode(),
            b"Host: 127.0.0.1:%d" % port,
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Sec-WebSocket-Version: 13",
            b"Authorization: Bearer " + token_for(user),
        ]
        return b"\r\n".join([*lines, b"", b""])

    def command(self, name: str, data: Any = None) -> bytes:
        """The frame of a command."""
        if self.events:
            return framed("42" + _compact([name, data]))
        return framed(_compact({"type": name, "data": data}))

    def echo(self) -> bytes:
        """The frame that is answered with its data."""
        return self.command("chat.message", _ECHO["data"]) if self.events else framed(FRAME)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def framed(text: str) -> bytes:
    """A text frame of a client, masked, of less than 126 bytes."""
    payload = text.encode()
    assert len(payload) < 126, "short frames only"
    mask = (_KEY * (len(payload) // 4 + 1))[: len(payload)]
    masked = bytes(one ^ other for one, other in zip(payload, mask, strict=True))
    return bytes([0x81, 0x80 | len(payload)]) + _KEY + masked


def split(received: bytes) -> tuple[list[bytes], bytes]:
    """The frames of a server, heads included, that are complete; and what is left."""
    frames: list[bytes] = []
    start = 0
    while (end := _end_of_frame(received, start)) <= len(received):
        frames.append(received[start:end])
        start = end
    return frames, received[start:]


def _end_of_frame(received: bytes, start: int) -> int:
    """Where the frame that begins at `start` ends; behind everything, if it does not say so yet."""
    if len(received) < start + 2:
        return len(received) + 1
    size = received[start + 1]
    if size < 126:
        return start + 2 + size
    wide = 2 if size == 126 else 8
    if len(received) < start + 2 + wide:
        return len(received) + 1
    return start + 2 + wide + int.from_bytes(received[start + 2 : start + 2 + wide])


PLAIN = Dialect(path="/ws?", greeting=b"", greetings=0)
SOCKETIO = Dialect(
    path="/socket.io/?EIO=4&transport=websocket&", greeting=framed("40"), greetings=2, events=True
)
