"""What the manager tells about itself: values that go to JSON as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sized
from typing import Any

import msgspec

from ..connections.connection import Connection
from ..decisions.analytics import AnalyticsStats
from ..decisions.breaker import BreakerState, BreakerStatistics
from ..messages import HealthStatus, Tenant, UserKey
from ..tasks.supervision import TaskHealth
from .engine import Engine

__all__ = ["Analytics", "ConnectionHealth", "UserHealth", "analytics_of", "health_of"]

_SEVERITY = (HealthStatus.HEALTHY, HealthStatus.DEGRADED, HealthStatus.UNHEALTHY)


class ConnectionHealth(msgspec.Struct, frozen=True):
    """How one connection does."""

    connection_id: str
    status: HealthStatus
    score: float
    latency_ms: float | None
    error_rate: float
    idle_seconds: float
    waiting: int
    """Messages that wait for this peer."""
    breaker: BreakerState


class UserHealth(msgspec.Struct, frozen=True):
    """How the connections of one user do."""

    user_id: str
    tenant: Tenant
    worst: HealthStatus | None
    """The worst of its connections; None when there is none."""
    connections: tuple[ConnectionHealth, ...]


class Analytics(msgspec.Struct, frozen=True):
    """The manager's figures. Every bound that can be hit shows here."""

    messages: AnalyticsStats
    indexes: dict[str, int]
    """Sizes of the registry: connections, users, rooms, tenants, addresses, arrived sockets."""
    health: dict[HealthStatus, int]
    """Connections by the outcome of their last check."""
    congested: int
    """Connections whose peer does not keep up."""
    waiting: int
    """Messages that wait for those."""
    drops: dict[str, int]
    """Messages that did not go out, by reason."""
    offline_users: int
    offline_messages: int
    offline_bytes: int
    refused: dict[str, int]
    """Handshakes that were refused, by code; ``application`` stands for those that a guarded one refused."""
    closed: dict[int, int]
    """Closed connections by code; codes that are none, and those beyond a hundred, count as 1006."""
    limiter_keys: int
    """Users that the rate limiter has in mind, as far as it tells."""
    limiter_overflowed: int
    """Messages that it refused for want of room for another user."""
    reported_patterns: dict[str, int]
    """Messages by the pattern that the validator reported and let pass."""
    breakers: dict[str, BreakerStatistics]
    """Of what the manager needs: ``auth``, the authenticator. A connection's own is in its health."""
    tasks: dict[str, TaskHealth]
    errands: int
    loop_lag: float
    """Seconds the last heartbeat came late."""
    loop_stalls: int
    """How often it came so late that nobody was closed for silence."""
    residents: dict[str, Mapping[str, Any]]
    """What the residents of the manager count, by their names."""


def health_of(engine: Engine, key: UserKey) -> UserHealth:
    """How the connections of a user do; looking is no check."""
    now = engine.now()
    connections = tuple(_health_of(conn, now) for conn in engine.registry.of_user(key))
    worst = max((one.status for one in connections), key=_SEVERITY.index, default=None)
    return UserHealth(key.user_id, key.tenant, worst, connections)


def _health_of(conn: Connection, now: float) -> ConnectionHealth:
    sample = conn.health.sample(now)
    return ConnectionHealth(
        connection_id=conn.id,
        status=conn.health.status,
        score=conn.health.score_at(now),
        latency_ms=sample.latency_ms,
        error_rate=sample.error_rate,
        idle_seconds=sample.idle_for,
        waiting=conn.waiting,
        breaker=BreakerState.CLOSED if conn.trouble is None else conn.trouble.breaker.state(now=now),
    )


def analytics_of(engine: Engine, kept: Mapping[str, int]) -> Analytics:
    """Collect everything that the parts of a manager count; `kept` is what waits for absent users."""
    residents = {one.name: one.figures() for one in engine.residents.all if one.name}
    congested, limiter, now = engine.heartbeat.congested, engine.parts.limiter, engine.now()
    return Analytics(
        messages=engine.analytics.get_stats(now=now),
        indexes=engine.registry.figures(),
        health=dict(Counter(conn.health.status for conn in engine.registry)),
        congested=len(congested),
        waiting=sum(conn.waiting for conn in congested),
        drops=dict(engine.drops),
        **kept,
        refused=engine.admission.figures(),
        closed=dict(engine.closed),
        limiter_keys=len(limiter) if isinstance(limiter, Sized) else 0,
        limiter_overflowed=getattr(limiter, "overflowed", 0),
        reported_patterns=dict(getattr(engine.parts.validator, "reports", {})),
        breakers=engine.gate.figures(),
        tasks=engine.supervisor.figures(),
        errands=engine.supervisor.errands,
        **engine.heartbeat.figures(),
        residents=residents,
    )
