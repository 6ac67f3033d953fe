"""A socket adopted inside an endpoint of Starlette or FastAPI that keeps its own loop."""

from __future__ import annotations

import asyncio
import enum
import gc
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import WebSocketException
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.ends import closing_of
from tests.engine.conftest import ByQuery, MakeManager
from wsmanager import (
    AuthenticationError,
    ConfigurationError,
    Connection,
    ConnectionClosed,
    ConnectionManager,
    Disconnect,
    DuplicateConnectionId,
    InvalidName,
    JWTAuth,
    Refused,
    WebSocketConfig,
)
from wsmanager.protocols import Handshake, Identity
from wsmanager.testing import DAPHNE, HYPERCORN, UVICORN, HandshakeRefused, Server, connect

pytestmark = pytest.mark.anyio

JSON = "wsmanager.v1.json"
SECRET = "a secret of at least 32 characters"
Endpoint = Callable[[WebSocket], Awaitable[None]]
Mount = Callable[[Endpoint], Any]


def on_starlette(endpoint: Endpoint) -> Any:
    return Starlette(routes=[WebSocketRoute("/", endpoint)])


def on_fastapi(endpoint: Endpoint) -> Any:
    app = FastAPI()
    app.add_api_websocket_route("/", endpoint)
    return app


@pytest.fixture(params=[on_starlette, on_fastapi])
def mount(request: pytest.FixtureRequest) -> Mount:
    made: Mount = request.param
    return made


def sign(**claims: Any) -> str:
    return jwt.encode({"sub": "ann", "exp": int(time.time()) + 600, **claims}, SECRET, algorithm="HS256")


def jwt_auth(**options: Any) -> JWTAuth:
    return JWTAuth(SECRET, algorithms=["HS256"], **options)


def watched(app: Any, errors: list[BaseException]) -> Any:
    """`app`, and what it raises at its server."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except BaseException as error:
            errors.append(error)
            raise

    return served


def echo_of(manager: ConnectionManager, **options: Any) -> Endpoint:
    async def echo(websocket: WebSocket) -> None:
        async with manager.connect(websocket, **options):
            try:
                while True:
                    await websocket.send_json({"echo": await websocket.receive_json()})
            except WebSocketDisconnect:
                pass

    return echo


async def until_it_leaves(websocket: WebSocket) -> None:
    with pytest.raises(WebSocketDisconnect):
        await websocket.receive_text()


# --- the connection


async def test_an_adopted_socket_is_a_connection_like_any_other(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, met = make_manager(), list[Any]()
    manager.on_connect(note(met, "hello"))
    manager.on_disconnect(note(met, "gone"))
    endpoint = echo_of(
        manager, user_id="ann", tenant="acme", connection_id="tab-1", metadata={"device": "tv"}
    )
    async with connect(mount(endpoint)) as peer:
        await asyncio.sleep(0)
        (conn,) = manager.connections(user_id="ann", tenant="acme")
        assert (conn.id, conn.user_id, conn.tenant, conn.metadata) == (
            "tab-1",
            "ann",
            "acme",
            {"device": "tv"},
        )
        assert manager.get_connection("tab-1") is conn
        await manager.join_session(conn, "lobby")
        assert (await manager.send_to_session("lobby", {"type": "x"}, tenant="acme")).sent == 1
        assert await peer.receive_json() == {"type": "x"}
        await peer.send_json({"type": "chat"})
        assert await peer.receive_json() == {"echo": {"type": "chat"}}
        assert met == ["hello"]
    assert met == ["hello", "gone"]
    assert closing_of(conn) == (1000, "")


def note(diary: list[Any], word: str) -> Callable[[Connection], Awaitable[None]]:
    async def hook(conn: Connection) -> None:
        diary.append(word)

    return hook


async def test_the_end_of_the_block_closes_the_socket(make_manager: MakeManager, mount: Mount) -> None:
    manager = make_manager()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            await websocket.receive_text()

    async with connect(mount(endpoint)) as peer:
        await peer.send_json({"type": "x"})
        assert await peer.receive_json() == {
            "type": "disconnect",
            "data": {"code": 1000, "reason": "", "reconnect": False},
        }
        assert await peer.wait_closed(1) == (1000, "")


async def test_connect_and_disconnect_by_hand(make_manager: MakeManager, mount: Mount) -> None:
    manager, met = make_manager(), list[Any]()
    manager.on_disconnect(note(met, "gone"))

    async def endpoint(websocket: WebSocket) -> None:
        conn = await manager.connect(websocket, user_id="ann")
        assert await websocket.receive_json() == {"type": "x"}
        await manager.disconnect(conn, 4321, "enough")
        assert met == ["gone"]
        await manager.disconnect(conn)
        await manager.disconnect(conn, 4999, "too late")
        assert met == ["gone"]

    async with connect(mount(endpoint)) as peer:
        await peer.send_json({"type": "x"})
        assert await peer.wait_closed(1) == (4321, "enough")


async def test_disconnecting_twice_at_once_is_one_end(make_manager: MakeManager, mount: Mount) -> None:
    manager, met = make_manager(), list[Any]()
    manager.on_disconnect(note(met, "gone"))

    async def endpoint(websocket: WebSocket) -> None:
        conn = await manager.connect(websocket, user_id="ann")
        await asyncio.gather(*(manager.disconnect(conn) for _ in range(3)))

    async with connect(mount(endpoint)) as peer:
        await peer.wait_closed(1)
    assert met == ["gone"]


async def test_a_handler_that_disconnects_its_own_connection_is_done_before_the_farewell(
    make_manager: MakeManager,
) -> None:
    manager, diary = make_manager(), list[Any]()
    manager.on_disconnect(note(diary, "gone"))

    @manager.on("leave")
    async def leave(conn: Connection) -> None:
        await manager.disconnect(conn, 4000, "bye")
        await asyncio.sleep(1)
        diary.append("handler done")

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "leave"})
        assert await peer.wait_closed(1) == (4000, "bye")
    assert diary == ["handler done", "gone"]


async def test_a_socket_that_is_accepted_already_is_a_mistake(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, raised = make_manager(), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        with pytest.raises(ConfigurationError, match=r"instead of, websocket\.accept\(\)") as caught:
            await manager.connect(websocket)
        raised.append(caught.value)
        await websocket.close()

    async with connect(mount(endpoint)):
        pass
    assert len(raised) == 1


async def test_one_connect_serves_one_socket_once(make_manager: MakeManager, mount: Mount) -> None:
    manager = make_manager()

    async def endpoint(websocket: WebSocket) -> None:
        adoption = manager.connect(websocket, user_id="ann")
        async with adoption:
            with pytest.raises(ConfigurationError):
                await adoption

    async with connect(mount(endpoint)) as peer:
        assert (await peer.wait_closed(1))[0] == 1000


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tenant": "acme"}, ConfigurationError),
        ({"user_id": ""}, InvalidName),
        ({"user_id": "a\nb"}, InvalidName),
        ({"user_id": "ann", "tenant": "x" * 256}, InvalidName),
        ({"user_id": "ann", "connection_id": "\x1b[31m"}, InvalidName),
    ],
)
async def test_names_that_cannot_be_used_are_an_error_at_the_application(
    make_manager: MakeManager, options: dict[str, Any], error: type[Exception]
) -> None:
    manager = make_manager()

    async def endpoint(websocket: WebSocket) -> None:
        with pytest.raises(error):
            await manager.connect(websocket, **options)
        await websocket.close(1008)

    with pytest.raises(HandshakeRefused):
        async with connect(on_starlette(endpoint)):
            pass


# --- what the endpoint receives


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("not json", "not_json"),
        ("[]", "not_object"),
        ("{}", "missing_type"),
        ('{"type": 1}', "invalid_type"),
        (b'{"type": "x"}', "unexpected_binary"),
        ('{"type": "x", "data": "' + "x" * 1_048_576 + '"}', "too_large"),
        ('{"type": "x", "data": ' + "[" * 10_000 + "]" * 10_000 + "}", "too_deep"),
        ('{"type": "x", "data": NaN}', "bad_number"),
        ('{"type": "x", "data": 1e999}', "bad_number"),
        ('{"type": "x", "data": ' + "9" * 5_000 + "}", "bad_number"),
        ('{"type": "x", "data": "\\ud800"}', "bad_unicode"),
        ('{"type": "x", "data": "\\u003cscript>"}', "forbidden_pattern"),
        # The endpoint's own decoder sees the whole frame, so nothing of it passes unchecked.
        ('{"type": "x", "extra": 1e999}', "bad_number"),
        ('{"type": "x", "extra": ' + "9" * 5_000 + "}", "bad_number"),
        ('{"type": "x", "extra": "<script>"}', "forbidden_pattern"),
        ('{"type": "x", "javascript:alert(1)": 1}', "forbidden_pattern"),
        ('{"type": "x", "extra": ' + "[" * 40 + "]" * 40 + "}", "too_deep"),
    ],
)
async def test_f07_what_the_checks_refuse_never_reaches_the_endpoint(
    make_manager: MakeManager, mount: Mount, frame: str | bytes, code: str
) -> None:
    manager = make_manager()
    async with connect(mount(echo_of(manager, user_id="ann"))) as peer:
        await (peer.send_text(frame) if isinstance(frame, str) else peer.send_bytes(frame))
        error = await peer.receive_json()
        assert (error["type"], error["data"]["code"]) == ("error", code)
        await peer.send_json({"type": "x", "extra": {"a": [1.5, "b"]}})
        assert await peer.receive_json() == {"echo": {"type": "x", "extra": {"a": [1.5, "b"]}}}


async def test_system_messages_are_answered_and_not_shown(make_manager: MakeManager, mount: Mount) -> None:
    manager = make_manager()
    async with connect(mount(echo_of(manager, user_id="ann"))) as peer:
        await peer.send_json({"type": "ping", "id": 7})
        assert await peer.receive_json() == {"type": "pong", "data": None, "re": 7}
        await peer.send_json({"type": "session.join", "data": {"room": "r"}, "id": 8})
        assert (await peer.receive_json())["data"]["code"] == "forbidden"


async def test_the_limit_holds_inside_the_endpoint(make_manager: MakeManager, mount: Mount) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=3))
    async with connect(mount(echo_of(manager, user_id="ann"))) as peer:
        for _ in range(4):
            await peer.send_json({"type": "x"})
        answers = [await peer.receive_json() for _ in range(4)]
        assert [list(answer) for answer in answers[:3]] == [["echo"]] * 3
        assert answers[3]["data"]["code"] == "rate_limited"


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, DAPHNE])
async def test_text_bytes_and_iteration_are_served_too(make_manager: MakeManager, server: Server) -> None:
    manager, seen = make_manager(), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            seen.append(await websocket.receive_text())
            seen.append(await websocket.receive())
            seen.extend([message async for message in websocket.iter_json()])

    async with connect(on_starlette(endpoint), server=server) as peer:
        for number in range(4):
            await peer.send_json({"type": "x", "data": number})
    assert json.loads(seen[0])["data"] == 0
    assert json.loads(seen[1]["text"])["data"] == 1
    assert [message["data"] for message in seen[2:]] == [2, 3]


async def test_a_receive_that_is_given_up_loses_nothing(make_manager: MakeManager, mount: Mount) -> None:
    manager, seen = make_manager(), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            while len(seen) < 3:
                try:
                    seen.append(await asyncio.wait_for(websocket.receive_json(), 1))
                except TimeoutError:
                    await websocket.send_json({"type": "still.there"})

    async with connect(mount(endpoint)) as peer:
        for number in range(3):
            await asyncio.sleep(2.5)
            await peer.send_json({"type": "x", "data": number})
        await peer.wait_closed(5)
    assert [message["data"] for message in seen] == [0, 1, 2]


# --- dispatch


async def test_dispatch_runs_the_handlers_from_a_loop_of_ones_own(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager = make_manager()

    @manager.on("double")
    async def double(conn: Connection, data: int) -> int:
        return data * 2

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann") as conn:
            async for text in websocket.iter_text():
                await manager.dispatch(conn, text)

    async with connect(mount(endpoint)) as peer:
        await peer.send_json({"type": "double", "data": 21, "id": 1})
        assert await peer.receive_json() == {"type": "reply", "re": 1, "data": 42}
        await peer.send_json({"type": "double", "data": "x", "id": 2})
        assert (await peer.receive_json())["data"]["code"] == "invalid_payload"
        await peer.send_json({"type": "unheard", "id": 3})
        assert (await peer.receive_json())["data"]["code"] == "unknown_type"


async def test_what_came_through_the_guard_is_charged_and_checked_once(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, dispatched = make_manager(WebSocketConfig(rate_limit_max=4)), list[Any]()

    @manager.on("x")
    async def x(conn: Connection, data: Any) -> None:
        dispatched.append(data)

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann") as conn:
            first = await websocket.receive_text()
            await manager.dispatch(conn, first)
            await manager.dispatch(conn, first)  # a second time is another message
            await manager.dispatch(conn, '{"type": "x", "data": "<script>"}')
            await manager.dispatch(conn, '{"type": "x", "data": "own"}')
            await manager.dispatch(conn, '{"type": "x", "data": "one too many"}')
            await until_it_leaves(websocket)

    async with connect(mount(endpoint)) as peer:
        await peer.send_json({"type": "x", "data": "theirs"})
        codes = [(await peer.receive_json())["data"]["code"] for _ in range(2)]
        assert codes == ["forbidden_pattern", "rate_limited"]
        assert dispatched == ["theirs", "theirs", "own"]


async def test_an_older_text_of_the_guard_is_checked_again(make_manager: MakeManager, mount: Mount) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=3))
    manager.on("x")(note([], ""))

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann") as conn:
            first, second = await websocket.receive_text(), await websocket.receive_text()
            await manager.dispatch(conn, second)
            await manager.dispatch(conn, first)
            await manager.dispatch(conn, first)
            await until_it_leaves(websocket)

    async with connect(mount(endpoint)) as peer:
        await peer.send_json({"type": "x"})
        await peer.send_json({"type": "x"})
        assert (await peer.receive_json())["data"]["code"] == "rate_limited"


async def test_a_dispatched_handler_outlives_the_peer_and_then_the_farewell_is_said(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, diary = make_manager(), list[Any]()
    manager.on_disconnect(note(diary, "gone"))

    @manager.on("slow")
    async def slow(conn: Connection) -> None:
        await asyncio.sleep(5)
        diary.append("done")

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann") as conn:
            async for text in websocket.iter_text():
                await manager.dispatch(conn, text)

    async with connect(mount(endpoint)) as peer:
        await peer.send_json({"type": "slow"})
        await peer.send_json({"type": "slow"})
        await asyncio.sleep(1)
        await peer.close()
        await asyncio.sleep(0.1)
        assert manager.connections() == []
    assert diary == ["done", "done", "gone"]


async def test_pings_are_answered_while_a_dispatched_handler_is_slow(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager = make_manager()

    @manager.on("slow")
    async def slow(conn: Connection) -> None:
        await asyncio.sleep(20)

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann") as conn:
            async for text in websocket.iter_text():
                await manager.dispatch(conn, text)

    async with connect(mount(endpoint)) as peer:
        await peer.send_json({"type": "slow"})
        await peer.send_json({"type": "ping"})
        assert (await peer.receive_json(1))["type"] == "pong"


async def test_an_endpoint_that_is_too_slow_for_its_client_is_closed_and_bounded(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager = make_manager(WebSocketConfig(inbound_max_messages=5, rate_limit_max=1_000))

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            await websocket.receive_text()
            await asyncio.sleep(60)
            with pytest.raises(WebSocketDisconnect) as caught:
                await websocket.receive_text()
            assert caught.value.code == 4014

    async with connect(mount(endpoint)) as peer:
        for number in range(20):
            peer._socket.deliver("text", json.dumps({"type": "x", "data": number}))
        assert (await peer.wait_closed(30))[0] == 4014


# --- what the endpoint sends


async def test_its_own_sends_keep_their_order_with_the_managers(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager = make_manager()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann") as conn:
            for number in range(0, 200, 2):
                await websocket.send_json({"type": "own", "data": number, "filler": "x" * 500})
                await conn.send({"type": "managed", "data": number + 1})
            await until_it_leaves(websocket)

    async with connect(mount(endpoint), window=2_000, stalled=True) as peer:
        await asyncio.sleep(1)
        assert peer.suspended
        peer.resume()
        assert [(await peer.receive_json())["data"] for _ in range(200)] == list(range(200))


async def test_its_own_send_waits_for_a_peer_that_does_not_read(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, sent = make_manager(), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            for number in range(10):
                await websocket.send_text("x" * 1_000)
                sent.append(number)

    async with connect(mount(endpoint), window=2_000, stalled=True) as peer:
        await asyncio.sleep(1)
        assert len(sent) < 5
        peer.resume()
        await asyncio.sleep(1)
        assert len(sent) == 10


async def test_an_endpoint_that_only_sends_learns_of_the_disconnect_within_a_heartbeat(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, raised = make_manager(), list[WebSocketDisconnect]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            await asyncio.sleep(60)
            try:
                await websocket.send_json({"type": "tick"})
            except WebSocketDisconnect as error:
                raised.append(error)

    async with connect(mount(endpoint)) as peer:
        await asyncio.sleep(20)
        await peer.close()
        await asyncio.sleep(5)
        assert manager.connections() == []
    assert [error.code for error in raised] == [1006]


async def test_a_close_of_its_own_reaches_the_client(make_manager: MakeManager, mount: Mount) -> None:
    manager, met = make_manager(), list[Any]()
    manager.on_disconnect(note(met, "gone"))

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann") as conn:
            await websocket.close(4123, "my own")
            assert manager.connections() == []
            with pytest.raises(ConnectionClosed):
                await conn.send({"type": "x"})

    async with connect(mount(endpoint)) as peer:
        assert await peer.wait_closed(1) == (4123, "my own")
    assert met == ["gone"]


# --- the manager's end of it


async def test_a_close_by_the_manager_ends_the_wait_of_the_endpoint(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, raised = make_manager(), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            try:
                await websocket.receive_text()
            except WebSocketDisconnect as error:
                raised.append((error.code, error.reason))
            await asyncio.sleep(1)
            raised.append("and went on")

    async with connect(mount(endpoint)) as peer:
        await asyncio.sleep(0)
        (conn,) = manager.connections()
        await conn.close(4503, "kicked")
        assert await peer.wait_closed(1) == (4503, "kicked")
        await asyncio.sleep(2)
    assert raised == [(4503, "kicked"), "and went on"]


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, DAPHNE])
async def test_a_close_while_the_endpoint_is_busy_is_found_at_its_next_receive_and_cancels_nothing(
    make_manager: MakeManager, server: Server
) -> None:
    manager, raised = make_manager(), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            await asyncio.sleep(3)
            try:
                await websocket.receive_text()
            except WebSocketDisconnect as error:
                raised.append(error.code)
            await asyncio.sleep(0)
            raised.append("alive")

    async with connect(on_starlette(endpoint), server=server) as peer:
        await asyncio.sleep(1)
        (conn,) = manager.connections()
        await peer.send_json({"type": "too late"})
        await conn.close(4503, "kicked")
        await asyncio.sleep(5)
    assert raised == [4503, "alive"]


async def test_what_arrives_while_a_close_is_carried_out_is_not_handed_over(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, seen = make_manager(), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            seen.extend([message async for message in websocket.iter_json()])

    async with connect(mount(endpoint), window=1_000, stalled=True) as peer:
        await asyncio.sleep(0)
        (conn,) = manager.connections()
        await conn.send({"type": "x", "data": "x" * 3_000})
        await conn.send({"type": "x", "data": "x" * 3_000})
        closing = asyncio.create_task(conn.close(4503, "kicked"))
        await asyncio.sleep(1)
        await peer.send_json({"type": "late"})
        peer.resume()
        await closing
        assert await peer.wait_closed(1) == (4503, "kicked")
    assert seen == []


# --- endings nobody announced


async def test_an_endpoint_that_returns_without_a_word_leaves_no_ghost(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, met = make_manager(), list[Any]()
    manager.on_disconnect(note(met, "gone"))

    async def endpoint(websocket: WebSocket) -> None:
        await manager.connect(websocket, user_id="ann")

    gc.disable()
    try:
        async with connect(mount(endpoint)) as peer:
            await peer.wait_closed(1)
            await asyncio.sleep(0.1)
            assert set(manager.get_analytics().indexes.values()) == {0}
    finally:
        gc.enable()
    assert met == ["gone"]


async def test_an_endpoint_that_raises_without_a_block_leaves_no_ghost(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager = make_manager()

    async def endpoint(websocket: WebSocket) -> None:
        conn = await manager.connect(websocket, user_id="ann")
        raise LookupError(conn.id)

    async with connect(mount(endpoint)) as peer:
        await peer.wait_closed(1)
        assert isinstance(peer.app_error, LookupError)
        peer.app_error.__traceback__ = None
        gc.collect()
        await asyncio.sleep(0.1)
        assert set(manager.get_analytics().indexes.values()) == {0}


async def test_an_exception_inside_the_block_closes_4004_and_goes_on(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, met = make_manager(), list[Any]()
    manager.on_disconnect(note(met, "gone"))

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            raise LookupError("a secret")

    async with connect(mount(endpoint)) as peer:
        assert await peer.wait_closed(1) == (4004, "server error")
        await asyncio.sleep(0.1)
        assert "secret" not in str(peer.frames)
        assert isinstance(peer.app_error, LookupError)
    assert met == ["gone"]


@pytest.mark.parametrize(
    ("error", "close"),
    [
        (Disconnect(4507, "not yours"), (4507, "not yours")),
        (WebSocketException(3456, "no"), (3456, "no")),
    ],
)
async def test_an_exception_that_names_a_close_code_closes_with_it_and_logs_nothing(
    make_manager: MakeManager,
    mount: Mount,
    error: Exception,
    close: tuple[int, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager, errors = make_manager(auth=ByQuery()), list[BaseException]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket):
            raise error

    async with connect(watched(mount(endpoint), errors)) as peer:
        assert await peer.wait_closed(1) == close
    assert errors == []
    assert caplog.records == []


async def test_a_peer_that_left_is_told_to_the_block_as_starlette_tells_it(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, ends = make_manager(), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        try:
            async with manager.connect(websocket, user_id="ann"):
                await websocket.receive_text()
        except WebSocketDisconnect as error:
            ends.append((error.code, error.reason))

    async with connect(mount(endpoint)) as peer:
        await peer.close(4001, "bye")
    assert ends == [(4001, "bye")]


async def test_a_cancelled_endpoint_leaves_no_ghost_and_says_farewell(make_manager: MakeManager) -> None:
    manager, met = make_manager(), list[Any]()
    manager.on_disconnect(note(met, "gone"))
    inside = asyncio.Event()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann"):
            inside.set()
            await websocket.receive_text()

    app, tasks = on_starlette(endpoint), list[asyncio.Task[None]]()

    async def served(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(app(scope, receive, send)))
        await asyncio.wait(tasks)

    async with connect(served) as peer:
        await inside.wait()
        tasks[0].cancel()
        await peer.wait_closed(1)
        await asyncio.sleep(0.1)
        assert set(manager.get_analytics().indexes.values()) == {0}
        assert met == ["gone"]


@pytest.mark.parametrize("steps", range(12))
async def test_f47_an_endpoint_that_is_cancelled_at_any_await_leaves_nothing(
    make_manager: MakeManager, steps: int
) -> None:
    manager = make_manager(auth=ByQuery())
    manager.on_connect(turns)
    manager.on_disconnect(turns)
    app, tasks = on_starlette(echo_of(manager)), list[asyncio.Task[None]]()

    async def served(scope: Any, receive: Any, send: Any) -> None:
        async def slow(event: Any) -> None:
            await asyncio.sleep(0)
            await send(event)

        tasks.append(asyncio.create_task(app(scope, receive, slow)))
        for _ in range(steps):
            await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks)

    try:
        async with connect(served) as peer:
            await peer.wait_closed(1)
    except AssertionError as error:
        assert "without answering" in str(error)  # noqa: PT017  # which step it is depends on the framework
    await asyncio.sleep(5)
    assert set(manager.get_analytics().indexes.values()) == {0}


async def turns(conn: Connection) -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_hook_that_turns_a_guest_away_ends_the_endpoint_quietly(
    make_manager: MakeManager, mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    manager, met, errors = make_manager(auth=ByQuery()), list[str](), list[BaseException]()
    manager.on_disconnect(note(met, "gone"))

    @manager.on_connect
    async def turn_away(conn: Connection) -> None:
        raise Disconnect(4507, "not today")

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket):
            met.append("inside")

    async with connect(watched(mount(endpoint), errors)) as peer:
        assert await peer.wait_closed(1) == (4507, "not today")
    assert met == ["gone"]
    assert errors == []
    assert caplog.records == []


# --- refusals


class TestRefusals:
    async def test_a_plain_client_gets_the_status_and_a_reason(
        self, make_manager: MakeManager, mount: Mount, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        manager, errors = make_manager(auth=jwt_auth()), list[BaseException]()
        app = watched(mount(echo_of(manager)), errors)
        with pytest.raises(HandshakeRefused) as caught:
            async with connect(app, query="token=rubbish"):
                pass
        assert caught.value.status == 401
        assert json.loads(caught.value.body)["error"]["code"] == "token_malformed"
        assert errors == []
        assert {record.name for record in caplog.records} <= {"wsmanager", "asyncio"}
        assert "Traceback" not in caplog.text
        assert "rubbish" not in caplog.text

    async def test_a_server_without_the_extension_answers_403(
        self, make_manager: MakeManager, mount: Mount
    ) -> None:
        manager, errors = make_manager(auth=jwt_auth()), list[BaseException]()
        with pytest.raises(HandshakeRefused) as caught:
            async with connect(watched(mount(echo_of(manager)), errors), server=DAPHNE):
                pass
        assert (caught.value.status, caught.value.body) == (403, b"")
        assert errors == []

    async def test_a_client_of_ours_gets_a_close_code(self, make_manager: MakeManager, mount: Mount) -> None:
        manager, errors = make_manager(auth=jwt_auth()), list[BaseException]()
        app = watched(mount(echo_of(manager)), errors)
        async with connect(app, subprotocols=[JSON, "wsmanager.bearer.rubbish"]) as peer:
            assert peer.accepted_subprotocol == JSON
            assert (await peer.receive_json())["data"]["reason"] == "token_malformed"
            assert await peer.wait_closed(1) == (4500, "token_malformed")
        assert errors == []

    async def test_a_first_message_without_a_token_ends_it(
        self, make_manager: MakeManager, mount: Mount
    ) -> None:
        manager, errors = make_manager(auth=jwt_auth(sources=["message"])), list[BaseException]()
        async with connect(watched(mount(echo_of(manager)), errors)) as peer:
            assert (await peer.wait_closed(30))[0] == 4502
        async with connect(watched(mount(echo_of(manager)), errors)) as peer:
            await peer.send_json({"type": "auth", "data": {"token": sign()}})
            await peer.send_json({"type": "x"})
            assert await peer.receive_json() == {"echo": {"type": "x"}}
        assert errors == []

    async def test_the_endpoint_may_catch_it(self, make_manager: MakeManager, mount: Mount) -> None:
        manager, caught = make_manager(auth=jwt_auth()), list[AuthenticationError]()

        async def endpoint(websocket: WebSocket) -> None:
            try:
                await manager.connect(websocket)
            except AuthenticationError as error:
                caught.append(error)
                await websocket.close(1008)  # the client was told already

        with pytest.raises(HandshakeRefused) as refused:
            async with connect(mount(endpoint)):
                pass
        assert refused.value.status == 401
        assert [(error.code, error.status) for error in caught] == [("token_missing", 401)]

    async def test_a_refusal_of_any_shape_is_handled(self, make_manager: MakeManager, mount: Mount) -> None:
        class Unpaid(Refused):
            status = 402

            def __init__(self, plan: str, days: int) -> None:
                super().__init__(f"{plan} is {days} days overdue", code="unpaid")
                self.days = days

        class Cashier:
            async def authenticate(self, handshake: Handshake) -> Identity | None:
                raise Unpaid("pro", 5)

        manager, errors = make_manager(auth=Cashier()), list[BaseException]()
        with pytest.raises(HandshakeRefused) as refused:
            async with connect(watched(mount(echo_of(manager)), errors)):
                pass
        assert refused.value.status == 402
        assert errors == []

    async def test_a_given_user_spares_the_token_and_nothing_else(
        self, make_manager: MakeManager, mount: Mount
    ) -> None:
        manager = make_manager(WebSocketConfig(max_connections_per_user=1), auth=jwt_auth())
        app = mount(echo_of(manager, user_id="ann"))
        async with connect(app, query="token=rubbish"):
            with pytest.raises(HandshakeRefused) as refused:
                async with connect(app):
                    pass
            assert refused.value.status == 429
        with pytest.raises(HandshakeRefused) as refused:
            async with connect(app, headers=[("origin", "http://evil.example")]):
                pass
        assert refused.value.status == 403

    async def test_f49_an_id_in_use_is_an_error_that_leaves_the_handshake_open(
        self, make_manager: MakeManager, mount: Mount
    ) -> None:
        manager = make_manager(auth=jwt_auth())
        tries: list[str] = []

        async def endpoint(websocket: WebSocket) -> None:
            for name in ("tab", "tab-2"):
                try:
                    async with manager.connect(websocket, connection_id=name):
                        tries.append(name)
                        await websocket.receive_text()
                except DuplicateConnectionId:
                    tries.append(f"not {name}")
                except WebSocketDisconnect:
                    return

        app, query = mount(endpoint), f"token={sign()}"
        async with connect(app, query=query), connect(app, query=query):
            await asyncio.sleep(0.1)
            assert tries == ["tab", "not tab", "tab-2"]
            assert {conn.id for conn in manager.connections()} == {"tab", "tab-2"}

    async def test_f20_the_servers_access_line_never_holds_the_token(
        self, make_manager: MakeManager, mount: Mount
    ) -> None:
        manager, lines, seen = make_manager(auth=jwt_auth()), list[str](), list[str]()

        async def endpoint(websocket: WebSocket) -> None:
            try:
                async with manager.connect(websocket, connection_id="one"):
                    seen.append(websocket.query_params["token"])
                    await websocket.receive_text()
            except DuplicateConnectionId:
                await websocket.close(1008)
            except WebSocketDisconnect:
                pass

        app, good = as_servers_log(mount(endpoint), lines), sign()
        async with connect(app, query=f"token={good}"):
            await asyncio.sleep(0)
            for token in (good, "rubbish"):
                with pytest.raises(HandshakeRefused):
                    async with connect(app, query=f"token={token}"):
                        pass
        assert lines[:3] == ["token=REDACTED"] * 3
        assert seen == [good]


def as_servers_log(app: Any, lines: list[str]) -> Any:
    """`app` on a server that writes an access line when it answers the handshake."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        async def logged(event: Any) -> None:
            if event["type"] in ("websocket.accept", "websocket.close", "websocket.http.response.start"):
                lines.append(scope["query_string"].decode())
            await send(event)

        await app(scope, receive, logged)

    return served


async def test_a_send_to_a_closed_socket_is_told_as_starlette_tells_it(
    make_manager: MakeManager, mount: Mount
) -> None:
    manager, raised = make_manager(), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id="ann") as conn:
            await conn.close(4000)
            try:
                await websocket.send_text("x")
            except WebSocketDisconnect as error:
                raised.append(error.code)

    async with connect(mount(endpoint)) as peer:
        await peer.wait_closed(1)
        await asyncio.sleep(0.1)
    assert raised == [1006]


class ForeignSocket:
    """A socket of a framework that is shaped like Starlette's."""

    class State(enum.Enum):
        CONNECTING = 0
        CONNECTED = 1

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.client_state = self.application_state = self.State.CONNECTING
        self._receive = receive
        self._send = send

    async def receive(self) -> Any:
        self.client_state = self.State.CONNECTED
        return await self._receive()

    async def accept(self, subprotocol: str | None = None) -> None:
        self.application_state = self.State.CONNECTED
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol})


async def test_a_socket_of_the_same_shape_needs_no_starlette(
    make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "starlette.exceptions")
    manager, errors = make_manager(auth=jwt_auth()), list[BaseException]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        socket = ForeignSocket(scope, receive, send)
        async with manager.connect(socket) as conn:
            await manager.dispatch(conn, (await socket.receive())["text"])
            raise LookupError

    with pytest.raises(HandshakeRefused):
        async with connect(watched(app, errors)):
            pass
    assert [type(error) for error in errors] == [AuthenticationError]
    async with connect(app, query=f"token={sign()}") as peer:
        await peer.send_json({"type": "x"})
        assert (await peer.receive_json())["data"]["code"] == "unknown_type"
        assert (await peer.wait_closed(1))[0] == 4004
        await asyncio.sleep(0.1)
        assert isinstance(peer.app_error, LookupError)


async def test_a_socket_of_another_framework_is_told_which_door_to_take(make_manager: MakeManager) -> None:
    class OtherSocket:
        pass

    other: Any = OtherSocket()
    with pytest.raises(ConfigurationError, match="OtherSocket: use WebSocketMiddleware"):
        await make_manager().connect(other, user_id="ann")
