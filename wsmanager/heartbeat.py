"""The one clock hand of a manager: visits every connection in turn, and nothing ticks but this.

A round visits each connection once, spread over several ticks. Pings, life signs and health checks
are decided at the visit; congested connections are looked at in every tick.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from .config import WebSocketConfig
from .connection import Connection
from .errors import CloseCode
from .logs import log_event
from .messages import ConnectionStatus, HealthStatus, SystemType
from .outbound import Outgoing, Prepared
from .protocols import Clock, Codec
from .registry import Registry

__all__ = ["Heartbeat"]

_TICKS_PER_ROUND = 5


class Heartbeat:
    """Runs while there are connections."""

    def __init__(
        self,
        config: WebSocketConfig,
        registry: Registry[Connection],
        clock: Clock,
        *,
        sweep: Callable[[float], None],
    ) -> None:
        self._config = config
        self._registry = registry
        self._clock = clock
        self._sweep = sweep
        self._round_length = min(
            config.heartbeat_timeout / 2, config.heartbeat_interval / 2, config.health_check_interval
        )
        self._tick_length = self._round_length / _TICKS_PER_ROUND
        self._pings: dict[Codec, Prepared] = {}
        self._grace_until = 0.0
        self._next_health = self._next_ping = self._next_sweep = 0.0
        self.congested: set[Connection] = set()
        self.lag = 0.0
        """How late the last tick was: the event loop was busy that long."""

    async def run(self) -> None:
        """Tick until nobody is connected."""
        now = self._clock()
        self._next_ping = now + self._config.heartbeat_interval
        self._next_health = now + self._config.health_check_interval
        self._next_sweep = now + self._config.queue_cleanup_interval
        while self._registry.arrived:
            await self._round()

    async def _round(self) -> None:
        started = self._clock()
        ping, check = started >= self._next_ping, started >= self._next_health
        if ping:
            self._next_ping = started + self._config.heartbeat_interval - self._tick_length
        if check:
            self._next_health = started + self._config.health_check_interval - self._tick_length
        for chunk in self._chunks():
            await self._tick()
            now = self._clock()
            for conn in chunk:
                self._visit(conn, now, ping=ping, check=check)
        if started >= self._next_sweep:
            self._next_sweep = started + self._config.queue_cleanup_interval
            self._sweep(self._clock())

    def _chunks(self) -> Iterator[tuple[Connection, ...]]:
        everyone = tuple(self._registry)
        length = -(-len(everyone) // _TICKS_PER_ROUND)
        for start in range(_TICKS_PER_ROUND):
            yield everyone[start * length : (start + 1) * length]

    async def _tick(self) -> None:
        expected = self._clock() + self._tick_length
        await asyncio.sleep(self._tick_length)
        now = self._clock()
        self.lag = max(0.0, now - expected)
        if self.lag > self._round_length:
            # The loop stood still, and so did the frames that wait to be read: silence proves nothing.
            self._grace_until = now + self._round_length
            log_event(logging.WARNING, "loop.stalled", seconds=round(self.lag, 3))
        for conn in tuple(self.congested):
            self._press(conn, now)

    def _press(self, conn: Connection, now: float) -> None:
        verdict = conn.check_congestion(now)
        if verdict == "slow":
            conn.close_soon(CloseCode.SLOW, "slow", flush=False)
        elif verdict == "overdue":
            conn.health.record_error()

    def _visit(self, conn: Connection, now: float, *, ping: bool, check: bool) -> None:
        if conn.status is not ConnectionStatus.OPEN:
            return
        conn.ensure_reader()
        if now >= self._grace_until and self._is_silent(conn, now):
            return
        if check:
            self._check_health(conn, now)
        if ping and conn.negotiated:
            conn.pinged_at = now
            conn.push(self._ping_for(conn.codec))

    def _is_silent(self, conn: Connection, now: float) -> bool:
        """Close a peer that has been silent too long; what counts as too long depends on what it promised."""
        idle = now - conn.health.last_active
        if conn.watched:
            if idle < self._config.heartbeat_interval + self._config.heartbeat_timeout:
                return False
            conn.close_soon(CloseCode.NO_HEARTBEAT, "no heartbeat", flush=False)
            return True
        if self._config.idle_timeout is None or idle < self._config.idle_timeout:
            return False
        conn.close_soon(CloseCode.CLOSED, "idle")
        return True

    def _check_health(self, conn: Connection, now: float) -> None:
        # A peer that was never asked for a sign of life is not worse for its silence.
        status = conn.health.get_status(now=now if conn.watched else conn.health.last_active)
        if status is HealthStatus.UNHEALTHY and conn.health.should_terminate():
            conn.close_soon(CloseCode.UNHEALTHY, "unhealthy")
        else:
            conn.weigh()

    def _ping_for(self, codec: Codec) -> Prepared:
        prepared = self._pings.get(codec)
        if prepared is None:
            prepared = self._pings[codec] = Outgoing({"type": SystemType.PING, "data": {}}).for_codec(codec)
        return prepared
