"""What a handler is given, and what becomes of what it returns, raises and pushes."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import msgspec
import pydantic
import pytest

from tests.engine.conftest import ByQuery, MakeManager
from wsmanager import (
    Connection,
    ConnectionClosed,
    Disconnect,
    Forbidden,
    InboundMessage,
    MessagePriority,
    Provide,
    RateLimited,
    Refused,
    ReplyError,
    Tier,
    WebSocketConfig,
)
from wsmanager.testing import Peer, connect

pytestmark = pytest.mark.anyio


async def ask(peer: Peer, type: str, data: Any = None, id: str | int = 1) -> Any:
    """What the server answers to one message."""
    await peer.send_json({"type": type, "data": data, "id": id})
    return await peer.receive_json()


async def refusal(peer: Peer, type: str, data: Any = None) -> str:
    """The code of the error that the message is answered with."""
    answer = await ask(peer, type, data)
    assert answer["type"] == "error", answer
    code: str = answer["data"]["code"]
    return code


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
        assert [record.event for record in caplog.records if record.levelno == logging.ERROR] == [
            "handler.failed"
        ]


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


# --- rights


async def test_a_type_with_scopes_is_for_those_who_have_them_all(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on("purge", scopes=["admin", "write"])
    async def purge(conn: Connection) -> str:
        return "purged"

    for scopes, allowed in [("admin write read", True), ("admin", False), ("", False)]:
        async with connect(manager.endpoint, query=f"scopes={scopes.replace(' ', '+')}") as peer:
            answer = await ask(peer, "purge", {"not": "even looked at"})
            assert (answer["type"] == "reply") is allowed
            assert allowed or answer["data"]["code"] == "forbidden"


async def test_allow_decides_by_connection_and_message(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    def own(conn: Connection, message: InboundMessage) -> bool:
        return bool(message.data == conn.user_id)

    @manager.on("rename", allow=own)
    async def rename(conn: Connection, data: str) -> str:
        return data

    async with connect(manager.endpoint, query="user=ann") as peer:
        assert (await ask(peer, "rename", "ann"))["type"] == "reply"
        assert await refusal(peer, "rename", "bob") == "forbidden"


async def test_an_allow_that_answers_later_allows_nothing(make_manager: MakeManager) -> None:
    manager = make_manager()

    def soon(conn: Connection, message: InboundMessage) -> Any:
        return asyncio.get_running_loop().create_future()

    @manager.on("rename", allow=soon)
    async def rename(conn: Connection) -> str:
        return "renamed"

    async with connect(manager.endpoint) as peer:
        assert await refusal(peer, "rename") == "internal_error"


async def test_an_allow_that_raises_allows_nothing(make_manager: MakeManager) -> None:
    manager = make_manager()

    def broken(conn: Connection, message: InboundMessage) -> bool:
        raise LookupError("no such role: secret")

    @manager.on("rename", allow=broken)
    async def rename(conn: Connection) -> str:
        return "renamed"

    async with connect(manager.endpoint) as peer:
        assert await refusal(peer, "rename") == "internal_error"


async def test_a_feature_is_for_tiers_that_have_it(make_manager: MakeManager) -> None:
    tiers = {"free": Tier(), "pro": Tier(features=frozenset({"export", "import"}))}
    manager = make_manager(WebSocketConfig(tiers=tiers), auth=ByQuery())

    @manager.on("export", features=["export"])
    async def export(conn: Connection) -> str:
        return "exported"

    for query, allowed in [("tier=pro", True), ("tier=free", False), ("tier=unheard-of", False), ("", False)]:
        async with connect(manager.endpoint, query=query) as peer:
            answer = await ask(peer, "export")
            assert (answer["type"] == "reply") is allowed
            assert allowed or answer["data"]["code"] == "forbidden"


# --- rate limits


async def accepted(peer: Peer, type: str, *, tries: int) -> int:
    """How many of so many messages were not refused for their number."""
    answers = [await ask(peer, type) for _ in range(tries)]
    assert {a["data"]["code"] for a in answers if a["type"] == "error"} <= {"rate_limited"}
    return sum(answer["type"] == "reply" for answer in answers)


async def test_the_101st_message_inside_a_minute_is_refused_and_told_when(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as peer:
        assert await accepted(peer, "x", tries=100) == 100
        answer = await ask(peer, "x")
        # Past the limit nothing is decoded, so there is no id to refer to.
        assert answer["data"].pop("message")
        retry = answer["data"].pop("retry_after_ms")
        assert answer == {"type": "error", "data": {"code": "rate_limited", "temporary": True}}
        assert 59_000 <= retry <= 61_001
        await asyncio.sleep(retry / 1000)
        assert (await ask(peer, "x"))["type"] == "reply"


async def test_the_tier_scales_the_rate_limit(make_manager: MakeManager) -> None:
    config = WebSocketConfig(
        rate_limit_max=10, tiers={"half": Tier(rate_factor=0.5), "double": Tier(rate_factor=2)}
    )
    manager = make_manager(config, auth=ByQuery())

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    for tier, limit in [("half", 5), ("none", 10), ("double", 20)]:
        async with connect(manager.endpoint, query=f"user={tier}&tier={tier}") as peer:
            assert await accepted(peer, "x", tries=25) == limit


async def test_a_costly_type_takes_more_of_the_limit(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=10))

    @manager.on("search", cost=4)
    async def search(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as peer:
        assert await accepted(peer, "search", tries=4) == 2


async def test_the_connections_of_a_user_share_one_limit_and_users_do_not(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=4), auth=ByQuery())

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with (
        connect(manager.endpoint, query="user=ann") as first,
        connect(manager.endpoint, query="user=ann") as second,
        connect(manager.endpoint, query="user=ann&tenant=other") as namesake,
    ):
        assert await accepted(first, "x", tries=3) == 3
        assert await accepted(second, "x", tries=3) == 1
        assert await accepted(namesake, "x", tries=3) == 3


async def test_a_tenant_has_a_limit_of_its_own(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(tenant_rate_limit_max=4), auth=ByQuery())

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with (
        connect(manager.endpoint, query="user=ann&tenant=a") as ann,
        connect(manager.endpoint, query="user=bob&tenant=a") as bob,
        connect(manager.endpoint, query="user=ann&tenant=b") as other,
    ):
        assert await accepted(ann, "x", tries=3) == 3
        assert await accepted(bob, "x", tries=3) == 1
        assert await accepted(other, "x", tries=3) == 3


# --- errors


@pytest.mark.parametrize("error", [ValueError("pw=hunter2"), asyncio.CancelledError("pw=hunter2"), KeyError])
async def test_f47_a_handler_that_raises_leaves_the_connection_open(
    make_manager: MakeManager, error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager()

    @manager.on("bad")
    async def bad(conn: Connection) -> None:
        raise error

    @manager.on("good")
    async def good(conn: Connection) -> str:
        return "fine"

    async with connect(manager.endpoint) as peer:
        answer = await ask(peer, "bad", id="q")
        assert answer == {
            "type": "error",
            "re": "q",
            "data": {
                "code": "internal_error",
                "message": "The server could not process this message.",
                "temporary": True,
                "re": "q",
            },
        }
        assert (await ask(peer, "good"))["data"] == "fine"
    assert [record.event for record in caplog.records if record.levelno == logging.ERROR] == [
        "handler.failed"
    ]


async def test_f47_a_handler_whose_awaited_task_is_cancelled_leaves_the_connection_open(
    make_manager: MakeManager,
) -> None:
    manager = make_manager()

    @manager.on("bad")
    async def bad(conn: Connection) -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_later(1, task.cancel)
        await task

    async with connect(manager.endpoint) as peer:
        assert await refusal(peer, "bad") == "internal_error"
        assert await refusal(peer, "unheard-of") == "unknown_type"


async def test_an_error_of_the_application_keeps_its_code(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("enter")
    async def enter(conn: Connection) -> None:
        raise ReplyError("The hall is full.", code="hall_full", retry_after_ms=250)

    async with connect(manager.endpoint) as peer:
        answer = await ask(peer, "enter")
        assert answer["data"] == {
            "code": "hall_full",
            "message": "The hall is full.",
            "temporary": False,
            "retry_after_ms": 250,
            "re": 1,
        }


async def test_an_error_that_no_frame_can_carry_is_a_bug_of_the_server(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("open")
    async def open_file(conn: Connection) -> None:
        raise ReplyError("no such file: caf\udce9")

    async with connect(manager.endpoint) as peer:
        assert await refusal(peer, "open") == "internal_error"
        assert await refusal(peer, "open") == "internal_error"


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [(Disconnect(4503, "kicked"), 4503, "kicked"), (Refused("no", code="banned"), 4507, "banned")],
)
async def test_a_handler_may_end_the_connection(
    make_manager: MakeManager, error: Exception, code: int, reason: str
) -> None:
    manager = make_manager()

    @manager.on("leave")
    async def leave(conn: Connection) -> None:
        await conn.send({"type": "bye"})
        raise error

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "leave", "id": 1})
        assert await peer.wait_closed() == (code, reason)
        assert [msgspec.json.decode(frame)["type"] for frame in peer.frames] == ["bye", "disconnect"]


async def test_a_send_to_another_closed_connection_does_not_end_the_senders(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    others: list[Connection] = []
    manager.on_connect(others.append)

    @manager.on("whisper")
    async def whisper(conn: Connection) -> None:
        await others[0].send({"type": "whisper"})

    async with connect(manager.endpoint, query="user=bob"):
        pass
    async with connect(manager.endpoint, query="user=ann") as ann:
        assert await refusal(ann, "whisper") == "internal_error"
        assert await refusal(ann, "whisper") == "internal_error"


async def test_sending_on_a_connection_that_just_closed_is_no_bug(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager()

    @manager.on("late")
    async def late(conn: Connection) -> None:
        await asyncio.sleep(5)
        await conn.send({"type": "too.late"})

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "late", "id": 1})
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_handler_may_close_its_own_connection(make_manager: MakeManager) -> None:
    manager, after = make_manager(), []

    @manager.on("bye")
    async def bye(conn: Connection) -> str:
        await conn.close(4000, "as you wish")
        with pytest.raises(ConnectionClosed):
            await conn.send({"type": "too.late"})
        after.append(str(conn.status))
        return "nobody reads this"

    @manager.on("more")
    async def more(conn: Connection) -> None:
        after.append("handled")

    async with connect(manager.endpoint) as peer:
        await asyncio.gather(peer.send_json({"type": "bye", "id": 1}), peer.send_json({"type": "more"}))
        assert await peer.wait_closed() == (4000, "as you wish")
    assert after == ["closed"]


# --- repeated offences


async def offend(peer: Peer, type: str, times: int) -> None:
    for _ in range(times):
        await peer.send_json({"type": type, "id": 1})


@pytest.mark.parametrize("offence", ["unheard-of", "scoped", "typed", "replied"])
async def test_the_21st_fault_inside_a_minute_closes_4509(make_manager: MakeManager, offence: str) -> None:
    manager = make_manager()

    @manager.on("scoped", scopes=["x"])
    async def scoped(conn: Connection) -> None: ...

    @manager.on("typed")
    async def typed(conn: Connection, data: int) -> None: ...

    @manager.on("replied")
    async def replied(conn: Connection) -> None:
        raise ReplyError("Not like this.")

    async with connect(manager.endpoint) as peer:
        await offend(peer, offence, 20)
        assert not peer.closed
        await offend(peer, offence, 1)
        assert await peer.wait_closed() == (4509, "too many errors")
        assert len(peer.frames) == 22  # every fault is answered, and then the goodbye


async def test_haste_closes_4029(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=1))

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as peer:
        await offend(peer, "x", 22)
        assert await peer.wait_closed() == (4029, "rate_limited")


async def test_faults_are_forgiven_after_a_minute(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint) as peer:
        for _ in range(3):
            await offend(peer, "unheard-of", 20)
            await asyncio.sleep(60)
        assert not peer.closed


class Busy(ReplyError):
    temporary = True


@pytest.mark.parametrize("fault", [ValueError("a bug"), Busy("later"), asyncio.CancelledError()])
async def test_the_servers_own_faults_do_not_count_against_the_client(
    make_manager: MakeManager, fault: BaseException
) -> None:
    manager = make_manager()

    @manager.on("x")
    async def x(conn: Connection) -> None:
        raise fault

    async with connect(manager.endpoint) as peer:
        await offend(peer, "x", 50)
        assert len(peer.frames) == 50
        assert not peer.closed
        health = manager.get_connection_health(next(iter(manager.connections())).user_id)
        assert health.connections[0].error_rate == 0


async def test_a_limit_of_the_applications_own_counts_as_haste(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("x")
    async def x(conn: Connection) -> None:
        raise RateLimited("One vote an hour.", retry_after_ms=3_600_000)

    async with connect(manager.endpoint) as peer:
        await offend(peer, "x", 21)
        assert (await peer.wait_closed())[0] == 4029


async def test_one_fault_of_two_messages_is_an_error_rate_of_a_half(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as peer:
        for _ in range(10):
            await offend(peer, "unheard-of", 1)
            await offend(peer, "x", 1)
        (health,) = manager.get_connection_health("alice").connections
        assert health.error_rate == 0.5


# --- time


async def hang(conn: Connection) -> None:
    await asyncio.sleep(3_600)


@pytest.mark.parametrize("concurrent", [False, True])
async def test_f47_a_handler_that_hangs_is_stopped_and_answered(
    make_manager: MakeManager, concurrent: bool
) -> None:
    manager = make_manager()
    manager.on("hang", concurrent=concurrent)(hang)

    @manager.on("x")
    async def x(conn: Connection) -> str:
        return "fine"

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "hang", "id": "q"})
        started = asyncio.get_running_loop().time()
        answer = await peer.receive_json(timeout=31)
        assert asyncio.get_running_loop().time() - started == pytest.approx(30)
        assert (answer["re"], answer["data"]["code"]) == ("q", "handler_timeout")
        assert answer["data"]["temporary"] is True
        assert (await ask(peer, "x"))["data"] == "fine"


async def test_f47_a_synchronous_handler_that_hangs_is_answered_too(make_manager: MakeManager) -> None:
    manager, leave = make_manager(WebSocketConfig(handler_timeout=2)), threading.Event()

    @manager.on("hang")
    def hang(conn: Connection) -> None:
        leave.wait(30)

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "hang", "id": 1})
        assert (await peer.receive_json())["data"]["code"] == "handler_timeout"
        leave.set()


async def test_without_a_handler_timeout_a_handler_may_take_any_time(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(handler_timeout=None))
    manager.on("hang")(hang)

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "hang", "id": 1})
        assert (await peer.receive_json(timeout=4_000))["type"] == "reply"


async def test_a_timeout_inside_of_a_handler_hits_only_what_it_is_around(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("patient")
    async def patient(conn: Connection) -> list[str]:
        given_up = []
        try:
            async with asyncio.timeout(1):
                await asyncio.sleep(5)
        except TimeoutError:
            given_up.append("asyncio")
        with anyio.move_on_after(1) as scope:
            await asyncio.sleep(5)
        if scope.cancelled_caught:
            given_up.append("anyio")
        async with anyio.create_task_group() as group:
            group.start_soon(asyncio.sleep, 60)
            group.cancel_scope.cancel()
        await asyncio.sleep(1)
        return given_up

    @manager.on("impatient")
    async def impatient(conn: Connection) -> None:
        with anyio.fail_after(1):
            await asyncio.sleep(5)

    async with connect(manager.endpoint) as peer:
        assert (await ask(peer, "patient"))["data"] == ["asyncio", "anyio"]
        assert await refusal(peer, "impatient") == "internal_error"
        assert (await ask(peer, "patient"))["data"] == ["asyncio", "anyio"]


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
    manager.on("hang")(hang)

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


class Payload:
    """Like a big object that a message brought along."""

    model_fields: dict[str, Any] = {}

    @classmethod
    def model_validate(cls, value: Any) -> Payload:
        return cls()


@pytest.mark.parametrize("suspends", [False, True])
async def test_an_idle_socket_holds_nothing_of_its_last_message(
    make_manager: MakeManager, suspends: bool
) -> None:
    manager, seen = make_manager(), []

    @manager.on("x")
    async def x(conn: Connection, data: Payload) -> None:
        seen.append(weakref.ref(data))
        if suspends:
            await asyncio.sleep(1)

    async with connect(manager.endpoint) as peer:
        await ask(peer, "x")
        await asyncio.sleep(0)
        gc.collect()
        assert seen[0]() is None
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "wsmanager.read_ahead"]


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
        '{"type":"chat.a","data":1}',
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
    assert messages.total.bytes_in == sum(map(len, frames))
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
