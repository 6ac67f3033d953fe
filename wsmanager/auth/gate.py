"""From a handshake to a connection: who may come in, and how those who may not are told."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import msgspec

from ..config import WebSocketConfig
from ..decisions.breaker import CircuitBreaker
from ..decisions.rate_limit import TokenBuckets
from ..errors import (
    AuthenticationError,
    CloseCode,
    ConfigurationError,
    FailureKind,
    InvalidMessage,
    OriginRefused,
    Refused,
    TooManyHandshakes,
    kind_of,
    should_reconnect,
)
from ..logs import log_event
from ..messages import InboundMessage, SystemType
from ..names import is_name
from ..protocols import Authenticator, Clock, Codec, Handshake, Identity
from ..tasks.supervision import is_being_cancelled
from ..wire.asgi import Event, Receive, Scope, Send, frame_of
from ..wire.outgoing import prepare_event
from .origin import OriginPolicy
from .tokens import read_handshake, redact_query

__all__ = [
    "Accept",
    "Gate",
    "NotAuthenticated",
    "Replaced",
    "ShuttingDown",
    "Visitor",
    "VisitorLeft",
    "denial_of",
]

Accept = Callable[[str | None], Awaitable[None]]
_ANONYMOUS = "anon:"
_MAX_FIRST_MESSAGE = 16_384


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


class CredentialsFault(Exception):
    """Stands in the log for an exception of the authenticator, whose own text may hold the credentials."""


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
        self._default_codec = codecs[0]
        self._clock = clock
        self._origins = OriginPolicy(config.allowed_origins)
        self._handshakes = TokenBuckets(config.handshake_rate / 60.0, config.handshake_burst)
        self._exempt = _networks(config.handshake_exempt)
        self._query_parameter: str = getattr(auth, "query_parameter", "token")
        self._announced = False
        self.breaker = CircuitBreaker(config.breaker_failures, config.breaker_reset)
        """Opens when the authenticator does not answer."""

    def meet(self, scope: Scope, receive: Receive, send: Send, accept: Accept | None = None) -> Visitor:
        """Who stands at the gate. Raises nothing for what a client can send."""
        handshake = read_handshake(scope)
        codec = next((self._codecs[name] for name in handshake.subprotocols if name in self._codecs), None)
        return Visitor(scope, receive, send, accept, handshake, codec)

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

    async def identify(self, visitor: Visitor, connection_id: str, *, may_ask: bool = True) -> Identity:
        """Who the visitor is. Raises `Refused`.

        Where that takes a first message and it `may_ask` for one, the socket is accepted and the message
        awaited.
        """
        if self._auth is None:
            self._announce()
            return self.anonymous(connection_id)
        identity = await self._ask(self._auth, visitor.handshake)
        if identity is None and not may_ask:
            raise AuthenticationError("A token must come with the handshake.", code="token_missing")
        if identity is None:
            await self.let_in(visitor)
            message = await self._first_message(visitor)
            first = msgspec.structs.replace(visitor.handshake, message=message)
            identity = await self._ask(self._auth, first)
            if identity is None:
                raise NotAuthenticated("The first message holds no token.")
        self._check_identity(visitor, identity)
        return identity

    async def authenticate(self, scope: Scope, *, changes: bool = False) -> Identity:
        """Who sends an HTTP request, by the credentials that a handshake would take, and within the limit of
        handshakes: guessing here is as slow as there. Raises `Refused`.

        Browsers let no other site read the answer, so that a cookie needs no Origin, unless the request
        `changes` something; one of another site is refused all the same.
        """
        if self._auth is None:
            raise Refused("Nobody is known here: the manager has no authenticator.", code="no_authenticator")
        visitor = self.meet(scope, _unheard, _unheard)
        self.admit_address(visitor)
        identity = await self._ask(self._auth, visitor.handshake)
        if identity is None:
            raise AuthenticationError("A token must come with the request.", code="token_missing")
        self._check_names(identity)
        if changes:
            self._check_identity(visitor, identity)
        return identity

    def anonymous(self, connection_id: str) -> Identity:
        """A user who is nobody else."""
        return Identity(user_id=_ANONYMOUS + connection_id)

    def is_anonymous(self, user_id: str) -> bool:
        """Whether this is a user of one connection, who never comes back."""
        return self._auth is None and user_id.startswith(_ANONYMOUS)

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            log_event(logging.WARNING, "auth.none", meaning="no auth= given: every user is anonymous")

    async def _ask(self, auth: Authenticator, handshake: Handshake) -> Identity | None:
        """What the authenticator says; whatever else it raises is a fault of the server. One that does not
        answer is spared for a while, and with it everybody who would wait for it."""
        if not self.breaker.allow(now=self._clock()):
            after_ms = math.ceil(self.breaker.statistics(now=self._clock()).retry_after * 1000)
            raise ServerFault("The server cannot check credentials now.", retry_after_ms=after_ms)
        try:
            async with asyncio.timeout(self._config.auth_timeout):
                identity = await auth.authenticate(handshake)
        except Refused:
            self.breaker.record_success()
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            # Only what is down: a fault that a token can bring about must not lock everybody else out.
            if kind_of(error) is FailureKind.BACKEND:
                self.breaker.record_failure(now=self._clock())
            log_event(logging.ERROR, "auth.failed", error=_without_text(error))
            raise ServerFault("The server cannot check credentials now.", retry_after_ms=1_000) from None
        self.breaker.record_success()
        return identity

    async def _first_message(self, visitor: Visitor) -> InboundMessage:
        try:
            async with asyncio.timeout(self._config.auth_timeout):
                event = await visitor.receive()
        except TimeoutError:
            raise NotAuthenticated("No token came in time.") from None
        if event["type"] != "websocket.receive":
            raise VisitorLeft("The client left before it sent a token.")
        frame = frame_of(event)
        if len(frame) > _MAX_FIRST_MESSAGE:
            raise NotAuthenticated("The first message is too long.")
        try:
            return (visitor.codec or self._default_codec).decode(frame)
        except InvalidMessage:
            raise NotAuthenticated("The first message must hold the token.") from None

    def _check_names(self, identity: Identity) -> None:
        limit = self._config.max_name_length
        names = [identity.user_id, *([] if identity.tenant is None else [identity.tenant])]
        if not all(is_name(name, limit) for name in names):
            raise AuthenticationError("The user or tenant name cannot be used.", code="bad_name")

    def _check_identity(self, visitor: Visitor, identity: Identity) -> None:
        self._check_names(identity)
        if identity.by_cookie:
            self._check_origin(visitor, by_cookie=True)

    def _check_origin(self, visitor: Visitor, *, by_cookie: bool) -> None:
        headers = visitor.handshake.headers
        secure = visitor.scope.get("scheme") in {"wss", "https"}
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

    def codec_of(self, subprotocol: str | None) -> Codec | None:
        """The codec that a subprotocol selects; None for one that is not the manager's."""
        return None if subprotocol is None else self._codecs.get(subprotocol)

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
        log_event(logging.INFO, "handshake.refused", code=refusal.code, address=visitor.address)
        if isinstance(refusal, VisitorLeft):
            return
        try:
            async with asyncio.timeout(self._config.close_timeout):
                if visitor.accepted or visitor.codec is not None:
                    await self._dismiss(visitor, refusal)
                else:
                    with self.redacted(visitor.scope):
                        await _deny(visitor, refusal)
        except Exception as error:  # the client is gone; what matters to the caller is the refusal
            log_event(logging.DEBUG, "refusal.failed", kind=type(error).__name__, address=visitor.address)

    async def _dismiss(self, visitor: Visitor, refusal: Refused) -> None:
        if not visitor.accepted:  # by itself: for whoever keeps the socket's state it was never opened
            await self._accept(visitor, visitor.accept_alone)
        data: dict[str, Any] = {
            "code": int(refusal.close_code),
            "reason": refusal.code,
            "message": refusal.message,
            "reconnect": should_reconnect(refusal.close_code),
        }
        if refusal.retry_after_ms is not None:
            data["after_ms"] = refusal.retry_after_ms
        codec = visitor.codec or self._default_codec
        await visitor.send(prepare_event(codec.encode({"type": SystemType.DISCONNECT, "data": data})))
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


async def _unheard(*_: Any) -> Any:
    """The receive and send of a request: who answers it is not the gate."""


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


def _without_text(error: BaseException) -> CredentialsFault:
    """Where `error` happened, without what it says."""
    fault = CredentialsFault(f"{type(error).__qualname__}; its text is withheld")
    return fault.with_traceback(error.__traceback__)


def _networks(texts: Sequence[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    try:
        return [ipaddress.ip_network(text) for text in texts]
    except ValueError as error:
        raise ConfigurationError(f"handshake_exempt: {error}") from None
