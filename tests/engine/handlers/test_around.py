"""What stands round a handler: who is asked, who is told, and that each hears of an end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.engine.conftest import ByQuery, MakeManager
from wsmanager import Connection, ConnectionManager, ReplyError
from wsmanager.handlers.around import Stored, Work
from wsmanager.testing import connect

pytestmark = pytest.mark.anyio


class Diary:
    """Writes down what it is asked and told, and answers as it is set."""

    def __init__(self, name: str, diary: list[Any], answer: Stored | Exception | None = None) -> None:
        self.name, self.diary, self.answer = name, diary, answer

    def before(self, conn: Connection, work: Work) -> Stored | None:
        self.diary.append(f"{self.name}?")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def after(self, conn: Connection, work: Work, reply: Any, error: BaseException | None) -> None:
        self.diary.append((self.name, reply if error is None else type(error).__name__))


def managed(make_manager: MakeManager, diary: list[Any]) -> ConnectionManager:
    manager = make_manager(auth=ByQuery())

    @manager.on("double")
    async def double(conn: Connection, data: Any) -> Any:
        diary.append("handler")
        return data * 2

    @manager.on("patient", concurrent=True)
    async def patient(conn: Connection, data: Any) -> Any:
        await asyncio.sleep(data)
        return data

    @manager.on("synchronous")
    def synchronous(conn: Connection, data: Any) -> Any:
        return data

    @manager.on("fail")
    async def fail(conn: Connection) -> None:
        raise ReplyError("No.", code="no")

    return manager


async def ask(manager: ConnectionManager, type: str, data: Any = 1) -> Any:
    async with connect(manager.endpoint, query="user=ann") as peer:
        await peer.send_json({"type": type, "id": 7, "data": data})
        return (await peer.receive_json())["data"]


async def test_the_first_is_asked_first_and_told_last(make_manager: MakeManager) -> None:
    diary: list[Any] = []
    manager = managed(make_manager, diary)
    manager.engine.dispatch.around = (Diary("outer", diary), Diary("inner", diary))
    assert await ask(manager, "double") == 2
    assert diary == ["outer?", "inner?", "handler", ("inner", 2), ("outer", 2)]


async def test_a_stored_reply_stands_in_for_the_handler(make_manager: MakeManager) -> None:
    diary: list[Any] = []
    manager = managed(make_manager, diary)
    stored = Diary("store", diary, Stored({"again": 1}))
    manager.engine.dispatch.around = (Diary("outer", diary), stored, Diary("inner", diary))
    assert await ask(manager, "double") == {"again": 1}
    assert diary == ["outer?", "store?", ("outer", {"again": 1})]
    assert manager.get_analytics().messages.types["double"].count_in == 1


async def test_one_that_refuses_is_answered_like_a_handler(make_manager: MakeManager) -> None:
    diary: list[Any] = []
    manager = managed(make_manager, diary)
    refusing = Diary("guard", diary, ReplyError("Busy.", code="busy"))
    manager.engine.dispatch.around = (Diary("outer", diary), refusing)
    assert (await ask(manager, "double"))["code"] == "busy"
    assert diary == ["outer?", "guard?", ("outer", "ReplyError")]


@pytest.mark.parametrize(
    ("type", "told"), [("patient", 1), ("synchronous", 1), ("fail", "ReplyError"), ("double", 2)]
)
async def test_every_kind_of_handler_is_told_of(make_manager: MakeManager, type: str, told: Any) -> None:
    diary: list[Any] = []
    manager = managed(make_manager, diary)
    manager.engine.dispatch.around = (Diary("one", diary),)
    await ask(manager, type)
    assert (diary[0], diary[-1]) == ("one?", ("one", told))
    assert len([entry for entry in diary if entry != "handler"]) == 2


async def test_a_reply_that_no_codec_can_write_is_an_error(make_manager: MakeManager) -> None:
    diary: list[Any] = []
    manager = managed(make_manager, diary)
    manager.on("odd")(lambda conn: object())
    manager.engine.dispatch.around = (Diary("one", diary),)
    assert (await ask(manager, "odd"))["code"] == "internal_error"
    assert diary == ["one?", ("one", "EncodeError")]


async def test_a_cancelled_handler_is_told_of(make_manager: MakeManager) -> None:
    diary: list[Any] = []
    manager = managed(make_manager, diary)

    @manager.on("slow")
    async def slow(conn: Connection) -> None:
        await asyncio.sleep(3_600)

    manager.engine.dispatch.around = (Diary("one", diary),)
    async with connect(manager.endpoint, query="user=ann") as peer:
        await peer.send_json({"type": "slow"})
        await asyncio.sleep(0.1)
        await manager.aclose()
    assert diary[0] == "one?"
    assert diary[1:] in ([("one", "CancelledError")], [("one", "HandlerTimeout")])


async def test_one_that_breaks_when_it_is_told_harms_nobody(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "wsmanager")
    diary: list[Any] = []

    class Broken(Diary):
        def after(self, conn: Connection, work: Work, reply: Any, error: BaseException | None) -> None:
            raise LookupError

    manager = managed(make_manager, diary)
    manager.engine.dispatch.around = (Diary("outer", diary), Broken("broken", diary))
    assert await ask(manager, "double") == 2
    assert diary[-1] == ("outer", 2)
    assert [record.event for record in caplog.records] == ["around.failed"]  # type: ignore[attr-defined]
