"""What no ASGI application can prevent, because the server does it before: the flags that prevent it."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from tests.faults.guarded import sign
from tests.faults.uvicorns import EITHER, memory, uvicorn
from tests.faults.wire import CONTINUATION, PING, TEXT, dial, frame

KIB, MIB = 2**10, 2**20
LARGEST = 64 * KIB

# What the README recommends: just above `max_message_size`, and no compression.
FLAGS: dict[str, Any] = {
    "MAX_MESSAGE_SIZE": LARGEST,
    "ws_max_size": LARGEST + KIB,
    "ws_per_message_deflate": False,
}
DEFLATES = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


def bearer() -> str:
    return f"Authorization: Bearer {sign()}"


def deflated(text: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


# Half as large as a message may be, and 32 MiB once it is inflated.
BOMB = frame(TEXT, deflated(b"a" * 32 * MIB), compressed=True)
assert len(BOMB) < LARGEST


@EITHER
def test_f08_fragments_of_one_byte_cost_little_memory_and_hold_nobody_up(ws: str) -> None:
    first, *middle, last = [bytes([byte]) for byte in b'{"type":"ping"}']
    with (
        uvicorn(ws, **FLAGS) as server,
        dial(server.address, "/ws", bearer()) as attacker,
        dial(server.address, "/ws", bearer()) as other,
    ):
        attacker.send(frame(TEXT, first, fin=False))
        attacker.send(b"".join(frame(CONTINUATION, byte, fin=False) for byte in middle))
        attacker.send(frame(CONTINUATION, last))
        assert b'"pong"' in attacker.receive(2 + len(b'{"type":"pong","data":null}'))
        before = memory(server)
        attacker.send(frame(TEXT, b"a", fin=False))
        for _ in range(2):
            attacker.send(frame(CONTINUATION, b"a", fin=False) * (LARGEST // 4))
            other.send(frame(PING, b"?"))
            assert other.receive(3) == b"\x8a\x01?"  # before its socket has waited long enough
        attacker.send(frame(CONTINUATION, b"a", fin=False) * LARGEST)
        assert attacker.close_code() == 1009
        assert memory(server) - before < 16 * MIB


@EITHER
def test_f09_a_bomb_does_not_explode_and_what_is_large_without_it_is_closed_1009(ws: str) -> None:
    with uvicorn(ws, **FLAGS) as server:
        before = memory(server)
        with dial(server.address, "/ws", bearer(), DEFLATES) as client:
            assert "permessage-deflate" not in client.headers
            client.send(BOMB)
            assert client.close_code() in (1002, None)
        with dial(server.address, "/ws", bearer()) as client:
            client.send(frame(TEXT, b"a" * 32 * MIB))
            assert client.close_code() == 1009
        assert memory(server) - before < 8 * MIB


@pytest.mark.parametrize(
    "ws",
    [
        "websockets-sansio",
        pytest.param(
            "wsproto",
            marks=pytest.mark.xfail(reason="wsproto inflates all that it has read at once", strict=True),
        ),
    ],
)
def test_f09_where_compression_is_wanted_only_the_default_implementation_bounds_it(ws: str) -> None:
    flags = FLAGS | {"ws_per_message_deflate": True}
    with uvicorn(ws, **flags) as server, dial(server.address, "/ws", bearer(), DEFLATES) as client:
        assert "permessage-deflate" in client.headers
        before = memory(server)
        client.send(BOMB)
        assert client.close_code() == 1009
        assert memory(server) - before < 8 * MIB
