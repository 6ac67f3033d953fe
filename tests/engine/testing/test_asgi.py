from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import wsmanager.testing
from wsmanager.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    UVICORN,
    ConnectionLost,
    FakeSocket,
    HandshakeRefused,
    Peer,
    PeerClosed,
    Server,
    connect,
    lifespan,
    websocket_scope,
)

pytestmark = pytest.mark.anyio

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

ACCEPT: Event = {"type": "websocket.accept"}
CONNECT: Event = {"type": "websocket.connect"}
FRAME: Event = {"type": "websocket.send", "text": "x" * 100}


class Recorder:
    """Accepts, notes every event it receives, and ends with the disconnect."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.send: Send | None = None

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        self.send = send
        self.events.append(await receive())
        await send(ACCEPT)
        while self.events[-1]["type"] != "websocket.disconnect":
            self.events.append(await receive())

    async def say(self, event: Event) -> None:
        assert self.send is not None
        await self.send(event)


async def echo(scope: Event, receive: Receive, send: Send) -> None:
    assert await receive() == CONNECT
    await send(ACCEPT)
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


def sending(*events: Any) -> Callable[[Event, Receive, Send], Awaitable[None]]:
    """An application that sends `events` and waits for the disconnect."""

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        assert await receive() == CONNECT
        for event in events:
            await send(event)
        while (await receive())["type"] != "websocket.disconnect":
            pass

    return app


def flooding(frames: int, then: Callable[[BaseException | None], None]) -> Callable[..., Awaitable[None]]:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        try:
            for _ in range(frames):
                await send(FRAME)
            then(None)
        except BaseException as error:
            then(error)
            raise

    return app


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# --- the handshake


async def test_inside_the_block_the_socket_is_accepted() -> None:
    headers = [(b"x-served-by", b"test")]
    accept = {**ACCEPT, "subprotocol": "v2", "headers": headers}

    async with connect(sending(accept), subprotocols=["v1", "v2"]) as peer:
        assert peer.accepted_subprotocol == "v2"
        assert peer.accept_headers == headers
        assert not peer.closed


async def test_the_scope_says_what_the_client_asked_for() -> None:
    state = {"db": 1}

    async with connect(
        echo,
        "/rooms/ä b",
        headers=[("Origin", "https://a.example"), (b"cookie", b"a=1")],
        query="token=abc",
        subprotocols=["v1", "v2"],
        client=("10.0.0.1", 1234),
        scheme="wss",
        root_path="/api",
        state=state,
        server=UVICORN,
    ) as peer:
        scope = peer.scope

    assert scope["type"] == "websocket"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert (scope["path"], scope["raw_path"]) == ("/rooms/ä b", b"/rooms/%C3%A4%20b")
    assert (scope["query_string"], scope["root_path"]) == (b"token=abc", "/api")
    assert (scope["client"], scope["scheme"]) == (("10.0.0.1", 1234), "wss")
    assert scope["subprotocols"] == ["v1", "v2"]
    assert scope["state"] == state
    assert scope["state"] is not state
    assert scope["headers"][:4] == [
        (b"host", b"testserver"),
        (b"origin", b"https://a.example"),
        (b"cookie", b"a=1"),
        (b"sec-websocket-protocol", b"v1, v2"),
    ]
    assert scope["extensions"] == {"websocket.http.response": {}}


def test_a_scope_takes_its_own_host_bytes_and_extensions() -> None:
    scope = websocket_scope(headers=[("Host", "a.example")], query=b"\xff", extensions={"x": {}})

    assert [value for name, value in scope["headers"] if name == b"host"] == [b"a.example"]
    assert scope["query_string"] == b"\xff"
    assert scope["extensions"] == {"x": {}}


async def test_a_close_before_the_accept_is_a_403() -> None:
    with pytest.raises(HandshakeRefused, match="403") as refusal:
        async with connect(sending({"type": "websocket.close", "code": 4500})):
            pass
    assert (refusal.value.status, refusal.value.headers, refusal.value.body) == (403, [], b"")


async def test_a_denial_response_arrives_whole() -> None:
    app = sending(
        {"type": "websocket.http.response.start", "status": 401, "headers": [(b"www-authenticate", b"x")]},
        {"type": "websocket.http.response.body", "body": b"go ", "more_body": True},
        {"type": "websocket.http.response.body", "body": b"away"},
    )

    with pytest.raises(HandshakeRefused, match=r"401 b'go away'") as refusal:
        async with connect(app):
            pass
    assert refusal.value.headers == [(b"www-authenticate", b"x")]
    assert refusal.value.body == b"go away"


async def test_an_error_of_the_app_before_the_accept_is_raised_on_entering() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        raise LookupError("no route")

    with pytest.raises(LookupError, match="no route"):
        async with connect(app):
            pass


async def test_an_app_that_does_not_answer_the_handshake_is_told_so() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await receive()

    with pytest.raises(AssertionError, match="without answering the handshake"):
        async with connect(app):
            pass


async def test_an_app_that_takes_too_long_for_the_handshake_loses_its_client() -> None:
    gone: list[Event] = []

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        gone.append(await receive())
        await send(ACCEPT)

    with pytest.raises(TimeoutError, match=r"did not answer the handshake within 7\.0 s"):
        async with connect(app, timeout=7.0):
            pass
    assert gone == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


async def test_a_time_limit_of_the_app_is_not_taken_for_the_limit_of_the_client() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        raise TimeoutError("the database")

    with pytest.raises(TimeoutError) as caught:
        async with connect(app):
            pass
    assert str(caught.value) == "the database"


async def test_a_client_can_go_while_its_handshake_is_answered() -> None:
    answer = asyncio.Event()
    recorder = Recorder()

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await answer.wait()
        await recorder(scope, receive, send)

    async def entering() -> None:
        async with connect(app):
            pytest.fail("the client had gone")  # pragma: no cover

    task = asyncio.create_task(entering())
    await settle()
    answer.set()
    task.cancel()
    await asyncio.wait({task})

    assert task.cancelled()
    assert recorder.events == [CONNECT, {"type": "websocket.disconnect", "code": 1000, "reason": ""}]


# --- talking


async def test_frames_go_both_ways_as_they_are() -> None:
    async with connect(echo) as peer:
        await peer.send_text("hello")
        assert await peer.receive() == "hello"
        await peer.send_bytes(b"\x00\xff")
        assert await peer.receive() == b"\x00\xff"
        await peer.send_json({"type": "ping", "data": {}})
        assert await peer.receive_json() == {"type": "ping", "data": {}}


async def test_a_client_may_send_lone_surrogates() -> None:
    recorder = Recorder()

    async with connect(recorder) as peer:
        await peer.send_text("\ud800")
    assert recorder.events[1] == {"type": "websocket.receive", "text": "\ud800"}


async def test_a_lone_surrogate_cannot_be_sent_by_the_server() -> None:
    with pytest.raises(UnicodeEncodeError):
        async with connect(sending(ACCEPT, {"type": "websocket.send", "text": "\ud800"})) as peer:
            await peer.wait_closed()


async def test_frames_wait_in_order_until_they_are_received() -> None:
    frames: list[str | bytes] = ["one", b"two", "three"]
    app = sending(
        ACCEPT,
        {"type": "websocket.send", "text": "one"},
        {"type": "websocket.send", "bytes": b"two", "text": None},
        {"type": "websocket.send", "text": "three", "bytes": None},
    )

    async with connect(app) as peer:
        await settle()
        assert peer.frames == frames
        assert [peer.receive_nowait() for _ in frames] == frames
        with pytest.raises(anyio.WouldBlock):
            peer.receive_nowait()
        assert peer.server_sends == 4


async def test_receiving_waits_no_longer_than_its_time_limit() -> None:
    async with connect(echo) as peer:
        with pytest.raises(TimeoutError, match=r"no frame came within 5\.0 s"):
            await peer.receive()
        assert asyncio.get_running_loop().time() == 5


# --- the end of a socket


async def test_the_code_and_reason_of_a_close_reach_the_client() -> None:
    app = sending(ACCEPT, FRAME, {"type": "websocket.close", "code": 4001, "reason": "restart"})

    async with connect(app) as peer:
        assert await peer.wait_closed() == (4001, "restart")
        assert peer.closed
        assert (peer.close_code, peer.close_reason) == (4001, "restart")
        assert await peer.receive() == FRAME["text"]
        with pytest.raises(PeerClosed, match="4001 restart") as closed:
            await peer.receive()
        assert (closed.value.code, closed.value.reason) == (4001, "restart")
        with pytest.raises(PeerClosed):
            await peer.send_text("too late")


async def test_waiting_for_a_close_has_a_time_limit() -> None:
    async with connect(echo) as peer:
        with pytest.raises(TimeoutError, match="the socket was not closed within 3 s"):
            await peer.wait_closed(timeout=3)
        assert (peer.close_code, peer.close_reason) == (None, None)


async def test_after_its_own_close_the_app_gets_a_disconnect_and_no_more_frames() -> None:
    heard: list[Event] = []

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
        with anyio.move_on_after(10):
            while True:
                heard.append(await receive())

    async with connect(app, stalled=True) as peer:
        await peer.send_text("too late")
    assert heard == [{"type": "websocket.disconnect", "code": 4001, "reason": "bye"}]


@pytest.mark.parametrize("after_close", ["runtimeerror", "silent"])
async def test_sending_after_its_own_close_meets_the_manners_of_the_server(after_close: str) -> None:
    recorder = Recorder()

    async with connect(recorder, after_close=after_close):
        await recorder.say({"type": "websocket.close"})
        with pytest.raises(RuntimeError, match="closed socket") if after_close != "silent" else nullcontext():
            await recorder.say(FRAME)


async def test_a_server_may_keep_the_disconnect_after_a_close_to_itself() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.close"})
        with anyio.move_on_after(60) as scope_of_wait:
            await receive()
        assert scope_of_wait.cancelled_caught

    async with connect(app, disconnect_after_close=False) as peer:
        assert await peer.wait_closed() == (1000, "")


async def test_the_client_closes_with_code_and_reason() -> None:
    recorder = Recorder()

    async with connect(recorder) as peer:
        await peer.close(4999, "enough")
        await peer.close(1000)
        peer.reset()
        assert await peer.wait_closed() == (4999, "enough")
    assert recorder.events[1:] == [{"type": "websocket.disconnect", "code": 4999, "reason": "enough"}]


async def test_leaving_the_block_closes_and_waits_for_the_app() -> None:
    ended: list[float] = []

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        await asyncio.sleep(30)
        ended.append(asyncio.get_running_loop().time())

    async with connect(app):
        pass
    assert ended == [30]


async def test_a_lost_connection_is_a_disconnect_without_a_close() -> None:
    recorder = Recorder()

    async with connect(recorder) as peer:
        await recorder.say(FRAME)
        peer.reset()
        assert await peer.receive() == FRAME["text"]
        assert await peer.wait_closed() == (1006, "")
    assert recorder.events[1:] == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


@pytest.mark.parametrize(
    ("after_disconnect", "error"),
    [("oserror", ConnectionLost), ("runtimeerror", RuntimeError), ("silent", None)],
)
async def test_sending_to_a_client_that_is_gone_meets_the_manners_of_the_server(
    after_disconnect: str, error: type[Exception] | None
) -> None:
    recorder = Recorder()

    async with connect(recorder, after_disconnect=after_disconnect) as peer:
        peer.reset()
        with pytest.raises(error) if error else nullcontext():
            await recorder.say(FRAME)
    assert issubclass(ConnectionLost, OSError)


async def test_receiving_after_the_disconnect_blocks() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await sending(ACCEPT)(scope, receive, send)
        with anyio.move_on_after(10) as scope_of_wait:
            await receive()
        assert scope_of_wait.cancelled_caught

    async with connect(app):
        pass


async def test_a_server_may_repeat_the_disconnect() -> None:
    again: list[Event] = []

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await sending(ACCEPT)(scope, receive, send)
        again.extend([await receive(), await receive()])

    async with connect(app, receive_after_disconnect="repeat"):
        pass
    assert again == [{"type": "websocket.disconnect", "code": 1005}] * 2


async def test_two_receives_at_once_lose_nothing_when_one_is_cancelled() -> None:
    heard: list[Event] = []

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        first, second = (asyncio.ensure_future(receive()) for _ in range(2))
        await settle()
        first.cancel()
        heard.append(await second)

    async with connect(app) as peer:
        await asyncio.sleep(1)
        await peer.send_text("kept")
        await peer.wait_closed()
    assert heard == [{"type": "websocket.receive", "text": "kept"}]


# --- backpressure


async def test_a_send_suspends_once_the_window_is_full() -> None:
    done: list[BaseException | None] = []

    async with connect(flooding(10, done.append), window=250, stalled=True) as peer:
        await asyncio.sleep(3600)
        assert peer.suspended
        assert peer.buffered == 300
        assert peer.server_sends == 1 + 4
        assert done == []

        peer.resume()
        await settle()
        assert (peer.suspended, peer.buffered) == (False, 0)
        assert len(peer.frames) == 10
    assert done == [None]


async def test_a_stalled_peer_reads_one_frame_at_a_time_and_makes_room() -> None:
    done: list[BaseException | None] = []

    async with connect(flooding(5, done.append), window=250, stalled=True) as peer:
        await settle()
        assert peer.frames == [FRAME["text"]] * 3
        assert await peer.receive() == FRAME["text"]
        await peer.receive()
        await settle()
        assert (peer.buffered, peer.suspended) == (100, True)

        await peer.receive()
        await settle()
        assert (peer.buffered, peer.suspended) == (200, False)
        assert len(peer.frames) == 2
    assert done == [None]


async def test_what_was_read_before_the_stall_is_received_first() -> None:
    recorder = Recorder()

    async with connect(recorder) as peer:
        await recorder.say(FRAME)
        peer.stall()
        await recorder.say(FRAME)
        await peer.receive()
        assert (peer.buffered, len(peer.frames)) == (100, 1)
        await peer.receive()
        assert (peer.buffered, len(peer.frames)) == (0, 0)


async def test_a_send_that_fits_never_gives_up_control() -> None:
    recorder = Recorder()

    async with connect(recorder):
        step = recorder.say(FRAME).__await__()
        with pytest.raises(StopIteration):
            next(step)


async def test_a_close_waits_behind_what_is_not_read() -> None:
    recorder = Recorder()

    async with connect(recorder, window=50) as peer:
        peer.stall()
        await recorder.say(FRAME)
        closing = asyncio.create_task(recorder.say({"type": "websocket.close", "code": 4008}))
        await settle()
        assert peer.suspended
        assert not peer.closed

        assert await peer.receive() == FRAME["text"]
        await closing
        assert not peer.closed
        with pytest.raises(PeerClosed, match="4008"):
            await peer.receive()


async def test_a_stalled_peer_does_not_learn_of_a_close_before_it_reads() -> None:
    recorder = Recorder()

    async with connect(recorder) as peer:
        peer.stall()
        await recorder.say({"type": "websocket.close", "code": 4008})
        with pytest.raises(TimeoutError):
            await peer.wait_closed(timeout=10)
        assert peer.frames == []
        peer.resume()
        assert await peer.wait_closed() == (4008, "")


@pytest.mark.parametrize("leave", [Peer.reset, Peer.close])
async def test_a_suspended_send_ends_when_the_client_goes(leave: Callable[[Peer], Any]) -> None:
    done: list[BaseException | None] = []

    async with connect(flooding(10, done.append), window=250, stalled=True) as peer:
        await settle()
        left = leave(peer)
        if left is not None:
            await left
        await settle()
        assert [type(error) for error in done] == [ConnectionLost]
        assert (peer.suspended, peer.frames, peer.buffered) == (False, [], 0)


async def test_a_cancelled_send_writes_nothing() -> None:
    recorder = Recorder()

    async with connect(recorder, window=50) as peer:
        peer.stall()
        await recorder.say(FRAME)
        with anyio.move_on_after(10):
            await recorder.say(FRAME)
        assert not peer.suspended
        peer.resume()
        assert len(peer.frames) == 1


async def test_a_stalled_peer_harms_no_other() -> None:
    recorders = [Recorder() for _ in range(50)]

    async with anyio.create_task_group() as group:

        async def client(recorder: Recorder, *, task_status: anyio.abc.TaskStatus[Peer]) -> None:
            async with connect(recorder, window=50) as peer:
                task_status.started(peer)
                await peer.wait_closed(timeout=3600)

        peers: list[Peer] = [await group.start(client, recorder) for recorder in recorders]
        peers[0].stall()
        for recorder in recorders:
            await recorder.say(FRAME)
        assert [peer.buffered for peer in peers] == [100] + [0] * 49
        for peer in peers:
            await peer.close()


# --- what the application does wrong


async def broken(scope: Event, receive: Receive, send: Send) -> None:
    await receive()
    await send(ACCEPT)
    await receive()
    raise LookupError("a bug")


async def test_an_error_of_the_app_is_raised_on_leaving() -> None:
    async def client() -> None:
        async with connect(broken) as peer:
            await peer.send_text("go")
            assert await peer.wait_closed() == (1006, "")

    with pytest.raises(LookupError, match="a bug"):
        await client()


async def test_an_error_of_the_app_that_was_looked_at_is_not_raised() -> None:
    async with connect(broken) as peer:
        await peer.send_text("go")
        await peer.wait_closed()
        assert isinstance(peer.app_error, LookupError)


async def test_an_error_of_the_block_carries_the_error_of_the_app() -> None:
    async def client() -> None:
        async with connect(broken) as peer:
            await peer.send_text("go")
            await peer.receive()

    with pytest.raises(PeerClosed) as closed:
        await client()
    assert "LookupError: a bug" in closed.value.__notes__[0]


async def test_an_error_of_the_block_alone_stays_as_it_is() -> None:
    with pytest.raises(KeyError) as caught:
        async with connect(echo):
            raise KeyError("mine")
    assert not hasattr(caught.value, "__notes__")


async def test_an_app_that_returns_without_a_close_cuts_the_connection() -> None:
    events: list[Event] = []
    tasks: list[asyncio.Task[None]] = []

    async def background(receive: Receive, send: Send) -> None:
        events.append(await receive())
        with pytest.raises(ConnectionLost):
            await send(FRAME)

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        tasks.append(asyncio.create_task(background(receive, send)))

    async with connect(app) as peer:
        assert await peer.wait_closed() == (1006, "")
        await tasks[0]
    assert events == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


async def test_an_app_that_does_not_end_is_cancelled_and_told_so() -> None:
    cancelled: list[bool] = []

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(AssertionError, match=r"did not end within 60\.0 s"):
        async with connect(app):
            pass
    assert cancelled == [True]


async def test_a_cancelled_test_still_sees_the_app_out() -> None:
    ended: list[bool] = []

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        await asyncio.sleep(5)
        ended.append(True)

    with anyio.move_on_after(10):
        async with connect(app) as peer:
            await peer.wait_closed()
    assert ended == [True]


BODY: Event = {"type": "websocket.http.response.body", "body": b""}
CLOSE: Event = {"type": "websocket.close"}
START: Event = {"type": "websocket.http.response.start", "status": 401}


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ([{"type": "websocket.hello"}], "is no message that an application may send"),
        (["websocket.accept"], "is no message that an application may send"),
        ([FRAME], "websocket.send was sent before the handshake was answered"),
        ([ACCEPT, ACCEPT], "websocket.accept was sent on an accepted socket"),
        ([ACCEPT, START], "response.start was sent on an accepted socket"),
        ([BODY], "response.body was sent before the handshake was answered"),
        ([START, CLOSE], "websocket.close was sent inside a denial response"),
        ([{**ACCEPT, "subprotocol": "v9"}], r"subprotocol 'v9' is none of the offered \['v1'\]"),
        ([{**ACCEPT, "headers": [("a", "b")]}], "header 'a' is not in bytes"),
        ([{**ACCEPT, "headers": [(b"A", b"b")]}], "not in lower case"),
        ([{**ACCEPT, "headers": [(b"sec-websocket-protocol", b"v1")]}], "use the key"),
        ([ACCEPT, {"type": "websocket.send"}], "exactly one of text and bytes"),
        ([ACCEPT, {"type": "websocket.send", "text": None, "bytes": None}], "exactly one of text and bytes"),
        ([ACCEPT, {"type": "websocket.send", "text": "", "bytes": b""}], "exactly one of text and bytes"),
        ([ACCEPT, {"type": "websocket.send", "text": b"x"}], "text is a bytes, not a str"),
        ([ACCEPT, {"type": "websocket.send", "bytes": "x"}], "bytes is a str, not bytes"),
        ([ACCEPT, {**CLOSE, "code": 1006}], "close code 1006 may not be sent"),
        ([ACCEPT, {**CLOSE, "code": "1000"}], "close code '1000' may not be sent"),
        ([ACCEPT, {**CLOSE, "reason": 5}], "the close reason 5 is not a str"),
        ([ACCEPT, {**CLOSE, "reason": "ä" * 62}], "more than 123 bytes"),
        ([{**START, "status": 101}], "101 is no status"),
        ([{**START, "headers": [(b"A", b"b")]}], "not in lower case"),
        ([START, {**BODY, "body": "x"}], "body of a denial response is not bytes"),
    ],
)
async def test_what_asgi_does_not_allow_is_told_even_when_the_app_swallows_it(
    events: list[Any], complaint: str
) -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        with suppress(AssertionError):
            await sending(*events)(scope, receive, send)
        with suppress(AssertionError, RuntimeError, ConnectionLost):
            await send({"type": "websocket.hello again"})
        with suppress(AssertionError, RuntimeError, ConnectionLost):
            await send(ACCEPT)

    with pytest.raises(AssertionError, match=complaint) as caught:
        async with connect(app, subprotocols=["v1"]) as peer:
            await peer.wait_closed()
    assert "hello again" not in str(caught.value)


async def test_a_denial_needs_the_extension() -> None:
    with pytest.raises(AssertionError, match="does not offer the extension"):
        async with connect(sending(START), extensions={}):
            pass


@pytest.mark.parametrize("code", [1000, 1001, 1012, 3000, 4999])
async def test_close_codes_of_servers_and_applications_may_be_sent(code: int) -> None:
    async with connect(sending(ACCEPT, {**CLOSE, "code": code, "reason": None})) as peer:
        assert await peer.wait_closed() == (code, "")


# --- the manners of servers


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, GRANIAN, DAPHNE])
async def test_an_application_serves_under_the_manners_of_every_server(server: Server) -> None:
    class Echo(WebSocketEndpoint):
        encoding = "json"

        async def on_receive(self, websocket: WebSocket, data: Any) -> None:
            await websocket.send_json({"heard": data})

    app = Starlette(routes=[WebSocketRoute("/ws", Echo)])

    async with connect(app, "/ws", server=server) as peer:
        await peer.send_json([1, 2])
        assert await peer.receive_json() == {"heard": [1, 2]}


@pytest.mark.parametrize(
    ("server", "seen"),
    [
        (UVICORN, {"type": "websocket.disconnect", "code": 4100, "reason": "bye"}),
        (HYPERCORN, {"type": "websocket.disconnect", "code": 1006}),
        (GRANIAN, {"type": "websocket.disconnect", "code": 4100}),
        (DAPHNE, {"type": "websocket.disconnect", "code": 4100}),
    ],
)
async def test_servers_tell_differently_how_a_client_closed(server: Server, seen: Event) -> None:
    recorder = Recorder()

    async with connect(recorder, server=server) as peer:
        await peer.close(4100, "bye")
    assert recorder.events[-1] == seen


@pytest.mark.parametrize(
    ("server", "code"), [(UVICORN, 1006), (HYPERCORN, 1011), (GRANIAN, 1005), (DAPHNE, 1011)]
)
async def test_servers_close_differently_after_an_error(server: Server, code: int) -> None:
    async with connect(broken, server=server) as peer:
        await peer.send_text("go")
        assert await peer.wait_closed() == (code, "")
        assert peer.app_error is not None


async def test_a_server_may_leave_the_socket_open_when_the_app_returns() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)

    async with connect(app, server=DAPHNE) as peer:
        await asyncio.sleep(3600)
        assert not peer.closed


async def test_a_server_may_show_less_of_itself() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await sending(
            {**ACCEPT, "headers": [(b"x-served-by", b"test")]}, {**CLOSE, "code": 4001, "reason": "restart"}
        )(scope, receive, send)

    async with connect(app, server=DAPHNE, state={"db": 1}) as peer:
        assert peer.scope["asgi"] == {"version": "3.0"}
        assert "state" not in peer.scope
        assert peer.scope["extensions"] == {}
        assert peer.accept_headers == []
        assert await peer.wait_closed() == (4001, "")


async def test_a_server_may_show_both_keys_of_a_frame() -> None:
    recorder = Recorder()

    async with connect(recorder, server=HYPERCORN) as peer:
        await peer.send_text("a")
        await peer.send_bytes(b"b")
    assert recorder.events[1:3] == [
        {"type": "websocket.receive", "text": "a", "bytes": None},
        {"type": "websocket.receive", "bytes": b"b", "text": None},
    ]


async def test_a_server_may_start_a_send_that_nobody_awaits() -> None:
    recorder = Recorder()

    async with connect(recorder, server=GRANIAN) as peer:
        assert recorder.send is not None
        started = recorder.send(FRAME)
        assert not asyncio.iscoroutine(started)
        assert await peer.receive() == FRAME["text"]


async def test_a_manner_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="after_lunch"):
        async with connect(echo, after_lunch="sleep"):
            pass


async def test_an_app_of_starlette_learns_of_a_lost_connection() -> None:
    codes: list[int] = []

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await websocket.receive_text()
        except WebSocketDisconnect as gone:
            codes.append(gone.code)

    async with connect(Starlette(routes=[WebSocketRoute("/", endpoint)])) as peer:
        peer.reset()
    assert codes == [1006]


# --- lifespan


def lifespan_app(*answers: Event, state: Event | None = None) -> Callable[..., Awaitable[None]]:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        scope["state"].update(state or {})
        for answer in answers:
            await receive()
            await send(answer)

    return app


STARTED: Event = {"type": "lifespan.startup.complete"}
STOPPED: Event = {"type": "lifespan.shutdown.complete"}


async def test_a_lifespan_starts_gives_the_state_and_stops() -> None:
    heard: list[str] = []

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])
        scope["state"]["db"] = 1
        await send(STARTED)
        heard.append((await receive())["type"])
        await send(STOPPED)

    async with lifespan(app) as state:
        assert state == {"db": 1}
        assert heard == ["lifespan.startup"]
    assert heard == ["lifespan.startup", "lifespan.shutdown"]


async def test_a_lifespan_is_stopped_after_an_error_of_the_block_too() -> None:
    stopped: list[bool] = []

    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await lifespan_app(STARTED, STOPPED)(scope, receive, send)
        stopped.append(True)

    with pytest.raises(KeyError):
        async with lifespan(app):
            raise KeyError
    assert stopped == [True]


@pytest.mark.parametrize(
    ("answers", "error", "complaint"),
    [
        ([{"type": "lifespan.startup.failed", "message": "no database"}], RuntimeError, "no database"),
        ([STARTED, {"type": "lifespan.shutdown.failed"}], RuntimeError, "^$"),
        ([STOPPED], AssertionError, "shutdown.complete is no answer to lifespan.startup"),
        ([], AssertionError, "ended without answering lifespan.startup"),
        ([STARTED], AssertionError, "ended without answering lifespan.shutdown"),
    ],
)
async def test_a_lifespan_that_goes_wrong_is_told(
    answers: list[Event], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        async with lifespan(lifespan_app(*answers)):
            pass


async def test_an_error_of_the_app_ends_the_lifespan() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        raise ValueError("only websockets here")

    with pytest.raises(ValueError, match="only websockets here"):
        async with lifespan(app):
            pass


async def test_an_error_after_the_shutdown_is_raised() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await lifespan_app(STARTED, STOPPED)(scope, receive, send)
        raise ValueError("while closing the database")

    with pytest.raises(ValueError, match="while closing the database"):
        async with lifespan(app):
            pass


async def test_a_lifespan_that_does_not_answer_has_a_time_limit() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError, match=r"did not answer lifespan.startup within 60\.0 s"):
        async with lifespan(app):
            pass


async def test_a_lifespan_must_end_after_its_shutdown() -> None:
    async def app(scope: Event, receive: Receive, send: Send) -> None:
        await lifespan_app(STARTED, STOPPED)(scope, receive, send)
        await anyio.sleep_forever()

    with pytest.raises(AssertionError, match=r"did not end within 60\.0 s of its shutdown"):
        async with lifespan(app):
            pass


# --- the bare socket


async def test_a_fake_socket_answers_connect_and_then_what_it_is_fed() -> None:
    socket = FakeSocket()
    assert await socket.receive() == CONNECT
    socket.feed_text("a")
    socket.feed_text("b")
    socket.disconnect(4000)

    assert [await socket.receive() for _ in range(3)] == [
        {"type": "websocket.receive", "text": "a"},
        {"type": "websocket.receive", "text": "b"},
        {"type": "websocket.disconnect", "code": 4000, "reason": ""},
    ]


async def test_a_fake_socket_waits_and_loses_nothing_to_a_cancelled_receive() -> None:
    socket = FakeSocket()
    await socket.receive()
    first = asyncio.create_task(socket.receive())
    await settle()
    first.cancel()
    await asyncio.wait({first})
    socket.feed_text("early")
    assert (await socket.receive())["text"] == "early"

    second = asyncio.create_task(socket.receive())
    await settle()
    socket.feed_text("a")
    second.cancel()
    await asyncio.wait({second})
    assert (await socket.receive())["text"] == "a"


def test_a_fake_socket_counts_and_never_suspends() -> None:
    scope = websocket_scope("/bench")
    socket = FakeSocket(scope)
    for _ in range(3):
        with pytest.raises(StopIteration):
            socket.send(FRAME).send(None)

    assert socket.sent == 3
    assert socket.scope is scope


def test_the_kit_needs_no_test_runner() -> None:
    for file in Path(wsmanager.testing.__file__).parent.glob("*.py"):
        assert "import pytest" not in file.read_text()
