"""From a handshake to a connection: who may come in, and how those who may not are told."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from .auth.origin import OriginPolicy
from .auth.tokens import read_handshake, redact_query
from .config import WebSocketConfig
from .errors import (
    AuthenticationError,
    CloseCode,
    ConfigurationError,
    InvalidMessage,
    OriginRefused,
    Refused,
    TooManyHandshakes,
    should_reconnect,
)
from .logs import log_event
from .messages import SystemType
from .names import is_name
from .outbound import prepare_event
from .protocols import Authenticator, Clock, Codec, Handshake, Identity
from .rate_limit import TokenBuckets
from .transport import Receive, Scope, Send, frame_of

__all__ = ["Accept", "Gate", "NotAuthenticated", "ShuttingDown", "Visitor"]

Accept = Callable[[str | None], Awaitable[None]]
_MAX_FIRST_MESSAGE = 16_384


class NotAuthenticated(AuthenticationError):
    """The first message did not come in time, or held no token."""

    close_code = CloseCode.NEVER_AUTHENTICATED
    default_code = "never_authenticated"


class ShuttingDown(Refused):
    """The server is about to end; another one may be up already."""

    status = 503
    close_code = CloseCode.SHUTDOWN
    default_code = "shutting_down"


class ServerFault(Refused):
    """A part of the server failed; what failed is in the log."""

    status = 503
    close_code = CloseCode.SERVER_ERROR
    default_code = "server_error"


class Visitor(NamedTuple):
    """A socket that asks to come in."""

    handshake: Handshake
    address: str | None
    codec: Codec | None
    """The codec of the first wsmanager subprotocol it offered; None when it offered none."""

    @property
    def subprotocol(self) -> str | None:
        return None if self.codec is None else self.codec.subprotocol


class Gate:
    """Decides who comes in. Holds nothing of a visitor."""

    def __init__(
        self,
        config: WebSocketConfig,
        auth: Authenticator | None,
        codecs: Sequence[Codec],
        clock: Clock,
    ) -> None:
        self._config = config
        self._auth = auth
        self._codecs = {codec.subprotocol: codec for codec in codecs}
        self._clock = clock
        self._origins = OriginPolicy(config.allowed_origins)
        self._handshakes = TokenBuckets(config.handshake_rate / 60.0, config.handshake_burst)
        self._exempt = _networks(config.handshake_exempt)
        self._query_parameter: str = getattr(auth, "query_parameter", "token")

    def meet(self, scope: Scope) -> Visitor:
        """Who stands at the gate. Raises nothing for what a client can send."""
        handshake = read_handshake(scope)
        client = scope.get("client")
        codec = next((self._codecs[name] for name in handshake.subprotocols if name in self._codecs), None)
        return Visitor(handshake, client[0] if client else None, codec)

    def admit_address(self, visitor: Visitor) -> None:
        """The checks before any work on credentials; raises `Refused`."""
        if visitor.address is not None and not self._is_exempt(visitor.address):
            decision = self._handshakes.take(visitor.address, now=self._clock())
            if not decision:
                raise TooManyHandshakes(
                    "Too many connections are opened from this address.",
                    retry_after_ms=decision.retry_after_ms,
                )
        self._check_origin(visitor, by_cookie=False)

    async def identify(self, visitor: Visitor, connection_id: str) -> Identity | None:
        """Who the visitor is; None when that depends on a first message. Raises `Refused`."""
        if self._auth is None:
            return Identity(user_id=f"anon:{connection_id}")
        try:
            identity = await self._auth.authenticate(visitor.handshake)
        except Refused:
            raise
        except Exception as error:
            log_event(logging.ERROR, "auth.failed", error=error)
            raise ServerFault("The server cannot check credentials now.", retry_after_ms=1_000) from None
        if identity is None and visitor.handshake.message is not None:
            raise NotAuthenticated("The first message holds no token.")
        if identity is not None:
            self._check_identity(visitor, identity)
        return identity

    async def identify_by_message(self, visitor: Visitor, receive: Receive, connection_id: str) -> Identity:
        """Wait for the first message of an accepted socket and identify by it. Raises `Refused`."""
        try:
            async with asyncio.timeout(self._config.auth_timeout):
                event = await receive()
        except TimeoutError:
            raise NotAuthenticated("No token came in time.") from None
        if event["type"] != "websocket.receive":
            raise NotAuthenticated("The client left before it sent a token.")
        frame = frame_of(event)
        if len(frame) > _MAX_FIRST_MESSAGE:
            raise NotAuthenticated("The first message is too long.")
        codec = visitor.codec or next(iter(self._codecs.values()))
        try:
            message = codec.decode(frame)
        except InvalidMessage:
            raise NotAuthenticated("The first message must hold the token.") from None
        first = Visitor(msgspec.structs.replace(visitor.handshake, message=message), visitor.address, codec)
        identity = await self.identify(first, connection_id)
        assert identity is not None  # noqa: S101  # `identify` raises when there was a first message
        return identity

    def _check_identity(self, visitor: Visitor, identity: Identity) -> None:
        limit = self._config.max_name_length
        names = [identity.user_id, *([] if identity.tenant is None else [identity.tenant])]
        if not all(is_name(name, limit) for name in names):
            raise AuthenticationError("The user or tenant name cannot be used.", code="bad_name")
        if identity.by_cookie:
            self._check_origin(visitor, by_cookie=True)

    def _check_origin(self, visitor: Visitor, *, by_cookie: bool) -> None:
        headers = visitor.handshake.headers
        secure = visitor.handshake.scope.get("scheme") == "wss"
        try:
            self._origins.check(
                headers.get("origin"), headers.get("host"), by_cookie=by_cookie, secure=secure
            )
        except OriginRefused as refusal:
            log_event(
                logging.WARNING, "origin.refused", origin=headers.get("origin"), host=headers.get("host")
            )
            raise refusal from None

    def _is_exempt(self, address: str) -> bool:
        if not self._exempt:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._exempt)

    # --- answers

    @contextmanager
    def redacted(self, scope: Scope) -> Generator[None]:
        """Hide a token in the query while the server logs the handshake: it does so at accept and at
        refusal, from the very scope it gave to the application."""
        query = scope.get("query_string")
        hidden = redact_query(query, self._query_parameter) if query else query
        if hidden == query:
            yield
            return
        scope["query_string"] = hidden
        try:
            yield
        finally:
            scope["query_string"] = query

    async def accept(self, scope: Scope, send: Send, visitor: Visitor, accept: Accept | None = None) -> None:
        """Accept the socket, by `accept` where somebody else keeps its state."""
        with self.redacted(scope):
            if accept is not None:
                await accept(visitor.subprotocol)
            else:
                await send({"type": "websocket.accept", "subprotocol": visitor.subprotocol, "headers": []})

    async def refuse(
        self, scope: Scope, send: Send, visitor: Visitor, refusal: Refused, *, accepted: bool
    ) -> None:
        """Tell the client, in the way it can read.

        A browser cannot read a refused handshake, so a client that offered a wsmanager subprotocol is
        accepted and closed with a code. Others get the HTTP status where the server can send one.
        """
        log_event(logging.INFO, "handshake.refused", code=refusal.code, address=visitor.address)
        if accepted or visitor.codec is not None:
            if not accepted:
                await self.accept(scope, send, visitor)
            await self._dismiss(send, visitor, refusal)
            return
        with self.redacted(scope):
            if "websocket.http.response" in (scope.get("extensions") or {}):
                await _deny(send, refusal)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": refusal.code})

    async def _dismiss(self, send: Send, visitor: Visitor, refusal: Refused) -> None:
        codec = visitor.codec or next(iter(self._codecs.values()))
        data: dict[str, Any] = {
            "code": int(refusal.close_code),
            "reason": refusal.code,
            "message": refusal.message,
            "reconnect": should_reconnect(refusal.close_code),
        }
        if refusal.retry_after_ms is not None:
            data["after_ms"] = refusal.retry_after_ms
        await send(prepare_event(codec.encode({"type": SystemType.DISCONNECT, "data": data})))
        await send({"type": "websocket.close", "code": int(refusal.close_code), "reason": refusal.code})


async def _deny(send: Send, refusal: Refused) -> None:
    error: dict[str, Any] = {"code": refusal.code, "message": refusal.message}
    headers = [(b"content-type", b"application/json")]
    if refusal.retry_after_ms is not None:
        error["retry_after_ms"] = refusal.retry_after_ms
        headers.append((b"retry-after", str(-(-refusal.retry_after_ms // 1000)).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    body = msgspec.json.encode({"error": error})
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


def _networks(texts: Sequence[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    try:
        return [ipaddress.ip_network(text) for text in texts]
    except ValueError as error:
        raise ConfigurationError(f"handshake_exempt: {error}") from None
