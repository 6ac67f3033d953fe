"""What an ASGI callable is, and what its events hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from ..messages import Frame

__all__ = ["Event", "Receive", "Scope", "Send", "frame_of"]

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]


def frame_of(event: Event) -> Frame:
    """The text or bytes of a ``websocket.receive`` event; servers may give the other key as None."""
    text = event.get("text")
    return text if text is not None else event.get("bytes") or b""
