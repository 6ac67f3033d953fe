"""What a handler is given, what becomes of what it returns and pushes, and in which order."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

from wsmanager import (
    Connection,
    Forbidden,
    InboundMessage,
    MessagePriority,
    Provide,
    WebSocketConfig,
)
from wsmanager.testing import Peer, connect

from ..conftest import ByQuery, MakeManager, ask, errors_logged, no_errands, refusal

pytestmark = pytest.mark.anyio


# --- replies


@pytest.mark.parametrize("id", [7, "a-7", 0, ""])
async def test_a_returned_value_is_the_reply(make_manager: MakeManager, id: str | int) -> None:
    manager = make_manager()

    @manager.on("double")
    async def double(conn: Connection, data: int) -> int:
        return data * 2

    async with connect(manager.endpoint) as peer:
        assert await ask(peer, "double", 21, id=id) == {"type": "reply", "re": id, "data": 42}


async def test_a_handler_that_returns_nothing_replies_null(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("note")
    async def note(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as peer:
        assert await ask(peer, "note") == {"type": "reply", "re": 1, "data": None}


async def test_a_message_without_an_id_gets_no_reply(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("echo")
    async def echo(conn: Connection, data: Any) -> Any:
        return data

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "echo", "data": "unasked"})
        await ask(peer, "echo", "asked")
        assert peer.frames == []


async def test_the_reply_follows_what_the_handler_pushed(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("work")
    async def work(conn: Connection) -> str:
        await conn.send({"type": "progress", "data": 50})
        await manager.send_personal_message(conn.user_id, {"type": "progress", "data": 100})
        return "done"

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "work", "id": 1})
        answers = [await peer.receive_json() for _ in range(3)]
        assert [answer["data"] for answer in answers] == [50, 100, "done"]


async def test_a_reply_that_cannot_be_encoded_is_a_bug_of_the_server(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager()

    @manager.on("broken")
    async def broken(conn: Connection) -> object:
        return object()

    async with connect(manager.endpoint) as peer:
        assert await refusal(peer, "broken") == "internal_error"
        assert errors_logged(caplog) == ["handler.failed"]


async def test_messagepack_clients_are_answered_in_messagepack(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("echo")
    async def echo(conn: Connection, data: Any) -> Any:
        return data

    async with connect(manager.endpoint, subprotocols=["wsmanager.v1.msgpack"]) as peer:
        assert msgspec.msgpack.decode(await _bytes(peer))["type"] == "welcome"
        await peer.send_bytes(msgspec.msgpack.encode({"type": "echo", "data": b"\x00\xff", "id": 1}))
        assert msgspec.msgpack.decode(await _bytes(peer)) == {"type": "reply", "re": 1, "data": b"\x00\xff"}


async def _bytes(peer: Peer) -> bytes:
    frame = await peer.receive()
    assert isinstance(frame, bytes)
    return frame


# --- routes and payloads


async def test_the_closest_handler_takes_a_message(make_manager: MakeManager) -> None:
    manager = make_manager()
    for pattern in ("*", "chat.*", "chat.message"):

        def register(pattern: str = pattern) -> None:
            @manager.on(pattern)
            async def handler(conn: Connection) -> str:
                return pattern

        register()

    async with connect(manager.endpoint) as peer:
        for type, taken_by in [("chat.message", "chat.message"), ("chat.x.y", "chat.*"), ("chatter", "*")]:
            assert (await ask(peer, type))["data"] == taken_by


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Spot:
    x: int
    y: int = 0


class Place(pydantic.BaseModel):
    x: int
    y: int = 0


@pytest.mark.parametrize("kind", [Point, Spot, Place])
async def test_data_is_converted_to_what_the_handler_asks_for(make_manager: MakeManager, kind: Any) -> None:
    manager, seen = make_manager(), []

    async def move(conn: Connection, to: Any) -> Any:
        seen.append(to)
        return to.x

    move.__annotations__["to"] = kind
    manager.on("move")(move)

    async with connect(manager.endpoint) as peer:
        assert (await ask(peer, "move", {"x": 3}))["data"] == 3
        assert await refusal(peer, "move", {"x": "three"}) == "invalid_payload"
        assert await refusal(peer, "move") == "invalid_payload"
        assert seen == [kind(x=3)]


async def test_a_handler_may_ask_for_the_whole_message(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("*")
    async def whatever(conn: Connection, message: InboundMessage) -> str:
        return f"{message.type} {message.id}"

    async with connect(manager.endpoint) as peer:
        assert (await ask(peer, "any.thing", id="q"))["data"] == "any.thing q"


# --- synchronous handlers


async def test_synchronous_handlers_run_in_threads_and_in_order(make_manager: MakeManager) -> None:
    manager, seen = make_manager(), []

    @manager.on("x")
    def x(conn: Connection, data: int) -> bool:
        seen.append(data)
        return threading.current_thread() is threading.main_thread()

    async with connect(manager.endpoint) as peer:
        for number in range(10):
            await peer.send_json({"type": "x", "data": number, "id": number})
        answers = [await peer.receive_json() for _ in range(10)]
        assert [answer["re"] for answer in answers] == seen == list(range(10))
        assert {answer["data"] for answer in answers} == {False}


async def test_no_more_threads_are_used_than_configured(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(sync_handler_threads=2), auth=ByQuery())
    lock, running, most = threading.Lock(), 0, 0
    full = threading.Barrier(2)

    @manager.on("x")
    def x(conn: Connection) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait(10)
        with lock:
            running -= 1

    async with (
        connect(manager.endpoint) as a,
        connect(manager.endpoint) as b,
        connect(manager.endpoint) as c,
        connect(manager.endpoint) as d,
    ):
        for peer in (a, b, c, d):
            await peer.send_json({"type": "x", "id": 1})
        for peer in (a, b, c, d):
            assert (await peer.receive_json())["type"] == "reply"
    assert most == 2


# --- handlers beside each other


async def test_concurrent_handlers_overtake_each_other(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("sleep", concurrent=True)
    async def sleep(conn: Connection, data: float) -> None:
        await asyncio.sleep(data)

    async with connect(manager.endpoint) as peer:
        for seconds in (3, 1, 2):
            await peer.send_json({"type": "sleep", "data": seconds, "id": seconds})
        assert [(await peer.receive_json())["re"] for _ in range(3)] == [1, 2, 3]
        await asyncio.sleep(0)
        assert not manager.engine.dispatch.beside


async def test_a_concurrent_handler_does_not_wait_for_a_slow_one(make_manager: MakeManager) -> None:
    manager, cancelled = make_manager(), asyncio.Event()

    @manager.on("generate")
    async def generate(conn: Connection) -> str:
        await asyncio.wait_for(cancelled.wait(), 20)
        return "stopped"

    @manager.on("cancel", concurrent=True)
    async def cancel(conn: Connection) -> None:
        cancelled.set()

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "generate", "id": "g"})
        await asyncio.sleep(1)
        await peer.send_json({"type": "cancel"})
        assert await peer.receive_json() == {"type": "reply", "re": "g", "data": "stopped"}


async def test_no_more_concurrent_handlers_run_than_configured(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(max_concurrent_handlers=3))
    running: list[int] = []
    most = 0

    @manager.on("x", concurrent=True)
    async def x(conn: Connection, data: int) -> int:
        nonlocal most
        running.append(data)
        most = max(most, len(running))
        await asyncio.sleep(1)
        running.remove(data)
        return data

    async with connect(manager.endpoint) as peer:
        for number in range(10):
            await peer.send_json({"type": "x", "data": number, "id": number})
        answers = [(await peer.receive_json())["data"] for _ in range(10)]
    assert sorted(answers) == list(range(10))
    assert most == 3


async def test_concurrent_handlers_may_be_synchronous_and_have_dependencies(
    make_manager: MakeManager,
) -> None:
    manager, together = make_manager(), threading.Barrier(2)

    @manager.on("x", concurrent=True)
    def x(conn: Connection, name: Annotated[str, Provide(lambda: "provided")]) -> str:
        together.wait(10)
        return name

    async with connect(manager.endpoint) as peer:
        for number in range(2):
            await peer.send_json({"type": "x", "id": number})
        assert [(await peer.receive_json())["data"] for _ in range(2)] == ["provided"] * 2


async def test_where_no_task_can_be_had_concurrent_handlers_run_in_order(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("sleep", concurrent=True)
    async def sleep(conn: Connection, data: float) -> None:
        await asyncio.sleep(data)

    async with connect(manager.endpoint) as peer:
        with no_errands(manager):
            for seconds in (2, 1):
                await peer.send_json({"type": "sleep", "data": seconds, "id": seconds})
            assert [(await peer.receive_json())["re"] for _ in range(2)] == [2, 1]


async def test_with_one_concurrent_handler_allowed_they_run_in_order(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(max_concurrent_handlers=1))

    @manager.on("sleep", concurrent=True)
    async def sleep(conn: Connection, data: float) -> None:
        await asyncio.sleep(data)

    async with connect(manager.endpoint) as peer:
        for seconds in (3, 1, 2):
            await peer.send_json({"type": "sleep", "data": seconds, "id": seconds})
        assert [(await peer.receive_json())["re"] for _ in range(3)] == [3, 1, 2]


# --- order


async def test_f51_frames_leave_in_the_order_they_were_pushed(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=10_000), auth=ByQuery())
    pushed: list[int] = []

    async def push(conn: Connection, writer: int) -> None:
        for _ in range(50):
            number = len(pushed)
            pushed.append(number)
            if writer % 2:
                await manager.send_to_connection(conn.id, {"type": "n", "data": number})
            else:
                await manager.broadcast({"type": "n", "data": number})
            await asyncio.sleep(0.001 * (writer + 1))

    @manager.on("start")
    async def start(conn: Connection) -> None:
        await asyncio.gather(*(push(conn, writer) for writer in range(5)))

    async with connect(manager.endpoint, window=200) as peer:
        await peer.send_json({"type": "start"})
        for _ in range(20):
            peer.stall()
            await asyncio.sleep(0.005)
            peer.resume()
            await asyncio.sleep(0.005)
        await asyncio.sleep(1)
        received = [msgspec.json.decode(frame)["data"] for frame in peer.frames]
        assert received == pushed == list(range(250))


async def test_handlers_of_a_connection_run_one_after_the_other_in_order(make_manager: MakeManager) -> None:
    manager, steps = make_manager(auth=ByQuery()), []

    @manager.on("x")
    async def x(conn: Connection, data: int) -> None:
        steps.append(("in", data))
        for _ in range(data % 4):
            await asyncio.sleep(0.01 * (data % 3))
        steps.append(("out", data))

    async with connect(manager.endpoint) as peer:
        for number in range(60):
            await peer.send_json({"type": "x", "data": number})
            await asyncio.sleep(0.007 * (number % 5))
        await asyncio.sleep(5)
    assert steps == [(way, number) for number in range(60) for way in ("in", "out")]


async def test_connections_do_not_wait_for_each_others_handlers(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on("hang")
    async def hang(conn: Connection) -> None:
        await asyncio.sleep(10)

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as slow, connect(manager.endpoint) as fast:
        await slow.send_json({"type": "hang"})
        await fast.send_json({"type": "x", "id": 1})
        assert fast.receive_nowait()


# --- what lives for one message


async def test_dependencies_live_for_one_message(make_manager: MakeManager) -> None:
    manager, journal = make_manager(), []

    async def session() -> AsyncIterator[str]:
        journal.append("open")
        try:
            yield "session"
        except BaseException as error:
            journal.append(type(error).__name__)
            raise
        finally:
            journal.append("close")

    @manager.on("query")
    async def query(conn: Connection, data: str, db: Annotated[str, Provide(session)]) -> str:
        journal.append(data)
        if data == "hang":
            await asyncio.sleep(3_600)
        if data == "fail":
            raise Forbidden("no")
        return db

    async with connect(manager.endpoint) as peer:
        assert (await ask(peer, "query", "one"))["data"] == "session"
        assert journal == ["open", "one", "close"]
        assert await refusal(peer, "query", "fail") == "forbidden"
        assert journal[3:] == ["open", "fail", "Forbidden", "close"]
        await peer.send_json({"type": "query", "data": "hang", "id": 1})
        assert (await peer.receive_json(timeout=40))["data"]["code"] == "handler_timeout"
        assert journal[7:] == ["open", "hang", "CancelledError", "close"]


class Event(dict[str, Any]):
    """An event of the server that tells when it is gone, and its frame with it."""


@pytest.mark.parametrize("suspends", [False, True])
async def test_an_idle_socket_holds_nothing_of_its_last_message(
    make_manager: MakeManager, suspends: bool
) -> None:
    manager, seen = make_manager(), []

    @manager.on("x")
    async def x(conn: Connection, data: Any) -> None:
        if suspends:
            await asyncio.sleep(1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def watched() -> Event:
            event = Event(await receive())
            seen.append(weakref.ref(event))
            return event

        await manager.endpoint(scope, watched, send)

    async with connect(app) as peer:
        tasks = asyncio.all_tasks()
        for type in ("x", "ping", "unheard.of"):
            await ask(peer, type)
            await asyncio.sleep(0)
            gc.collect()
            assert [event for event in seen if event() is not None] == []
            assert asyncio.all_tasks() == tasks


# --- figures


async def test_every_frame_is_counted_once_by_a_name_that_no_client_invents(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on("chat.*")
    async def chat(conn: Connection, data: int) -> object:
        if data == 2:
            raise ValueError
        await asyncio.sleep(0.25)
        return object() if data == 3 else None

    frames = [
        '{"type":"chat.a","data":1,"x":"größer"}',
        '{"type":"chat.b","data":2}',
        '{"type":"chat.c","data":3,"id":1}',
        '{"type":"chat.d","data":"x"}',
        '{"type":"<invented>"}',
        '{"type":"ping"}',
        "not json",
    ]
    async with connect(manager.endpoint) as peer:
        for frame in frames:
            await peer.send_text(frame)
        await asyncio.sleep(1)
    messages = manager.get_analytics().messages
    counts = {type: (stats.count_in, stats.errors) for type, stats in messages.types.items()}
    assert counts == {"chat.*": (4, 3), "unknown": (1, 1), "ping": (1, 0), "unreadable": (1, 1)}
    assert messages.total.bytes_in == sum(len(frame.encode()) for frame in frames)
    assert messages.types["chat.*"].max_ms == pytest.approx(250)
    assert messages.errors == {
        "internal_error": 2,
        "invalid_payload": 1,
        "unknown_type": 1,
        "not_json": 1,
    }


async def test_priorities_of_pushes_may_be_chosen(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("x")
    async def x(conn: Connection) -> None:
        await conn.send({"type": "big", "data": "x" * 1_000})
        await conn.send({"type": "next"})
        await conn.send({"type": "low"}, priority=MessagePriority.LOW)
        await conn.send({"type": "high"}, priority=MessagePriority.HIGH)

    async with connect(manager.endpoint, window=100, stalled=True) as peer:
        await peer.send_json({"type": "x", "id": 1})
        peer.resume()
        await asyncio.sleep(0.1)
        types = [msgspec.json.decode(frame)["type"] for frame in peer.frames]
        assert types == ["big", "next", "high", "reply", "low"]
