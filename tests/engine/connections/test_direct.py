"""What a server adds that offers its transport, and when it is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from wsmanager import MessagePriority, WebSocketConfig, WebSocketMiddleware
from wsmanager.messages import HealthStatus, Pushed
from wsmanager.testing import DIRECT, Peer, connect

from ..conftest import ByQuery, MakeManager

pytestmark = pytest.mark.anyio

TRANSPORTS = {"direct": DIRECT}
NEWS = {"type": "news", "data": "x"}


def counting(app: Any, sent: list[Any]) -> Callable[..., Any]:
    """`app` behind a middleware that looks at what is sent."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def counted(event: Any) -> None:
            sent.append(event)
            await send(event)

        await app(scope, receive, counted)

    return middleware


def asgi_sends(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the server is given by ASGI from now on."""
    seen: list[Any] = []
    before = peer._socket._take

    def take(event: Any) -> None:
        seen.append(event)
        before(event)

    monkeypatch.setattr(type(peer._socket), "_take", lambda self, event: take(event))
    return seen


async def test_messages_go_past_asgi(make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = make_manager()
    async with connect(manager.endpoint) as peer:
        by_asgi = asgi_sends(peer, monkeypatch)
        assert (await manager.broadcast(NEWS)).sent == 1
        assert await peer.receive_json() == NEWS
        assert by_asgi == []


async def test_behind_a_route_of_starlette_they_do_too(
    make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = make_manager()
    app = Starlette(routes=[WebSocketRoute("/ws", manager.endpoint)])
    async with connect(app, "/ws") as peer:
        by_asgi = asgi_sends(peer, monkeypatch)
        await manager.broadcast(NEWS)
        assert await peer.receive_json() == NEWS
        assert by_asgi == []


async def test_a_middleware_that_looks_at_what_is_sent_still_sees_all_of_it(
    make_manager: MakeManager,
) -> None:
    manager, sent = make_manager(), list[Any]()
    async with connect(counting(manager.endpoint, sent)) as peer:
        await manager.broadcast(NEWS)
        assert await peer.receive_json() == NEWS
        assert [event["type"] for event in sent] == ["websocket.accept", "websocket.send"]


async def test_so_does_the_guard_of_another_manager(make_manager: MakeManager) -> None:
    inner, outer = make_manager(), make_manager()
    app = WebSocketMiddleware(inner.endpoint, outer, mode="json")
    async with connect(app) as peer:
        peer.stall()
        (outside,) = outer.connections()
        await outer.broadcast({"type": "large", "data": "x" * 70_000})
        await outer.broadcast(NEWS)
        assert outside.congestion is not None
        # Or it would overtake what waits out there.
        await inner.broadcast({"type": "last"})
        peer.resume()
        assert [(await peer.receive_json())["type"] for _ in range(3)] == ["large", "news", "last"]


async def test_what_the_application_sends_by_itself_keeps_its_place(make_manager: MakeManager) -> None:
    manager = make_manager()

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for number in range(3):
            await send({"type": "websocket.send", "text": f"{number}"})
            await manager.broadcast({"type": "between", "data": number})
        await receive()

    async with connect(WebSocketMiddleware(endpoint, manager, mode="json")) as peer:
        heard = [await peer.receive_json() for _ in range(6)]
    assert [each if isinstance(each, int) else each["data"] for each in heard] == [0, 0, 1, 1, 2, 2]


async def test_binary_messages_go_there_too(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint, subprotocols=["wsmanager.v1.msgpack"]) as peer:
        await manager.broadcast(NEWS)
        assert [type(frame) for frame in (await peer.receive(), await peer.receive())] == [bytes, bytes]


async def test_while_a_peer_is_slow_priorities_decide_what_goes_next(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint, window=1_000) as peer:
        peer.stall()
        (conn,) = manager.connections()
        assert await conn.send({"type": "large", "data": "x" * 2_000}) is Pushed.SENT
        assert await conn.send({"type": "first"}) is Pushed.QUEUED
        for priority in (MessagePriority.LOW, MessagePriority.HIGH, MessagePriority.CRITICAL):
            assert await conn.send({"type": priority.name}, priority=priority) is Pushed.QUEUED
        peer.resume()
        heard = [(await peer.receive_json())["type"] for _ in range(5)]
    assert heard == ["large", "first", "CRITICAL", "HIGH", "LOW"]


async def test_a_peer_that_is_gone_is_found_by_the_next_message(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint) as peer:
        (conn,) = manager.connections()
        peer.reset()
        assert (await manager.broadcast(NEWS)).offline == 1
        assert conn.status == "closed"


async def test_a_stalled_peer_can_be_cut_off(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(close_timeout=1))
    async with connect(manager.endpoint, window=1_000) as peer:
        peer.stall()
        (conn,) = manager.connections()
        await conn.send({"type": "large", "data": "x" * 2_000})
        await conn.send({"type": "large", "data": "x" * 2_000})
        await conn.close(4000)
        peer.resume()
        assert await peer.wait_closed() == (1006, "")


# --- the protocol's own pings


def answered(peer: Peer, latency: float) -> None:
    """The peer answered a ping of the server's just now."""
    peer._socket.latency, peer._socket.heard_at = latency, asyncio.get_running_loop().time()


async def health_of(manager: Any, *, after: float) -> Any:
    await asyncio.sleep(after)
    return manager.get_connection_health(manager.connections()[0].user_id)


async def test_the_answer_to_a_ping_of_the_protocol_tells_the_latency(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint) as peer:
        assert (await health_of(manager, after=40)).connections[0].latency_ms is None
        answered(peer, 0.2)
        seen = (await health_of(manager, after=40)).connections[0]
        assert seen.latency_ms == pytest.approx(200)
        answered(peer, 2.0)
        assert (await health_of(manager, after=120)).worst is not HealthStatus.HEALTHY


async def test_and_is_a_sign_of_life(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(idle_timeout=60))
    async with connect(manager.endpoint) as peer:
        for _ in range(10):
            await asyncio.sleep(20)
            answered(peer, 0.1)
        assert not peer.closed
        assert (await peer.wait_closed(timeout=120))[0] == 4000


async def test_whoever_promised_to_answer_ours_is_measured_by_that(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint, subprotocols=["wsmanager.v1.json"]) as peer:
        for _ in range(10):
            await asyncio.sleep(10)
            answered(peer, 0.1)
        assert peer.close_code == 4012
