"""The seams: what a replacement part must guarantee, and what it may rely on.

Every part is called on the manager's event loop. Where a method is synchronous it must neither block
nor perform I/O: it runs for every message. `wsmanager.testing` holds one contract check per seam.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from .messages import Frame, InboundMessage, MessagePriority, Tenant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

__all__ = [
    "NO_CLAIMS",
    "Authenticator",
    "Authorizer",
    "Claims",
    "Clock",
    "Codec",
    "Enqueued",
    "Handshake",
    "HealthSample",
    "HealthScorer",
    "Identity",
    "MessageQueue",
    "MessageValidator",
    "Observer",
    "Principal",
    "RateDecision",
    "RateLimiter",
    "Seen",
]

T = TypeVar("T")


class Clock(Protocol):
    """Seconds on a clock that never goes back. Where it starts means nothing."""

    def __call__(self) -> float: ...


# --- rate limiting


class RateDecision(msgspec.Struct, frozen=True, gc=False):
    """A limiter's answer. It is true when the message may pass."""

    allowed: bool
    remaining: int
    """Units left in the window that ends now."""
    limit: int
    """The limit that applied, with every bonus and reduction."""
    retry_after_ms: int = 0
    """When the same request can pass, if nothing else arrives; 0 when allowed."""

    def __bool__(self) -> bool:
        return self.allowed


class RateLimiter(Protocol):
    """Decides whether one more message of a key may pass."""

    def check_rate_limit(
        self, key: Hashable, *, cost: int = 1, factor: float = 1.0, now: float | None = None
    ) -> RateDecision:
        """Charge `cost` units to `key` and say whether they fit; a refusal charges nothing.

        `factor` scales the limit for this key (a tier). `now` is monotonic; left out, the limiter
        reads its own clock. Must answer in constant time and keep a bounded number of keys.
        """
        ...


# --- outgoing queue


class Enqueued(msgspec.Struct, frozen=True):
    """What a queue did with an item. It is true when the item was accepted."""

    accepted: bool
    evicted: tuple[Any, ...] = ()
    """Items that gave way: expired ones first, then the oldest of the lowest priority."""
    replaced: Any = None
    """The item of the same conflation key that this one supersedes."""

    def __bool__(self) -> bool:
        return self.accepted


class MessageQueue(Protocol[T]):
    """What waits for one congested peer. Bounded; one is made per congested connection."""

    def enqueue(
        self,
        message: T,
        priority: MessagePriority = MessagePriority.MEDIUM,
        *,
        size: int | None = None,
        ttl: float | None = None,
        key: str | None = None,
        now: float | None = None,
    ) -> Enqueued:
        """Take `message` in, or answer false. What gives way for it is returned, never lost silently.

        Must not evict an item of a higher priority for one of a lower priority. `key` conflates: an
        item of the same key that still waits is replaced.
        """
        ...

    def dequeue(self, *, now: float | None = None) -> T | None:
        """The oldest item of the highest priority that has not expired; None when there is none."""
        ...

    def cleanup_expired(self, *, now: float | None = None) -> list[T]:
        """Remove and return what has expired, and what `dequeue` skipped as expired before."""
        ...

    def __len__(self) -> int: ...


# --- validation


class MessageValidator(Protocol):
    """Decides whether a decoded message may reach the application."""

    def validate_message(self, message: InboundMessage, *, raw: Frame | None = None) -> None:
        """Return, or raise `InvalidMessage` (or a subclass) with a stable code.

        `raw` is the frame it was decoded from, where its codec is transparent: a cheap first look. One
        without this parameter is not given it. Must take time linear in the size of the message,
        whatever it holds, and must not change it.
        """
        ...


# --- health


class HealthSample(msgspec.Struct, frozen=True, gc=False):
    """What is known of one connection at one moment."""

    latency_ms: float | None = None
    """Smoothed round trip; None while unknown, which is neutral."""
    error_rate: float = 0.0
    """Faults per message, 0 to 1; recent messages weigh more."""
    idle_for: float = 0.0
    """Seconds since the last frame of the peer."""


class HealthScorer(Protocol):
    """Turns a sample into a score."""

    def score(self, sample: HealthSample) -> float:
        """A number from 0 (dead) to 1 (well).

        Must be monotone: more latency, more errors or longer silence never raises it.
        """
        ...


# --- who is it, and what may they


class Claims(msgspec.Struct, frozen=True, gc=False):
    """The claims kept of a token, as attributes; one compact object per connection."""

    if TYPE_CHECKING:  # which attributes there are is configured, not written

        def __getattr__(self, name: str) -> Any: ...

    def get(self, name: str, default: Any = None) -> Any:
        """The claim `name`, or `default` when it was absent or is not kept."""
        value = getattr(self, name, None) if name in self.__struct_fields__ else None
        return default if value is None else value


NO_CLAIMS = Claims()


class Handshake(msgspec.Struct, frozen=True):
    """What a client showed when it asked for a socket."""

    scope: Mapping[str, Any]
    """The ASGI scope, read only."""
    headers: Mapping[str, str]
    """Lower-case names; of repeated headers the first."""
    query: Mapping[str, str]
    cookies: Mapping[str, str]
    subprotocols: Sequence[str]
    message: InboundMessage | None = None
    """The first message, when authentication waits for it."""


class Identity(msgspec.Struct, frozen=True):
    """Who is at the other end, as an authenticator found."""

    user_id: str
    tenant: Tenant = None
    claims: Claims = NO_CLAIMS
    scopes: frozenset[str] = frozenset()
    tier: str | None = None
    by_cookie: bool = False
    """The browser sent the credentials by itself, so a missing Origin is refused."""


class Authenticator(Protocol):
    """Finds out who opened a socket."""

    async def authenticate(self, handshake: Handshake) -> Identity | None:
        """The identity, or None for "not yet: ask for a first message".

        Raises `AuthenticationError` with a stable code when the credentials are missing or bad. Any
        other exception is a fault of the server, and is answered as one. None is an answer only while
        ``handshake.message`` is None.
        """
        ...


class Principal(Protocol):
    """What an authorizer may know of a connection."""

    @property
    def id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def tenant(self) -> Tenant: ...
    @property
    def claims(self) -> Claims: ...
    @property
    def scopes(self) -> frozenset[str]: ...


class Authorizer(Protocol):
    """Decides about rooms. The server's own joins and sends are not asked about."""

    def may_join(self, who: Principal, room: str) -> bool | Awaitable[bool]:
        """Whether this client may join `room`. An absent room answers False like a forbidden one."""
        ...

    def may_publish(self, who: Principal, room: str) -> bool | Awaitable[bool]:
        """Whether what this client says may go to `room`."""
        ...


# --- what happens


class Seen(msgspec.Struct, frozen=True):
    """Something that happened in a manager, as its observer sees it."""

    event: str
    """Its name, as in the log: ``handler.failed``, ``connection.opened``."""
    level: int
    """Of the log."""
    at: float
    """When, on the manager's clock."""
    fields: Mapping[str, Any]
    """What the log shows with it, as values."""
    error: BaseException | None = None


class Observer(Protocol):
    """Sees what happens: for metrics, alerts and recorders."""

    def saw(self, seen: Seen) -> None:
        """Take note. Runs in the middle of what happens: must neither block nor wait, nor call the manager.

        What it raises is logged as ``observer.failed`` and harms nobody. Never called for a single message
        that went well.
        """
        ...


# --- codec


class Codec(Protocol):
    """Turns messages into frames and back. Stateless: one instance serves all connections."""

    @property
    def subprotocol(self) -> str:
        """The WebSocket subprotocol that selects it."""
        ...

    @property
    def transparent(self) -> bool:
        """Whether every text of a message stands in its frame as JSON or MessagePack write it, so that a
        validator may look at the frame first. False when in doubt: for one that compresses or is lenient."""
        ...

    def encode(self, message: Any) -> Frame:
        """One frame. Raises `EncodeError` for what it cannot express; never sends half a message.

        What the application sends is a mapping or an object with a ``type``; what the manager says by itself
        is a Struct of `wsmanager.wire.words`, whose tag is its type.
        """
        ...

    def decode(self, frame: Frame) -> InboundMessage:
        """One message. Raises `InvalidMessage` with a stable code for any other input whatsoever.

        What it accepts, `encode` of every codec can send on: no client's message poisons a room.
        """
        ...
