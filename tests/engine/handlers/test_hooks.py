"""What runs when a connection opens and when it ends."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.ends import closing_of
from wsmanager import Connection, Disconnect, Refused, WebSocketConfig
from wsmanager.testing import connect

from ..conftest import ByQuery, MakeManager, errors_logged

pytestmark = pytest.mark.anyio


async def a_moment() -> None:
    await asyncio.sleep(0.01)


async def test_hooks_run_in_order_around_everything_else(make_manager: MakeManager) -> None:
    manager, diary = make_manager(auth=ByQuery()), []

    @manager.on_connect
    async def first(conn: Connection) -> None:
        diary.append(f"first {conn.status}")
        await asyncio.sleep(1)

    @manager.on_connect
    async def second(conn: Connection) -> None:
        diary.append("second")
        await conn.send({"type": "hello"})

    @manager.on("x")
    async def x(conn: Connection) -> None:
        await asyncio.sleep(1)
        diary.append("handler")

    @manager.on_disconnect
    async def third(conn: Connection) -> None:
        await asyncio.sleep(1)
        diary.append(f"third {conn.status}")

    @manager.on_disconnect
    async def fourth(conn: Connection) -> None:
        diary.append("fourth")

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "x", "id": 1})
        assert [(await peer.receive_json())["type"] for _ in range(2)] == ["hello", "reply"]
        await peer.send_json({"type": "x"})
    assert diary == ["first open", "second", "handler", "handler", "third closed", "fourth"]


async def test_a_connection_is_reachable_while_its_hooks_run(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on_connect
    async def slow(conn: Connection) -> None:
        await manager.send_personal_message(conn.user_id, {"type": "from.inside"})
        await asyncio.sleep(5)

    async with connect(manager.endpoint) as peer:
        assert (await peer.receive_json())["type"] == "from.inside"
        assert (await manager.broadcast({"type": "from.outside"})).sent == 1


async def test_synchronous_hooks_run_in_threads(make_manager: MakeManager) -> None:
    manager, threads = make_manager(), []

    @manager.on_connect
    def greet(conn: Connection) -> None:
        threads.append(threading.current_thread())

    @manager.on_disconnect
    def miss(conn: Connection) -> None:
        threads.append(threading.current_thread())

    async with connect(manager.endpoint):
        pass
    assert len(threads) == 2
    assert threading.main_thread() not in threads


async def test_what_waited_for_the_user_comes_before_what_a_hook_sends(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on_connect
    async def greet(conn: Connection) -> None:
        await conn.send({"type": "hello"})

    await manager.send_personal_message("alice", {"type": "kept"})
    async with connect(manager.endpoint, subprotocols=["wsmanager.v1.json"]) as peer:
        types = [(await peer.receive_json())["type"] for _ in range(3)]
        assert types == ["welcome", "kept", "hello"]


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (Disconnect(4507, "not today"), 4507, "not today"),
        (Refused("no", code="banned"), 4507, "banned"),
        (ValueError("secret"), 4004, "server error"),
        (asyncio.CancelledError("secret"), 4004, "server error"),
    ],
)
async def test_f47_a_hook_that_raises_ends_the_connection(
    make_manager: MakeManager, error: BaseException, code: int, reason: str
) -> None:
    manager, diary = make_manager(), []

    @manager.on_connect
    async def refuse(conn: Connection) -> None:
        raise error

    @manager.on_connect
    async def never(conn: Connection) -> None:
        diary.append("never")

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        diary.append("gone")

    @manager.on("x")
    async def x(conn: Connection) -> None:
        diary.append("handled")

    async with connect(manager.endpoint) as peer:
        assert await peer.wait_closed(timeout=1) == (code, reason)
        goodbye = await peer.receive_json()
        assert goodbye["type"] == "disconnect"
        assert "secret" not in str(goodbye)
        await a_moment()
        assert diary == ["gone"]


async def test_f47_a_hook_that_hangs_ends_the_connection(make_manager: MakeManager) -> None:
    manager, diary = make_manager(WebSocketConfig(handler_timeout=3)), []

    @manager.on_connect
    async def hang(conn: Connection) -> None:
        await asyncio.sleep(3_600)

    @manager.on_disconnect
    async def hang_too(conn: Connection) -> None:
        await asyncio.sleep(3_600)

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        diary.append("gone")

    async with connect(manager.endpoint) as peer:
        assert (await peer.wait_closed(timeout=3.1))[0] == 4004
        await asyncio.sleep(3.1)
        assert diary == ["gone"]


@pytest.mark.parametrize("error", [ValueError("a bug"), asyncio.CancelledError()])
async def test_f47_a_farewell_that_raises_stops_neither_the_next_nor_the_server(
    make_manager: MakeManager, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    manager, diary = make_manager(), []

    @manager.on_disconnect
    async def broken(conn: Connection) -> None:
        raise error

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        diary.append("gone")

    async with connect(manager.endpoint):
        pass
    assert diary == ["gone"]
    assert errors_logged(caplog) == ["on_disconnect.failed"]


async def test_the_farewell_waits_for_the_last_handler_beside(make_manager: MakeManager) -> None:
    manager = make_manager()
    diary: list[Any] = []

    @manager.on("beside", concurrent=True)
    async def beside(conn: Connection, data: int) -> None:
        await asyncio.sleep(data)
        diary.append(data)

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        diary.append("gone")

    async with connect(manager.endpoint) as peer:
        for seconds in (5, 2, 9):
            await peer.send_json({"type": "beside", "data": seconds})
        await peer.close()
        await asyncio.sleep(1)
        assert set(manager.get_analytics().indexes.values()) == {0}
    assert diary == [2, 5, 9, "gone"]


async def test_every_end_is_a_farewell_with_its_code(make_manager: MakeManager) -> None:
    manager, ends = make_manager(), []

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        ends.append(closing_of(conn))

    async with connect(manager.endpoint) as peer:
        await peer.close(4321, "enough")
    async with connect(manager.endpoint) as peer:
        peer.reset()
    async with connect(manager.endpoint):
        for conn in manager.connections():
            await manager.disconnect(conn, 4503, "kicked")
    async with connect(manager.endpoint):
        pass
    assert ends == [(4321, "enough"), (1006, ""), (4503, "kicked"), (1000, "")]


async def test_a_refused_handshake_meets_no_hook(make_manager: MakeManager) -> None:
    manager, diary = make_manager(WebSocketConfig(max_connections_per_user=1), auth=ByQuery()), []

    @manager.on_connect
    async def greet(conn: Connection) -> None:
        diary.append("hello")

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        diary.append("gone")

    async with connect(manager.endpoint):
        async with connect(manager.endpoint, subprotocols=["wsmanager.v1.json"]) as refused:
            assert (await refused.wait_closed())[0] == 4504
        assert diary == ["hello"]
    assert diary == ["hello", "gone"]
