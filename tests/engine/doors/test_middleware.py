"""The guard around an application that exists: what it lets through, what it refuses, and how."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.ends import closing_of
from tests.engine.conftest import ByQuery, MakeManager, errors_logged
from tests.engine.devices import SERVERS
from wsmanager import (
    ConfigurationError,
    Connection,
    ConnectionManager,
    Disconnect,
    DuplicateConnectionId,
    Refused,
    ReplyError,
    SecurityValidator,
    WebSocketConfig,
    WebSocketMiddleware,
)
from wsmanager.errors import EncodeError
from wsmanager.testing import (
    GRANIAN,
    HandshakeRefused,
    PeerClosed,
    Server,
    connect,
    lifespan,
    websocket_scope,
)

pytestmark = pytest.mark.anyio

JSON, MSGPACK = "wsmanager.v1.json", "wsmanager.v1.msgpack"
ModeName = Literal["opaque", "json", "envelope"]
MODES: tuple[ModeName, ...] = ("opaque", "json", "envelope")
FOREIGN: tuple[ModeName, ...] = ("opaque", "json")

App = Callable[[Any, Any, Any], Awaitable[None]]


class Echo:
    """A bare application that says what it hears, and remembers what it met."""

    def __init__(self, *, subprotocol: str | None = None) -> None:
        self.heard: list[Any] = []
        self.end: MutableMapping[str, Any] | None = None
        self.entered = 0
        self.scope: Any = None
        self._accept = {"type": "websocket.accept", "subprotocol": subprotocol}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.entered += 1
        self.scope = scope
        assert (await receive())["type"] == "websocket.connect"
        await send(dict(self._accept))
        while (event := await receive())["type"] == "websocket.receive":
            text, data = event.get("text"), event.get("bytes")
            self.heard.append(data if text is None else text)
            frame = {"bytes": data} if text is None else {"text": text}
            await send({"type": "websocket.send", **frame})
        self.end = event


async def refusing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the application was entered")


# --- what each mode makes of a frame


async def test_opaque_frames_pass_untouched_and_are_counted(make_manager: MakeManager) -> None:
    manager, echo = make_manager(), Echo()
    async with connect(WebSocketMiddleware(echo, manager)) as peer:
        for frame in ('42["chat",{}]', "{", "x" * 1_000, ""):
            await peer.send_text(frame)
            assert await peer.receive() == frame
        await peer.send_bytes(b"\x00\xff")
        assert await peer.receive() == b"\x00\xff"
        (conn,) = manager.connections()
        assert conn.user_id == f"anon:{conn.id}"
    assert echo.heard == ['42["chat",{}]', "{", "x" * 1_000, "", b"\x00\xff"]
    stats = manager.get_analytics().messages.types["opaque"]
    assert (stats.count_in, stats.bytes_in) == (5, 1_016)


async def test_the_manager_never_writes_into_an_opaque_socket(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(WebSocketMiddleware(Echo(), manager), query="user=ann", subprotocols=[JSON]) as peer:
        (conn,) = manager.connections()
        await manager.join_session(conn, "lobby")
        reports = (
            await manager.broadcast({"type": "x"}),
            await manager.send_to_session("lobby", {"type": "x"}),
            await manager.send_to_connection(conn.id, {"type": "x"}),
        )
        assert [(report.unsupported, report.sent) for report in reports] == [(1, 0)] * 3
        assert reports[0].failed == (conn.id,)
        await asyncio.sleep(65)
        assert peer.frames == []


async def test_a_durable_message_waits_for_a_device_that_can_read_it(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    guarded = WebSocketMiddleware(Echo(), manager, {"/raw": "opaque", "/json": "json"})
    async with connect(guarded, "/raw", query="user=ann") as raw:
        report = await manager.send_personal_message("ann", {"n": 1})
        assert (report.sent, report.unsupported, report.kept) == (0, 1, 1)
        async with connect(guarded, "/json", query="user=ann") as peer:
            assert await peer.receive_json() == {"n": 1}
        assert raw.frames == []


async def test_json_is_written_as_given_and_nothing_else_is(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(WebSocketMiddleware(Echo(), manager, "json"), query="user=ann") as peer:
        for message in ({"no": "type"}, {"type": "x", "data": 1}, {"event": "a", "args": [1, None]}):
            assert (await manager.send_personal_message("ann", message)).sent == 1
            assert await peer.receive_json() == message
        assert (await manager.broadcast({"to": "all"})).sent == 1
        assert await peer.receive_json() == {"to": "all"}
        await asyncio.sleep(65)
        assert peer.frames == []


async def test_what_needs_no_type_is_kept_whoever_else_is_there(make_manager: MakeManager) -> None:
    manager, opens = make_manager(auth=ByQuery()), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await opens.wait()
        await Echo()(scope, receive, send)

    async def read_two() -> list[Any]:
        async with connect(WebSocketMiddleware(app, manager, "json"), query="user=ann") as peer:
            return [await peer.receive_json(), await peer.receive_json()]

    async with connect(manager.endpoint, query="user=ben"):
        WebSocketMiddleware(app, manager, "json")
        absent = await manager.send_personal_message("ann", {"n": 1})
        reading = asyncio.ensure_future(read_two())
        await asyncio.sleep(1)
        connecting = await manager.send_personal_message("ann", {"n": 2})
        assert (absent.kept, connecting.kept) == (1, 1)
        opens.set()
        assert await reading == [{"n": 1}, {"n": 2}]
        with pytest.raises(EncodeError):
            await manager.send_personal_message("ben", {"n": 3})


async def test_json_frames_reach_the_application_as_they_came(make_manager: MakeManager) -> None:
    manager, echo = make_manager(), Echo()
    frames: list[str | bytes] = ['{"type":"ping"}', " [1, 2.50 ] ", '"é"', "null", b'{"a" : 1}']
    async with connect(WebSocketMiddleware(echo, manager, "json")) as peer:
        for frame in frames:
            await (peer.send_text(frame) if isinstance(frame, str) else peer.send_bytes(frame))
            assert await peer.receive() == frame
    assert echo.heard == frames


async def test_an_envelope_is_validated_and_system_messages_are_answered(make_manager: MakeManager) -> None:
    manager, echo = make_manager(), Echo()
    async with connect(WebSocketMiddleware(echo, manager, "envelope")) as peer:
        await peer.send_json({"type": "ping", "id": 1})
        assert (await peer.receive_json())["type"] == "pong"
        await peer.send_text("{")
        assert (await peer.receive_json())["data"]["code"] == "not_json"
        await peer.send_json({"type": "chat", "data": "<script>alert(1)</script>"})
        assert (await peer.receive_json())["data"]["code"] == "forbidden_pattern"
        await peer.send_json({"type": "chat"})
        assert await peer.receive_json() == {"type": "chat"}
        (conn,) = manager.connections()
        assert (await manager.send_to_connection(conn.id, {"type": "news"})).sent == 1
        assert await peer.receive_json() == {"type": "news"}
    assert echo.heard == ['{"type": "chat"}']
    assert manager.get_analytics().messages.types["envelope"].count_in == 1


async def test_a_client_that_asks_for_the_envelope_gets_it_and_is_welcomed(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(WebSocketMiddleware(Echo(), manager, "envelope"), subprotocols=["x", JSON]) as peer:
        assert peer.accepted_subprotocol == JSON
        assert (await peer.receive_json())["type"] == "welcome"


@pytest.mark.parametrize("mode", MODES)
async def test_the_applications_own_subprotocol_stands(make_manager: MakeManager, mode: ModeName) -> None:
    guarded = WebSocketMiddleware(Echo(subprotocol="chat.v1"), make_manager(), mode)
    async with connect(guarded, subprotocols=["chat.v1", JSON]) as peer:
        assert peer.accepted_subprotocol == "chat.v1"
        await asyncio.sleep(1)
        assert peer.frames == []


@pytest.mark.parametrize("mode", FOREIGN)
async def test_no_subprotocol_is_invented(make_manager: MakeManager, mode: ModeName) -> None:
    async with connect(WebSocketMiddleware(Echo(), make_manager(), mode), subprotocols=[JSON]) as peer:
        assert peer.accepted_subprotocol is None


# --- what the guard refuses: frames


@pytest.mark.parametrize(
    ("mode", "frame", "code"),
    [
        ("json", "{", "not_json"),
        ("json", '{"a": "<script>alert(1)</script>"}', "forbidden_pattern"),
        ("json", "[" * 70 + "]" * 70, "too_deep"),
        ("json", b"\xff\xfe", "not_json"),
        ("json", "", "not_json"),
        ("json", "[1" + " " * 2_000 + "]", "too_large"),
        ("opaque", "x" * 1_001, "too_large"),
        ("opaque", b"x" * 1_001, "too_large"),
    ],
)
async def test_a_frame_that_fails_is_not_forwarded_and_closes_the_socket(
    make_manager: MakeManager, mode: ModeName, frame: str | bytes, code: str
) -> None:
    manager, echo = make_manager(WebSocketConfig(max_message_size=1_000)), Echo()
    async with connect(WebSocketMiddleware(echo, manager, mode)) as peer:
        await (peer.send_text(frame) if isinstance(frame, str) else peer.send_bytes(frame))
        assert await peer.wait_closed(1) == (4501, code)
        assert peer.frames == []
    assert echo.heard == []
    assert echo.end is not None
    assert echo.end["code"] == 4501


@pytest.mark.parametrize("mode", FOREIGN)
async def test_over_the_limit_the_socket_is_closed(make_manager: MakeManager, mode: ModeName) -> None:
    manager, echo = make_manager(WebSocketConfig(rate_limit_max=3)), Echo()
    async with connect(WebSocketMiddleware(echo, manager, mode)) as peer:
        for _ in range(4):
            await peer.send_text("1")
        assert await peer.wait_closed(1) == (4029, "rate_limited")
    assert echo.heard == ["1"] * 3


async def test_the_application_may_answer_a_violation_in_its_own_words(make_manager: MakeManager) -> None:
    def on_violation(conn: Connection, error: ReplyError) -> Any:
        return {"oops": error.code, "who": conn.user_id}

    manager, echo = make_manager(WebSocketConfig(max_errors=2), auth=ByQuery()), Echo()
    guarded = WebSocketMiddleware(echo, manager, "json", on_violation=on_violation)
    async with connect(guarded, query="user=ann") as peer:
        for _ in range(2):
            await peer.send_text("{")
            assert await peer.receive_json() == {"oops": "not_json", "who": "ann"}
        await peer.send_text("7")
        assert await peer.receive() == "7"
        await peer.send_text("{")
        assert await peer.receive_json() == {"oops": "not_json", "who": "ann"}
        assert await peer.wait_closed(1) == (4509, "too many errors")
    assert echo.heard == ["7"]


@pytest.mark.parametrize("answer", [None, "raises", {"not": {1, 2}, "json": object()}])
async def test_where_it_has_no_word_the_socket_is_closed(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    def on_violation(conn: Connection, error: ReplyError) -> Any:
        if answer == "raises":
            raise LookupError("a bug")
        return answer

    guarded = WebSocketMiddleware(Echo(), make_manager(), "json", on_violation=on_violation)
    async with connect(guarded) as peer:
        await peer.send_text("{")
        assert await peer.wait_closed(1) == (4501, "not_json")
    assert errors_logged(caplog) == ([] if answer is None else ["on_violation.failed"])


async def test_a_validator_may_end_the_connection(make_manager: MakeManager) -> None:
    class Strict(SecurityValidator):
        def validate_message(self, message: Any, **options: Any) -> None:
            raise Disconnect(4321, "not here")

    async with connect(WebSocketMiddleware(Echo(), make_manager(validator=Strict()), "json")) as peer:
        await peer.send_text("1")
        assert await peer.wait_closed(1) == (4321, "not here")


async def test_a_validator_that_fails_is_logged_and_closes(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SecurityValidator):
        def validate_message(self, message: Any, **options: Any) -> None:
            raise LookupError("a bug with a secret in it")

    async with connect(WebSocketMiddleware(Echo(), make_manager(validator=Broken()), "json")) as peer:
        await peer.send_text("1")
        assert await peer.wait_closed(1) == (4004, "server error")
    assert errors_logged(caplog) == ["guard.failed"]


# --- what it refuses: handshakes


@pytest.mark.parametrize("mode", MODES)
async def test_a_refusal_says_why_and_the_application_is_not_entered(
    make_manager: MakeManager, mode: ModeName
) -> None:
    manager = make_manager(WebSocketConfig(max_connections_per_user=1), auth=ByQuery())
    async with connect(WebSocketMiddleware(Echo(), manager, mode), query="user=ann"):
        with pytest.raises(HandshakeRefused) as caught:
            async with connect(WebSocketMiddleware(refusing, manager, mode), query="user=ann"):
                pass
    assert caught.value.status == 429
    assert json.loads(caught.value.body)["error"]["code"] == "user_limit"


async def test_a_foreign_origin_is_refused(make_manager: MakeManager) -> None:
    headers = [("origin", "https://evil.example")]
    with pytest.raises(HandshakeRefused) as caught:
        async with connect(WebSocketMiddleware(refusing, make_manager()), headers=headers):
            pass
    assert caught.value.status == 403
    assert json.loads(caught.value.body)["error"]["code"] == "origin_refused"


class Asking(ByQuery):
    """Knows nobody before a first message."""

    async def authenticate(self, handshake: Any) -> Any:
        return None


async def test_no_first_message_is_asked_for(make_manager: MakeManager) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        async with connect(WebSocketMiddleware(refusing, make_manager(auth=Asking()))):
            pass
    assert caught.value.status == 401
    assert json.loads(caught.value.body)["error"]["code"] == "token_missing"


async def test_after_the_end_clients_are_sent_away(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with manager:
        pass
    with pytest.raises(HandshakeRefused) as caught:
        async with connect(WebSocketMiddleware(refusing, manager)):
            pass
    assert caught.value.status == 503


@pytest.mark.parametrize("server", SERVERS, ids=["uvicorn", "hypercorn", "granian", "daphne"])
async def test_the_token_is_hidden_while_the_server_logs(make_manager: MakeManager, server: Server) -> None:
    logged: list[bytes] = []

    def as_logged(app: App) -> App:
        async def asked(scope: Any, receive: Any, send: Any) -> None:
            async def send_logged(event: Any) -> None:
                if event["type"] in ("websocket.accept", "websocket.http.response.start", "websocket.close"):
                    logged.append(scope["query_string"])
                await send(event)

            await app(scope, receive, send_logged)

        return asked

    async def denying(scope: Any, receive: Any, send: Any) -> None:
        assert scope["query_string"] == b"token=secret"
        await receive()
        await send({"type": "websocket.close"})

    echo = Echo()
    manager = make_manager()
    async with connect(as_logged(WebSocketMiddleware(echo, manager)), query="token=secret", server=server):
        await asyncio.sleep(1)
        assert echo.scope["query_string"] == b"token=secret"
    with pytest.raises(HandshakeRefused):
        async with connect(
            as_logged(WebSocketMiddleware(denying, manager)), query="token=secret", server=server
        ):
            pass
    assert len(logged) == 2
    assert not any(b"secret" in query for query in logged)


async def test_whether_to_wait_for_the_connect_is_the_applications_choice(make_manager: MakeManager) -> None:
    manager, sent = make_manager(), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4444})

    async def never() -> Any:
        await asyncio.Event().wait()

    async def send(event: Any) -> None:
        sent.append(event["type"])

    async with asyncio.timeout(1):
        await WebSocketMiddleware(app, manager)(websocket_scope("/"), never, send)
    assert sent == ["websocket.accept", "websocket.close"]


async def test_a_refusal_comes_after_the_connect(make_manager: MakeManager) -> None:
    manager, met = make_manager(auth=Asking()), list[str]()

    async def receive() -> Any:
        met.append("connect")
        return {"type": "websocket.connect"}

    async def send(event: Any) -> None:
        met.append(event["type"])

    await WebSocketMiddleware(refusing, manager)(websocket_scope("/"), receive, send)
    assert met == ["connect", "websocket.http.response.start", "websocket.http.response.body"]


async def reading_early(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads on one task, from the beginning, and accepts on another. Echoes one frame."""

    async def read() -> Any:
        await receive()
        return await receive()

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read())
        await asyncio.sleep(1)
        await send({"type": "websocket.accept"})
        event = await reading
        if event["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})


async def test_nobody_reads_beside_a_receive_that_began_before_the_accept(make_manager: MakeManager) -> None:
    reading = most = 0

    def counted(app: App) -> App:
        async def asked(scope: Any, receive: Any, send: Any) -> None:
            async def receive_counted() -> Any:
                nonlocal reading, most
                reading += 1
                most = max(most, reading)
                try:
                    return await receive()
                finally:
                    reading -= 1

            await app(scope, receive_counted, send)

        return asked

    async with connect(counted(WebSocketMiddleware(reading_early, make_manager()))) as peer:
        await asyncio.sleep(65)
        await peer.send_text("first")
        assert await peer.receive() == "first"
    assert most == 1


@pytest.mark.parametrize("mode", MODES)
async def test_a_connect_that_is_received_after_the_accept_is_no_frame(
    make_manager: MakeManager, mode: ModeName
) -> None:
    met = list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        met.extend([(await receive())["type"], (await receive())["type"]])

    async with connect(WebSocketMiddleware(app, make_manager(), mode)) as peer:
        await peer.send_text('{"type": "x"}')
    assert met == ["websocket.connect", "websocket.receive"]


# --- paths


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/", "opaque"),
        ("/chat", "json"),
        ("/chat/room", "json"),
        ("/chats", "opaque"),
        ("/chat/raw", "opaque"),
        ("/chat/raw/x", "opaque"),
        ("/rpc/", "envelope"),
        ("/left/alone", None),
        # Routers differ in what they take these for: the stricter of both counts.
        ("//chat", "json"),
        ("/chat///raw", "json"),
        ("//left/alone", "opaque"),
        ("/chat\n", "json"),
        ("/left\n", "opaque"),
        ("ws://host/chat", "json"),
    ],
)
async def test_the_longest_prefix_wins(make_manager: MakeManager, path: str, mode: str | None) -> None:
    manager = make_manager()
    modes: dict[str, ModeName | None] = {
        "/chat": "json",
        "/chat/raw/": "opaque",
        "/rpc": "envelope",
        "/left": None,
    }
    async with connect(WebSocketMiddleware(Echo(), manager, modes), path) as peer:
        if mode is None:
            assert manager.connections() == []
            return
        (conn,) = manager.connections()
        report = await manager.send_to_connection(conn.id, {"type": "x"})
        assert report.unsupported == (mode == "opaque")
        await peer.send_json({"type": "ping", "id": 1})
        answers = [json.loads(frame)["type"] for frame in peer.frames]
        assert ("pong" in answers) == (mode == "envelope")


async def test_a_default_may_be_given_for_every_other_path(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(WebSocketMiddleware(Echo(), manager, {"/": None, "/chat": "json"}), "/other"):
        assert manager.connections() == []


async def test_a_prefix_is_that_of_the_applications_own_routes(make_manager: MakeManager) -> None:
    manager = make_manager()
    inner = WebSocketMiddleware(Echo(), manager, {"/chat": "json"})
    app = Starlette(routes=[Mount("/api", app=inner)])
    async with connect(app, "/api/chat") as peer:
        (conn,) = manager.connections()
        assert (await manager.send_to_connection(conn.id, {"n": 1})).sent == 1
        assert await peer.receive_json() == {"n": 1}


@pytest.mark.parametrize("mode", ["Json", "", {"/x": "xml"}, {"x": "json"}])
def test_a_mode_that_is_none_is_refused_at_once(mode: Any) -> None:
    with pytest.raises(ConfigurationError):
        WebSocketMiddleware(refusing, ConnectionManager(), mode)


# --- the connection


@pytest.mark.parametrize("mode", MODES)
async def test_a_guarded_socket_is_reachable_from_accept_to_end(
    make_manager: MakeManager, mode: ModeName
) -> None:
    manager, diary = make_manager(auth=ByQuery()), list[Any]()
    manager.on_connect(lambda conn: diary.append(("hello", conn.user_id)))
    manager.on_disconnect(lambda conn: diary.append(("gone", closing_of(conn))))
    accepts, closes = anyio.Event(), anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await accepts.wait()
        await send({"type": "websocket.accept"})
        await closes.wait()
        await send({"type": "websocket.close", "code": 4444, "reason": "bye"})

    async with anyio.create_task_group() as tasks:

        async def client() -> None:
            async with connect(WebSocketMiddleware(app, manager, mode), query="user=ann&tenant=t") as peer:
                assert await peer.wait_closed(9) == (4444, "bye")

        tasks.start_soon(client)
        await asyncio.sleep(1)
        (conn,) = manager.connections(user_id="ann", tenant="t")
        assert (conn.status, diary) == ("connecting", [])
        accepts.set()
        await asyncio.sleep(1)
        assert (conn.status, diary) == ("open", [("hello", "ann")])
        closes.set()
        await asyncio.sleep(1)
        assert manager.connections(user_id="ann", tenant="t") == []
    assert diary == [("hello", "ann"), ("gone", (4444, "bye"))]


async def test_an_application_finds_its_connection(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    async def chat(websocket: WebSocket) -> None:
        conn = manager.connection_of(websocket)
        assert conn is manager.connection_of(websocket.scope)
        await websocket.accept()
        await manager.join_session(conn, websocket.path_params["room"])
        await manager.send_to_session(websocket.path_params["room"], {"joined": conn.user_id})
        await websocket.receive()

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/{room}", chat)]), manager, "json")
    async with (
        connect(app, "/lobby", query="user=ann") as ann,
        connect(app, "/lobby", query="user=bob") as bob,
    ):
        assert await ann.receive_json() == {"joined": "ann"}
        assert [await peer.receive_json() for peer in (ann, bob)] == [{"joined": "bob"}] * 2
    with pytest.raises(ConfigurationError, match="no middleware"):
        manager.connection_of({"type": "websocket"})
    with pytest.raises(ConfigurationError, match="no middleware guards"):
        manager.connection_of(object())  # a WebSocket that does not show its scope


async def test_a_hook_that_refuses_closes_what_was_accepted(make_manager: MakeManager) -> None:
    manager, echo = make_manager(), Echo()

    @manager.on_connect
    async def refuse(conn: Connection) -> None:
        raise Disconnect(4321, "not you")

    async with connect(WebSocketMiddleware(echo, manager)) as peer:
        assert await peer.wait_closed(1) == (4321, "not you")
    assert echo.heard == []
    assert echo.end is not None
    assert echo.end["code"] == 4321


async def test_the_applications_sends_keep_their_order_with_the_managers(make_manager: MakeManager) -> None:
    manager, go = make_manager(), anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        conn = manager.connection_of(scope)
        for n in range(0, 40, 2):
            await send({"type": "websocket.send", "text": f'{{"n": {n}, "pad": "{"x" * 40}"}}'})
            await manager.send_to_connection(conn.id, {"n": n + 1})
        go.set()
        await receive()

    async with connect(WebSocketMiddleware(app, manager, "json"), window=100, stalled=True) as peer:
        await asyncio.sleep(1)
        assert peer.suspended
        peer.resume()
        await go.wait()
        assert [(await peer.receive_json())["n"] for _ in range(40)] == list(range(40))


async def test_the_applications_own_send_waits_for_a_slow_peer(make_manager: MakeManager) -> None:
    manager, sent = make_manager(), list[int]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for n in range(9):
            await send({"type": "websocket.send", "bytes": b"x" * 100})
            sent.append(n)

    async with connect(WebSocketMiddleware(app, manager), window=250, stalled=True) as peer:
        await asyncio.sleep(1)
        assert len(sent) < 9
        peer.resume()
        await asyncio.sleep(1)
        assert len(sent) == 9


@pytest.mark.parametrize("server", SERVERS, ids=["uvicorn", "hypercorn", "granian", "daphne"])
@pytest.mark.parametrize("window", [100, 65_536])
async def test_a_send_that_the_server_refuses_harms_nothing_else(
    make_manager: MakeManager, server: Server, window: int
) -> None:
    manager, met = make_manager(), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "1" * 200})
        with pytest.raises(UnicodeEncodeError):
            await send({"type": "websocket.send", "text": "\ud800"})
        await send({"type": "websocket.send", "text": "after"})
        met.append(await manager.broadcast({"n": 1}))
        await receive()

    async with connect(
        WebSocketMiddleware(app, manager, "json"), window=window, stalled=True, server=server
    ) as peer:
        await asyncio.sleep(1)
        peer.resume()
        assert [await peer.receive() for _ in range(3)] == ["1" * 200, "after", '{"n":1}']
        assert met[0].delivered


# --- the end


@pytest.mark.parametrize("mode", MODES)
async def test_a_drain_closes_every_socket_in_its_own_way(make_manager: MakeManager, mode: ModeName) -> None:
    manager, echo = make_manager(), Echo()
    async with connect(WebSocketMiddleware(echo, manager, mode)) as peer:
        await manager.aclose()
        assert await peer.wait_closed(1) == (1012, "shutdown")
        assert len(peer.frames) == (mode == "envelope")
    assert echo.end == {"type": "websocket.disconnect", "code": 1012, "reason": "shutdown"}


@pytest.mark.parametrize("server", SERVERS, ids=["uvicorn", "hypercorn", "granian", "daphne"])
async def test_an_application_that_only_sends_learns_of_the_end_within_a_heartbeat(
    make_manager: MakeManager, server: Server
) -> None:
    manager, fate = make_manager(WebSocketConfig(heartbeat_interval=10)), list[Any]()

    async def ticker(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text("tick")
                await asyncio.sleep(1)
        except WebSocketDisconnect as error:
            fate.append((error.code, asyncio.get_running_loop().time() - left))

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", ticker)]), manager)
    async with connect(app, server=server) as peer:
        await asyncio.sleep(33.3)
        left = asyncio.get_running_loop().time()
        peer.reset()
    ((code, seconds),) = fate
    assert code == 1006
    assert seconds <= 11


async def test_an_application_that_never_receives_loses_nothing_and_hears_the_end(
    make_manager: MakeManager,
) -> None:
    manager, heard = make_manager(), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(100)
        while (event := await receive())["type"] == "websocket.receive":
            heard.append(event["text"])
        heard.append(event["code"])

    async with connect(WebSocketMiddleware(app, manager)) as peer:
        for n in range(90):
            await peer.send_text(str(n))
            await asyncio.sleep(1)
        await peer.close(4242)
    assert heard == [*map(str, range(90)), 4242]


async def test_what_an_application_does_not_read_is_bounded(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(inbound_max_messages=10, rate_limit_max=1_000))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(1_000)

    async with connect(WebSocketMiddleware(app, manager), timeout=2_000) as peer:
        for _ in range(60):
            with suppress(PeerClosed):
                await peer.send_text("x")
            await asyncio.sleep(1)
        assert await peer.wait_closed(1) == (4014, "inbox overflow")


@pytest.mark.parametrize("sends", [1, 3])
async def test_a_close_of_the_application_does_not_wait_for_ever(
    make_manager: MakeManager, sends: int
) -> None:
    manager, times = make_manager(WebSocketConfig(close_timeout=5)), list[float]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        conn = manager.connection_of(scope)
        for _ in range(sends):
            await manager.send_to_connection(conn.id, {"text": "x" * 100})
        times.append(asyncio.get_running_loop().time())
        await send({"type": "websocket.close"})
        times.append(asyncio.get_running_loop().time())

    async with connect(WebSocketMiddleware(app, manager, "json"), window=50, stalled=True):
        await asyncio.sleep(9)
        assert times[1] - times[0] == pytest.approx(5)
        assert manager.connections() == []


async def test_a_receive_that_began_before_the_accept_is_guarded(make_manager: MakeManager) -> None:
    manager, heard = make_manager(), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        early = asyncio.create_task(receive())
        await asyncio.sleep(1)
        await send({"type": "websocket.accept"})
        heard.append(await early)

    async with connect(WebSocketMiddleware(app, manager, "json")) as peer:
        await peer.send_text("{")
        assert await peer.wait_closed(1) == (4501, "not_json")
    assert [event["type"] for event in heard] == ["websocket.disconnect"]


async def test_a_receive_that_began_before_the_accept_gets_its_frames_in_order(
    make_manager: MakeManager,
) -> None:
    manager, heard = make_manager(WebSocketConfig(heartbeat_interval=5)), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        event = asyncio.create_task(receive())
        await asyncio.sleep(1)
        await send({"type": "websocket.accept"})
        while (await event)["type"] == "websocket.receive":
            heard.append(event.result()["text"])
            event = asyncio.create_task(receive())

    async with connect(WebSocketMiddleware(app, manager)) as peer:
        await asyncio.sleep(20)
        for number in range(4):
            await peer.send_text(str(number))
    assert heard == ["0", "1", "2", "3"]


async def test_a_receive_that_takes_over_from_a_cancelled_one_gets_its_frames_in_order(
    make_manager: MakeManager,
) -> None:
    manager, heard = make_manager(WebSocketConfig(heartbeat_interval=5)), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        old = asyncio.create_task(receive())
        await asyncio.sleep(1)
        old.cancel()
        while (event := await receive())["type"] == "websocket.receive":
            heard.append(event["text"])

    async with connect(WebSocketMiddleware(app, manager)) as peer:
        await asyncio.sleep(20)
        for number in range(4):
            await peer.send_text(str(number))
    assert heard == ["0", "1", "2", "3"]


async def test_a_close_before_the_accept_reaches_an_application_that_waits(make_manager: MakeManager) -> None:
    manager, heard = make_manager(), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        asyncio.get_running_loop().call_later(1, lambda: manager.connection_of(scope).close_soon(4000, "bye"))
        heard.append(await receive())

    with pytest.raises(HandshakeRefused) as caught:
        async with connect(WebSocketMiddleware(app, manager)):
            pass
    assert json.loads(caught.value.body)["error"]["code"] == "replaced"
    assert heard == [{"type": "websocket.disconnect", "code": 4000, "reason": "bye"}]


async def test_the_hooks_have_run_when_the_manager_is_closed(make_manager: MakeManager) -> None:
    manager, diary = make_manager(), list[str]()
    manager.on_disconnect(lambda conn: diary.append("gone"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await asyncio.sleep(3)

    async with connect(WebSocketMiddleware(app, manager)):
        await manager.aclose()
        assert diary == ["gone"]
    assert diary == ["gone"]


def slow(app: App) -> App:
    """As on a server that takes its time to accept."""

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        async def send_slowly(event: Any) -> None:
            await send(event)
            if event["type"] == "websocket.accept":
                await asyncio.sleep(5)

        await app(scope, receive, send_slowly)

    return asked


async def test_frames_that_come_while_the_server_accepts_are_guarded(make_manager: MakeManager) -> None:
    manager, heard = make_manager(WebSocketConfig(rate_limit_max=2)), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

        async def listen() -> None:
            while (event := await receive())["type"] == "websocket.receive":
                heard.append(event["text"])

        listening = asyncio.create_task(listen())
        await send({"type": "websocket.accept"})
        await listening

    async with connect(slow(WebSocketMiddleware(app, manager))) as peer:
        for _ in range(5):
            await peer.send_text("x")
        assert await peer.wait_closed(9) == (4029, "rate_limited")
    assert heard == ["x", "x"]


async def test_frames_after_a_close_of_the_application_are_guarded(make_manager: MakeManager) -> None:
    manager, heard = make_manager(WebSocketConfig(max_message_size=100, close_timeout=9)), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(2):
            await manager.send_to_connection(manager.connection_of(scope).id, {"text": "x" * 100})
        closing = asyncio.create_task(send({"type": "websocket.close"}))
        await asyncio.sleep(1)
        while (event := await receive())["type"] == "websocket.receive":
            heard.append(event["text"])
        await closing

    async with connect(WebSocketMiddleware(app, manager, "json"), window=50, stalled=True) as peer:
        await asyncio.sleep(2)
        for text in ("1", '"' + "x" * 200 + '"', "{", "2"):
            await peer.send_text(text)
        await asyncio.sleep(1)
    assert heard == ["1", "2"]


async def test_a_cancellation_that_the_application_survived_does_not_hide_the_end(
    make_manager: MakeManager,
) -> None:
    manager, met = make_manager(), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        met.append(await receive())

    async with connect(WebSocketMiddleware(app, manager)) as peer:
        await asyncio.sleep(1)
        (conn,) = manager.connections()
        await conn.close(4000, "bye")
        await peer.wait_closed(1)
        await asyncio.sleep(1)
        assert met == [{"type": "websocket.disconnect", "code": 4000, "reason": "bye"}]


async def test_a_client_chooses_no_rule_of_the_validators_by_naming_a_type(make_manager: MakeManager) -> None:
    validator = SecurityValidator(overrides={"code.paste": frozenset()})
    async with connect(WebSocketMiddleware(Echo(), make_manager(validator=validator), "json")) as peer:
        await peer.send_json({"type": "code.paste", "op": "say", "text": "<script>alert(1)</script>"})
        assert await peer.wait_closed(1) == (4501, "forbidden_pattern")


@pytest.mark.parametrize("server", SERVERS, ids=["uvicorn", "hypercorn", "granian", "daphne"])
async def test_a_close_of_the_managers_goes_out_though_the_application_ends_over_it(
    make_manager: MakeManager, server: Server
) -> None:
    manager = make_manager()

    async def ticking(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(0.1)

    async with connect(WebSocketMiddleware(ticking, manager, "json"), server=server, window=20) as peer:
        await asyncio.sleep(1)
        peer.stall()
        await asyncio.sleep(1)
        (conn,) = manager.connections()
        conn.close_soon(4503, "kicked")
        await asyncio.sleep(1)
        peer.resume()
        code, reason = await peer.wait_closed(1)
        assert (code, reason) == (4503, "kicked" if server.close_reason else "")
        assert isinstance(peer.app_error, OSError | None)


async def test_what_is_sent_after_a_close_of_the_applications_overtakes_nothing(
    make_manager: MakeManager,
) -> None:
    manager, errors = make_manager(), list[type[BaseException]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def say(text: str) -> None:
            try:
                await send({"type": "websocket.send", "text": text})
            except Exception as error:
                errors.append(type(error))

        await receive()
        await send({"type": "websocket.accept"})
        async with asyncio.TaskGroup() as tasks:
            for text in ("one" * 100, "two" * 100):
                tasks.create_task(say(text))
                await asyncio.sleep(0.1)
            tasks.create_task(send({"type": "websocket.close"}))
            await asyncio.sleep(0.1)
            tasks.create_task(say("late"))

    for each in (app, WebSocketMiddleware(app, manager)):
        async with connect(each, window=200, stalled=True) as peer:
            await asyncio.sleep(1)
            peer.resume()
            assert await peer.wait_closed(1) == (1000, "")
            assert peer.frames == ["one" * 100, "two" * 100]
    assert errors == [RuntimeError] * 2


async def test_an_application_that_minds_no_end_leaves_the_loop_to_others(make_manager: MakeManager) -> None:
    manager, heard = make_manager(), 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal heard
        await receive()
        await send({"type": "websocket.accept"})
        while heard < 1_000:
            await receive()
            heard += 1

    async with connect(WebSocketMiddleware(app, manager)) as peer:
        (conn,) = manager.connections()
        await conn.close(4000)
        assert await peer.wait_closed(1) == (4000, "")
        assert heard < 100


async def test_a_close_reaches_the_peer_though_the_application_begins_to_receive_just_then(
    make_manager: MakeManager,
) -> None:
    """On granian no close goes out while anybody waits for the server, and here somebody is just leaving."""
    manager, due = make_manager(WebSocketConfig(heartbeat_interval=5)), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await due.wait()
        manager.connection_of(scope).close_soon(4000, "enough")
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def server(scope: Any, receive: Any, send: Any) -> None:
        def at_once(event: Any) -> Any:
            sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with suppress(StopIteration):
                receive.__self__.send(event).send(None)
            sent.set_result(None)
            return sent

        await WebSocketMiddleware(app, manager)(scope, receive, at_once)

    async with connect(server, server=GRANIAN) as peer:
        await asyncio.sleep(30)  # by now the manager reads in the application's stead
        due.set()
        assert await peer.wait_closed(1) == (4000, "enough")


async def test_hooks_do_not_hold_up_the_clients_end(make_manager: MakeManager) -> None:
    manager, diary = make_manager(), list[str]()

    @manager.on_disconnect
    async def slow(conn: Connection) -> None:
        await asyncio.sleep(20)
        diary.append("gone")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    async with connect(WebSocketMiddleware(app, manager)) as peer:
        await peer.wait_closed(1)
    await asyncio.sleep(21)
    assert diary == ["gone"]


async def test_sockets_are_closed_before_the_application_shuts_down(make_manager: MakeManager) -> None:
    manager, diary = make_manager(), list[str]()
    manager.on_disconnect(lambda conn: diary.append("gone"))

    @asynccontextmanager
    async def life(app: object) -> AsyncGenerator[None]:
        yield
        diary.append("database closed")

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", until_the_end)], lifespan=life), manager)
    async with lifespan(app):
        late = connect(app)
        peer = await late.__aenter__()
    await peer.wait_closed(1)
    await late.__aexit__(None, None, None)
    assert diary == ["gone", "database closed"]


async def test_on_violation_may_end_the_connection(make_manager: MakeManager) -> None:
    def on_violation(conn: Connection, error: ReplyError) -> Any:
        raise Disconnect(4321, "enough")

    guarded = WebSocketMiddleware(Echo(), make_manager(), "json", on_violation=on_violation)
    async with connect(guarded) as peer:
        await peer.send_text("{")
        assert await peer.wait_closed(1) == (4321, "enough")


async def test_after_a_close_by_the_manager_the_application_may_do_what_it_likes(
    make_manager: MakeManager,
) -> None:
    manager, met = make_manager(), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await manager.connection_of(scope).close(4000, "enough")
        with pytest.raises(OSError, match="closed"):
            await send({"type": "websocket.send", "text": "late"})
        await send({"type": "websocket.close", "code": 1011})
        met.extend([await receive(), await receive()])

    async with connect(WebSocketMiddleware(app, manager, "json")) as peer:
        assert await peer.wait_closed(1) == (4000, "enough")
        assert peer.frames == []
    assert met == [{"type": "websocket.disconnect", "code": 4000, "reason": "enough"}] * 2


async def test_a_connection_closed_before_its_accept_is_refused(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await manager.connection_of(scope).close(4503, "kicked")
        await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.disconnect"

    with pytest.raises(HandshakeRefused) as caught:
        async with connect(WebSocketMiddleware(app, manager)):
            pass
    assert json.loads(caught.value.body)["error"]["code"] == "replaced"


async def test_a_connection_closed_while_the_server_accepts_is_closed(make_manager: MakeManager) -> None:
    manager = make_manager()

    echo = Echo()
    async with connect(slow(WebSocketMiddleware(echo, manager))) as peer:
        await asyncio.sleep(1)
        (conn,) = manager.connections()
        await conn.close(4000, "not any more")
        assert (await peer.wait_closed(9))[0] == 4503
    assert echo.heard == []


async def test_what_the_application_refuses_is_counted_as_refused(make_manager: MakeManager) -> None:
    manager = make_manager()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/denied":
            await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no"})
        else:
            await send({"type": "websocket.close"})

    for path, status in (("/denied", 404), ("/closed", 403)):
        with pytest.raises(HandshakeRefused) as caught:
            async with connect(WebSocketMiddleware(app, manager), path):
                pass
        assert caught.value.status == status
    figures = manager.get_analytics()
    assert (figures.refused, figures.closed) == ({"application": 2}, {})


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_exception_of_the_application_passes_and_leaves_nothing(
    make_manager: MakeManager, when: str
) -> None:
    manager, diary = make_manager(), list[str]()
    manager.on_disconnect(lambda conn: diary.append("gone"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if when == "after":
            await send({"type": "websocket.accept"})
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        async with connect(WebSocketMiddleware(app, manager)) as peer:
            await peer.wait_closed(1)
    await asyncio.sleep(1)
    assert manager.connections() == []
    assert diary == (["gone"] if when == "after" else [])


async def test_a_cancelled_application_leaves_nothing(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(WebSocketMiddleware(Echo(), manager)) as peer:
        task = next(task for task in asyncio.all_tasks() if task.get_name() == "app on /")
        task.cancel()
        await asyncio.sleep(1)
        assert manager.connections() == []
        peer.reset()


# --- more than one


@pytest.mark.parametrize(("outer", "inner"), [("opaque", "envelope"), ("envelope", "opaque")])
async def test_of_a_guard_inside_a_guard_of_the_same_manager_the_stricter_counts(
    make_manager: MakeManager, outer: ModeName, inner: ModeName
) -> None:
    manager, echo = make_manager(), Echo()
    app = WebSocketMiddleware(WebSocketMiddleware(echo, manager, inner), manager, outer)
    async with connect(app) as peer:
        assert len(manager.connections()) == 1
        await peer.send_json({"type": "ping"})
        assert (await peer.receive_json())["type"] == "pong"
    assert echo.heard == []


async def test_two_managers_may_guard_the_same_socket(make_manager: MakeManager) -> None:
    outer, inner = make_manager(), make_manager()
    app = WebSocketMiddleware(WebSocketMiddleware(Echo(), inner, "json"), outer, "json")
    async with connect(app) as peer:
        for manager in (outer, inner):
            assert manager.connection_of(peer.scope) in manager.connections()
            await manager.broadcast({"n": 1})
            assert await peer.receive_json() == {"n": 1}
        await peer.send_text("1")
        assert await peer.receive() == "1"
    assert len(outer.connections()) == len(inner.connections()) == 0


async def test_state_is_the_managers(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=3), auth=ByQuery())
    doors = [WebSocketMiddleware(Echo(), manager) for _ in range(4)]
    async with connect(doors[0], query="user=ann") as peer:
        await peer.send_text("1")
        for door in doors[1:3]:
            async with connect(door, query="user=ann") as other:
                await other.send_text("x")
        async with connect(doors[3], query="user=ann") as other:
            await other.send_text("x")
            assert await other.wait_closed(1) == (4029, "rate_limited")


# --- lifespan


async def test_the_manager_starts_and_stops_with_the_application(make_manager: MakeManager) -> None:
    manager, app = make_manager(), Starlette(routes=[WebSocketRoute("/", until_the_end)])
    guarded = WebSocketMiddleware(app, manager)
    for _ in range(2):  # and may do so again
        async with lifespan(guarded):
            async with connect(guarded):
                assert len(manager.connections()) == 1
            late = connect(guarded)
            peer = await late.__aenter__()
        assert await peer.wait_closed(1) == (1012, "shutdown")
        await late.__aexit__(None, None, None)
        with pytest.raises(HandshakeRefused):
            async with connect(guarded):
                pass


async def until_the_end(websocket: WebSocket) -> None:
    await websocket.accept()
    with pytest.raises(WebSocketDisconnect):
        await websocket.receive_text()


async def test_without_a_lifespan_the_first_socket_starts_it(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(WebSocketMiddleware(Echo(), manager)):
        assert len(manager.connections()) == 1


# --- with the other doors


@pytest.mark.parametrize("mode", MODES)
async def test_an_endpoint_adopts_the_connection_that_the_guard_made(
    make_manager: MakeManager, mode: ModeName
) -> None:
    manager, diary = make_manager(auth=ByQuery()), list[Any]()
    manager.on_connect(lambda conn: diary.append("hello"))
    manager.on_disconnect(lambda conn: diary.append("gone"))

    async def endpoint(websocket: WebSocket) -> None:
        guarded = manager.connection_of(websocket)
        async with manager.connect(websocket, metadata={"page": 7}) as conn:
            assert conn is guarded
            assert manager.connections(tenant="t") == [conn]
            assert (conn.user_id, conn.metadata) == ("ann", {"page": 7})
            await conn.send({"type": "hi"})
            assert await websocket.receive_json() == {"type": "chat"}
        assert diary == ["hello", "gone"]

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), manager, mode)
    async with connect(app, query="user=ann&tenant=t", subprotocols=[JSON]) as peer:
        assert peer.accepted_subprotocol == JSON
        assert [(await peer.receive_json())["type"] for _ in range(2)] == ["welcome", "hi"]
        await peer.send_json({"type": "ping"})
        assert (await peer.receive_json())["type"] == "pong"
        await peer.send_json({"type": "chat"})
        assert (await peer.receive_json())["type"] == "disconnect"
        assert await peer.wait_closed(1) == (1000, "")
    assert diary == ["hello", "gone"]


async def test_an_endpoint_may_know_better_who_it_is(make_manager: MakeManager) -> None:
    manager = make_manager()

    async def endpoint(websocket: WebSocket) -> None:
        before = manager.connection_of(websocket)
        assert before.user_id.startswith("anon:")
        async with manager.connect(websocket, user_id="ann", tenant="t", connection_id="tab-1") as conn:
            assert conn is before
            assert manager.connections() == []
            assert manager.connections(user_id="ann", tenant="t") == [conn]
            assert manager.get_connection("tab-1") is conn
            await websocket.receive()

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), manager, "json")
    async with connect(app) as peer:
        message = {"type": "n", "data": 1}
        assert (await manager.send_personal_message("ann", message, tenant="t")).sent == 1
        assert await peer.receive_json() == message
        with pytest.raises(EncodeError, match="type"):  # whatever guards it, an adopted socket has types
            await manager.send_personal_message("ann", {"n": 1}, tenant="t")


async def test_claims_of_somebody_else_are_not_kept(make_manager: MakeManager) -> None:
    manager, met = make_manager(auth=ByQuery()), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, user_id=websocket.query_params["as"]) as conn:
            met.append((conn.user_id, sorted(conn.scopes)))

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), manager)
    for user in ("ann", "bob"):
        async with connect(app, query=f"user=ann&scopes=admin&as={user}") as peer:
            await peer.wait_closed(1)
    assert met == [("ann", ["admin"]), ("bob", [])]


async def test_an_anonymous_user_is_named_after_the_connection(make_manager: MakeManager) -> None:
    manager, met = make_manager(), list[str]()

    async def endpoint(websocket: WebSocket) -> None:
        async with manager.connect(websocket, connection_id="tab-1") as conn:
            met.append(conn.user_id)

    async with connect(
        WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), manager)
    ) as peer:
        await peer.wait_closed(1)
    assert met == ["anon:tab-1"]


async def test_the_limits_of_the_user_that_is_named_hold(make_manager: MakeManager) -> None:
    manager, raised = make_manager(WebSocketConfig(max_connections_per_user=1)), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        try:
            async with manager.connect(websocket, user_id="ann"):
                await websocket.receive()
        except Refused as refusal:
            raised.append(refusal.code)
            raise

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), manager)
    async with connect(app):
        with pytest.raises(HandshakeRefused) as caught:
            async with connect(app):
                pass
        assert caught.value.status == 429
        assert len(manager.connections()) == 1
    assert raised == ["user_limit"]


async def test_of_a_user_that_is_named_the_oldest_may_give_way(make_manager: MakeManager) -> None:
    config = WebSocketConfig(max_connections_per_user=1, over_limit="replace_oldest")
    manager, hesitant = make_manager(config, auth=ByQuery()), asyncio.Event()

    async def endpoint(websocket: WebSocket) -> None:
        if "hesitant" in websocket.query_params:
            await hesitant.wait()
        async with manager.connect(websocket, user_id="ann"):
            with suppress(WebSocketDisconnect):
                await websocket.receive_text()

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), manager)

    async def hesitate() -> None:
        async with connect(app, query="user=ann&hesitant="):
            pass

    async with connect(app, query="user=x") as first:
        connecting = asyncio.create_task(hesitate())
        await asyncio.sleep(1)
        async with connect(app, query="user=y"):
            assert await first.wait_closed(1) == (4503, "replaced")
            hesitant.set()
            with pytest.raises(HandshakeRefused):
                await connecting


@pytest.mark.parametrize(("how", "code"), [("kicked", "replaced"), ("ended", "shutting_down")])
async def test_what_was_closed_before_it_is_adopted_is_refused(
    make_manager: MakeManager, how: str, code: str
) -> None:
    manager, raised = make_manager(), list[Any]()

    async def endpoint(websocket: WebSocket) -> None:
        if how == "ended":
            await manager.aclose()
        else:
            await manager.connection_of(websocket).close(4503, "kicked")
        try:
            await manager.connect(websocket, user_id="ann")
        except Refused as refusal:
            raised.append(refusal.code)
            raise

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), manager)
    with pytest.raises(HandshakeRefused) as caught:
        async with connect(app):
            pass
    assert json.loads(caught.value.body)["error"]["code"] == code
    assert raised == [code]


async def test_an_id_in_use_changes_nothing(make_manager: MakeManager) -> None:
    manager = make_manager()

    async def endpoint(websocket: WebSocket) -> None:
        try:
            adoption = await manager.connect(websocket, user_id="ann", connection_id="tab-1")
        except DuplicateConnectionId:
            conn = manager.connection_of(websocket)
            assert conn.user_id == f"anon:{conn.id}"
            adoption = await manager.connect(websocket, user_id="ann", connection_id="tab-2")
        with pytest.raises(WebSocketDisconnect):
            await websocket.receive_text()
        await manager.disconnect(adoption)

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), manager)
    async with connect(app), connect(app):
        assert sorted(conn.id for conn in manager.connections(user_id="ann")) == ["tab-1", "tab-2"]


async def test_the_managers_endpoint_inside_a_guard_is_one_connection(make_manager: MakeManager) -> None:
    manager, diary = make_manager(auth=ByQuery()), list[Any]()
    manager.on_connect(lambda conn: diary.append("hello"))
    manager.on_disconnect(lambda conn: diary.append("gone"))

    @manager.on("add")
    async def add(conn: Connection, data: list[int]) -> int:
        return sum(data)

    app = WebSocketMiddleware(
        Starlette(routes=[WebSocketRoute("/ws", manager.endpoint), WebSocketRoute("/own", until_the_end)]),
        manager,
    )
    async with connect(app, "/ws", query="user=ann", subprotocols=[MSGPACK, JSON]) as peer:
        assert peer.accepted_subprotocol == MSGPACK
        assert len(manager.connections(user_id="ann")) == 1
    async with connect(app, "/ws", query="user=ann") as peer:
        await peer.send_json({"type": "add", "data": [1, 2], "id": 1})
        assert await peer.receive_json() == {"type": "reply", "re": 1, "data": 3}
    assert diary == ["hello", "gone"] * 2


async def test_the_managers_endpoint_inside_a_guard_is_woken_by_a_close(make_manager: MakeManager) -> None:
    manager, diary = make_manager(WebSocketConfig(close_timeout=1)), list[str]()
    manager.on_disconnect(lambda conn: diary.append("gone"))
    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", manager.endpoint)]), manager)
    async with connect(app, stalled=True, window=1) as peer:
        await asyncio.sleep(1)
        (conn,) = manager.connections()
        for _ in range(3):
            await manager.send_to_connection(conn.id, {"type": "x"})
        await conn.close(4000, "enough")
        await asyncio.sleep(1)
        assert diary == ["gone"]
        peer.reset()


async def test_an_endpoint_of_the_manager_behind_an_accepted_socket_says_what_is_wrong(
    make_manager: MakeManager,
) -> None:
    manager = make_manager()

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await manager.endpoint(websocket.scope, replayed, websocket._send)

    async def replayed() -> Any:
        return {"type": "websocket.connect"}

    app = WebSocketMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), manager)
    with pytest.raises(ConfigurationError, match="accepted before"):
        async with connect(app) as peer:
            await peer.wait_closed(1)


async def test_the_mode_of_the_connection_says_whether_a_message_needs_a_type(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/ws":
            await manager.endpoint(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()

    guarded = WebSocketMiddleware(app, manager, {"/ws": None, "/other": "json"})
    async with (
        connect(guarded, "/ws", query="user=ann") as ann,
        connect(guarded, "/other", query="user=bob") as bob,
        connect(guarded, "/any", query="user=cleo"),
    ):
        for send in (manager.send_personal_message("ann", {"data": 1}), manager.broadcast({"data": 1})):
            with pytest.raises(EncodeError, match="type"):
                await send
        (conn,) = manager.connections(user_id="ann")
        with pytest.raises(EncodeError, match="type"):
            await conn.send({"data": 1})
        assert (await manager.send_personal_message("bob", {"data": 1})).sent == 1
        assert (await manager.send_personal_message("cleo", {"data": 1})).kept == 1  # nothing reaches opaque
        assert await bob.receive_json() == {"data": 1}
        assert (await manager.broadcast({"type": "x"})).sent == 2
        assert await ann.receive_json() == await bob.receive_json() == {"type": "x"}
    assert manager.get_analytics().messages.types["untyped"].count_out == 1


async def test_what_is_kept_without_a_type_waits_for_one_that_takes_it(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    with pytest.raises(EncodeError, match="type"):  # while nobody could
        await manager.send_personal_message("ann", {"data": 1})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    guarded = WebSocketMiddleware(app, manager, "json")
    assert (await manager.send_personal_message("ann", {"data": 1})).kept == 1
    async with connect(guarded, query="user=ann") as peer:
        assert await peer.receive_json() == {"data": 1}
    assert (await manager.send_personal_message("ann", {"data": 2})).kept == 1
    async with connect(manager.endpoint, query="user=ann") as peer:
        await asyncio.sleep(1)
        assert peer.frames == []
    assert manager.get_analytics().drops["unencodable"] == 1
