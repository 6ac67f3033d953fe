"""What the load generator says and reads."""

from __future__ import annotations

import json

import pytest

from .contestants.messages import FRAME, PERSONAL, ROOM
from .dialects import PLAIN, SOCKETIO, framed, split


def unmasked(frame: bytes) -> str:
    """The text of a client's short frame: RFC 6455, section 5.3."""
    assert frame[0] == 0x81
    assert frame[1] == 0x80 | len(frame) - 6
    return bytes(byte ^ frame[2 + place % 4] for place, byte in enumerate(frame[6:])).decode()


def served(text: str) -> bytes:
    """The frame of a server."""
    payload = text.encode()
    size = len(payload)
    if size < 126:
        return bytes([0x81, size]) + payload
    return bytes([0x81, 126]) + size.to_bytes(2) + payload if size < 65_536 else _widest(payload)


def _widest(payload: bytes) -> bytes:
    return bytes([0x81, 127]) + len(payload).to_bytes(8) + payload


def test_a_frame_is_masked() -> None:
    assert unmasked(framed(FRAME)) == FRAME
    assert FRAME.encode() not in framed(FRAME)


def test_a_command_is_an_envelope_or_an_event() -> None:
    assert json.loads(unmasked(PLAIN.command("fan", 3))) == {"type": "fan", "data": 3}
    assert unmasked(SOCKETIO.command("fan", 3)) == '42["fan",3]'


def test_every_dialect_echoes_the_same_data() -> None:
    plain, event = unmasked(PLAIN.echo()), unmasked(SOCKETIO.echo())
    assert json.loads(event.removeprefix("42")) == ["chat.message", json.loads(plain)["data"]]


def test_every_message_of_a_run_fits_a_short_frame() -> None:
    assert all(len(served(text)) < 128 for text in (FRAME, ROOM, PERSONAL))


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_of_every_width_are_told_apart(size: int) -> None:
    frames = [served("x" * size), served("last")]
    assert split(b"".join(frames)) == (frames, b"")


@pytest.mark.parametrize("size", [5, 300, 70_000])
def test_what_is_not_complete_is_left(size: int) -> None:
    frame = served("x" * size)
    for cut in (0, 1, 2, 3, len(frame) - 1):
        assert split(b"\x81\x01a" + frame[:cut]) == ([b"\x81\x01a"], frame[:cut])


def test_the_handshake_names_the_user_and_brings_a_token() -> None:
    request = SOCKETIO.request(8_000, "ann")
    assert b"transport=websocket&user=ann HTTP/1.1\r\n" in request
    assert b"\r\nAuthorization: Bearer " in request
    assert request.endswith(b"\r\n\r\n")
