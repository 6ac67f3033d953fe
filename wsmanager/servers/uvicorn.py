"""A WebSocket protocol for uvicorn that writes once per turn and lets the manager write by itself:
``uvicorn app:app --ws wsmanager.servers.uvicorn:WebSocketProtocol``."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from ..logs import log_event

try:
    from uvicorn import __version__
except ImportError as error:
    raise ImportError("uvicorn is not installed: pip install 'wsmanager[uvicorn]'") from error

__all__ = ["WebSocketProtocol"]

# What `SansIOProtocol` relies on in uvicorn's class: methods that it overrides, and what `__init__` sets.
_METHODS: Final = (
    "connection_lost",
    "connection_made",
    "data_received",
    "eof_received",
    "handle_pong",
    "pause_writing",
    "receive",
    "resume_writing",
    "run_asgi",
    "send",
    "send_receive_event_to_app",
)
_ATTRIBUTES: Final = (
    "close_sent",
    "config",
    "conn",
    "curr_msg_data_type",
    "disconnected",
    "frames",
    "handshake_complete",
    "last_ping_rtt",
    "loop",
    "pending_ping_payload",
    "queue",
    "read_paused",
    "transport",
    "writable",
)
# The same of websockets' own.
_OF_CONN: Final = ("current_size", "debug", "extensions", "parser")
_OF_SERVER: Final = ("available_extensions",)


def _choose() -> type[asyncio.Protocol]:
    """Return our own protocol, or uvicorn's where that is built or behaves otherwise than ours expects."""
    changes: dict[str, Any]
    try:
        changes = _changes()
    except Exception as error:  # whatever a changed class makes of the self-test
        changes = {"failed": [f"{type(error).__name__}: {error}"]}
    if not changes:
        from .sansio import SansIOProtocol

        return SansIOProtocol
    meaning = (
        "uvicorn's own WebSocket protocol serves instead: all works, and fans out slower; "
        "wsmanager's is for uvicorn 0.52.1 and websockets 16 or newer, as far as they behave alike"
    )
    log_event(
        logging.WARNING, "server.moved", server="uvicorn", version=__version__, **changes, meaning=meaning
    )
    from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

    own: Any = AutoWebSocketsProtocol
    if own is None:
        raise ImportError("uvicorn serves no WebSockets by itself: pip install websockets")
    return own  # type: ignore[no-any-return]  # a class, or a function that makes protocols


def _changes() -> dict[str, Any]:
    """Return what is not as `SansIOProtocol` expects: names first, as it cannot be tried without them.

    Raises `ImportError` where modules are missing, and whatever a changed class makes of the self-test.
    """
    from uvicorn.protocols.websockets import websockets_sansio_impl as implementation
    from websockets.protocol import Protocol
    from websockets.server import ServerProtocol

    base = getattr(implementation, "WebSocketsSansIOProtocol", None)
    missing = (
        _moved(base) + _missing(_OF_CONN, Protocol) + _missing(("available_extensions",), ServerProtocol)
    )
    if missing:
        return {"missing": missing}
    from .sansio import SansIOProtocol
    from .selftest import differences

    differs = differences(SansIOProtocol, implementation.WebSocketsSansIOProtocol)
    return {"differs": differs} if differs else {}


def _moved(base: Any) -> list[str]:
    """What is missing in uvicorn's class."""
    if base is None:
        return ["WebSocketsSansIOProtocol"]
    methods = [name for name in _METHODS if not callable(getattr(base, name, None))]
    return methods + _missing(_ATTRIBUTES, base)


def _missing(names: tuple[str, ...], made: Any) -> list[str]:
    """Which of `names` the `__init__` of a class does not set."""
    return [name for name in names if name not in made.__init__.__code__.co_names]


WebSocketProtocol = _choose()
