"""A message as one WebSocket frame: read back by somebody else's parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from wsmanager.wire.framing import WireFrame, wire_frame

BORDERS = (0, 1, 125, 126, 127, 255, 256, 65_535, 65_536, 70_000)


def parsed(data: bytes, window: int | None = None) -> Frame:
    """The one frame in `data`, with nothing behind it; inflated, where a `window` was agreed on."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    extensions = [] if window is None else [PerMessageDeflate(True, True, window, window)]
    parser = Frame.parse(reader.read_exact, mask=False, extensions=extensions)
    try:
        while True:
            next(parser)
    except StopIteration as end:
        frame: Frame = end.value
    with pytest.raises(StopIteration, match="True"):
        next(reader.at_eof())
    return frame


def is_compressed(data: bytes) -> bool:
    return bool(data[0] & 0x40)


@pytest.mark.parametrize("size", BORDERS)
def test_a_message_of_any_size_is_one_frame(size: int) -> None:
    frame = parsed(wire_frame(b"x" * size).plain)
    assert (frame.opcode, bytes(frame.data), frame.fin) == (Opcode.BINARY, b"x" * size, True)
    assert (frame.rsv1, frame.rsv2, frame.rsv3) == (False, False, False)


@given(st.text())
def test_text_stays_text(text: str) -> None:
    frame = parsed(wire_frame(text).plain)
    assert (frame.opcode, bytes(frame.data).decode()) == (Opcode.TEXT, text)


def test_a_lone_surrogate_has_no_frame() -> None:
    with pytest.raises(UnicodeEncodeError):
        wire_frame("\ud800")


@given(st.binary(max_size=2_000), st.integers(1, 200), st.integers(9, 15))
def test_a_compressed_message_is_the_same_message(part: bytes, times: int, window: int) -> None:
    frame = parsed(wire_frame(part * times).deflated(window), window)
    assert (frame.opcode, bytes(frame.data)) == (Opcode.BINARY, part * times)


@pytest.mark.parametrize("size", BORDERS)
def test_compression_never_makes_a_frame_larger(size: int) -> None:
    message = wire_frame(bytes(i * i * i % 251 for i in range(size)))
    assert len(message.deflated(12)) <= len(message.plain)


def test_a_repetitive_message_is_compressed() -> None:
    message = wire_frame("all work and no play " * 50)
    assert is_compressed(message.deflated(12))
    assert len(message.deflated(12)) < len(message.plain) / 10


def test_a_short_message_is_not_compressed() -> None:
    message = wire_frame("x" * 255)
    assert message.deflated(12) is message.plain


def test_a_message_is_compressed_once_for_all_of_one_window() -> None:
    message = wire_frame("x" * 1_000)
    assert message.deflated(12) is message.deflated(12)
    assert is_compressed(message.deflated(9))


def test_the_parts_of_a_frame_are_there_for_who_needs_them() -> None:
    assert isinstance(wire_frame("é"), WireFrame)
    assert wire_frame("é").payload == "é".encode()
