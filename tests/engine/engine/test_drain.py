"""A drain: everyone is sent away in good order, and by its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import anyio
import pytest

from tests.engine.conftest import MakeManager, assert_empty, errors_logged
from wsmanager import Connection, ConnectionManager, WebSocketConfig, WebSocketMiddleware
from wsmanager.testing import DAPHNE, FakeSocket, Peer, VirtualTimeLoop, asgi, connect

pytestmark = pytest.mark.anyio

LARGE = {"type": "x", "data": "x" * 2_000}


def now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def crowd(app: Any, number: int, **options: Any) -> AsyncGenerator[list[Peer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect(app, **options)) for _ in range(number)]


async def test_every_client_is_told_a_moment_of_its_own_to_come_back(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(reconnect_rate=100, max_connections_per_ip=1_000))
    async with crowd(manager.endpoint, 300, client=None) as peers:
        await manager.drain()
        told = [await peer.receive_json() for peer in peers]
        assert {await peer.wait_closed(1) for peer in peers} == {(1012, "shutdown")}
    assert {(one["type"], one["data"]["code"], one["data"]["reconnect"]) for one in told} == {
        ("disconnect", 4001, True)
    }
    moments = sorted(one["data"]["after_ms"] for one in told)
    assert 0 <= moments[0] <= moments[-1] <= 3_000
    assert max(later - earlier for earlier, later in pairwise(moments)) <= 20
    assert [one["data"]["after_ms"] for one in told] != moments


@pytest.mark.parametrize("mode", ["opaque", "envelope"])
async def test_where_a_server_sends_no_1012_it_is_4001(make_manager: MakeManager, mode: Any) -> None:
    manager = make_manager()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async with connect(WebSocketMiddleware(app, manager, mode), server=DAPHNE) as peer:
        await manager.drain()
        assert await peer.wait_closed(1) == (4001, "")


async def test_who_cannot_be_told_is_closed_at_a_moment_of_its_own(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(reconnect_rate=10))
    closed: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive()) == {"type": "websocket.disconnect", "code": 1012, "reason": "shutdown"}
        closed.append(now() - started)

    async with crowd(WebSocketMiddleware(app, manager), 50):
        started = now()
        await manager.drain()
    assert max(later - earlier for earlier, later in pairwise(sorted(closed))) < 0.21
    assert 4.5 < max(closed) < 5.1


async def test_the_moments_of_silent_clients_never_take_more_than_half_of_the_time(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(WebSocketConfig(reconnect_rate=1, drain_timeout=8, close_timeout=1))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    async with crowd(WebSocketMiddleware(app, manager), 50):
        started = now()
        await manager.drain()
        assert now() - started <= 3.5


async def test_nobody_comes_in_and_the_manager_is_not_ready_from_then_on(make_manager: MakeManager) -> None:
    manager = make_manager()
    await manager.drain()
    async with connect(manager.endpoint, subprotocols=["wsmanager.v1.json"]) as peer:
        told = await peer.receive_json()
        assert await peer.wait_closed(1) == (4001, "shutting_down")
    assert 1_000 <= told["data"]["after_ms"] < 2_000
    assert manager.get_analytics().refused == {"shutting_down": 1}


async def test_what_waits_goes_out_first(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint, window=1_000, stalled=True) as peer:
        (conn,) = manager.connections()
        for number in range(5):
            await conn.send({"type": "n", "data": [number, "x" * 1_000]})
        draining = asyncio.create_task(manager.drain())
        await asyncio.sleep(1)
        assert not draining.done()
        peer.resume()
        await draining
        types = [(await peer.receive_json())["type"] for _ in range(6)]
        assert types == ["n"] * 5 + ["disconnect"]


async def test_a_handler_that_is_at_work_may_finish(make_manager: MakeManager) -> None:
    manager, diary = make_manager(), list[str]()

    @manager.on("work")
    async def work(conn: Connection) -> None:
        await asyncio.sleep(12)
        diary.append("done")

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "work"})
        await asyncio.sleep(0)
        started = now()
        await manager.drain()
        assert now() - started == pytest.approx(12)
    assert diary == ["done"]


async def stubborn(_: Any) -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)


async def hopeless(_: Any) -> None:
    while True:
        try:
            await asyncio.sleep(3_600)
        except BaseException:
            await asyncio.sleep(0)


async def minding(_: Any) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("handler", [minding, stubborn, hopeless])
async def test_f43_a_handler_holds_a_drain_up_no_longer_than_its_deadline(
    make_manager: MakeManager, handler: Any, concurrent: bool, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(WebSocketConfig(drain_timeout=8, handler_timeout=None))
    manager.on("work", concurrent=concurrent)(handler)
    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "work"})
        await asyncio.sleep(0)
        started = now()
        await manager.drain()
        assert now() - started == pytest.approx(6 if handler is minding else 8)
        await asyncio.sleep(0.1)
        assert_empty(manager)
    stuck = ["handler.stuck"] * (handler is hopeless)
    assert [event for event in errors_logged(caplog) if event == "handler.stuck"] == stuck


@pytest.mark.parametrize("handler", [minding, stubborn, hopeless])
async def test_a_handler_that_ignores_its_timeout_is_ended_and_the_connection_lives(
    make_manager: MakeManager, handler: Any
) -> None:
    manager = make_manager(WebSocketConfig(handler_timeout=10, close_timeout=5))
    manager.on("work")(handler)
    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "work", "id": 1})
        started = now()
        answer = await peer.receive_json(timeout=60)
        assert (answer["re"], answer["data"]["code"]) == (1, "handler_timeout")
        assert now() - started == pytest.approx(10 if handler is minding else 15)
        await peer.send_json({"type": "ping"})
        assert (await peer.receive_json())["type"] == "pong"
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()


async def test_what_a_stubborn_handler_holds_is_released(make_manager: MakeManager) -> None:
    manager, diary = make_manager(WebSocketConfig(handler_timeout=1, close_timeout=1)), list[str]()

    @manager.on("work")
    async def work(conn: Connection) -> None:
        try:
            await stubborn(conn)
        finally:
            diary.append("released")

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "work", "id": 1})
        await peer.receive_json(timeout=60)
    assert diary == ["released"]


async def test_f43_a_stalled_peer_holds_it_up_no_longer_than_a_close_may_take(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsmanager")
    manager = make_manager(WebSocketConfig(close_timeout=5))
    async with crowd(manager.endpoint, 3, window=1_000, stalled=True):
        for conn in manager.connections():
            await manager.send_personal_message(conn.user_id, LARGE)
            await conn.send(LARGE)
        started = now()
        await manager.drain()
        assert now() - started == pytest.approx(5)
        assert_empty(manager)
    events = [getattr(record, "event", "") for record in caplog.records]
    # One warning for all that cannot be cut off below ASGI.
    assert events.count("abort.unsupported") == (0 if asgi.default_server.direct else 1)
    assert events.count("close.timeout") == 3


@pytest.mark.parametrize("concurrent", [False, True])
async def test_a_handler_may_drain_and_is_not_waited_for(make_manager: MakeManager, concurrent: bool) -> None:
    manager, seconds, missed = make_manager(), list[float](), list[Connection]()

    @manager.on("end", concurrent=concurrent)
    async def end(conn: Connection) -> None:
        await manager.drain()
        seconds.append(now() - started)

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        await asyncio.sleep(0.5)
        missed.append(conn)

    async with crowd(manager.endpoint, 3) as peers:
        started = now()
        await peers[0].send_json({"type": "end"})
        await asyncio.sleep(30)
    assert seconds[0] <= 1
    assert len(missed) == 3


async def test_a_handler_that_drains_is_not_stopped_for_others(make_manager: MakeManager) -> None:
    manager, seconds = make_manager(WebSocketConfig(drain_timeout=8)), list[float]()
    manager.on("work")(stubborn)

    @manager.on("end")
    async def end(conn: Connection) -> None:
        await manager.drain()
        seconds.append(now() - started)

    async with crowd(manager.endpoint, 2) as (busy, ending):
        started = now()
        await busy.send_json({"type": "work"})
        await ending.send_json({"type": "end"})
        await asyncio.sleep(30)
    assert seconds == [pytest.approx(8)]


async def test_the_farewells_of_applications_that_stay_are_said_side_by_side(
    make_manager: MakeManager,
) -> None:
    manager, missed = make_manager(), list[Connection]()

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        await asyncio.sleep(2)
        missed.append(conn)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(60)

    async with crowd(WebSocketMiddleware(app, manager, "envelope"), 20):
        started = now()
        await manager.drain()
        assert now() - started == pytest.approx(2)
        assert len(missed) == 20


@pytest.mark.parametrize("hook", [minding, stubborn, hopeless])
async def test_f43_a_farewell_that_hangs_holds_up_neither_the_drain_nor_what_comes_after(
    make_manager: MakeManager, hook: Any
) -> None:
    manager = make_manager(WebSocketConfig(drain_timeout=8, handler_timeout=None))
    manager.on_disconnect(hook)
    async with connect(manager.endpoint):
        started = now()
        await manager.drain()
        assert now() - started == pytest.approx(6 if hook is minding else 8)
        await manager.aclose()
        assert now() - started == pytest.approx(6 if hook is minding else 8)
        assert_empty(manager)


async def test_f43_a_handler_that_waits_for_a_stubborn_task_ends_with_that(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(handler_timeout=10, close_timeout=5))

    async def child() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3_600)

    @manager.on("work")
    async def work(conn: Connection) -> None:
        await asyncio.create_task(child())
        await asyncio.sleep(3_600)

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "work", "id": 1})
        answer = await peer.receive_json(timeout=60)
        assert answer["data"]["code"] == "handler_timeout"


async def test_a_drain_that_is_called_twice_is_one(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with crowd(manager.endpoint, 3) as peers:
        await asyncio.gather(manager.drain(), manager.drain())
        await manager.aclose()
        for peer in peers:
            assert [(await peer.receive_json())["type"]] == ["disconnect"]
            assert peer.frames == []


async def test_a_manager_that_was_drained_starts_again(make_manager: MakeManager) -> None:
    manager: ConnectionManager = make_manager()
    async with manager:
        await manager.drain()
    async with manager, connect(manager.endpoint) as peer:
        await peer.send_json({"type": "ping"})
        assert (await peer.receive_json())["type"] == "pong"


def test_what_another_loop_left_behind_is_not_waited_for() -> None:
    """As after a server that was stopped in the middle of everything."""
    manager, socket = ConnectionManager(WebSocketConfig(handler_timeout=None)), FakeSocket()
    may_end = False

    @manager.on("work")
    async def work(conn: Connection) -> None:
        while not may_end:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3_600)

    async def leave_behind() -> asyncio.Task[None]:
        serving = asyncio.create_task(manager.endpoint(socket.scope, socket.receive, socket.send))
        socket.feed_text('{"type": "work"}')
        await asyncio.sleep(1)
        (conn,) = manager.connections()
        manager.engine.abandon(conn)
        return serving

    async def drain() -> float:
        started = now()
        await manager.drain()
        return now() - started

    with contextlib.closing(VirtualTimeLoop()) as loop:
        serving = loop.run_until_complete(leave_behind())
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            assert runner.run(drain()) < 1
        assert not serving.done()
        may_end = True
        loop.run_until_complete(asyncio.wait_for(serving, 3_600))
