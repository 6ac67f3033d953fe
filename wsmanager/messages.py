"""The words of the wire and of delivery: what a message, a priority and a report are."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

__all__ = [
    "ALL",
    "AllTenants",
    "ConnectionStatus",
    "Delivery",
    "DeliveryReport",
    "Frame",
    "HealthStatus",
    "InboundMessage",
    "MessagePriority",
    "OutboundMessage",
    "Pushed",
    "RoomKey",
    "SystemType",
    "Tenant",
    "UserKey",
]

Tenant: TypeAlias = str | None
OutboundMessage: TypeAlias = Mapping[str, Any] | msgspec.Struct
Frame: TypeAlias = str | bytes
"""One encoded WebSocket message: ``str`` is a text frame, ``bytes`` a binary one."""


class UserKey(NamedTuple):
    """A user of one tenant. Every index is keyed by it, so that no lookup can cross tenants."""

    tenant: Tenant
    user_id: str


class RoomKey(NamedTuple):
    """A room of one tenant."""

    tenant: Tenant
    room: str


class AllTenants(enum.Enum):
    """The type of :data:`ALL`."""

    ALL = "all"


ALL: Final = AllTenants.ALL
"""Pass it as ``tenant=`` to a broadcast that is meant to cross tenants."""


class MessagePriority(enum.IntEnum):
    """What goes first among messages that wait for one congested peer."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2
    CRITICAL = 3


class ConnectionStatus(enum.StrEnum):
    """Where a connection stands; `wsmanager.decisions.registry` holds the allowed moves."""

    CONNECTING = "connecting"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class HealthStatus(enum.StrEnum):
    """What a health score means."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Delivery(enum.StrEnum):
    """What is promised for a message that cannot be handed over at once."""

    VOLATILE = "volatile"
    """At most once: under pressure the oldest is dropped, and counted."""
    DURABLE = "durable"
    """Kept for an absent user until it is handed over, its time to live or the limit."""


class SystemType(enum.StrEnum):
    """Message types that the manager itself answers or sends."""

    ACK = "ack"
    AUTH = "auth"
    DISCONNECT = "disconnect"
    ERROR = "error"
    PING = "ping"
    PONG = "pong"
    REPLY = "reply"
    SESSION_JOIN = "session.join"
    SESSION_LEAVE = "session.leave"
    WELCOME = "welcome"


class InboundMessage(msgspec.Struct, frozen=True, gc=False):
    """A client's message after decoding. Fields it does not name are ignored."""

    type: str
    data: Any = None
    id: str | int | None = None


class Pushed(enum.Enum):
    """What became of one message for one connection."""

    SENT = "sent"
    """Handed to the server; not a promise that it arrived."""
    QUEUED = "queued"
    """Waits for a peer that does not keep up."""
    DROPPED = "dropped"
    """Given up under pressure, and counted."""
    OFFLINE = "offline"
    """The connection is gone or not open yet."""
    UNSUPPORTED = "unsupported"
    """The connection speaks a protocol of which the manager knows nothing."""


class DeliveryReport(msgspec.Struct, frozen=True):
    """What became of one send, over all its targets."""

    sent: int = 0
    queued: int = 0
    dropped: int = 0
    offline: int = 0
    unsupported: int = 0
    """Connections whose frames are opaque to the manager: it never writes to them."""
    kept: int = 0
    """Users for whom the message now waits until they connect, or until their peer has room for it."""
    attempts: int = 1
    """How often a critical message was tried."""
    failed: tuple[str, ...] = ()
    """Ids of connections and users that did not get it (at most ``max_report_ids``)."""

    @property
    def delivered(self) -> bool:
        """Whether at least one target has it or it waits for one."""
        return bool(self.sent or self.queued or self.kept)


OverLimitPolicy: TypeAlias = Literal["refuse", "replace_oldest"]
