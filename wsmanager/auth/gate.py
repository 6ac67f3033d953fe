"""Decides who may come in: by address, origin and credentials."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from ..config import WebSocketConfig
from ..decisions.breaker import BreakerStatistics, CircuitBreaker
from ..decisions.rate_limit import TokenBuckets
from ..errors import (
    AuthenticationError,
    ConfigurationError,
    FailureKind,
    InvalidMessage,
    OriginRefused,
    Refused,
    TooManyHandshakes,
    kind_of,
)
from ..logs import Journal
from ..messages import InboundMessage
from ..names import is_name
from ..protocols import Authenticator, Clock, Handshake, Identity
from ..tasks.supervision import is_being_cancelled
from ..wire.asgi import Receive, Scope, Send, frame_of
from ..wire.encodings import Encodings
from .origin import OriginPolicy
from .tokens import read_handshake
from .visitors import Accept, NotAuthenticated, ServerFault, Usher, Visitor, VisitorLeft

__all__ = [
    "Gate",
]

_ANONYMOUS = "anon:"
_MAX_FIRST_MESSAGE = 16_384


class CredentialsFault(Exception):
    """Stands in the log for an exception of the authenticator, whose own text may hold the credentials."""


class Gate:
    """Decides who comes in. Holds nothing of a visitor."""

    def __init__(
        self,
        config: WebSocketConfig,
        auth: Authenticator | None,
        encodings: Encodings,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._config = config
        self._auth = auth
        self._encodings = encodings
        self._clock = clock
        self._journal = journal
        self._origins = OriginPolicy(config.allowed_origins)
        self._handshakes = TokenBuckets(config.handshake_rate / 60.0, config.handshake_burst)
        self._exempt = _networks(config.handshake_exempt)
        self._announced = False
        query_parameter: str = getattr(auth, "query_parameter", "token")
        self.usher = Usher(encodings.default, config.close_timeout, query_parameter, journal)
        """Tells visitors what is decided here."""
        self.breaker = CircuitBreaker(config.breaker_failures, config.breaker_reset)
        """Opens when the authenticator does not answer."""

    def meet(self, scope: Scope, receive: Receive, send: Send, accept: Accept | None = None) -> Visitor:
        """Who stands at the gate. Raises nothing for what a client can send."""
        handshake = read_handshake(scope)
        codec = self._encodings.offered(handshake.subprotocols)
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
            await self.usher.let_in(visitor)
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
            self._journal.note(
                logging.WARNING, "auth.none", meaning="no auth= given: every user is anonymous"
            )

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
            self._journal.note(logging.ERROR, "auth.failed", error=_without_text(error))
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
            return (visitor.codec or self._encodings.default).decode(frame)
        except InvalidMessage:
            raise NotAuthenticated("The first message must hold the token.") from None

    def figures(self) -> dict[str, BreakerStatistics]:
        """Return how the breakers are of what it needs."""
        return {"auth": self.breaker.statistics(now=self._clock())}

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
            self._journal.note(
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


async def _unheard(*_: Any) -> Any:
    """The receive and send of a request: who answers it is not the gate."""


def _without_text(error: BaseException) -> CredentialsFault:
    """Where `error` happened, without what it says."""
    fault = CredentialsFault(f"{type(error).__qualname__}; its text is withheld")
    return fault.with_traceback(error.__traceback__)


def _networks(texts: Sequence[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    try:
        return [ipaddress.ip_network(text) for text in texts]
    except ValueError as error:
        raise ConfigurationError(f"handshake_exempt: {error}") from None
