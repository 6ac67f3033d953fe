"""permessage-deflate (RFC 7692) by hand, for both directions."""

from __future__ import annotations

import re
import zlib
from typing import Any

from .wire import BINARY, RSV1, TEXT, frames_of, said, to_server

__all__ = ["Deflater", "agreed_on", "inflated"]

_TAIL = b"\x00\x00\xff\xff"


def agreed_on(head: bytes) -> str:
    """The extension in an answer to a handshake; empty for none."""
    found = re.search(rb"(?i)\r\nsec-websocket-extensions: ([^\r]+)", head)
    return found[1].decode() if found else ""


def _window(extension: str, side: str) -> int:
    bits = re.search(rf"{side}_max_window_bits=(\d+)", extension)
    return -int(bits[1]) if bits else -15


class Deflater:
    """Compresses what a client sends, as it was agreed on: as far back as that allows."""

    def __init__(self, extension: str) -> None:
        self._window = _window(extension, "client")
        self._forgets = "client_no_context_takeover" in extension
        self._deflate = zlib.compressobj(wbits=self._window)

    def payload(self, message: bytes) -> bytes:
        if self._forgets:
            self._deflate = zlib.compressobj(wbits=self._window)
        data = self._deflate.compress(message) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(_TAIL)

    def text(self, message: bytes) -> bytes:
        return to_server(TEXT, self.payload(message), rsv=RSV1)

    def binary(self, message: bytes) -> bytes:
        return to_server(BINARY, self.payload(message), rsv=RSV1)


def inflated(wire: bytes, extension: str) -> bytes:
    """What a server sent, as if it were not compressed."""
    window = _window(extension, "server")
    inflate = zlib.decompressobj(window)
    plain = b""
    for first, payload in frames_of(wire):
        if first == -1:
            return plain + payload
        if first & RSV1:
            if "server_no_context_takeover" in extension:
                inflate = zlib.decompressobj(window)
            payload = _inflate(inflate, payload)
        plain += said(first & ~RSV1 & 0x7F, payload)
    return plain


def _inflate(inflate: Any, data: bytes) -> bytes:
    """In steps that are smaller than any window: zlib looks back farther than that within one step."""
    message, rest = b"", data + _TAIL
    while step := inflate.decompress(rest, 255):
        message, rest = message + step, inflate.unconsumed_tail
    return message
