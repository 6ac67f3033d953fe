"""How connections end where several things end them at once, or a part of the application fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.engine.words import type_of
from wsmanager import Connection, ConnectionManager, Disconnect, EncodeError, WebSocketConfig
from wsmanager.testing import DAPHNE, HandshakeRefused, connect
from wsmanager.wire.codecs import JSONCodec

from ..conftest import ByQuery, MakeManager

pytestmark = pytest.mark.anyio


async def say(peer: Any, *values: int) -> None:
    for value in values:
        await peer.send_json({"type": "x", "data": value})


async def test_a_connection_that_a_hook_turned_away_handles_nothing(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    handled: list[int] = []

    @manager.on_connect
    async def gate(conn: Connection) -> None:
        await asyncio.sleep(1)
        raise Disconnect(4507, "banned")

    @manager.on("x")
    async def x(conn: Connection, data: int) -> None:
        handled.append(data)

    async with connect(manager.endpoint) as peer:
        await say(peer, 1, 2)
        await peer.close()
    await asyncio.sleep(3)
    assert handled == []


async def test_nothing_is_handled_after_a_handler_ended_the_connection(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    handled: list[int] = []

    @manager.on("x")
    async def x(conn: Connection, data: int) -> None:
        handled.append(data)
        await asyncio.sleep(1)
        raise Disconnect(4507)

    async with connect(manager.endpoint) as peer:
        await say(peer, 1, 2, 3)
        await peer.close()
    await asyncio.sleep(5)
    assert handled == [1]


async def test_a_codec_without_a_word_of_welcome_leaves_no_ghost(make_manager: MakeManager) -> None:
    class Speechless(JSONCodec):
        def encode(self, message: Any) -> str:
            if type_of(message) == "welcome":
                raise EncodeError("no words")
            return super().encode(message)

    manager = make_manager(auth=ByQuery(), codecs=(Speechless(),))
    with pytest.raises(EncodeError):
        async with connect(manager.endpoint, subprotocols=["wsmanager.v1.json"]):
            await asyncio.sleep(1)
    assert manager.connections() == []


async def test_no_hook_greets_a_connection_that_the_one_before_closed(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    greeted: list[str] = []

    @manager.on_connect
    async def first(conn: Connection) -> None:
        await conn.close(4507)

    @manager.on_connect
    async def second(conn: Connection) -> None:
        greeted.append(conn.id)

    async with connect(manager.endpoint) as peer:
        assert (await peer.wait_closed())[0] == 4507
    assert greeted == []


async def test_a_handler_beside_the_others_may_disconnect_its_own_connection(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    took: list[float] = []

    @manager.on_disconnect
    async def bye(conn: Connection) -> None: ...

    @manager.on("leave", concurrent=True)
    async def leave(conn: Connection) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        await manager.disconnect(conn)
        took.append(clock() - started)

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        async with manager.connect(websocket, user_id="ann") as conn:
            try:
                while True:
                    await manager.dispatch(conn, await websocket.receive_text())
            except WebSocketDisconnect:
                pass

    async with connect(endpoint) as peer:
        await peer.send_json({"type": "leave"})
        await asyncio.sleep(60)
    assert took == [0]


async def test_closing_the_manager_ends_what_was_already_closing(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint, window=1, stalled=True):
        (conn,) = manager.connections()
        while conn.congestion is None:
            await conn.send({"type": "x", "data": "x" * 100})
        closing = asyncio.create_task(conn.close())
        await asyncio.sleep(0)
        await manager.aclose()
        assert manager.get_analytics().indexes["arrived"] == 0
        await closing


async def test_a_failing_scorer_takes_no_heartbeat_from_the_others(make_manager: MakeManager) -> None:
    class Failing:
        def score(self, sample: Any) -> float:
            raise RuntimeError("no score")

    config = WebSocketConfig(send_timeout=1, slow_timeout=10_000, health_check_interval=10_000)
    manager = make_manager(config, auth=ByQuery(), health=Failing())
    async with (
        connect(manager.endpoint, query="user=stuck", window=1, stalled=True) as stuck,
        connect(manager.endpoint, query="user=well", subprotocols=["wsmanager.v1.json"]) as well,
    ):
        (conn,) = manager.connections(user_id="stuck")
        while conn.congestion is None:
            await conn.send({"type": "x", "data": "x" * 100})
        await asyncio.sleep(39)  # a ping comes within a round of 30 s
        assert any('"ping"' in str(frame) for frame in well.frames)
        assert manager.get_analytics().tasks["heartbeat"].restarts == 0
        stuck.reset()


async def test_a_long_origin_is_cut_before_it_is_logged(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(auth=ByQuery())
    with caplog.at_level(logging.INFO, "wsmanager"), pytest.raises(HandshakeRefused):
        async with connect(manager.endpoint, headers=[("origin", "http://" + "x" * 50_000)]):
            pass
    (record,) = [record for record in caplog.records if record.__dict__.get("event") == "origin.refused"]
    assert len(record.__dict__["fields"]["origin"]) < 300


async def test_a_client_cannot_invent_figures_by_its_close_codes(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(handshake_exempt=("0.0.0.0/0",)), auth=ByQuery())
    for code in range(3000, 3300):
        async with connect(manager.endpoint) as peer:
            await peer.close(code)
    assert len(manager.get_analytics().closed) <= 101


async def test_a_failed_task_group_leaves_no_cancellation_behind(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    async def fail() -> None:
        raise ValueError("no")

    @manager.on("group")
    async def group(conn: Connection) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(1))
            tasks.create_task(fail())

    @manager.on("cancelled")
    async def cancelled(conn: Connection) -> None:
        task = asyncio.create_task(asyncio.sleep(9))
        task.cancel()
        await task

    async with connect(manager.endpoint) as peer:
        for type in ("group", "cancelled", "group", "cancelled"):
            await peer.send_json({"type": type, "id": 1})
            assert (await peer.receive_json())["data"]["code"] == "internal_error"
        (conn,) = manager.connections()
        await conn.close(4000, "enough")
        assert await peer.wait_closed() == (4000, "enough")


async def test_a_client_of_a_whole_ipv6_network_counts_once(make_manager: MakeManager) -> None:
    manager: ConnectionManager = make_manager(WebSocketConfig(max_connections_per_ip=2), auth=ByQuery())
    async with (
        connect(manager.endpoint, client=("2001:db8:0:1::1", 1)),
        connect(manager.endpoint, client=("2001:db8:0:1:ffff::2", 1)),
        connect(manager.endpoint, client=("2001:db8:0:2::1", 1)),
    ):
        with pytest.raises(HandshakeRefused) as caught:
            async with connect(manager.endpoint, client=("2001:db8:0:1::3", 1)):
                pass
    assert caught.value.status == 429


@pytest.mark.parametrize(
    ("code", "sent"), [(1000, 1000), (1001, 4000), (1008, 1000), (1011, 1000), (1012, 4000), (3000, 3000)]
)
async def test_a_server_that_sends_not_every_code_closes_all_the_same(
    make_manager: MakeManager, code: int, sent: int
) -> None:
    """With one that says as much of coming back."""
    manager = make_manager()
    async with connect(manager.endpoint, server=DAPHNE) as peer:
        (conn,) = manager.connections()
        await conn.close(code)
        assert (await peer.receive_json())["data"]["code"] == code
        assert await peer.wait_closed(1) == (sent, "")


async def test_a_failed_task_group_in_a_hook_leaves_no_cancellation_behind(make_manager: MakeManager) -> None:
    """Else the next that wakes the connection's task would seem to be somebody else's."""
    manager, ends = make_manager(), list[str]()

    async def fail() -> None:
        raise ValueError

    @manager.on_connect
    async def hook(conn: Connection) -> None:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fail())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await manager.endpoint(scope, receive, send)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        ends.append("returned")

    async with connect(app):
        await asyncio.sleep(1)
        (conn,) = manager.connections()
        await conn.close()
    assert ends == ["returned"]
