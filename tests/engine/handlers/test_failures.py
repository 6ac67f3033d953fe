"""Handlers that raise, hang, or end the connection."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import msgspec
import pytest

from wsmanager import (
    Connection,
    ConnectionClosed,
    Disconnect,
    Refused,
    ReplyError,
    WebSocketConfig,
)
from wsmanager.testing import connect

from ..conftest import ByQuery, MakeManager, ask, errors_logged, refusal

pytestmark = pytest.mark.anyio


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
    assert errors_logged(caplog) == ["handler.failed"]


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
    assert errors_logged(caplog) == []


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
        assert await refusal(peer, "impatient") == "unavailable"
        assert (await ask(peer, "patient"))["data"] == ["asyncio", "anyio"]
