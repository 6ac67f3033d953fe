"""What each part costs, in units of one decoded envelope."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from typing import Any

import msgspec

from wsmanager import (
    AdaptiveRateLimiter,
    ConnectionHealthMonitor,
    InboundMessage,
    MessageAnalytics,
    MessagePriority,
    MessagePriorityQueue,
    SecurityValidator,
)
from wsmanager.connections.ending import end
from wsmanager.testing import FakeSocket

from .fakes import FRAME, make_manager, scope_for
from .options import Options
from .rows import Row, judged


def _best(call: Callable[[], Any], number: int = 20_000) -> float:
    return min(timeit.repeat(call, number=number, repeat=9)) / number


async def _registration() -> float:
    """From the server's connect event to a reachable connection and back, JWT left out."""
    manager = make_manager(10)
    manager = type(manager)(manager.config)
    engine = manager.engine
    scope = scope_for(0, 1)
    best = float("inf")
    for _ in range(30):
        started = time.perf_counter()
        for _ in range(200):
            socket = FakeSocket(scope)
            conn = await engine.admission.enter(scope, socket.receive, socket.send, user_id="user-0")
            end(conn)
        best = min(best, (time.perf_counter() - started) / 200)
    await manager.aclose()
    return best


async def measure_components(options: Options) -> list[Row]:
    del options
    unit = _best(lambda: msgspec.json.decode(FRAME))
    message = msgspec.json.decode(FRAME, type=InboundMessage)
    limiter = AdaptiveRateLimiter(limit=1_000_000_000)
    validator = SecurityValidator()
    health = ConnectionHealthMonitor()
    analytics = MessageAnalytics()
    queue: MessagePriorityQueue[str] = MessagePriorityQueue()
    now = time.monotonic()

    def through_the_queue() -> None:
        queue.enqueue(FRAME, MessagePriority.MEDIUM, size=103, now=now)
        queue.dequeue(now=now)

    costs = {
        "register": (await _registration(), 60),
        "limiter check": (_best(lambda: limiter.check_rate_limit("user", now=now)), 4),
        "validate": (_best(lambda: validator.validate_message(message, raw=FRAME)), 6),
        "health sample": (_best(lambda: health.record_message(now=now)), 2),
        "enqueue + dequeue": (_best(through_the_queue), 8),
        "analytics": (_best(lambda: analytics.record_message("chat.message", size=103, now=now)), 2),
    }
    return [
        judged("P12", f"{name}, in decodes", cost / unit, floor=floor, target=floor / 2)
        for name, (cost, floor) in costs.items()
    ]
