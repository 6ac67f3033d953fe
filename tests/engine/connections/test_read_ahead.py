"""A slow handler: what is served meanwhile, what waits, and what becomes of it at the end."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from wsmanager import Connection, ConnectionManager, Delivery, WebSocketConfig
from wsmanager.testing import GRANIAN, HYPERCORN, UVICORN, Peer, Server, connect

from ..conftest import ByQuery, MakeManager

pytestmark = pytest.mark.anyio


class Workshop:
    """A manager whose handler ``work`` takes as many seconds as its data says, and a diary."""

    def __init__(self, make_manager: MakeManager, config: WebSocketConfig | None = None) -> None:
        self.manager: ConnectionManager = make_manager(config, auth=ByQuery())
        self.done: list[Any] = []
        self.conn: Connection | None = None
        self.manager.on("work")(self.work)
        self.manager.on("note")(self.note)
        self.manager.on_connect(self.greet)
        self.manager.on_disconnect(self.miss)

    async def work(self, conn: Connection, data: int) -> None:
        await asyncio.sleep(data)
        self.done.append(f"worked {data}")

    async def note(self, conn: Connection, data: Any) -> None:
        self.done.append(data)

    async def greet(self, conn: Connection) -> None:
        self.conn = conn

    async def miss(self, conn: Connection) -> None:
        self.done.append("gone")


async def begin(peer: Peer, seconds: int) -> None:
    """Keep the connection's handler busy."""
    await peer.send_json({"type": "work", "data": seconds})
    await asyncio.sleep(0.01)


async def note(peer: Peer, *notes: Any) -> None:
    for one in notes:
        await peer.send_json({"type": "note", "data": one})


def kinds(peer: Peer) -> list[str]:
    return [msgspec.json.decode(frame)["type"] for frame in peer.frames]


# --- served at once


async def test_a_slow_handler_never_delays_a_pong(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager)
    async with connect(shop.manager.endpoint) as peer:
        await begin(peer, 20)
        await peer.send_json({"type": "ping", "id": 1})
        assert await peer.receive_json(timeout=0.1) == {"type": "pong", "data": None, "re": 1}
        await asyncio.sleep(20)
        await peer.send_json({"type": "ping"})
        assert await peer.receive_json(timeout=0.1) == {"type": "pong", "data": None}


async def test_a_slow_handler_never_delays_an_error(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager)
    async with connect(shop.manager.endpoint) as peer:
        await begin(peer, 20)
        await peer.send_text("not json")
        assert (await peer.receive_json(timeout=0.1))["data"]["code"] == "not_json"
        await peer.send_json({"type": "work", "data": "not a number"})
        assert (await peer.receive_json(timeout=0.1))["data"]["code"] == "invalid_payload"


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, GRANIAN])
async def test_f47_a_slow_handler_never_delays_the_disconnect(
    make_manager: MakeManager, server: Server
) -> None:
    shop = Workshop(make_manager)
    async with connect(shop.manager.endpoint, server=server) as peer:
        await begin(peer, 20)
        await peer.close(4444)
        await asyncio.sleep(0.1)
        assert set(shop.manager.get_analytics().indexes.values()) == {0}
        assert str(shop.conn and shop.conn.status) == "closed"
        report = await shop.manager.send_personal_message("alice", {"type": "x"}, delivery=Delivery.VOLATILE)
        assert not report.delivered
        assert shop.done == []
        await asyncio.sleep(20)
        assert shop.done == ["worked 20", "gone"]


async def test_a_second_slow_handler_is_read_past_as_well(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager)
    async with connect(shop.manager.endpoint) as peer:
        for _ in range(3):
            await begin(peer, 10)
        for _ in range(3):
            await asyncio.sleep(9)
            await peer.send_json({"type": "ping"})
            assert await peer.receive_json(timeout=0.1)


async def test_a_slow_hook_never_delays_the_disconnect_either(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on_connect
    async def slow(conn: Connection) -> None:
        await asyncio.sleep(20)

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "ping"})
        assert await peer.receive_json(timeout=0.1)
        await peer.close()
        await asyncio.sleep(0.1)
        assert set(manager.get_analytics().indexes.values()) == {0}


# --- waiting


async def test_what_is_read_ahead_is_worked_on_in_order(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager)
    async with connect(shop.manager.endpoint) as peer:
        await begin(peer, 5)
        await note(peer, *range(10))
        await begin(peer, 5)
        await note(peer, *range(10, 20))
        await asyncio.sleep(4)
        assert shop.done == []
        await asyncio.sleep(2)
        assert shop.done == ["worked 5", *range(10)]
        await note(peer, 20)
        await asyncio.sleep(5)
        assert shop.done == ["worked 5", *range(10), "worked 5", *range(10, 21)]
        await note(peer, 21)
        assert shop.done[-1] == 21


async def test_no_task_is_left_once_the_handlers_are_done(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager)
    async with connect(shop.manager.endpoint) as peer:
        before = asyncio.all_tasks()
        await begin(peer, 5)
        await note(peer, 1)
        assert len(asyncio.all_tasks()) == len(before) + 1
        await asyncio.sleep(6)
        assert asyncio.all_tasks() == before


async def test_a_handler_that_never_suspends_costs_no_task(make_manager: MakeManager) -> None:
    manager, tasks = make_manager(), []

    @manager.on("brief")
    async def brief(conn: Connection) -> None:
        asyncio.get_running_loop().call_soon(lambda: tasks.append(asyncio.all_tasks()))

    async with connect(manager.endpoint) as peer:
        before = asyncio.all_tasks()
        for _ in range(10):
            await peer.send_json({"type": "brief"})
            await asyncio.sleep(0.01)
        assert tasks == [before] * 10


# --- the end


async def test_messages_before_the_disconnect_are_still_worked_on_and_then_the_hooks_run(
    make_manager: MakeManager,
) -> None:
    shop = Workshop(make_manager)
    async with connect(shop.manager.endpoint) as peer:
        await begin(peer, 5)
        await note(peer, 1, 2)
        await peer.send_json({"type": "work", "data": 3})
        await note(peer, 3)
        await peer.close()
        await asyncio.sleep(20)
        assert shop.done == ["worked 5", 1, 2, "worked 3", 3, "gone"]


async def test_messages_before_the_disconnect_are_worked_on_though_a_send_found_the_peer_gone_first(
    make_manager: MakeManager,
) -> None:
    shop = Workshop(make_manager)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def deaf() -> Any:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                await asyncio.sleep(60)  # the news is late
            return event

        await shop.manager.endpoint(scope, deaf, send)

    async with connect(app) as peer:
        await begin(peer, 5)
        await note(peer, 1, 2)
        peer.reset()
        await shop.manager.broadcast({"type": "x"})
        await asyncio.sleep(10)
        assert shop.done == ["worked 5", 1, 2, "gone"]


async def test_after_a_local_close_nothing_more_is_handled(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager)
    async with connect(shop.manager.endpoint) as peer:
        await begin(peer, 5)
        await note(peer, 1, 2)
        assert shop.conn is not None
        await shop.conn.close(4503, "kicked")
        assert await peer.wait_closed() == (4503, "kicked")
        await asyncio.sleep(10)
        assert shop.done == ["worked 5", "gone"]


@pytest.mark.parametrize("busy", [False, True])
async def test_what_arrives_while_a_close_flushes_is_not_handled(
    make_manager: MakeManager, busy: bool
) -> None:
    shop = Workshop(make_manager)
    async with connect(shop.manager.endpoint, window=100) as peer:
        peer.stall()
        if busy:
            await begin(peer, 2)
            await note(peer, "waiting")
        assert shop.conn is not None
        for _ in range(3):
            await shop.conn.send({"type": "big", "data": "x" * 200})
        closing = asyncio.create_task(shop.conn.close(4503, "kicked"))
        await asyncio.sleep(0.1)
        await note(peer, "too late")
        await peer.send_text("not json")
        await peer.send_json({"type": "ping"})
        await asyncio.sleep(3)
        peer.resume()
        await closing
        await peer.wait_closed()
        await asyncio.sleep(0.1)
        assert kinds(peer) == ["big", "big", "big", "disconnect"]
        assert shop.done == ["worked 2", "gone"][not busy :]


async def test_a_peer_that_leaves_while_we_close_is_not_owed_anything(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager)
    async with connect(shop.manager.endpoint, window=100) as peer:
        peer.stall()
        await begin(peer, 4)
        await note(peer, 1, 2)
        assert shop.conn is not None
        for _ in range(3):
            await shop.conn.send({"type": "big", "data": "x" * 200})
        closing = asyncio.create_task(shop.conn.close(4503, "kicked"))
        await asyncio.sleep(0.1)
        peer.reset()
        await closing
        await asyncio.sleep(5)
        assert shop.done == ["worked 4", "gone"]


# --- too much


async def test_too_many_messages_read_ahead_close_4014(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager, WebSocketConfig(inbound_max_messages=5))
    async with connect(shop.manager.endpoint) as peer:
        await begin(peer, 20)
        await note(peer, *range(5))
        await asyncio.sleep(1)
        assert not peer.closed
        await note(peer, 5)
        assert await peer.wait_closed(timeout=1) == (4014, "inbox overflow")
        await asyncio.sleep(25)
        assert shop.done == ["worked 20", "gone"]


@pytest.mark.parametrize("text", ["x" * 400, "ü" * 200, "🙂" * 100])
async def test_too_many_bytes_read_ahead_close_4014(make_manager: MakeManager, text: str) -> None:
    shop = Workshop(make_manager, WebSocketConfig(inbound_max_bytes=1_000))
    async with connect(shop.manager.endpoint) as peer:
        await begin(peer, 20)
        frame = f'{{"type":"note","data":"{text}"}}'
        await peer.send_text(frame)
        await peer.send_text(frame)
        await asyncio.sleep(1)
        assert not peer.closed
        await peer.send_text(frame)
        assert await peer.wait_closed(timeout=1) == (4014, "inbox overflow")


async def test_only_what_waits_now_counts(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager, WebSocketConfig(inbound_max_messages=5, inbound_max_bytes=400))
    async with connect(shop.manager.endpoint) as peer:
        await begin(peer, 1)
        for _ in range(10):
            await note(peer, *"ab")
            await begin(peer, 1)
            await asyncio.sleep(1)
        assert not peer.closed
        assert "".join(one for one in shop.done if len(one) == 1) == "ab" * 10


async def test_f12_pings_and_errors_do_not_wait_and_so_do_not_overflow(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager, WebSocketConfig(inbound_max_messages=1))
    async with connect(shop.manager.endpoint) as peer:
        await begin(peer, 20)
        for _ in range(50):
            await peer.send_json({"type": "ping"})
        for _ in range(10):
            await peer.send_text("not json")
        assert kinds(peer) == ["pong"] * 50 + ["error"] * 10
        assert not peer.closed


async def test_a_full_inbox_harms_nobody_else(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager, WebSocketConfig(inbound_max_messages=3))
    async with (
        connect(shop.manager.endpoint, query="user=bob") as bob,
        connect(shop.manager.endpoint, query="user=ann") as ann,
    ):
        await begin(ann, 20)
        await note(ann, *range(4))
        assert (await ann.wait_closed(timeout=1))[0] == 4014
        await note(bob, "unharmed")
        assert shop.done == ["unharmed"]
        assert bob.frames == []


async def test_a_peer_too_far_ahead_that_does_not_read_is_let_go(make_manager: MakeManager) -> None:
    shop = Workshop(make_manager, WebSocketConfig(inbound_max_messages=3))
    async with connect(shop.manager.endpoint, window=10) as peer:
        peer.stall()
        await begin(peer, 20)
        assert shop.conn is not None
        await shop.conn.send({"type": "big"})
        await shop.conn.send({"type": "big"})
        await note(peer, *range(4))
        await asyncio.sleep(6)
        assert str(shop.conn.status) == "closed"
        await asyncio.sleep(20)
        assert shop.done == ["worked 20", "gone"]


async def test_a_server_that_fails_while_it_is_read_ahead_ends_the_connection(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Workshop(make_manager)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def fragile() -> Any:
            event = await receive()
            if event.get("text") == "break":
                raise RuntimeError("the server broke")
            return event

        await shop.manager.endpoint(scope, fragile, send)

    async with connect(app) as peer:
        await begin(peer, 5)
        await note(peer, 1)
        await peer.send_text("break")
        await asyncio.sleep(0.1)
        assert set(shop.manager.get_analytics().indexes.values()) == {0}
        await asyncio.sleep(6)
        assert shop.done == ["worked 5", 1, "gone"]
        assert shop.manager.get_analytics().closed == {1006: 1}
        assert "receive.failed" in caplog.text
