"""Every error of the package, in families that say who acts on it.

`ReplyError` is *replied* to the client and the connection lives; `Disconnect` ends the connection;
`Refused` ends the handshake. The rest is raised at the application's own code. `to_client` is the
one place that decides which of the families an exception belongs to: what is none of them is a bug,
and a bug's text never reaches a client.
"""

from __future__ import annotations

import enum
from typing import ClassVar

__all__ = [
    "AuthenticationError",
    "CloseCode",
    "ConfigurationError",
    "ConnectionClosed",
    "ConnectionLimitReached",
    "Disconnect",
    "DuplicateConnectionId",
    "EncodeError",
    "FailureKind",
    "Forbidden",
    "HandlerFailed",
    "HandlerTimeout",
    "InvalidMessage",
    "InvalidMove",
    "InvalidName",
    "InvalidPayload",
    "MissingDependency",
    "OriginRefused",
    "RECONNECT_CODES",
    "RateLimited",
    "Refused",
    "ReplyError",
    "RoomLimitReached",
    "SuspiciousMessage",
    "TooManyHandshakes",
    "Unavailable",
    "UnknownMessageType",
    "WSManagerError",
    "WrongEventLoop",
    "kind_of",
    "require_close_code",
    "should_reconnect",
    "to_client",
]


class CloseCode(enum.IntEnum):
    """The close codes the manager sends. 4000-4499 invite a reconnect, 4500-4999 do not."""

    NORMAL = 1000
    RESTART = 1012
    CLOSED = 4000
    SHUTDOWN = 4001
    SERVER_ERROR = 4004
    SLOW = 4008
    NO_HEARTBEAT = 4012
    UNHEALTHY = 4013
    INBOX_OVERFLOW = 4014
    TOO_MANY_REQUESTS = 4029
    BAD_TOKEN = 4500
    BAD_REQUEST = 4501
    NEVER_AUTHENTICATED = 4502
    REPLACED = 4503
    CONNECTION_LIMIT = 4504
    FORBIDDEN = 4507
    TOO_MANY_ERRORS = 4509


RECONNECT_CODES = frozenset({1001, 1006, 1012, *range(4000, 4500)})
"""A client that sees one of these close codes should come back by itself."""


def should_reconnect(code: int) -> bool:
    """True if a client that sees this close code should come back by itself."""
    return code in RECONNECT_CODES


class FailureKind(enum.StrEnum):
    """Whose failure it is; each kind has one strategy.

    ========= ===================================== ================================================
    kind      such as                               strategy
    ========= ===================================== ================================================
    transient a peer that is gone or slow, a        what waits goes to the next connection if it is
              handler that takes too long           durable; critical sends are tried again with
                                                    backoff; the client is told ``temporary``
    client    bad JSON, an unknown type, a payload  answered with a stable code; the connection
              that does not fit                     lives, and too many close it (4509)
    auth      a bad token, a missing right, a       refused or answered, and never tried again by
              foreign Origin                        the server; terminal close codes
    capacity  a limit of rate, connections, rooms   refused with ``retry_after_ms``; haste closes
                                                    with 4029; nothing that was taken in is lost
    backend   the authenticator does not answer,    fails fast: 503 or `Unavailable`, ``temporary``;
              a handler cannot reach its database   a circuit breaker spares what is down
    bug       anything else                         logged with its traceback, told to nobody; the
                                                    connection lives, background work starts again
    ========= ===================================== ================================================
    """

    TRANSIENT = "transient"
    CLIENT = "client"
    AUTH = "auth"
    CAPACITY = "capacity"
    BACKEND = "backend"
    BUG = "bug"


class WSManagerError(Exception):
    """The base of everything the package raises on purpose."""

    kind: ClassVar[FailureKind] = FailureKind.BUG


SENDABLE = frozenset({*range(1000, 1015), *range(3000, 5000)} - {1004, 1005, 1006})


def require_close_code(code: object) -> int:
    """`code`, or `ConfigurationError` for one that no close frame may carry (RFC 6455, section 7.4)."""
    if isinstance(code, int) and code in SENDABLE:
        return int(code)
    raise ConfigurationError(f"a close code is 1000 to 1014 or 3000 to 4999, not {code!r}")


class _Told(WSManagerError):
    """Told to the client by a code that it acts on, with a text for people."""

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.retry_after_ms = retry_after_ms


# --- Replied: the client did something that it can mend; the connection lives.


class ReplyError(_Told):
    """Sent to the client as ``{"type": "error", "data": {"code", "message", ...}}``.

    Handlers may raise it with a code of their own. ``message`` is shown to the client as it is.
    """

    kind = FailureKind.CLIENT
    temporary: ClassVar[bool] = False


class InvalidMessage(ReplyError):
    """The frame is not a message; ``code`` says what is wrong with it."""

    default_code = "invalid_message"


class InvalidPayload(InvalidMessage):
    """``data`` does not fit the type that the handler asks for."""

    default_code = "invalid_payload"


class SuspiciousMessage(InvalidMessage):
    """The message holds a pattern that the validator refuses."""

    default_code = "forbidden_pattern"


class UnknownMessageType(InvalidMessage):
    """No handler takes this ``type``."""

    default_code = "unknown_type"


class InvalidName(ReplyError, ValueError):
    """A room, user, tenant or connection name that is empty, too long or holds control characters."""

    default_code = "invalid_name"


class RoomLimitReached(ReplyError):
    """The connection is in as many rooms as it may be."""

    kind = FailureKind.CAPACITY
    default_code = "room_limit"


class Forbidden(ReplyError):
    """The client lacks the right. Absent and forbidden things answer alike."""

    kind = FailureKind.AUTH
    default_code = "forbidden"


class RateLimited(ReplyError):
    """Over the limit; ``retry_after_ms`` says when to try again."""

    kind = FailureKind.CAPACITY
    default_code = "rate_limited"
    temporary = True


class HandlerTimeout(ReplyError):
    """The handler took longer than it may."""

    kind = FailureKind.TRANSIENT
    default_code = "handler_timeout"
    temporary = True


class Unavailable(ReplyError):
    """Something that the server needs does not answer. Handlers may raise it."""

    kind = FailureKind.BACKEND
    default_code = "unavailable"
    temporary = True

    def __init__(
        self,
        message: str = "The server cannot do this now.",
        *,
        code: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message, code=code, retry_after_ms=retry_after_ms)


class HandlerFailed(ReplyError):
    """The handler raised something that is no business of the client."""

    kind = FailureKind.BUG
    default_code = "internal_error"
    temporary = True

    def __init__(self, message: str = "The server could not process this message.") -> None:
        super().__init__(message)


# --- Disconnects: the connection ends, with a code that says whether to come back.


class Disconnect(WSManagerError):
    """Ends the connection. Handlers and hooks may raise it."""

    kind = FailureKind.CLIENT

    def __init__(self, code: int, reason: str = "") -> None:
        self.code = require_close_code(code)
        super().__init__(f"{self.code} {reason}".rstrip())
        self.reason = reason


# --- Refusals: the handshake ends before there is a connection.


class Refused(_Told):
    """The handshake is refused: an HTTP status where the server can send one, else a close code."""

    kind = FailureKind.CLIENT
    status: ClassVar[int] = 403
    close_code: ClassVar[CloseCode] = CloseCode.FORBIDDEN
    default_code = "refused"


class AuthenticationError(Refused):
    """Missing or unusable credentials; ``code`` says which rule they broke."""

    kind = FailureKind.AUTH
    status = 401
    close_code = CloseCode.BAD_TOKEN
    default_code = "authentication_failed"


class OriginRefused(Refused):
    """The page that opened the socket is of an origin that may not."""

    kind = FailureKind.AUTH
    default_code = "origin_refused"


class ConnectionLimitReached(Refused):
    """One more connection of this user, address, tenant or node is one too many."""

    kind = FailureKind.CAPACITY
    status = 429
    close_code = CloseCode.CONNECTION_LIMIT
    default_code = "connection_limit"


class TooManyHandshakes(Refused):
    """The address opens sockets faster than it may."""

    kind = FailureKind.CAPACITY
    status = 429
    close_code = CloseCode.TOO_MANY_REQUESTS
    default_code = "too_many_handshakes"


# --- Raised at the application.


class ConnectionClosed(WSManagerError):
    """The connection is closed; nothing more can be sent on it."""

    kind = FailureKind.TRANSIENT


class DuplicateConnectionId(WSManagerError, ValueError):
    """The connection id asked for is in use."""


class InvalidMove(WSManagerError, RuntimeError):
    """A connection cannot go from this status to that one."""


class ConfigurationError(WSManagerError, ValueError):
    """A setting is wrong; the text names it and says what is allowed."""


class EncodeError(WSManagerError, TypeError):
    """A message of the application cannot be encoded; nothing was sent to anybody."""


class MissingDependency(WSManagerError, ImportError):
    """An optional package is not installed; the text names the extra that brings it."""


class WrongEventLoop(WSManagerError, RuntimeError):
    """The manager holds connections of another event loop."""


def to_client(error: BaseException) -> ReplyError | Disconnect:
    """What the client of a connection is told about `error`.

    Guaranteed: the answer holds no text of an exception that was not meant for clients.
    """
    if isinstance(error, ReplyError | Disconnect):
        return error
    if isinstance(error, Refused):
        return Disconnect(error.close_code, error.code)
    return Unavailable() if kind_of(error) is FailureKind.BACKEND else HandlerFailed()


def kind_of(error: BaseException) -> FailureKind:
    """Whose failure `error` is: of what the application's own code raises, connections that fail and time
    that runs out are its backend's, and the rest is a bug."""
    if isinstance(error, WSManagerError):
        return error.kind
    return FailureKind.BACKEND if isinstance(error, ConnectionError | TimeoutError) else FailureKind.BUG
