"""Who ends a connection, as `By` names them, and what `RULES` makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.engine.conftest import ByQuery, MakeManager
from wsmanager import Connection, ConnectionManager, WebSocketMiddleware
from wsmanager.connections.ending import RULES, By
from wsmanager.testing import FakeSocket, Peer, connect, websocket_scope

pytestmark = pytest.mark.anyio


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Echoes, and closes when it is told to."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if event["text"] == '"close"':
            await send({"type": "websocket.close", "code": 3001, "reason": "told"})
        else:
            await send({"type": "websocket.send", "text": event["text"]})


async def by_manager(manager: ConnectionManager, conn: Connection, peer: Peer) -> None:
    await conn.close(4000, "enough")


async def by_application(manager: ConnectionManager, conn: Connection, peer: Peer) -> None:
    await peer.send_text('"close"')


async def by_peer(manager: ConnectionManager, conn: Connection, peer: Peer) -> None:
    await peer.close(1001, "gone")


async def by_nobody(manager: ConnectionManager, conn: Connection, peer: Peer) -> None:
    manager.engine.abandon(conn)


@pytest.mark.parametrize(
    ("end", "by", "closing"),
    [
        (by_manager, By.MANAGER, (4000, "enough")),
        (by_application, By.APPLICATION, (3001, "told")),
        (by_peer, By.PEER, (1001, "gone")),
        (by_nobody, By.NOBODY, (1006, "")),
    ],
    ids=lambda value: value.value if isinstance(value, By) else "",
)
async def test_the_first_who_ends_it_is_remembered(
    make_manager: MakeManager,
    end: Callable[[ConnectionManager, Connection, Peer], Awaitable[None]],
    by: By,
    closing: tuple[int, str],
) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(WebSocketMiddleware(app, manager, "json"), query="user=ann") as peer:
        (conn,) = manager.connections()
        assert conn.ending is None
        await end(manager, conn, peer)
        await asyncio.sleep(0.1)
        await conn.close(4001, "too late")
        assert conn.ending is not None
        assert (conn.ending.by, conn.ending.code, conn.ending.reason) == (by, *closing)
    assert manager.get_analytics().closed == {closing[0]: 1}


async def test_a_send_that_fails_is_remembered_and_what_came_before_is_heard(
    make_manager: MakeManager,
) -> None:
    manager, heard = make_manager(auth=ByQuery()), list[Any]()

    @manager.on("x")
    async def hear(conn: Connection, data: Any) -> None:
        heard.append(data)

    socket = FakeSocket(websocket_scope(query="user=ann"))

    async def send(event: Any) -> None:
        if event["type"] == "websocket.send":
            raise ConnectionResetError("the client is gone")
        await socket.send(event)

    serving = asyncio.ensure_future(manager.endpoint(socket.scope, socket.receive, send))
    await asyncio.sleep(0.1)
    (conn,) = manager.connections()
    await manager.broadcast({"type": "news"})
    await asyncio.sleep(0)
    assert conn.ending is not None
    assert conn.ending.by is By.FAILED_SEND
    socket.feed_text('{"type":"x","data":1}')
    socket.disconnect(1006)
    await serving
    assert heard == [1]


def test_every_way_to_end_has_its_rules() -> None:
    assert set(RULES) == set(By)
    assert {by for by, rules in RULES.items() if rules.is_due} == {By.APPLICATION, By.PEER, By.FAILED_SEND}
    assert {by for by, rules in RULES.items() if rules.is_heard} == {By.APPLICATION, By.FAILED_SEND}


async def test_an_idle_connection_has_no_ending_and_no_trouble(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint, query="user=ann"):
        (conn,) = manager.connections()
        assert (conn.ending, conn.trouble, conn.congestion, conn.ahead) == (None, None, None, None)
