"""The code in the README runs as it stands."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from fastapi import WebSocket

from wsmanager.testing import HandshakeRefused, connect

pytestmark = pytest.mark.anyio

README = (Path(__file__).parents[2] / "README.md").read_text()
THREE_DOORS, DOOR_2, DOOR_3 = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102  # our own README
    return names


async def test_the_three_doors_stand_side_by_side() -> None:
    names = run(THREE_DOORS)
    app, manager = names["app"], names["manager"]

    async def own(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json([await websocket.receive_json()])

    app.add_api_websocket_route("/own", own)
    query = f"token={token_for('alice', THREE_DOORS)}"
    for path in ("/own", "/ws", "/feed"):
        with pytest.raises(HandshakeRefused):
            async with connect(app, path):
                pass
    async with connect(app, "/own", query=query) as alice:
        assert (await manager.send_personal_message("alice", {"anything": 1})).sent == 1
        assert await alice.receive_json() == {"anything": 1}
        await alice.send_text("7")
        assert await alice.receive_json() == [7]
    async with connect(app, "/ws", query=query) as alice:
        await alice.send_json({"type": "add", "data": [1, 2], "id": 1})
        assert await alice.receive_json() == {"type": "reply", "re": 1, "data": 3}
    async with connect(app, "/feed", query=query) as alice:
        assert await alice.receive_json() == {"type": "hello", "data": "alice"}
        assert len(manager.connections()) == 1
        await alice.send_json({"type": "say"})
        assert await alice.receive_json() == {"type": "news", "data": {"type": "say"}}


def token_for(user: str, code: str) -> str:
    key = re.search(r'key="([^"]+)"', code)
    assert key
    return jwt.encode({"sub": user, "exp": time.time() + 60}, key[1])


async def test_the_manager_as_the_endpoint() -> None:
    app = run(DOOR_2)["app"]
    token = token_for("alice", DOOR_2)
    with pytest.raises(HandshakeRefused):
        async with connect(app, "/ws"):
            pass
    async with connect(app, "/ws", query=f"token={token}") as alice:
        await alice.send_json({"type": "chat.join", "data": {"room": "general"}})
        await alice.send_json({"type": "chat.message", "data": {"room": "general", "text": "Hi"}, "id": 1})
        assert await alice.receive_json() == {"type": "chat.message", "data": {"from": "alice", "text": "Hi"}}
        assert await alice.receive_json() == {"type": "reply", "re": 1, "data": 1}
        await alice.send_json({"type": "chat.message", "data": {"room": "general"}, "id": 2})
        answer = await alice.receive_json()
        assert (answer["data"]["code"], answer["data"]["re"]) == ("invalid_payload", 2)


async def test_a_socket_adopted_inside_an_endpoint() -> None:
    names = run(DOOR_3)
    async with connect(names["app"], "/ws") as alice:
        await alice.send_json({"type": "say", "data": 5})
        assert await alice.receive_json() == {"type": "echo", "data": 5}
        assert await names["notify"]("alice") == {"sent": 1, "kept": 0}
        assert (await alice.receive_json())["type"] == "notice"
