"""Whether a peer that reads nothing makes the others wait: on real servers, by their own clocks."""

from __future__ import annotations

import asyncio
import statistics
import time

from tests.servers.raw import RawClient, crowd
from tests.servers.servers import SERVERS, Process, Server

from .options import Options
from .rows import Row, judged

CLIENTS = 100
SETTINGS = {
    "max_connections_per_user": 1_000,
    "rate_limit_max": 1_000_000,
    "handshake_exempt": "127.0.0.0/8",
    # The stalled peer stays: what is measured is the time until it is closed.
    "send_timeout": 3_000,
    "slow_timeout": 3_000,
    "handler_timeout": "none",
}
TRANSPORTS = ("uvicorn", "uvicorn, wsmanager")
# 0.9 of the pace at least; p99 within a tenth.
BOUNDS = (("median", 1.11, 1.02), ("p99", 1.25, 1.1))


async def listen(client: RawClient, latencies: list[float]) -> None:
    while True:
        message = await client.hear()
        if message["type"] == "fan":
            latencies.append(time.monotonic() - message["data"][0])


async def latencies_of(process: Process, rounds: int, *, stalled: bool) -> list[float]:
    """How long each of `rounds` broadcasts took to each of the clients that read."""
    latencies: list[float] = []
    async with crowd(process.url(), CLIENTS) as (speaker, last, *others):
        readers = [speaker, *others, *([] if stalled else [last])]
        listening = [asyncio.create_task(listen(client, latencies)) for client in readers]
        if stalled:
            last.say("flood", [1_000, 10_000])
            await asyncio.sleep(0.5)
        for number in range(rounds):
            speaker.say("fan", [time.monotonic(), number, "x" * 60])
            await asyncio.sleep(0.03)
        async with asyncio.timeout(30):
            while len(latencies) < rounds * len(readers):  # noqa: ASYNC110 - a benchmark may poll
                await asyncio.sleep(0.05)
        for task in listening:
            task.cancel()
    await asyncio.to_thread(process.wait_until_empty)
    return latencies


async def _figures(server: Server, rounds: int) -> dict[bool, list[tuple[float, float]]]:
    """Medians and p99s without a stalled peer, and beside one."""
    process = Process(server, SETTINGS)
    figures: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    try:
        for _ in range(7):  # in turns, so that a slow moment of the machine meets both
            for stalled in (False, True):
                cuts = statistics.quantiles(await latencies_of(process, rounds, stalled=stalled), n=100)
                figures[stalled].append((cuts[49], cuts[98]))
    finally:
        process.kill()
    return figures


async def measure_stalled(options: Options) -> list[Row]:
    rows: list[Row] = []
    for transport in TRANSPORTS:
        figures = await _figures(SERVERS[transport], max(10, int(100 * options.scale)))
        for place, (name, floor, target) in enumerate(BOUNDS):
            without, beside = (
                statistics.median(one[place] for one in figures[which]) for which in (False, True)
            )
            measure = f"{transport}: {name} beside a stalled peer / without ({without * 1e3:.2f} ms)"
            rows.append(judged("P7", measure, beside / without, floor=floor, target=target))
    return rows
