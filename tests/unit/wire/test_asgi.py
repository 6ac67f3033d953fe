"""What a ``websocket.receive`` event carries, whichever of its keys a server leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from wsmanager.messages import Frame
from wsmanager.wire.asgi import frame_of


@pytest.mark.parametrize(
    ("event", "frame"),
    [
        ({"text": "a"}, "a"),
        ({"text": "a", "bytes": None}, "a"),
        ({"text": "", "bytes": None}, ""),
        ({"bytes": b"a"}, b"a"),
        ({"bytes": b"a", "text": None}, b"a"),
        ({"bytes": b""}, b""),
        ({"bytes": None, "text": None}, b""),
        ({}, b""),
    ],
)
def test_the_frame_of_an_event_is_its_text_or_its_bytes(event: dict[str, Any], frame: Frame) -> None:
    assert frame_of({"type": "websocket.receive", **event}) == frame
