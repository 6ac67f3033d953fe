"""The one clock hand of a manager: visits every connection in turn, and nothing ticks but this.

A round visits each connection once, spread over several ticks. Pings, life signs and health checks
are decided at the visit; congested connections are looked at in every tick.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..config import WebSocketConfig
from ..decisions.registry import Registry
from ..errors import CloseCode, FailureKind
from ..logs import Journal
from ..messages import ConnectionStatus, HealthStatus
from ..protocols import Clock, Codec
from ..wire.outgoing import Prepared, prepare_own
from ..wire.words import PING
from .connection import Connection
from .seams import NEGOTIATED, WATCHED

__all__ = ["Heartbeat"]

_BUCKETS: Final = 5
_SHORTEST_STALL: Final = 0.25


class Heartbeat:
    """Runs while there are connections."""

    def __init__(
        self,
        config: WebSocketConfig,
        registry: Registry[Connection],
        clock: Clock,
        journal: Journal,
        *,
        sweep: Callable[[float], None],
    ) -> None:
        self._config = config
        self._registry = registry
        self._clock = clock
        self._journal = journal
        self._sweep = sweep
        interval = config.heartbeat_interval
        longest = min(config.heartbeat_timeout / 2, interval / 2, config.health_check_interval)
        # A whole number of rounds between two pings, so that a peer has all of the timeout to answer.
        self._round_length = interval / math.ceil(interval / longest)
        self._tick_length = self._round_length / _BUCKETS
        self._stall = max(self._tick_length, _SHORTEST_STALL)
        self._pings: dict[Codec, Prepared] = {}
        self._grace_until = -math.inf
        self._next_health = self._next_ping = 0.0
        self._next_sweep = clock() + config.queue_cleanup_interval
        self._task: asyncio.Task[Any] | None = None
        self.congested: set[Connection] = set()
        self.lag = 0.0
        """How late the last tick was: the event loop was busy that long."""
        self.stalls = 0
        """How often it was so late that silence proved nothing."""

    def figures(self) -> dict[str, Any]:
        """Return how late it came, and how often too late."""
        return {"loop_lag": self.lag, "loop_stalls": self.stalls}

    async def run(self) -> None:
        """Tick until nobody is connected, or the manager has moved on to another event loop."""
        self._task = task = asyncio.current_task()
        now = self._clock()
        self._next_ping = now + self._config.heartbeat_interval
        self._next_health = now + self._config.health_check_interval
        while self._is_needed(task):
            await self._round(task)

    def _is_needed(self, task: asyncio.Task[Any] | None) -> bool:
        return self._registry.arrived > 0 and self._task is task

    async def _round(self, task: asyncio.Task[Any] | None) -> None:
        started = self._clock()
        ping, check = started >= self._next_ping, started >= self._next_health
        if ping:
            self._next_ping = started + self._config.heartbeat_interval - self._tick_length
        if check:
            self._next_health = started + self._config.health_check_interval - self._tick_length
        for bucket in self._fill_buckets():
            await self._tick()
            if not self._is_needed(task):
                return
            self._press_congested()
            self._visit_all(bucket, ping=ping, check=check)
        now = self._clock()
        if now >= self._next_sweep:
            self._next_sweep = now + self._config.queue_cleanup_interval
            self._sweep(now)

    def _fill_buckets(self) -> list[list[Connection]]:
        """Every connection is in the same bucket in each round, so that its visits are evenly spaced."""
        buckets: list[list[Connection]] = [[] for _ in range(_BUCKETS)]
        for conn in self._registry:
            buckets[hash(conn.id) % _BUCKETS].append(conn)
        return buckets

    async def _tick(self) -> None:
        expected = self._clock() + self._tick_length
        await asyncio.sleep(self._tick_length)
        now = self._clock()
        self.lag = max(0.0, now - expected)
        if self.lag > self._stall:
            # The loop stood still, and so did the frames that wait to be read: silence proves nothing.
            self.stalls += 1
            self._grace_until = now + self._round_length
            self._journal.note(logging.WARNING, "loop.stalled", seconds=round(self.lag, 3))

    def _press_congested(self) -> None:
        now = self._clock()
        if now >= self._grace_until:
            self._for_each(tuple(self.congested), lambda conn: self._press(conn, now))

    def _visit_all(self, bucket: list[Connection], *, ping: bool, check: bool) -> None:
        now = self._clock()
        self._for_each(bucket, lambda conn: self._visit(conn, now, ping=ping, check=check))

    def _press(self, conn: Connection, now: float) -> None:
        verdict = None if conn.congestion is None else conn.congestion.check(now)
        if verdict == "slow":
            conn.close_soon(CloseCode.SLOW, "slow", flush=False)
        elif verdict == "overdue":
            conn.owner.failed(FailureKind.TRANSIENT)
            conn.give_trouble().breaker.record_failure(now=now)
            conn.health.record_error()
            conn.health.reassess(now=_moment(conn, now))
            conn.weigh()

    def _visit(self, conn: Connection, now: float, *, ping: bool, check: bool) -> None:
        if conn.status is not ConnectionStatus.OPEN:
            return
        if conn.guard is not None and conn.reader is None:
            conn.guard.read_on()  # or its end goes unseen
        if not conn.flags & WATCHED:  # else it answers ours, which says more of it
            _hear_of_pong(conn, now)
        if now >= self._grace_until and self._is_silent(conn, now):
            return
        if ping and conn.flags & NEGOTIATED:
            if conn.health.pinged_at is None:  # else an older one still waits for its answer
                conn.health.pinged_at = now
            conn.push(self._ping_for(conn.codec))
        if check:
            self._check_health(conn, now)

    def _is_silent(self, conn: Connection, now: float) -> bool:
        """Close a peer that has been silent too long; what counts as too long depends on what it promised."""
        idle = now - conn.health.last_active
        if conn.flags & WATCHED:
            if idle < self._config.heartbeat_interval + self._config.heartbeat_timeout:
                return False
            if conn.flags & NEGOTIATED and not self._left_ping_unanswered(conn, now):
                return False
            conn.close_soon(CloseCode.NO_HEARTBEAT, "no heartbeat", flush=False)
            return True
        if self._config.idle_timeout is None or idle < self._config.idle_timeout:
            return False
        conn.close_soon(CloseCode.CLOSED, "idle")
        return True

    def _left_ping_unanswered(self, conn: Connection, now: float) -> bool:
        """Silence alone proves nothing: a fresh peer, or any peer after a stall, may not have been asked."""
        pinged_at = conn.health.pinged_at
        return pinged_at is not None and now - pinged_at >= self._config.heartbeat_timeout

    def _check_health(self, conn: Connection, now: float) -> None:
        status = conn.health.get_status(now=_moment(conn, now))
        if status is HealthStatus.UNHEALTHY and conn.health.should_terminate():
            conn.close_soon(CloseCode.UNHEALTHY, "unhealthy")
        else:
            conn.weigh()

    def _for_each(self, connections: Iterable[Connection], act: Callable[[Connection], None]) -> None:
        """Where one raises, because of a replaced scorer, say, the others still get their heartbeat."""
        failure: Exception | None = None
        for conn in connections:
            try:
                act(conn)
            except Exception as error:
                failure = error
        if failure is not None:
            self._journal.note(logging.ERROR, "visit.failed", error=failure)

    def _ping_for(self, codec: Codec) -> Prepared:
        prepared = self._pings.get(codec)
        if prepared is None:
            prepared = self._pings[codec] = prepare_own(PING, codec)
        return prepared


def _moment(conn: Connection, now: float) -> float:
    """When to look at its health: a peer that was never asked for a sign of life is no worse for silence."""
    return now if conn.flags & WATCHED else conn.health.last_active


def _hear_of_pong(conn: Connection, now: float) -> None:
    """Take in what the server knows of the protocol's own pings, which every client answers."""
    direct = conn.direct
    if direct is None or direct.heard_at is None or direct.latency is None:
        return
    heard_at = now - (asyncio.get_running_loop().time() - direct.heard_at)
    conn.health.last_active = max(heard_at, conn.health.last_active)
    conn.health.record_latency(direct.latency * 1000.0)
