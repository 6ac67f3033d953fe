"""The code in the guide runs as it stands, and does what the text beside it says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from wsmanager import Connection, ConnectionManager
from wsmanager.connections.residents import Resident
from wsmanager.testing import connect

pytestmark = pytest.mark.anyio

GUIDE = Path(__file__).parents[2] / "examples" / "guide"
CHAPTERS = [path for path in sorted(GUIDE.glob("*.md")) if "```python" in path.read_text()]


def run(chapter: Path) -> dict[str, Any]:
    """Run every block of Python in a chapter, one after the other, and return the names they made."""
    names: dict[str, Any] = {"__name__": chapter.stem}
    for code in re.findall(r"```python\n(.*?)```", chapter.read_text(), re.DOTALL):
        exec(compile(code, str(chapter), "exec"), names)  # noqa: S102  # our own guide
    return names


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_the_code_of_a_chapter_runs(chapter: Path) -> None:
    assert run(chapter)


async def test_a_resident_answers_a_type_of_its_own_and_adds_to_the_welcome() -> None:
    manager = run(GUIDE / "residents.md")["manager"]
    async with connect(manager.endpoint, subprotocols=["wsmanager.v1.json"]) as peer:
        assert (await peer.receive_json())["data"]["online"] == 1
        (conn,) = manager.connections()
        await manager.join_session(conn, "hall")
        await peer.send_json({"type": "room.count", "id": 1, "data": "hall"})
        assert await peer.receive_json() == {"type": "room.count", "re": 1, "data": 1}
        await peer.send_json({"type": "room.count", "id": 2, "data": 7})
        assert (await peer.receive_json())["data"]["message"] == '"data" must be the name of a room.'
        assert manager.get_analytics().residents == {"room_counter": {"rooms": 1}}
    assert manager.get_analytics().residents == {"room_counter": {"rooms": 0}}


async def test_what_stands_round_a_handler_and_what_observes() -> None:
    names = run(GUIDE / "residents.md")
    manager: ConnectionManager = names["watched"]
    closes = names["closes"]

    @manager.on("report", concurrent=True)
    async def report(conn: Connection) -> str:
        await asyncio.sleep(1)
        return "done"

    async with connect(manager.endpoint) as peer:
        for number in (1, 2):
            await peer.send_json({"type": "report", "id": number})
        assert (await peer.receive_json())["data"] == {"status": "running already"}
        assert (await peer.receive_json())["data"] == "done"
        await peer.send_json({"type": "report", "id": 3})
        assert (await peer.receive_json())["data"] == "done"
        (conn,) = manager.connections()
        await conn.close(4000)
    assert closes.codes == {4000: 1}


def test_the_chapter_names_every_method_of_a_resident() -> None:
    methods = {name for name, value in vars(Resident).items() if callable(value)}
    table = (GUIDE / "residents.md").read_text()
    assert {name for name in methods if not re.search(rf"`(async )?{name}\(", table)} == set()
