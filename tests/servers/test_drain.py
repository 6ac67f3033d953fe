"""How a process ends that has clients: by a signal, and by ``await manager.drain()``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from .raw import RawClient, crowd
from .servers import MATRIX, SERVERS, Process, Server

Serve = Callable[..., Process]

CROWD = 1_000
ROOMY = {
    "max_connections_per_user": 2_000,
    "max_connections_per_ip": 2_000,
    "handshake_exempt": "127.0.0.0/8",
}
RESTARTS = {1012, 4001}


async def farewell(client: RawClient) -> tuple[Any, Any]:
    """The last message, and the code of the close, which the client answers."""
    message = None
    async with asyncio.timeout(20):
        while isinstance(heard := await client.hear(), dict):
            message = heard
    client.close(heard)
    return message, heard


async def sent_away(process: Process, number: int) -> list[tuple[Any, Any]]:
    """What so many clients are told at a SIGTERM."""
    async with crowd(process.url(), number) as clients:
        await asyncio.gather(*(client.ask("echo", 1) for client in clients))  # else it may not be open yet
        process.terminate()
        return await asyncio.gather(*map(farewell, clients))


@MATRIX.row("SIGTERM: 1,000 clients are told when to come back, are closed, and the process ends")
def test_f43_a_signal_sends_everybody_away_in_good_order(server: Server, serve: Serve) -> None:
    process = serve(server, **ROOMY)
    told = asyncio.run(sent_away(process, CROWD))
    assert {(message["data"]["code"], message["data"]["reconnect"]) for message, _ in told} == {(4001, True)}
    assert {code for _, code in told} <= RESTARTS
    moments = sorted(message["data"]["after_ms"] for message, _ in told)
    assert moments[-1] - moments[0] > 1_900  # at 500 a second
    assert max(later - earlier for earlier, later in pairwise(moments)) < 20
    process.wait(30)
    assert "Traceback" not in process.output()


@MATRIX.row("the code of that close is 1012", no={"daphne": "4001: it sends none but 1000 and 3000 to 4999"})
def test_the_code_of_a_restart(server: Server, serve: Serve) -> None:
    ((_, code),) = asyncio.run(sent_away(serve(server), 1))
    assert code == 1012


@MATRIX.row("SIGTERM: sockets that the manager does not write to are closed one after the other")
def test_a_signal_closes_foreign_sockets_one_after_the_other(server: Server, serve: Serve) -> None:
    process = serve(server, reconnect_rate=50, **ROOMY)

    async def main() -> list[float]:
        loop, moments = asyncio.get_running_loop(), list[float]()

        async def hear_out(client: RawClient) -> None:
            message, code = await farewell(client)
            assert message is None
            assert code in RESTARTS
            moments.append(loop.time())

        async with crowd(process.url("/opaque"), 50) as clients:
            moments.append(loop.time())
            process.terminate()
            await asyncio.gather(*map(hear_out, clients))
        return moments

    moments = asyncio.run(main())
    assert moments[-1] - moments[0] > 0.5  # at 50 a second; a busy machine only makes it more
    process.wait(30)


@MATRIX.row("SIGTERM: it ends in time with a stalled peer, a full queue and a stubborn handler")
def test_f43_nobody_keeps_the_process_from_its_end(server: Server, serve: Serve) -> None:
    process = serve(server, drain_timeout=2, close_timeout=0.5, queue_max_messages=50)

    async def main() -> None:
        async with crowd(process.url(), 4) as (stalled, full, stubborn, idle):
            stalled.say("flood", [2_000, 8_000])
            full.say("flood", [10, 100])
            stubborn.say("stubborn")
            heard = asyncio.create_task(farewell(idle))
            for _ in range(60):
                await asyncio.to_thread(process.ask, "/broadcast", {"type": "x", "data": "x" * 50_000})
            process.terminate()
            assert (await heard)[0]["data"]["code"] == 4001
            await asyncio.to_thread(process.wait, 30)  # much less than each of the three would take

    asyncio.run(main())


@MATRIX.row("`await manager.drain()`: the same, and nobody comes in after")
def test_a_drain_sends_everybody_away_in_good_order(server: Server, serve: Serve) -> None:
    process = serve(server, **ROOMY)

    async def main() -> list[tuple[Any, Any]]:
        async with crowd(process.url(), 100) as clients:
            told = asyncio.gather(*map(farewell, clients))
            figures = await asyncio.to_thread(process.ask, "/drain", {}, timeout=30)
            assert not any(figures["indexes"].values())
            assert figures["closed"] == {"1012": 100}
            with pytest.raises(ConnectionRefusedError, match=r"HTTP/1.1 (503|403)"):
                await RawClient.dial(process.url())
            return await told

    told = asyncio.run(main())
    assert {message["data"]["code"] for message, _ in told} == {4001}
    process.terminate()
    process.wait(30)
    assert "Traceback" not in process.output()


@pytest.mark.parametrize("implementation", ["uvicorn", "uvicorn, wsproto"])
def test_f43_each_of_several_workers_sends_its_clients_away(implementation: str, serve: Serve) -> None:
    process = serve(SERVERS[implementation], "--workers 2", **ROOMY)
    told = asyncio.run(sent_away(process, 200))
    assert {(message["data"]["code"], code) for message, code in told} == {(4001, 1012)}
    process.wait(30)
    assert "Traceback" not in process.output()


def test_f43_an_operator_who_signals_twice_need_not_wait(serve: Serve) -> None:
    process = serve(SERVERS["uvicorn"], drain_timeout=60, close_timeout=50)

    async def main() -> None:
        async with crowd(process.url(), 1) as (client,):
            client.say("stubborn")
            await client.ask("ping")
            process.terminate()
            assert (await client.hear())["data"]["code"] == 4001
            process.terminate()
            await asyncio.to_thread(process.wait_for_output, "Shutting down")

    asyncio.run(main())


def test_a_server_that_is_started_by_hand_waits_for_the_drain(serve: Serve) -> None:
    process = serve(Server("tests.servers.by_hand", "{port}"), drain_on_sigterm=False)
    ((message, code),) = asyncio.run(sent_away(process, 1))
    assert (message["data"]["code"], code) == (4001, 1012)
    process.wait(30)


def test_a_manager_that_shall_leave_signals_alone_does(serve: Serve) -> None:
    process = serve(SERVERS["uvicorn"], drain_on_sigterm=False)
    ((message, code),) = asyncio.run(sent_away(process, 1))
    assert (message, code) == (None, 1012)  # by the server, without a word
    assert "drain.begun" not in process.output()
