"""Peers that stall, die, lie and keep silent: each is bounded, gone by its deadline, and leaves no trace."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest

from .raw import RawClient, crowd
from .servers import MATRIX, SERVERS, Process, Server

Serve = Callable[..., Process]

QUICK = {
    "heartbeat_interval": 0.5,
    "heartbeat_timeout": 0.5,
    "send_timeout": 0.3,
    "slow_timeout": 0.8,
    "close_timeout": 0.5,
    "auth_timeout": 0.5,
    "queue_max_bytes": 200_000,
    "rate_limit_max": 1_000_000,
}
MIB = 1_048_576
JSON = "Sec-WebSocket-Protocol: wsmanager.v1.json\r\n"
NO_ABORT = {"granian": "closed 4008, but the socket stays: nothing in ASGI aborts it, put a proxy in front"}


@pytest.fixture
def quick(server: Server, serve: Serve) -> Process:
    """A process that loses its patience soon."""
    return serve(server, **QUICK)


async def broadcast(process: Process, number: int, size: int) -> None:
    for _ in range(number):
        await asyncio.to_thread(process.ask, "/broadcast", {"type": "x", "data": "x" * size})


def closed_with(process: Process, code: int) -> Any:
    return process.wait_for(f"close {code}", lambda seen: str(code) in seen["figures"]["closed"])


@MATRIX.row("a reset in mid-send: found, gone, and nobody else notices")
def test_f01_a_reset_in_the_middle_of_a_send(quick: Process) -> None:
    async def main() -> None:
        async with crowd(quick.url(), 2) as (victim, other):
            victim.say("flood", [10_000, 10_000])
            await victim.hear()
            victim.reset()
            assert await other.ask("echo", "alive") == "alive"
            await asyncio.to_thread(
                quick.wait_for, "one left", lambda seen: seen["figures"]["indexes"]["connections"] == 1
            )
            assert await other.ask("echo", "still") == "still"

    asyncio.run(main())
    figures = quick.wait_until_empty()
    assert "Traceback" not in quick.output()
    assert sum(figures["figures"]["closed"].values()) == 2


@MATRIX.row("a silent peer that negotiated a heartbeat: 4012")
def test_f02_a_silent_peer_is_closed(quick: Process) -> None:
    async def main() -> None:
        async with crowd(quick.url(), headers=JSON):
            await asyncio.to_thread(closed_with, quick, 4012)

    asyncio.run(main())
    quick.wait_until_empty()


@MATRIX.row("a peer that stops reading: bounded, 4008")
def test_f03_a_peer_that_stops_reading_is_bounded_and_closed(quick: Process) -> None:
    async def main() -> None:
        async with crowd(quick.url(), 2) as (stalled, reader):
            del stalled
            before, most = quick.figures()["rss"], 0
            reading = asyncio.create_task(read_all(reader))
            for _ in range(20):
                await broadcast(quick, 20, 50_000)
                seen = quick.figures()
                most = max(most, seen["figures"]["waiting"])
                if "4008" in seen["figures"]["closed"]:
                    break
            await asyncio.to_thread(closed_with, quick, 4008)
            seen = quick.figures()
            assert most <= 10  # of two at most: 200,000 bytes each, and what is in hand
            assert seen["figures"]["drops"]
            assert seen["rss"] - before < 30 * MIB
            assert seen["figures"]["indexes"]["connections"] == 1
            reading.cancel()

    asyncio.run(main())
    quick.wait_until_empty()


async def read_all(client: RawClient) -> None:
    while True:
        await client.hear()


async def reads_a_byte_a_second(client: RawClient) -> None:
    while await client.reader.read(1):  # noqa: ASYNC110 - that is what it does
        await asyncio.sleep(1)


@MATRIX.row("a peer that reads a byte a second: the same")
def test_f03_a_peer_that_reads_a_byte_a_second_is_closed(quick: Process) -> None:
    async def main() -> None:
        async with crowd(quick.url(), 1) as (slow,):
            reading = asyncio.create_task(reads_a_byte_a_second(slow))
            for _ in range(20):
                await broadcast(quick, 20, 50_000)
                if "4008" in quick.figures()["figures"]["closed"]:
                    break
            await asyncio.to_thread(closed_with, quick, 4008)
            reading.cancel()

    asyncio.run(main())
    quick.wait_until_empty()


@MATRIX.row("and its socket is cut off, though ASGI cannot", no=NO_ABORT)
def test_f03_the_socket_of_a_stalled_peer_is_cut_off(quick: Process) -> None:
    async def main() -> None:
        async with crowd(quick.url()) as (stalled,):
            stalled.say("flood", [1_000, 50_000])
            await asyncio.to_thread(closed_with, quick, 4008)
            await asyncio.to_thread(quick.wait_until_empty)
            await asyncio.to_thread(quick.wait_until_alone)

    asyncio.run(main())


@MATRIX.row(
    "one that says goodbye and reads nothing: its socket, too",
    no={"granian": "the socket stays, as with one that says nothing"},
)
def test_who_says_goodbye_and_reads_nothing_is_cut_off(quick: Process) -> None:
    async def main() -> None:
        async with crowd(quick.url()) as (stalled,):
            stalled.say("flood", [200, 100_000])
            await asyncio.sleep(0.3)  # until its buffers are full, of which nobody tells it
            stalled.write_frame(8, struct.pack("!H", 1000))
            await asyncio.to_thread(quick.wait_until_empty)
            await asyncio.to_thread(quick.wait_until_alone)

    asyncio.run(main())


@MATRIX.row("one that never authenticates: 4502 in time, and no state", no={})
def test_f21_who_never_authenticates_is_closed(quick: Process) -> None:
    async def main() -> None:
        async with crowd(f"ws://{quick.address}/ws") as (silent,), asyncio.timeout(5):
            assert quick.figures()["figures"]["indexes"]["users"] == 0
            told = await silent.hear()
            assert told["data"]["code"] == 4502
            assert await silent.hear() == 4502

    asyncio.run(main())
    assert quick.wait_until_empty()["figures"]["refused"] == {"never_authenticated": 1}


@MATRIX.row("a flood of protocol pings: answered, no task or timer each, others unharmed")
def test_f12_a_flood_of_protocol_pings(quick: Process) -> None:
    async def main() -> None:
        async with crowd(quick.url(), 2) as (flooder, other):
            tasks = quick.figures()["tasks"]
            for _ in range(20):
                for _ in range(500):
                    flooder.write_frame(9, b"flood")
                await drain_pongs(flooder, 500)
                assert await other.ask("echo", 1) == 1
            assert quick.figures()["tasks"] <= tasks + 2
            assert await flooder.ask("echo", "still welcome") == "still welcome"

    asyncio.run(main())
    quick.wait_until_empty()


async def drain_pongs(client: RawClient, number: int) -> None:
    async with asyncio.timeout(20):
        heard = 0
        while heard < number:
            opcode, _ = await client.read_frame()
            heard += opcode == 10


@MATRIX.row("a flood of application pings: limited, closed 4029")
def test_f12_a_flood_of_application_pings(quick: Process) -> None:
    async def main() -> None:
        async with crowd(quick.url(), 1) as (flooder,):
            for _ in range(1_000):
                flooder.say("ping", {})
            # Whether the flooder hears of it is its own affair: with frames unread, TCP resets.
            await asyncio.to_thread(closed_with, quick, 4029)

    asyncio.run(main())
    quick.wait_until_empty()


@MATRIX.row("a loop that stands still disconnects nobody")
def test_f45_a_loop_that_stands_still_disconnects_nobody(quick: Process) -> None:
    async def main() -> None:
        async with crowd(quick.url(), 5) as clients:
            for client in clients:
                client.say("ping", {})  # who has exchanged one is watched
                await client.hear()
            clients[0].say("stall", 2)
            await asyncio.sleep(0.1)
            echoes = await asyncio.gather(*(client.ask("echo", 1) for client in clients))
            assert echoes == [1] * 5
            await asyncio.sleep(0.5)
            seen = quick.figures()
            assert seen["figures"]["closed"] == {}
            assert seen["figures"]["loop_stalls"] >= 1

    asyncio.run(main())
    quick.wait_until_empty()


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_the_transport_below_is_where_it_is_looked_for(process: Process) -> None:
    async def main() -> None:
        async with crowd(process.url(), 1) as (peer,):
            assert await peer.ask("echo", "alive") == "alive"

    asyncio.run(main())
    assert "wire.moved" not in process.output()
