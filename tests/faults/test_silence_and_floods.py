"""Peers that say nothing any more, and peers that never stop."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any

import pytest

from tests.engine.conftest import ByQuery, MakeManager
from tests.faults.doors import EVERY_DOOR, Door
from tests.work import work
from wsmanager import Connection, InvalidMessage, SecurityValidator, WebSocketConfig
from wsmanager.decisions.patterns import INJECTION, XSS
from wsmanager.messages import InboundMessage
from wsmanager.testing import Peer, PeerClosed, connect

pytestmark = pytest.mark.anyio

JSON = "wsmanager.v1.json"
MIB = 2**20


def now() -> float:
    return asyncio.get_running_loop().time()


# --- f02: half-open peers


async def answer_pings(peer: Peer, until: float) -> None:
    """Read and answer what comes, and then not any more."""
    with contextlib.suppress(PeerClosed, TimeoutError):
        while now() < until:
            message = await peer.receive_json(until - now())
            if message["type"] == "ping":
                await peer.send_json({"type": "pong"})


@EVERY_DOOR
@pytest.mark.parametrize("silent_from", [0.1, 29.0, 31.0, 75.3])
async def test_f02_a_half_open_peer_is_closed_within_45_seconds_behind_every_door(
    make_manager: MakeManager, door: Door, silent_from: float
) -> None:
    manager, ends = make_manager(auth=ByQuery()), list[float]()

    @manager.on_disconnect
    async def gone(conn: Connection) -> None:
        ends.append(now())

    async with connect(door(manager), subprotocols=[JSON]) as peer:
        await answer_pings(peer, now() + silent_from)
        last_sign = now()
        await asyncio.sleep(60)
        assert peer.close_code == 4012
        assert manager.connections() == []
        assert ends[0] - last_sign <= 45


@EVERY_DOOR
async def test_f02_one_whose_server_takes_nothing_more_is_given_up_as_soon(
    make_manager: MakeManager, door: Door
) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(door(manager), subprotocols=[JSON], window=1_000) as peer:
        await asyncio.sleep(1)
        peer.stall()
        for _ in range(45):
            await manager.send_personal_message("alice", {"type": "news", "data": "x" * 500})
            await asyncio.sleep(1)
        assert manager.connections() == []


# --- f12: pings and pongs


@EVERY_DOOR
async def test_f12_no_ping_and_no_pong_costs_a_task_or_a_timer(make_manager: MakeManager, door: Door) -> None:
    manager = make_manager(WebSocketConfig(system_rate_limit_max=10_000), auth=ByQuery())
    loop: Any = asyncio.get_running_loop()
    async with connect(door(manager), subprotocols=[JSON]) as peer:
        await peer.send_json({"type": "ping"})
        await asyncio.sleep(0.1)
        before = len(asyncio.all_tasks()), len(loop._scheduled)
        for type in ("ping", "pong"):
            for _ in range(1_000):
                await peer.send_json({"type": type})
                assert (len(asyncio.all_tasks()), len(loop._scheduled)) <= before
        (conn,) = manager.connections()
        assert conn.waiting == 0
        assert not any('"error"' in str(frame) for frame in peer.frames)


@EVERY_DOOR
async def test_f12_a_flood_of_either_ends_with_4029(make_manager: MakeManager, door: Door) -> None:
    for type in ("ping", "pong"):
        manager = make_manager(auth=ByQuery())
        sent = 0
        async with connect(door(manager), subprotocols=[JSON]) as peer:
            with contextlib.suppress(PeerClosed):
                while sent < 1_000:
                    await peer.send_json({"type": type})
                    sent += 1
            assert peer.close_code == 4029
        assert 300 < sent < 330  # the limit, and the faults that are forgiven


@EVERY_DOOR
async def test_f12_a_flooder_that_reads_no_pong_holds_a_bounded_number_of_them(
    make_manager: MakeManager, door: Door
) -> None:
    config = WebSocketConfig(system_rate_limit_max=100_000, queue_max_messages=50)
    manager = make_manager(config, auth=ByQuery())
    async with connect(door(manager), subprotocols=[JSON], window=1_000) as peer:
        await asyncio.sleep(0.1)
        peer.stall()
        for _ in range(3_000):
            await peer.send_json({"type": "ping", "id": 1})
        (conn,) = manager.connections()
        assert conn.waiting <= 51  # one of them is in the server's hands
        peer.resume()
        await asyncio.sleep(0.1)


# --- f14: patterns

HEADS = ("", "= <a $ &; ", "' or 1=1 union ")
UNITS = [
    *("<", "<a ", "on", "onclick ", "onerror =", "java script", "javascrip", "data:text/", "&lt;", "&#x3c;"),
    *(
        "&amp;amp;",
        "&",
        "' or ",
        "union all ",
        "; drop ",
        "$ne",
        "\u200b<",
        "\uff1c",
        "\x01",
        "a b ",
        " ",
        "'",
    ),
]


@pytest.mark.parametrize("unit", UNITS)
def test_f14_what_doubles_takes_twice_the_work_and_never_four_times(unit: str) -> None:
    validator = SecurityValidator(block=(), report=XSS | INJECTION)
    for head in HEADS:
        # Over three doublings: 8 times the work where it is linear, 64 times where it is quadratic.
        short, long = (InboundMessage("t", head + unit * (size // len(unit))) for size in (1_000, 8_000))
        once = work(partial(validator.validate_message, short))
        assert once < work(partial(validator.validate_message, long)) < 10 * once


async def test_f14_the_length_is_looked_at_before_any_pattern(make_manager: MakeManager) -> None:
    looked_at: list[str] = []

    def look(text: str) -> bool:
        looked_at.append(text)
        return False

    def looking(max_size: int) -> SecurityValidator:
        return SecurityValidator(block={"look"}, report=(), patterns={"look": look}, max_size=max_size)

    manager = make_manager(WebSocketConfig(max_message_size=1_000), validator=looking(MIB))
    manager.on("echo")(_nothing)
    async with connect(manager.endpoint) as peer:
        for size in (2_000, MIB):
            await peer.send_json({"type": "echo", "data": "x" * size})
            assert (await peer.receive_json())["data"]["code"] == "too_large"
        assert looked_at == []
        await peer.send_json({"type": "echo", "data": "x"})
        assert "x" in looked_at
    looked_at.clear()
    with pytest.raises(InvalidMessage) as refusal:
        looking(1_000).validate_message('{"type": "echo", "data": "' + "x" * 2_000 + '"}')
    assert refusal.value.code == "too_large"
    assert looked_at == []


async def _nothing(conn: Connection) -> None: ...
