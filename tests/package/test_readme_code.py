"""The code in the README runs as it stands."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from wsmanager.testing import HandshakeRefused, connect

pytestmark = pytest.mark.anyio

README = (Path(__file__).parents[2] / "README.md").read_text()
DOOR_2, DOOR_3 = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102  # our own README
    return names


async def test_the_manager_as_the_endpoint() -> None:
    app = run(DOOR_2)["app"]
    key = re.search(r'key="([^"]+)"', DOOR_2)
    assert key
    token = jwt.encode({"sub": "alice", "exp": time.time() + 60}, key[1])
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
