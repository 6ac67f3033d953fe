"""Whether a delivery costs more when there are more subscribers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from .fakes import make_manager, open_sockets, scope_for, settle

MESSAGE = {
    "type": "chat.message",
    "data": {"room": "general", "text": "hello, everyone!", "n": 12345, "ok": True},
}


async def _cost_per_delivery(count: int, deliveries: int) -> float:
    manager = make_manager(count)
    scopes = [scope_for(number, count) for number in range(count)]
    sockets, tasks = open_sockets(manager.endpoint, scopes)
    await settle()
    best = float("inf")
    rounds = max(1, deliveries // count)
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(rounds):
            report = await manager.broadcast(MESSAGE)
        best = min(best, (time.perf_counter() - started) / (rounds * count))
        assert report.sent == count
    for socket in sockets:
        socket.disconnect()
    await asyncio.gather(*tasks)
    await manager.aclose()
    return best


async def measure_growth(scale: float) -> list[dict[str, Any]]:
    many = int(50_000 * scale)
    few = await _cost_per_delivery(500, 100_000)
    ratio = await _cost_per_delivery(many, 100_000) / few
    return [
        {
            "id": "P13",
            "measure": f"cost of a delivery, {many} subscribers / 500 ({few * 1e9:.0f} ns)",
            "value": ratio,
            "floor": 1.3,
            "target": 1.1,
            "met": ratio <= 1.3,
        }
    ]
