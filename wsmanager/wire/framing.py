"""A message as a server writes it into a socket: one unmasked WebSocket frame (RFC 6455, 5.2), encoded once
for any number of sockets, and compressed once for all that agreed on the same window (RFC 7692)."""

from __future__ import annotations

import zlib
from typing import Final

import msgspec

__all__ = ["BINARY", "TEXT", "WireFrame", "frame_bytes", "wire_frame"]

TEXT: Final = 0x81
"""The first byte of a text message in one frame."""
BINARY: Final = 0x82
"""The first byte of a binary message in one frame."""
_COMPRESSED: Final = 0x40  # RSV1
_SHORT: Final = 126
_MEDIUM: Final = 65_536
_SHORT_HEADS: Final = {
    first: [bytes((first, size)) for size in range(_SHORT)]
    for kind in (TEXT, BINARY)
    for first in (kind, kind | _COMPRESSED)
}

# What ends a flushed deflate stream, and is left out of a message (RFC 7692, 7.2.1).
_FLUSHED: Final = -4
# A smaller message is hardly smaller without what came before it, and costs more than it saves.
_WORTH_COMPRESSING: Final = 256


def frame_bytes(first: int, payload: bytes) -> bytes:
    """A whole message in one frame that begins with the byte `first`."""
    size = len(payload)
    if size < _SHORT:
        return _SHORT_HEADS[first][size] + payload
    if size < _MEDIUM:
        return b"%c~%b%b" % (first, size.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (first, size.to_bytes(8, "big"), payload)


class WireFrame(msgspec.Struct, gc=False):
    """One message, ready for every kind of socket."""

    first: int
    payload: bytes
    plain: bytes
    """For a socket without compression."""
    _deflated: bytes = b""
    _window: int = 0

    def deflated(self, window: int) -> bytes:
        """For a socket that agreed on permessage-deflate without context takeover, and on a `window` of so
        many bits. Not compressed, which is every message's choice, where that does not pay."""
        if len(self.payload) < _WORTH_COMPRESSING:
            return self.plain
        if window != self._window:
            self._deflated = min(self.compressed(window), self.plain, key=len)
            self._window = window
        return self._deflated

    def compressed(self, window: int) -> bytes:
        """Compressed, whether that pays or not."""
        # memLevel 5 as servers do: as fast, and half of the memory.
        encoder = zlib.compressobj(wbits=-window, memLevel=5)
        data = encoder.compress(self.payload) + encoder.flush(zlib.Z_SYNC_FLUSH)
        return frame_bytes(self.first | _COMPRESSED, data[:_FLUSHED])


def wire_frame(data: str | bytes) -> WireFrame:
    """A text or binary message. Raises `UnicodeEncodeError` for a lone surrogate."""
    if isinstance(data, str):
        payload, first = data.encode(), TEXT
    else:
        payload, first = data, BINARY
    return WireFrame(first, payload, frame_bytes(first, payload))
