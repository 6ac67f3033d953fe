"""What ASGI servers show an application, and how they behave where the specification leaves it open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

import msgspec

__all__ = ["DAPHNE", "DIRECT", "GRANIAN", "HYPERCORN", "UVICORN", "Headers", "Server", "websocket_scope"]

Headers: TypeAlias = Iterable[tuple[str | bytes, str | bytes]]

_HANDSHAKE = (
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """The manners of one server. The defaults are uvicorn's."""

    spec_version: str | None = "2.4"
    denial_response: bool = True
    """Offers the extension that refuses a handshake with any status and body."""
    lifespan_state: bool = True
    """Shows ``scope["state"]``."""
    accept_headers: bool = True
    """The headers of ``websocket.accept`` reach the client."""
    close_reason: bool = True
    """The reason of the application's close reaches the client."""
    close_seen: Literal["code and reason", "code", "never"] = "code and reason"
    """What the application learns of the client's close; ``never`` is always 1006."""
    both_keys: bool = False
    """A received message has the keys ``text`` and ``bytes``, one of them None."""
    send_starts_at_call: bool = False
    """``send`` is no coroutine function: it starts when it is called, awaited or not."""
    after_disconnect: Literal["oserror", "silent", "runtimeerror"] = "oserror"
    """What ``send`` does once the client is gone."""
    after_close: Literal["runtimeerror", "silent"] = "runtimeerror"
    """What ``send`` does once the application has closed."""
    disconnect_after_close: bool = True
    """The application's own close is followed by a ``websocket.disconnect``."""
    receive_after_disconnect: Literal["block", "repeat"] = "block"
    """``repeat`` answers every further ``receive`` with 1005."""
    close_codes: Literal["all", "applications"] = "all"
    """``applications``: a close with 1001 to 2999 raises an `Exception`."""
    close_lost_while_receiving: bool = False
    """A close of the application is lost while it waits in ``receive``."""
    after_error: int = 1006
    """The close code that the client sees when the application raises."""
    after_return: int | None = 1006
    """The same when it returns without a close; None leaves the socket open."""
    direct: bool = False
    """Offers its transport by the extension `wsmanager.wire.below.EXTENSION`."""


UVICORN = Server()
DIRECT = Server(direct=True)
"""uvicorn with `wsmanager.servers.uvicorn`."""
HYPERCORN = Server(
    spec_version="2.3",
    close_seen="never",
    both_keys=True,
    after_disconnect="silent",
    after_error=1011,
    after_return=1011,
)
GRANIAN = Server(
    spec_version="2.3",
    accept_headers=False,
    close_seen="code",
    send_starts_at_call=True,
    after_disconnect="silent",
    receive_after_disconnect="repeat",
    close_lost_while_receiving=True,
    after_error=1005,
    after_return=1005,
)
DAPHNE = Server(
    spec_version=None,
    denial_response=False,
    lifespan_state=False,
    accept_headers=False,
    close_reason=False,
    close_codes="applications",
    close_seen="code",
    after_disconnect="silent",
    after_close="silent",
    after_error=1011,
    after_return=None,
)


def websocket_scope(
    path: str = "/",
    *,
    headers: Headers = (),
    query: str | bytes = "",
    subprotocols: Sequence[str] = (),
    client: tuple[str, int] | None = ("127.0.0.1", 50000),
    scheme: str = "ws",
    root_path: str = "",
    extensions: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    server: Server = UVICORN,
) -> dict[str, Any]:
    """The scope of one WebSocket handshake, as `server` would show it.

    A ``host`` of ``testserver`` is sent unless `headers` has one. `extensions` replaces what the
    server offers. `state` is copied, as servers copy the state of the lifespan.
    """
    scope: dict[str, Any] = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": scheme,
        "server": ("testserver", 443 if scheme == "wss" else 80),
        "client": client,
        "root_path": root_path,
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": query.encode() if isinstance(query, str) else query,
        "headers": _header_list(headers, subprotocols),
        "subprotocols": list(subprotocols),
        "extensions": _offered(server) if extensions is None else dict(extensions),
    }
    if server.spec_version is not None:
        scope["asgi"]["spec_version"] = server.spec_version
    if server.lifespan_state:
        scope["state"] = dict(state or {})
    return scope


def _offered(server: Server) -> dict[str, Any]:
    return {"websocket.http.response": {}} if server.denial_response else {}


def _header_list(headers: Headers, subprotocols: Sequence[str]) -> list[tuple[bytes, bytes]]:
    given = [(_latin(name).lower(), _latin(value)) for name, value in headers]
    if not any(name == b"host" for name, _ in given):
        given.insert(0, (b"host", b"testserver"))
    if subprotocols:
        given.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode("latin-1")))
    return [*given, *_HANDSHAKE]


def _latin(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text
