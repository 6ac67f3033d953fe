"""Where a token may be in a handshake, and how it is kept out of access logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote_plus

from ..messages import InboundMessage, SystemType
from ..protocols import Handshake

__all__ = ["BEARER_SUBPROTOCOL", "TokenSource", "find_token", "read_handshake", "redact_query"]

TokenSource: TypeAlias = Literal["header", "subprotocol", "query", "cookie", "message"]
"""``Authorization: Bearer``, an offered subprotocol, ``?token=``, a cookie, or the first message."""

BEARER_SUBPROTOCOL: Final = "wsmanager.bearer."
"""Before the token in an offered subprotocol. Never select such a subprotocol: it is a secret."""

_MAX_PAIRS = 100
_REDACTED = b"REDACTED"


def read_handshake(scope: Mapping[str, Any]) -> Handshake:
    """What the client of an ASGI ``websocket`` scope showed; never raises for what a client can send.

    Of repeated headers, query parameters and cookies the first counts; parameters and cookies beyond
    the hundredth are not read.
    """
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in scope.get("headers") or ():
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers.setdefault(name, value)
        if name == "cookie":  # HTTP/2 may split it: RFC 9113, section 8.2.3
            cookies.append(value)
    return Handshake(
        scope=scope,
        headers=headers,
        query=_parse_query(query) if (query := scope.get("query_string")) else {},
        cookies=_parse_cookies(";".join(cookies)) if cookies else {},
        subprotocols=tuple(scope.get("subprotocols") or ()),
    )


def find_token(
    handshake: Handshake,
    sources: Sequence[TokenSource],
    *,
    query_parameter: str = "token",
    cookie: str = "access_token",
) -> tuple[str, TokenSource] | None:
    """The first token that `sources`, in their order, hold; None when there is none.

    A first message, once there is one, is the only place that is looked at.
    """
    if handshake.message is not None:
        token = _from_message(handshake.message)
        return (token, "message") if token else None
    for source in sources:
        if source == "header":
            token = _from_header(handshake.headers.get("authorization", ""))
        elif source == "subprotocol":
            token = _from_subprotocols(handshake.subprotocols)
        elif source == "query":
            token = handshake.query.get(query_parameter)
        elif source == "cookie":
            token = handshake.cookies.get(cookie)
        else:
            continue
        if token:
            return token, source
    return None


def redact_query(query_string: bytes, parameter: str = "token") -> bytes:
    """`query_string` with every value of `parameter` replaced; all other bytes stay as they are."""
    return b"&".join(
        name + b"=" + _REDACTED if equals and _unquoted(name) == parameter else name + equals + value
        for name, equals, value in (pair.partition(b"=") for pair in query_string.split(b"&"))
    )


def _parse_query(query_string: bytes) -> dict[str, str]:
    pairs = b"&".join(query_string.split(b"&", _MAX_PAIRS)[:_MAX_PAIRS])
    text = pairs.decode("utf-8", "replace")
    return dict(reversed(parse_qsl(text, keep_blank_values=True, errors="replace")))


def _unquoted(name: bytes) -> str:
    """A parameter's name as `_parse_query` reads it."""
    return unquote_plus(name.decode("utf-8", "replace"), errors="replace")


def _parse_cookies(header: str) -> dict[str, str]:
    """Browsers and proxies are sloppier than RFC 6265: what is no pair is passed over."""
    cookies: dict[str, str] = {}
    for pair in header.split(";", _MAX_PAIRS)[:_MAX_PAIRS]:
        name, equals, value = pair.partition("=")
        if equals and name.strip():
            cookies.setdefault(name.strip(), value.strip().strip('"'))
    return cookies


def _from_header(authorization: str) -> str | None:
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _from_subprotocols(offered: Sequence[str]) -> str | None:
    for subprotocol in offered:
        if subprotocol.startswith(BEARER_SUBPROTOCOL):
            return subprotocol.removeprefix(BEARER_SUBPROTOCOL)
    return None


def _from_message(message: InboundMessage) -> str | None:
    if message.type != SystemType.AUTH or not isinstance(message.data, dict):
        return None
    token = message.data.get("token")
    return token if isinstance(token, str) else None
