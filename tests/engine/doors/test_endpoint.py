"""The managed endpoint as an ASGI application: what is no WebSocket, and how sockets end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from wsmanager import Connection, ConnectionManager, WebSocketConfig
from wsmanager.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    UVICORN,
    Peer,
    PeerClosed,
    Server,
    connect,
    lifespan,
    websocket_scope,
)

from ..conftest import ByQuery, MakeManager, no_errands

pytestmark = pytest.mark.anyio


async def request(manager: ConnectionManager, method: str = "GET") -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Any) -> None:
        events.append(event)

    scope = {"type": "http", "method": method, "path": "/ws", "headers": []}
    await manager.endpoint(scope, receive, send)
    return events


async def test_an_http_request_is_asked_to_upgrade(make_manager: MakeManager) -> None:
    start, body = await request(make_manager())
    headers = dict(start["headers"])
    assert start["status"] == 426
    assert headers[b"upgrade"] == b"websocket"
    assert int(headers[b"content-length"]) == len(body["body"])
    assert not body.get("more_body")


async def test_a_scope_it_does_not_know_is_left_alone(make_manager: MakeManager) -> None:
    async def never(*event: Any) -> Any:
        raise AssertionError("nothing to say")

    await make_manager().endpoint({"type": "webtransport"}, never, never)


async def test_a_client_that_leaves_before_it_connects_leaves_no_trace(make_manager: MakeManager) -> None:
    manager = make_manager()

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(event: Any) -> None:
        raise AssertionError("nobody listens")

    await manager.endpoint(websocket_scope(), receive, send)


async def test_the_end_of_the_lifespan_closes_everything(make_manager: MakeManager) -> None:
    manager, diary = make_manager(auth=ByQuery()), []

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        await asyncio.sleep(1)
        diary.append(conn.user_id)

    @manager.on("x", concurrent=True)
    async def x(conn: Connection) -> None:
        await asyncio.sleep(2)
        diary.append("handled")

    async with connect(manager.endpoint) as first, connect(manager.endpoint, query="user=bob") as second:
        await first.send_json({"type": "x"})
        async with lifespan(manager.endpoint):
            pass
        for peer in (first, second):
            assert await peer.wait_closed() == (1012, "shutdown")
            assert (await peer.receive_json())["data"]["reconnect"] is True
        assert diary == ["bob", "handled", "alice"]  # the shutdown waited for them


async def test_sockets_are_served_again_when_the_lifespan_begins_again(make_manager: MakeManager) -> None:
    manager = make_manager()
    for _ in range(2):
        async with lifespan(manager.endpoint), connect(manager.endpoint) as peer:
            await peer.send_json({"type": "ping"})
            assert await peer.receive_json()


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, GRANIAN, DAPHNE])
async def test_f48_the_endpoint_ends_quietly_whichever_side_closes(
    make_manager: MakeManager, server: Server
) -> None:
    manager, ends = make_manager(), []

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        ends.append(conn.ending and conn.ending.code)

    @manager.on("x")
    async def x(conn: Connection, data: Any) -> Any:
        return data

    @manager.on("leave")
    async def leave(conn: Connection) -> None:
        await conn.close(4000, "bye")

    for end in ("peer", "reset", "handler", "kick"):
        async with connect(manager.endpoint, server=server) as peer:
            await peer.send_json({"type": "x", "data": "ü", "id": 1})
            assert (await peer.receive_json())["data"] == "ü"
            if end == "peer":
                await peer.close(4321)
            elif end == "reset":
                peer.reset()
            elif end == "handler":
                await peer.send_json({"type": "leave"})
            else:
                await manager.connections()[0].close(4000, "bye")
            if end in ("handler", "kick"):
                assert (await peer.wait_closed())[0] == 4000
    seen = 1006 if server.close_seen == "never" else 4321
    assert ends == [seen, 1006, 4000, 4000]
    assert manager.get_analytics().closed == {code: ends.count(code) for code in dict.fromkeys(ends)}


async def test_f48_a_push_to_a_peer_that_just_left_ends_the_connection(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def deaf() -> Any:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                await asyncio.sleep(3_600)
            return event

        await manager.endpoint(scope, deaf, send)

    async with connect(app) as peer, connect(manager.endpoint, query="user=bob") as other:
        peer.reset()
        report = await manager.broadcast({"type": "x"})
        assert (report.sent, report.offline) == (1, 1)
        assert await other.receive_json() == {"type": "x"}
        assert len(manager.connections()) == 1


async def test_an_endpoint_whose_server_fails_to_receive_is_cleaned_up(make_manager: MakeManager) -> None:
    manager, diary = make_manager(), []

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        diary.append(str(conn.status))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def fragile() -> Any:
            event = await receive()
            if event.get("text") == "break":
                raise RuntimeError("the server broke")
            return event

        await manager.endpoint(scope, fragile, send)

    async with connect(app) as peer:
        await peer.send_text("break")
        assert await peer.wait_closed() == (1006, "")
        assert isinstance(peer.app_error, RuntimeError)
        await asyncio.sleep(1)
        assert diary == ["closed"]


async def say_and_leave(peer: Peer, *messages: Any) -> None:
    """All at once: the server has read everything before the application sees any of it."""

    async def leave() -> None:
        peer.reset()

    await asyncio.gather(*map(peer.send_json, messages), leave())


@pytest.mark.parametrize("pause", [0, 1])
@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, GRANIAN])
async def test_f48_what_came_before_the_peer_left_is_worked_on_though_answers_find_it_gone(
    make_manager: MakeManager, server: Server, pause: int
) -> None:
    manager = make_manager()
    diary: list[Any] = []

    @manager.on("save")
    async def save(conn: Connection, data: int) -> str:
        diary.append(data)
        await conn.send({"type": "saving"}) if data == 0 else None
        if pause:
            await asyncio.sleep(pause)
        return "saved"

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        diary.append("gone")

    async with connect(manager.endpoint, server=server) as peer:
        messages = [{"type": "save", "data": number, "id": number} for number in range(3)]
        await say_and_leave(peer, *messages, {"type": "ping"}, {"type": "unheard.of"})
        await asyncio.sleep(5)
        assert diary == [0, 1, 2, "gone"]


@pytest.mark.parametrize(("pause", "most", "heard"), [(1, 256, 5), (0, 5, 6)])
async def test_who_cannot_be_reached_any_more_is_not_listened_to_for_long(
    make_manager: MakeManager, pause: int, most: int, heard: int
) -> None:
    manager, diary = make_manager(WebSocketConfig(inbound_max_messages=most)), []

    @manager.on("x")
    async def x(conn: Connection) -> None:
        diary.append("x")

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        diary.append("gone")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def mute(event: Any) -> None:
            if event["type"] != "websocket.accept":
                raise OSError("broken pipe")
            await send(event)

        await manager.endpoint(scope, receive, mute)

    async with connect(app) as peer:
        await peer.send_json({"type": "x", "id": 1})
        for _ in range(10):
            await asyncio.sleep(pause)
            with contextlib.suppress(PeerClosed):
                await peer.send_json({"type": "x"})
        await asyncio.sleep(0.1)
        assert diary.count("x") == heard
        assert diary[-1] == "gone"


async def test_where_no_task_can_be_had_a_close_is_the_end_at_once(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint) as peer:
        with no_errands(manager):
            for _ in range(21):
                await peer.send_text("not json")
        assert await peer.wait_closed(timeout=1) == (1006, "")
        assert manager.get_analytics().closed == {4509: 1}
