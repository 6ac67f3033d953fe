"""Whether a delivery costs more when there are more subscribers."""

from __future__ import annotations

import asyncio
import time

from .fakes import make_manager, open_sockets, scope_for, settle
from .options import Options
from .rows import Row, judged

MESSAGE = {
    "type": "chat.message",
    "data": {"room": "general", "text": "hello, everyone!", "n": 12345, "ok": True},
}


class Room:
    """A manager with so many subscribers, and the cheapest delivery seen."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.best = float("inf")
        self._manager = make_manager(count)
        scopes = [scope_for(number, count) for number in range(count)]
        self._sockets, self._tasks = open_sockets(self._manager.endpoint, scopes)

    async def broadcast(self, deliveries: int) -> None:
        rounds = deliveries // self.count
        sent = 0
        started = time.perf_counter()
        for _ in range(rounds):
            sent += (await self._manager.broadcast(MESSAGE)).sent
        self.best = min(self.best, (time.perf_counter() - started) / (rounds * self.count))
        assert sent == rounds * self.count

    async def close(self) -> None:
        for socket in self._sockets:
            socket.disconnect()
        await asyncio.gather(*self._tasks)
        await self._manager.aclose()


async def measure_growth(options: Options) -> list[Row]:
    few, many = Room(500), Room(int(50_000 * options.scale))
    await settle()
    for _ in range(15):  # in turns, so that a slow moment of the machine meets both
        await few.broadcast(many.count)
        await many.broadcast(many.count)
    await few.close()
    await many.close()
    ratio = many.best / few.best
    measure = f"cost of a delivery, {many.count} subscribers / 500 ({few.best * 1e9:.0f} ns)"
    return [judged("P13", measure, ratio, floor=1.3, target=1.1)]
