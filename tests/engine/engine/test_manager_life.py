"""From the first connection to the end of a manager, and from one event loop to the next."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.to_thread
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.ends import closing_of
from tests.engine.conftest import ByQuery, MakeManager, assert_empty
from wsmanager import (
    ConfigurationError,
    Connection,
    ConnectionClosed,
    ConnectionManager,
    MessagePriorityQueue,
    WebSocketConfig,
    WrongEventLoop,
)
from wsmanager.protocols import Handshake, Identity
from wsmanager.testing import HandshakeRefused, connect, lifespan

JSON = "wsmanager.v1.json"


def now() -> float:
    return asyncio.get_running_loop().time()


def starlette_of(manager: ConnectionManager, **options: Any) -> Starlette:
    return Starlette(routes=[WebSocketRoute("/ws", manager.endpoint)], **options)


async def refused_with(manager: ConnectionManager) -> str:
    with pytest.raises(HandshakeRefused) as caught:
        async with connect(manager.endpoint):
            pass
    code: str = json.loads(caught.value.body)["error"]["code"]
    return code


# --- start


@pytest.mark.anyio
async def test_a_manager_starts_with_its_first_connection(make_manager: MakeManager) -> None:
    tasks = asyncio.all_tasks()
    manager = make_manager()
    assert asyncio.all_tasks() == tasks
    assert manager.get_analytics().tasks == {}
    async with connect(manager.endpoint):
        assert manager.get_analytics().tasks["heartbeat"].state == "running"


def test_a_manager_needs_no_event_loop_to_be_made_and_asked() -> None:
    manager = ConnectionManager()
    assert manager.connections() == []
    assert manager.get_analytics().indexes["connections"] == 0


def test_a_queue_is_made_per_connection_so_one_of_them_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="queue= is a factory"):
        ConnectionManager(queue=MessagePriorityQueue())  # type: ignore[arg-type]  # the mistake


# --- the ways to end


@contextlib.asynccontextmanager
async def by_context(manager: ConnectionManager) -> AsyncGenerator[None]:
    async with manager:
        yield


@contextlib.asynccontextmanager
async def by_lifespan(manager: ConnectionManager) -> AsyncGenerator[None]:
    async with manager.lifespan():
        yield


@contextlib.asynccontextmanager
async def by_starlette(manager: ConnectionManager) -> AsyncGenerator[None]:
    async with lifespan(starlette_of(manager, lifespan=manager.lifespan)):
        yield


@contextlib.asynccontextmanager
async def by_fastapi(manager: ConnectionManager) -> AsyncGenerator[None]:
    async with lifespan(FastAPI(lifespan=manager.lifespan)):
        yield


@contextlib.asynccontextmanager
async def by_endpoint(manager: ConnectionManager) -> AsyncGenerator[None]:
    async with lifespan(manager.endpoint):
        yield


@contextlib.asynccontextmanager
async def by_hand(manager: ConnectionManager) -> AsyncGenerator[None]:
    yield
    await manager.aclose()


WAYS = [by_context, by_lifespan, by_starlette, by_fastapi, by_endpoint, by_hand]


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS)
async def test_the_end_closes_everybody_with_an_invitation_to_come_back(
    make_manager: MakeManager, way: Any
) -> None:
    manager, diary = make_manager(), []

    @manager.on_disconnect
    async def gone(conn: Connection) -> None:
        diary.append("gone")

    async with contextlib.AsyncExitStack() as stack:
        async with way(manager):
            peers = [await stack.enter_async_context(connect(manager.endpoint)) for _ in range(3)]
        for peer in peers:
            assert await peer.wait_closed(1) == (1012, "shutdown")
            assert (await peer.receive_json())["data"]["reconnect"] is True
        assert_empty(manager)
    assert diary == ["gone"] * 3


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS)
async def test_after_the_end_nobody_comes_in(make_manager: MakeManager, way: Any) -> None:
    manager = make_manager()
    async with way(manager), connect(manager.endpoint):
        pass
    assert await refused_with(manager) == "shutting_down"
    async with connect(manager.endpoint, subprotocols=[JSON]) as peer:
        assert await peer.wait_closed(1) == (4001, "shutting_down")
    assert manager.get_analytics().refused == {"shutting_down": 2}


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS[:-1])
async def test_a_manager_may_be_started_again(make_manager: MakeManager, way: Any) -> None:
    manager = make_manager()
    for _ in range(2):
        async with way(manager), connect(manager.endpoint) as peer:
            await peer.send_json({"type": "ping"})
            assert (await peer.receive_json())["type"] == "pong"


@pytest.mark.anyio
async def test_ending_twice_or_before_the_start_is_no_error(make_manager: MakeManager) -> None:
    manager = make_manager()
    await manager.aclose()
    await manager.aclose()
    assert await refused_with(manager) == "shutting_down"


@pytest.mark.anyio
async def test_who_comes_while_the_others_are_seen_out_is_refused(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint, window=1_000, stalled=True) as peer:
        (conn,) = manager.connections()
        await conn.send({"type": "x", "data": "x" * 2_000})
        await conn.send({"type": "x", "data": "x" * 2_000})
        ending = asyncio.create_task(manager.aclose())
        await asyncio.sleep(1)
        assert await refused_with(manager) == "shutting_down"
        peer.resume()
        await ending
        assert (await peer.wait_closed(1))[0] == 1012


class Waits(ByQuery):
    """Answers when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def authenticate(self, handshake: Handshake) -> Identity:
        await self.may.wait()
        return await super().authenticate(handshake)


@pytest.mark.anyio
async def test_who_was_being_authenticated_at_the_end_is_refused(make_manager: MakeManager) -> None:
    auth = Waits()
    manager = make_manager(auth=auth)
    coming = asyncio.create_task(refused_with(manager))
    await asyncio.sleep(1)
    await manager.aclose()
    auth.may.set()
    assert await coming == "shutting_down"


@pytest.mark.anyio
async def test_who_was_being_accepted_at_the_end_is_closed(make_manager: MakeManager) -> None:
    manager, may = make_manager(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        async def accept_later(event: Any) -> None:
            if event["type"] == "websocket.accept":
                await may.wait()
            await send(event)

        await manager.endpoint(scope, receive, accept_later)

    async def come() -> tuple[int, str]:
        async with connect(slow) as peer:
            return await peer.wait_closed(1)

    coming = asyncio.create_task(come())
    await asyncio.sleep(1)
    await manager.aclose()
    assert_empty(manager)
    may.set()
    assert await coming == (4001, "shutting_down")


@pytest.mark.anyio
@pytest.mark.parametrize("drain_timeout", [2, 20])
async def test_f43_peers_that_do_not_read_hold_the_end_up_no_longer_than_they_may(
    make_manager: MakeManager, drain_timeout: float
) -> None:
    manager = make_manager(WebSocketConfig(drain_timeout=drain_timeout, close_timeout=5))
    async with contextlib.AsyncExitStack() as stack:
        for number in range(5):
            await stack.enter_async_context(
                connect(manager.endpoint, window=1_000, stalled=number > 0, timeout=30)
            )
        for conn in manager.connections():
            for _ in range(3):
                await conn.send({"type": "x", "data": "x" * 2_000})
        started = now()
        await manager.aclose()
        assert now() - started <= min(drain_timeout, 5) + 0.01
        assert_empty(manager)


@pytest.mark.anyio
async def test_closes_and_farewells_under_way_are_finished_first(make_manager: MakeManager) -> None:
    manager, diary = make_manager(), []

    @manager.on_disconnect
    async def slow(conn: Connection) -> None:
        await asyncio.sleep(3)
        diary.append(closing_of(conn))

    async with connect(manager.endpoint, window=1_000, stalled=True) as peer:
        (conn,) = manager.connections()
        await conn.send({"type": "x", "data": "x" * 2_000})
        await conn.send({"type": "last words", "data": "x" * 2_000})
        conn.close_soon(4503, "kicked")
        await asyncio.sleep(1)
        ending = asyncio.create_task(manager.aclose())
        await asyncio.sleep(1)
        peer.resume()
        await ending
        assert await peer.wait_closed(1) == (4503, "kicked")
        assert [json.loads(frame)["type"] for frame in peer.frames] == ["x", "last words", "disconnect"]
    assert diary == [(4503, "kicked")]


@pytest.mark.anyio
async def test_a_farewell_that_hangs_is_given_up(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(handler_timeout=None, drain_timeout=7))

    @manager.on_disconnect
    async def hangs(conn: Connection) -> None:
        await anyio.sleep_forever()

    async with connect(manager.endpoint) as peer:
        await peer.close()
        await asyncio.sleep(1)
        assert manager.get_analytics().errands == 1
        started = now()
        await manager.aclose()
        assert now() - started == pytest.approx(5.25)
        assert_empty(manager)


@pytest.mark.anyio
async def test_f47_an_end_that_is_cancelled_is_the_end_all_the_same(make_manager: MakeManager) -> None:
    manager = make_manager()
    for turns in range(6):
        async with manager, contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(connect(manager.endpoint, window=1_000, stalled=True))
            for conn in manager.connections():
                for _ in range(2):
                    await conn.send({"type": "x", "data": "x" * 2_000})
            ending = asyncio.create_task(manager.aclose())
            for _ in range(turns):
                await asyncio.sleep(0)
            ending.cancel()
            await asyncio.wait({ending})
            assert turns == 0 or manager.connections() == []


@pytest.mark.anyio
async def test_f47_a_disconnect_that_is_cancelled_leaves_no_ghost(make_manager: MakeManager) -> None:
    manager, met = make_manager(), list[str]()

    @manager.on_disconnect
    async def gone(conn: Connection) -> None:
        met.append("gone")

    async def endpoint(websocket: WebSocket) -> None:
        conn = await manager.connect(websocket)
        for _ in range(2):
            await conn.send({"type": "x", "data": "x" * 2_000})
        disconnecting = asyncio.create_task(manager.disconnect(conn))
        await asyncio.sleep(1)
        disconnecting.cancel()
        await asyncio.wait({disconnecting})
        await asyncio.sleep(1)
        assert set(manager.get_analytics().indexes.values()) == {0}
        assert met == ["gone"]

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    async with connect(app, window=1_000, stalled=True):
        await asyncio.sleep(5)


@pytest.mark.anyio
async def test_a_handler_may_end_the_manager(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("halt", concurrent=True)
    async def halt(conn: Connection) -> None:
        await manager.aclose()

    @manager.on("halt in order")
    async def halt_in_order(conn: Connection) -> None:
        await manager.aclose()

    for kind in ("halt", "halt in order"):
        async with manager, connect(manager.endpoint) as peer, connect(manager.endpoint) as other:
            await peer.send_json({"type": kind})
            for one in (peer, other):
                assert (await one.wait_closed(1))[0] == 1012
            await asyncio.sleep(25)  # a farewell waits for the very handler that waits for it
            assert_empty(manager)


# --- event loops


def run_on_a_loop_of_its_own(job: Any) -> Any:
    """What `job` answers or raises, run in a thread with an event loop of its own."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(job()))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome[0]


@pytest.mark.anyio
async def test_a_manager_that_holds_connections_serves_no_other_loop(make_manager: MakeManager) -> None:
    manager = make_manager()

    async def come() -> None:
        async with connect(manager.endpoint):
            pass

    async def end() -> None:
        await manager.aclose()

    async def start() -> None:
        async with manager:
            pass

    async def speak() -> None:
        await manager.broadcast({"type": "x"})

    async def write() -> None:
        await manager.send_personal_message("ann", {"type": "x"})

    async def write_to_a_room() -> None:
        await manager.send_to_session("r", {"type": "x"})

    async def write_to_one() -> None:
        await manager.send_to_connection("c", {"type": "x"})

    async with connect(manager.endpoint) as peer:
        for job in (come, end, start, speak, write, write_to_a_room, write_to_one):
            error = await anyio.to_thread.run_sync(run_on_a_loop_of_its_own, job)
            assert isinstance(error, WrongEventLoop), job
        await peer.send_json({"type": "ping"})
        assert (await peer.receive_json())["type"] == "pong"
        assert peer.frames == []


@pytest.mark.anyio
async def test_a_send_that_waits_for_a_user_holds_the_loop_too(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    waiting = asyncio.create_task(manager.send_personal_message("alice", {"type": "x"}, wait=30))
    await asyncio.sleep(1)

    async def come() -> None:
        async with connect(manager.endpoint):
            pass

    async with connect(manager.endpoint, query="user=bob"):
        pass
    error = await anyio.to_thread.run_sync(run_on_a_loop_of_its_own, come)
    assert isinstance(error, WrongEventLoop)
    waiting.cancel()


async def a_visit(manager: ConnectionManager) -> None:
    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "ping"})
        assert (await peer.receive_json())["type"] == "pong"


def test_an_empty_manager_moves_from_loop_to_loop() -> None:
    manager = ConnectionManager()
    threads: list[str] = []

    @manager.on_connect
    def hook(conn: Connection) -> None:
        threads.append(conn.id)

    for _ in range(3):
        asyncio.run(a_visit(manager))
    assert len(threads) == 3
    assert_empty(manager)


def test_a_manager_that_was_ended_serves_the_next_loop() -> None:
    manager = ConnectionManager()

    async def live() -> None:
        async with manager:
            await a_visit(manager)

    async def visit_and_end() -> None:
        await a_visit(manager)
        await manager.aclose()

    for job in (live, visit_and_end, live):
        asyncio.run(job())
        assert_empty(manager)


@pytest.mark.anyio
async def test_the_heartbeat_of_a_loop_that_was_left_ends_though_the_next_has_connections(
    make_manager: MakeManager,
) -> None:
    manager, held, may_go = make_manager(), threading.Event(), threading.Event()

    async def stay() -> None:
        async with connect(manager.endpoint):
            held.set()
            while not may_go.is_set():  # noqa: ASYNC110  # an event of another thread
                await asyncio.sleep(0.002)

    async with connect(manager.endpoint):
        await asyncio.sleep(0.5)
    other = threading.Thread(target=asyncio.run, args=(stay(),))
    other.start()
    await anyio.to_thread.run_sync(held.wait)
    assert "wsmanager.heartbeat" in {task.get_name() for task in asyncio.all_tasks()}
    await asyncio.sleep(1.1)
    assert "wsmanager.heartbeat" not in {task.get_name() for task in asyncio.all_tasks()}
    may_go.set()
    await anyio.to_thread.run_sync(other.join)


# --- Starlette's test client


def adopted(manager: ConnectionManager) -> Any:
    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket):
            with contextlib.suppress(WebSocketDisconnect):
                while True:
                    await websocket.send_json({"echo": await websocket.receive_json()})

    return endpoint


def both_doors(manager: ConnectionManager, **options: Any) -> Starlette:
    routes = [WebSocketRoute("/managed", manager.endpoint), WebSocketRoute("/adopted", adopted(manager))]
    return Starlette(routes=routes, **options)


def visit(client: TestClient, manager: ConnectionManager) -> None:
    for path in ("/managed", "/adopted"):
        with client.websocket_connect(path) as socket:
            socket.send_json({"type": "ping"})
            assert socket.receive_json()["type"] == "pong"
            assert len(manager.connections()) == 1
        assert set(manager.get_analytics().indexes.values()) == {0}


def test_a_client_without_lifespan_gives_each_socket_a_loop_of_its_own() -> None:
    manager = ConnectionManager()
    client = TestClient(both_doors(manager))
    for _ in range(3):
        visit(client, manager)


def test_a_client_with_lifespan_starts_and_ends_the_manager_each_time() -> None:
    manager = ConnectionManager()
    app = both_doors(manager, lifespan=manager.lifespan)
    for _ in range(2):
        with TestClient(app) as client:
            visit(client, manager)
        assert_empty(manager)


def test_an_endpoint_that_returns_without_a_word_frees_the_manager_for_the_next_loop() -> None:
    manager = ConnectionManager()

    async def rude(websocket: WebSocket) -> None:
        await manager.connect(websocket)

    client = TestClient(Starlette(routes=[WebSocketRoute("/ws", rude)]))
    for _ in range(2):
        with client.websocket_connect("/ws") as socket:
            del socket
        assert set(manager.get_analytics().indexes.values()) == {0}


def test_the_endpoint_may_be_mounted() -> None:
    manager = ConnectionManager()
    client = TestClient(Starlette(routes=[Mount("/sub", routes=[WebSocketRoute("/ws", manager.endpoint)])]))
    with client.websocket_connect("/sub/ws") as socket:
        socket.send_json({"type": "ping", "id": 1})
        assert socket.receive_json() == {"type": "pong", "data": None, "re": 1}


@pytest.mark.anyio
async def test_a_handler_that_seats_a_peer_who_left_is_no_failure(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager, raised = make_manager(auth=ByQuery()), list[ConnectionClosed]()

    @manager.on("seat")
    async def seat(conn: Connection) -> None:
        await asyncio.sleep(5)
        try:
            await manager.join_session(conn, "lobby")
        except ConnectionClosed as error:
            raised.append(error)
            raise

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "seat"})
        await asyncio.sleep(1)
        await peer.close()
        await asyncio.sleep(5)
    assert len(raised) == 1
    assert caplog.records == []


# --- hooks of any shape


class Greeter:
    """A hook that is an object."""

    def __init__(self) -> None:
        self.met: list[str] = []

    async def __call__(self, conn: Connection) -> None:
        await asyncio.sleep(1)
        self.met.append(conn.user_id)


@pytest.mark.anyio
async def test_an_object_with_an_async_call_is_a_hook(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    hello, gone = manager.on_connect(Greeter()), manager.on_disconnect(Greeter())
    async with connect(manager.endpoint):
        await asyncio.sleep(2)
        assert (hello.met, gone.met) == (["alice"], [])
    assert gone.met == ["alice"]


@pytest.mark.anyio
async def test_f47_a_hook_that_meets_a_cancellation_of_its_own_making_fails_like_any_other(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager, met = make_manager(auth=ByQuery()), list[str]()

    async def await_what_was_cancelled(conn: Connection) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def note(conn: Connection) -> None:
        met.append("gone")

    manager.on_disconnect(await_what_was_cancelled)
    manager.on_disconnect(note)
    async with connect(manager.endpoint):
        pass
    assert met == ["gone"]
    assert "on_disconnect.failed" in caplog.text

    manager.on_connect(await_what_was_cancelled)
    async with connect(manager.endpoint) as peer:
        assert await peer.wait_closed(1) == (4004, "server error")
    assert "on_connect.failed" in caplog.text
