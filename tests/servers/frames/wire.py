"""The bytes of RFC 6455, valid or not, in both directions."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = [
    "BINARY",
    "CLOSE",
    "CONT",
    "FIN",
    "PING",
    "PONG",
    "RSV1",
    "TEXT",
    "frames_of",
    "reason_for",
    "request",
    "said",
    "to_server",
]

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40
_MASK = b"\x37\xfa\x21\x3d"


def request(*headers: str) -> bytes:
    """A handshake that is fine, but for `headers`: each replaces its namesake, or leaves it out if empty."""
    fields = {
        "Host": "test",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    for header in headers:
        name, _, value = header.partition(": ")
        fields[name] = value
    lines = [f"{name}: {value}\r\n" for name, value in fields.items() if value]
    return f"GET /some%20where?a=b HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


def _head(first: int, size: int, masked: int) -> bytes:
    if size < 126:
        return bytes([first, masked | size])
    if size < 65_536:
        return bytes([first, masked | 126]) + size.to_bytes(2, "big")
    return bytes([first, masked | 127]) + size.to_bytes(8, "big")


def to_server(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes = _MASK,
    announced: int | None = None,
) -> bytes:
    """What a client sends: masked, unless `mask` is empty; perhaps with another size than it has."""
    size = len(payload) if announced is None else announced
    head = _head(opcode | rsv | (FIN if fin else 0), size, 0x80 if mask else 0)
    if not mask:
        return head + payload
    stream = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)], "big")
    masked = (int.from_bytes(payload, "big") ^ stream).to_bytes(len(payload), "big")
    return head + mask + masked


def said(opcode: int, payload: bytes = b"", *, rsv: int = 0) -> bytes:
    """What a server sends."""
    return _head(FIN | opcode | rsv, len(payload), 0) + payload


def reason_for(code: int, reason: str = "") -> bytes:
    """The payload of a close frame."""
    return code.to_bytes(2, "big") + reason.encode()


def frames_of(wire: bytes) -> Iterator[tuple[int, bytes]]:
    """First byte and payload of each whole frame that a server sent; what else it sent as a last one."""
    at = 0
    while at < len(wire):
        size, start = _size_at(wire, at)
        if start + size > len(wire):
            yield -1, wire[at:]
            return
        yield wire[at], wire[start : start + size]
        at = start + size


def _size_at(wire: bytes, at: int) -> tuple[int, int]:
    """Of the frame that begins at `at`: the size of its payload, and where that begins."""
    short = wire[at + 1] if at + 1 < len(wire) else len(wire)
    more = {126: 2, 127: 8}.get(short, 0)
    start = at + 2 + more
    return int.from_bytes(wire[at + 2 : start], "big") if more else short, start
