"""Faults that show on a real server only: in its log, at its door, and when its loop stands still."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.faults.guarded import sign
from tests.faults.uvicorns import EITHER, figures, uvicorn
from tests.faults.wire import PING, PONG, dial, frame
from tests.frameworks.servers import serving
from wsmanager import ConnectionManager

JSON = Subprotocol("wsmanager.v1.json")
WRONG_SECRET = "another secret of 32 characters, yes"


# --- f20: tokens in what a server writes


@EITHER
def test_f20_nothing_that_the_server_writes_holds_a_token(ws: str) -> None:
    tokens = [sign("ann"), sign("bob", WRONG_SECRET), "sh0rt.w0rds.0nly"]
    with uvicorn(ws) as server:
        for token in tokens:
            for query in (
                f"room=1&token={token}",
                f"%74oken={token}",
                f"token={quote(token[:5])}{token[5:]}",
            ):
                present(f"ws://{server.address}/ws?{query}")
                with contextlib.suppress(HTTPError), urlopen(f"http://{server.address}/status/me?{query}"):
                    pass
            present(f"ws://{server.address}/ws", additional_headers={"authorization": f"Bearer {token}"})
            present(f"ws://{server.address}/ws", additional_headers={"cookie": f"access_token={token}"})
            present(
                f"ws://{server.address}/ws", subprotocols=[JSON, Subprotocol(f"wsmanager.bearer.{token}")]
            )
    written = "".join(server.log)
    for token in tokens:
        for part in token.split("."):
            assert part not in written
    assert "room=1&token=REDACTED" in written
    assert "%74oken=REDACTED" in written
    assert written.count("[accepted]") > len(tokens)
    assert written.count("GET /status/me?") == 3 * len(tokens)


def present(url: str, **options: Any) -> None:
    """Come with a token, good or bad, and send what makes the manager log something."""
    with contextlib.suppress(InvalidStatus, ConnectionClosed), connect(url, proxy=None, **options) as socket:
        socket.send("nonsense")
        socket.recv(timeout=10)


# --- f28: limits


def refusal(url: str, **options: Any) -> tuple[int, str]:
    """Status and code with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as caught, connect(url, proxy=None, **options):
        pass
    response = caught.value.response
    return response.status_code, json.loads(response.body)["error"]["code"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its loopback interface has one address")
@EITHER
def test_f28_the_101st_connection_of_an_address_is_refused_before_its_token_is_read(ws: str) -> None:
    limits = {"MAX_CONNECTIONS_PER_IP": 100, "HANDSHAKE_BURST": 1_000, "MAX_CONNECTIONS_PER_TENANT": 101}
    with uvicorn(ws, **limits) as server, contextlib.ExitStack() as stack:
        url = f"ws://{server.address}/ws?token="
        for number in range(100):
            stack.enter_context(connect(url + sign(f"user {number}"), proxy=None))
        assert refusal(url + "rubbish") == (429, "address_limit")
        assert refusal(url + sign()) == (429, "address_limit")
        elsewhere: dict[str, Any] = {"source_address": ("127.0.0.2", 0)}
        assert refusal(url + "rubbish", **elsewhere) == (401, "token_malformed")
        stack.enter_context(connect(url + sign(), proxy=None, **elsewhere))
        assert refusal(url + sign("bob"), **elsewhere) == (429, "tenant_limit")
        assert figures(server)["refused"] == {"address_limit": 2, "token_malformed": 1, "tenant_limit": 1}


@EITHER
def test_f28_the_101st_handshake_at_once_is_refused_before_its_token_is_read(ws: str) -> None:
    with uvicorn(ws, HANDSHAKE_RATE=1, MAX_CONNECTIONS_PER_USER=2) as server:
        url = f"ws://{server.address}/ws?token="
        with connect(url + sign(), proxy=None), connect(url + sign(), proxy=None):
            assert refusal(url + sign()) == (429, "user_limit")
        for _ in range(97):
            assert refusal(url + "rubbish") == (401, "token_malformed")
        assert refusal(url + "rubbish") == (429, "too_many_handshakes")


# --- f45: a handler that blocks the loop


@EITHER
def test_f45_a_handler_that_blocks_the_loop_disconnects_nobody_and_is_counted(ws: str) -> None:
    # Blocked for longer than the silence after which a peer is given up: as a minute is for the defaults.
    rhythm = {"HEARTBEAT_INTERVAL": 1.0, "HEARTBEAT_TIMEOUT": 0.9}
    with uvicorn(ws, **rhythm) as server:
        alive = asyncio.run(outlive(f"ws://{server.address}/turns/?token={sign()}", blocked=2.0))
        after = figures(server)
    assert alive == 20
    assert after["loop_stalls"] == 1
    assert set(after["closed"]) == {"1000"}
    assert "loop.stalled" in "".join(server.log)


async def outlive(url: str, blocked: float) -> int:
    """How many of twenty clients that answer every ping still do so when the loop has stood still."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect_async(url, subprotocols=[JSON], proxy=None))
            for _ in range(20)
        ]
        asked = asyncio.Event()
        tasks = [asyncio.create_task(answer_pings(client, asked)) for client in clients]
        await asked.wait()
        await asyncio.sleep(0.3)  # all have been asked by now, and nobody answers yet
        await clients[0].send(json.dumps({"type": "block", "data": blocked}))
        await asyncio.sleep(blocked + 0.8)
        alive = sum(not task.done() for task in tasks)
        for task in tasks:
            task.cancel()
    return alive


async def answer_pings(client: ClientConnection, asked: asyncio.Event) -> None:
    """The first pong is sent while nobody reads it."""
    pause = 0.6
    with contextlib.suppress(ConnectionClosed):
        while True:
            if json.loads(await client.recv())["type"] == "ping":
                asked.set()
                await asyncio.sleep(pause)
                pause = 0.0
                await client.send('{"type": "pong"}')


# --- f12: pings that only the server sees


@EITHER
def test_f12_pings_and_pongs_of_the_protocol_cost_no_task_and_no_timer(ws: Any) -> None:
    manager, count = ConnectionManager(), 5_000
    with (
        serving(manager.endpoint, ws=ws, lifespan="off", loop="asyncio") as server,
        dial(server.address, "/") as client,
    ):
        client.send(frame(PING, b"?"))
        assert client.receive(3) == b"\x8a\x01?"
        before = server.do(tasks_and_timers())
        for flood in (frame(PING, b"?") * count, frame(PONG, b"?") * count + frame(PING, b"?")):
            client.send(flood)
            for _ in range(flood.count(b"\x89")):
                assert client.receive(3) == b"\x8a\x01?"
            tasks, timers = server.do(tasks_and_timers())
            assert (tasks, timers) <= (before[0], before[1] + 2)
        server.do(manager.aclose())


async def tasks_and_timers() -> tuple[int, int]:
    loop: Any = asyncio.get_running_loop()
    return len(asyncio.all_tasks()), len(loop._scheduled)
