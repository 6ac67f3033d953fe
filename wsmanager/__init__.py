"""The WebSocket layer for ASGI applications: authenticated, limited, validated, watched, reachable."""

from __future__ import annotations

from .auth import JWTAuth
from .config import Tier, WebSocketConfig
from .connections.connection import Connection
from .decisions.analytics import MessageAnalytics
from .decisions.health import ConnectionHealthMonitor, WeightedHealthScorer
from .decisions.queue import MessagePriorityQueue
from .decisions.rate_limit import AdaptiveRateLimiter
from .decisions.validation import SecurityValidator
from .errors import (
    AuthenticationError,
    CloseCode,
    ConfigurationError,
    ConnectionClosed,
    Disconnect,
    DuplicateConnectionId,
    EncodeError,
    FailureKind,
    Forbidden,
    InvalidMessage,
    InvalidName,
    InvalidPayload,
    RateLimited,
    Refused,
    ReplyError,
    RoomLimitReached,
    SuspiciousMessage,
    Unavailable,
    WrongEventLoop,
    WSManagerError,
)
from .handlers.signatures import Provide
from .manager import ConnectionManager
from .messages import (
    ALL,
    ConnectionStatus,
    Delivery,
    DeliveryReport,
    HealthStatus,
    InboundMessage,
    MessagePriority,
    Pushed,
)
from .middleware import WebSocketMiddleware

__version__ = "0.1.0"

__all__ = [
    "ALL",
    "AdaptiveRateLimiter",
    "AuthenticationError",
    "CloseCode",
    "ConfigurationError",
    "Connection",
    "ConnectionClosed",
    "ConnectionHealthMonitor",
    "ConnectionManager",
    "ConnectionStatus",
    "Delivery",
    "DeliveryReport",
    "Disconnect",
    "DuplicateConnectionId",
    "EncodeError",
    "FailureKind",
    "Forbidden",
    "HealthStatus",
    "InboundMessage",
    "InvalidMessage",
    "InvalidName",
    "InvalidPayload",
    "JWTAuth",
    "MessageAnalytics",
    "MessagePriority",
    "MessagePriorityQueue",
    "Provide",
    "Pushed",
    "RateLimited",
    "Refused",
    "ReplyError",
    "RoomLimitReached",
    "SecurityValidator",
    "SuspiciousMessage",
    "Tier",
    "Unavailable",
    "WSManagerError",
    "WebSocketConfig",
    "WebSocketMiddleware",
    "WeightedHealthScorer",
    "WrongEventLoop",
]
