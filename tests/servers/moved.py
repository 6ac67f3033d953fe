"""uvicorn as it might be one day: what `wsmanager.servers.uvicorn` builds on is not where it was."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_before = WebSocketsSansIOProtocol.__init__


def _elsewhere(self: WebSocketsSansIOProtocol, *arguments: Any, **options: Any) -> None:
    _before(self, *arguments, **options)


WebSocketsSansIOProtocol.__init__ = _elsewhere  # type: ignore[method-assign]  # that is the point

from wsmanager.servers.uvicorn import WebSocketProtocol  # noqa: E402 - after the move

__all__ = ["WebSocketProtocol"]
