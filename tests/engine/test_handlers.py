from __future__ import annotations

import pytest

from tests.engine.conftest import MakeManager
from wsmanager.testing import connect

pytestmark = pytest.mark.anyio


async def test_a_returned_value_is_the_reply(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("double")
    async def double(conn, data):
        return data * 2

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "double", "id": 7, "data": 21})
        assert await peer.receive_json() == {"type": "reply", "re": 7, "data": 42}
