"""What an application may send on a WebSocket: the ASGI specification with its Denial Response."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Phase", "check"]


class Phase(enum.Enum):
    """Where the conversation between server and application stands."""

    CONNECTING = "before the handshake was answered"
    DENYING = "inside a denial response"
    OPEN = "on an accepted socket"
    CLOSED = "after the application closed"
    LOST = "after the client went away"


_ALLOWED = {
    Phase.CONNECTING: {"websocket.accept", "websocket.close", "websocket.http.response.start"},
    Phase.DENYING: {"websocket.http.response.body"},
    Phase.OPEN: {"websocket.send", "websocket.close"},
}
"""After an end every message is allowed: what it meets is a matter of the server's manners."""


def check(event: Any, phase: Phase, scope: Mapping[str, Any]) -> None:
    """Raises `AssertionError`, saying what is wrong, for a message that breaks the specification."""
    kind = event.get("type") if isinstance(event, Mapping) else None
    _require(kind in _SHAPES, f"{event!r} is no message that an application may send on a WebSocket")
    allowed = _ALLOWED.get(phase)
    _require(allowed is None or kind in allowed, f"{kind} was sent {phase.value}")
    _SHAPES[kind](event, scope)


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise AssertionError(complaint)


def _check_accept(event: Mapping[str, Any], scope: Mapping[str, Any]) -> None:
    chosen, offered = event.get("subprotocol"), scope["subprotocols"]
    _require(chosen is None or chosen in offered, f"subprotocol {chosen!r} is none of the offered {offered}")
    _check_headers(event)
    names = {name for name, _ in event.get("headers") or ()}
    _require(b"sec-websocket-protocol" not in names, "a subprotocol was accepted by a header: use the key")


def _check_headers(event: Mapping[str, Any]) -> None:
    for name, value in event.get("headers") or ():
        _require(isinstance(name, bytes) and isinstance(value, bytes), f"header {name!r} is not in bytes")
        _require(name == name.lower(), f"the name of header {name!r} is not in lower case")


def _check_send(event: Mapping[str, Any], _: Mapping[str, Any]) -> None:
    text, data = event.get("text"), event.get("bytes")
    _require((text is None) != (data is None), "websocket.send needs exactly one of text and bytes")
    _require(text is None or isinstance(text, str), f"text is a {type(text).__name__}, not a str")
    _require(data is None or isinstance(data, bytes), f"bytes is a {type(data).__name__}, not bytes")


def _check_close(event: Mapping[str, Any], _: Mapping[str, Any]) -> None:
    code, reason = event.get("code", 1000), event.get("reason") or ""
    _require(
        isinstance(code, int) and _may_be_sent(code), f"close code {code!r} may not be sent (RFC 6455, 7.4)"
    )
    _require(isinstance(reason, str), f"the close reason {reason!r} is not a str")
    _require(len(reason.encode()) <= 123, "the close reason has more than 123 bytes (RFC 6455, 5.5)")


def _may_be_sent(code: int) -> bool:
    return code in range(3000, 5000) or code in {1000, 1001, 1002, 1003, *range(1007, 1015)}


def _check_denial(event: Mapping[str, Any], scope: Mapping[str, Any]) -> None:
    offered = "websocket.http.response" in scope["extensions"]
    _require(offered, "a denial response was sent to a server that does not offer the extension")
    status = event.get("status")
    _require(isinstance(status, int) and 200 <= status < 600, f"{status!r} is no status of a response")
    _check_headers(event)


def _check_body(event: Mapping[str, Any], _: Mapping[str, Any]) -> None:
    _require(isinstance(event.get("body", b""), bytes), "the body of a denial response is not bytes")


_SHAPES: dict[Any, Callable[[Mapping[str, Any], Mapping[str, Any]], None]] = {
    "websocket.accept": _check_accept,
    "websocket.send": _check_send,
    "websocket.close": _check_close,
    "websocket.http.response.start": _check_denial,
    "websocket.http.response.body": _check_body,
}
