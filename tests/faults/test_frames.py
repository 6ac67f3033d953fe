"""Frames that two parsers might read in two ways."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.conftest import ByQuery, MakeManager
from tests.faults.doors import EVERY_DOOR, Door
from wsmanager.testing import connect

pytestmark = pytest.mark.anyio

HOSTILE = "<script>alert(1)</script>"


@EVERY_DOOR
@pytest.mark.parametrize(
    ("frame", "heard"),
    [
        ('{"type":"echo","data":"HOSTILE","data":"well"}', "well"),
        ('{"type":"echo","data":"well","data":"HOSTILE"}', None),
        ('{"type":"echo","data":{"a":"HOSTILE","a":"well"}}', {"a": "well"}),
        ('{"type":"echo","data":{"a":"well","\\u0061":"HOSTILE"}}', None),
        ('{"type":"echo","data":[{"a":1,"a":{"a":"HOSTILE","a":2}}]}', [{"a": {"a": 2}}]),
        ('{"type":"ping","type":"echo","data":"well"}', "well"),
        ('{"data":"well","type":"HOSTILE","type":"echo"}', "well"),
    ],
)
async def test_f07_of_keys_given_twice_the_last_counts_for_the_checks_and_for_the_application(
    make_manager: MakeManager, door: Door, frame: str, heard: Any
) -> None:
    manager = make_manager(auth=ByQuery())
    app = door(manager)
    async with connect(app) as peer, connect(app, query="user=bob") as other:
        for conn in manager.connections():
            await manager.join_session(conn, "room")
        await peer.send_text(frame.replace("HOSTILE", HOSTILE))
        answer = await peer.receive_json()
        if heard is None:
            assert answer["data"]["code"] == "forbidden_pattern"
        else:
            assert answer == {"type": "echo", "data": heard}
        report = await manager.send_to_session("room", {"type": "still", "data": "here"})
        assert report.sent == 2
        for one in (peer, other):
            assert await one.receive_json() == {"type": "still", "data": "here"}
