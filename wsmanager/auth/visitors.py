"""Who stands at the gate, and what the answer is: an accept, an HTTP status or a close code."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import msgspec

from ..errors import AuthenticationError, CloseCode, FailureKind, Refused
from ..logs import Journal
from ..protocols import Codec, Handshake
from ..wire.asgi import Event, Receive, Scope, Send
from ..wire.outgoing import prepare_own
from ..wire.words import refusal as refusal_word
from .tokens import redact_query

__all__ = [
    "Accept",
    "NotAuthenticated",
    "Replaced",
    "ServerFault",
    "ShuttingDown",
    "Usher",
    "Visitor",
    "VisitorLeft",
    "denial_of",
]

Accept = Callable[[str | None], Awaitable[None]]
"""Accepts a socket with a subprotocol, where somebody else keeps its state."""


class NotAuthenticated(AuthenticationError):
    """The first message did not come in time, or held no token."""

    close_code = CloseCode.NEVER_AUTHENTICATED
    default_code = "never_authenticated"


class Replaced(Refused):
    """The connection was closed before its handshake was through: by a newer one, or by the application."""

    kind = FailureKind.CAPACITY
    close_code = CloseCode.REPLACED
    default_code = "replaced"


class ShuttingDown(Refused):
    """The server is about to end; another one may be up already."""

    kind = FailureKind.CAPACITY
    status = 503
    close_code = CloseCode.SHUTDOWN
    default_code = "shutting_down"


class ServerFault(Refused):
    """A part of the server failed; what failed is in the log."""

    kind = FailureKind.BACKEND
    status = 503
    close_code = CloseCode.SERVER_ERROR
    default_code = "server_error"


class VisitorLeft(Refused):
    """The client was gone before it was accepted."""

    kind = FailureKind.TRANSIENT
    default_code = "left"


class Visitor:
    """A socket that asks to come in. `Gate.meet` makes one."""

    __slots__ = ("accept", "accepted", "address", "codec", "handshake", "receive", "scope", "send")

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        accept: Accept | None,
        handshake: Handshake,
        codec: Codec | None,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.accept = accept
        """Accepts the socket where somebody else keeps its state."""
        self.accepted = False
        self.handshake = handshake
        self.address = _address_of(scope)
        """What the limits count by."""
        self.codec = codec
        """The codec of the first wsmanager subprotocol it offered; None when it offered none."""

    async def accept_alone(self, subprotocol: str | None) -> None:
        """Accept the socket where nobody else keeps its state."""
        await self.send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})


class Usher:
    """Accepts visitors, or tells them why not. Holds nothing of them."""

    def __init__(self, default: Codec, close_timeout: float, query_parameter: str, journal: Journal) -> None:
        self._default = default
        self._close_timeout = close_timeout
        self._query_parameter = query_parameter
        self._journal = journal

    def redacted(self, scope: Scope) -> AbstractContextManager[None]:
        """Hide a token in the query while the server logs the handshake: it does so at accept and at
        refusal, from the very scope it gave to the application."""
        query: bytes = scope.get("query_string") or b""
        hidden = redact_query(query, self._query_parameter) if query else query
        return _AS_IT_IS if hidden == query else _replaced_query(scope, hidden)

    def redacting(self, scope: Scope, send: Send) -> Send:
        """`send`, for an application that answers the handshake itself."""

        async def send_redacted(event: Event) -> None:
            with self.redacted(scope):
                await send(event)

        return send_redacted

    async def let_in(self, visitor: Visitor) -> None:
        """Accept the socket, if it is not accepted yet. Raises `VisitorLeft`."""
        if not visitor.accepted:
            await self._accept(visitor, visitor.accept or visitor.accept_alone)

    async def _accept(self, visitor: Visitor, accept: Accept) -> None:
        with self.redacted(visitor.scope):
            try:
                await accept(None if visitor.codec is None else visitor.codec.subprotocol)
            except OSError:
                raise VisitorLeft("The client left before it was accepted.") from None
        visitor.accepted = True

    async def refuse(self, visitor: Visitor, refusal: Refused) -> None:
        """Tell the client, in the way it can read; one that does not listen is not waited for.

        A browser cannot read a refused handshake, so a client that offered a wsmanager subprotocol is
        accepted and closed with a code. Others get the HTTP status where the server can send one.
        """
        self._journal.note(logging.INFO, "handshake.refused", code=refusal.code, address=visitor.address)
        if isinstance(refusal, VisitorLeft):
            return
        try:
            async with asyncio.timeout(self._close_timeout):
                if visitor.accepted or visitor.codec is not None:
                    await self._dismiss(visitor, refusal)
                else:
                    with self.redacted(visitor.scope):
                        await _deny(visitor, refusal)
        except Exception as error:  # the client is gone; what matters to the caller is the refusal
            self._journal.note(
                logging.DEBUG, "refusal.failed", kind=type(error).__name__, address=visitor.address
            )

    async def _dismiss(self, visitor: Visitor, refusal: Refused) -> None:
        if not visitor.accepted:  # by itself: for whoever keeps the socket's state it was never opened
            await self._accept(visitor, visitor.accept_alone)
        codec = visitor.codec or self._default
        await visitor.send(prepare_own(refusal_word(refusal), codec).event)
        await visitor.send(
            {"type": "websocket.close", "code": int(refusal.close_code), "reason": refusal.code[:100]}
        )


async def _deny(visitor: Visitor, refusal: Refused) -> None:
    if "websocket.http.response" not in (visitor.scope.get("extensions") or {}):
        await visitor.send({"type": "websocket.close", "code": 1008, "reason": refusal.code[:100]})
        return
    headers, body = denial_of(refusal)
    start = {"type": "websocket.http.response.start", "status": refusal.status, "headers": headers}
    await visitor.send(start)
    await visitor.send({"type": "websocket.http.response.body", "body": body})


def denial_of(refusal: Refused) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of the HTTP response that says why."""
    error: dict[str, Any] = {"code": refusal.code, "message": refusal.message}
    headers = [(b"content-type", b"application/json")]
    if refusal.retry_after_ms is not None:
        error["retry_after_ms"] = refusal.retry_after_ms
        headers.append((b"retry-after", str(-(-refusal.retry_after_ms // 1000)).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    body = msgspec.json.encode({"error": error})
    headers.append((b"content-length", str(len(body)).encode()))
    return headers, body


_AS_IT_IS: Final = nullcontext()


@contextmanager
def _replaced_query(scope: Scope, query: bytes) -> Generator[None]:
    before, scope["query_string"] = scope["query_string"], query
    try:
        yield
    finally:
        scope["query_string"] = before


def _address_of(scope: Scope) -> str | None:
    """The client's address; of IPv6 the first of its /64, for a client has all of that to itself."""
    client = scope.get("client")
    address: str | None = client[0] if client else None
    if not address or ":" not in address:
        return address or None
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    # A dual-stack listener shows IPv4 clients as ::ffff:a.b.c.d.
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))
