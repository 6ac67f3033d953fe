"""WebSocket clients that others wrote, at the other end of a real server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from typing import Any, Protocol

import msgspec
import pytest

from tests.clients.drivers import (
    Open,
    Refused,
    Socket,
    command_line,
    end_of,
    in_browser,
    on_node,
    websocket_client,
    websockets,
    with_aiohttp,
)
from tests.clients.programs import TIMEOUT
from tests.clients.service import Pings, Service, token
from tests.frameworks.servers import Running, serving
from tests.matrix import Matrix

Client = Callable[[], AbstractContextManager[Open]]

BROWSER, CLI = "browser `WebSocket`", "`python -m websockets`"
CLIENTS = Matrix(
    "clients",
    "with this client",
    "client",
    {
        BROWSER: in_browser,
        "`websockets`": websockets,
        CLI: command_line,
        "`aiohttp`": with_aiohttp,
        "`websocket-client`": websocket_client,
        "Node `ws`": on_node,
    },
)
SETS_NO_HEADERS = {BROWSER: "scripts set no headers", CLI: "has no option for it"}
OFFERS_NO_SUBPROTOCOL = {CLI: "has no option for it"}
SENDS_TEXT = {CLI: "sends text only"}


class Dial(Protocol):
    """Opens a socket for the length of a test: as ann, unless the test says otherwise."""

    def __call__(
        self,
        path: str = "/ws",
        *,
        query: str | None = None,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
    ) -> Socket: ...


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


@pytest.fixture(scope="module")
def server(service: Service) -> Generator[Running]:
    with serving(service.app) as server:
        yield server


@pytest.fixture(scope="module")
def ready() -> Generator[Callable[[Client], Open]]:
    """What a client needs is made once."""
    with ExitStack() as stack:
        yield cache(lambda client: stack.enter_context(client()))


@pytest.fixture
def open_socket(client: Client, ready: Callable[[Client], Open]) -> Generator[Open]:
    with ExitStack() as stack:

        def open_socket(url: str, headers: Mapping[str, str], subprotocols: Sequence[str]) -> Socket:
            socket = ready(client)(url, headers, subprotocols)
            stack.callback(socket.close)
            return socket

        yield open_socket


@pytest.fixture
def dial(open_socket: Open, server: Running) -> Dial:
    def dial(
        path: str = "/ws",
        *,
        query: str | None = None,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
    ) -> Socket:
        return open_socket(url_of(server, path, query), headers or {}, subprotocols)

    return dial


def url_of(server: Running, path: str = "/ws", query: str | None = None) -> str:
    return f"ws://{server.address}{path}?" + (f"token={token()}" if query is None else query)


def say(socket: Socket, type: str, data: Any = None, **more: Any) -> None:
    socket.send(json.dumps({"type": type, "data": data, **more}, ensure_ascii=False))


def hear(socket: Socket) -> Any:
    return json.loads(socket.receive())


def require_answers(socket: Socket) -> None:
    """The connection lives."""
    say(socket, "add", [1, 2], id="?")
    assert hear(socket) == {"type": "reply", "re": "?", "data": 3}


# --- who comes in


@CLIENTS.row("connects with a token in the query")
def test_a_token_in_the_query(dial: Dial) -> None:
    require_answers(dial(query=f"token={token()}"))


@CLIENTS.row("in the `Authorization` header", no=SETS_NO_HEADERS)
def test_a_token_in_the_header(dial: Dial) -> None:
    require_answers(dial(query="", headers={"Authorization": f"Bearer {token()}"}))


@CLIENTS.row("in a cookie, with the Origin of a page of the same host", no={CLI: "has no option for it"})
def test_a_token_in_a_cookie(dial: Dial, server: Running) -> None:
    origin = f"http://{server.address}"
    require_answers(dial(query="", headers={"Cookie": f"access_token={token()}", "Origin": origin}))


@CLIENTS.row("in a subprotocol", no=OFFERS_NO_SUBPROTOCOL)
def test_a_token_in_a_subprotocol(dial: Dial) -> None:
    socket = dial(query="", subprotocols=["wsmanager.v1.json", f"wsmanager.bearer.{token()}"])
    assert socket.subprotocol == "wsmanager.v1.json"
    assert hear(socket)["type"] == "welcome"
    require_answers(socket)


@CLIENTS.row("is shown the status of a refusal, 401", no={BROWSER: "scripts see close 1006 only"})
def test_a_refusal_has_a_status(dial: Dial) -> None:
    with pytest.raises(Refused) as refusal:
        dial(query="")
    assert refusal.value.status == 401


@CLIENTS.row(
    "and its reason, as JSON",
    no={BROWSER: "scripts see close 1006 only", CLI: "prints the status only", "`aiohttp`": "drops the body"},
)
def test_a_refusal_has_a_reason(dial: Dial) -> None:
    with pytest.raises(Refused) as refusal:
        dial(query="")
    assert json.loads(refusal.value.body)["error"]["code"] == "token_missing"


@CLIENTS.row("or, with a subprotocol, the reason and close 4500", no=OFFERS_NO_SUBPROTOCOL)
def test_a_client_with_a_subprotocol_is_accepted_to_be_refused(dial: Dial) -> None:
    socket = dial(query="", subprotocols=["wsmanager.v1.json"])
    message = hear(socket)
    assert (message["type"], message["data"]["reason"]) == ("disconnect", "token_missing")
    assert end_of(socket) == (4500, "token_missing")


# --- messages


@CLIENTS.row("exchanges text of all Unicode")
def test_text_of_all_unicode(dial: Dial) -> None:
    socket = dial()
    text = 'naïve Ω 漢字 👩‍👩‍👧 \u2028 \ufeff \uffff \U0010ffff \0 \\ "'
    say(socket, "echo", text)
    assert hear(socket) == {"type": "echo", "data": text}


@CLIENTS.row("gets a `pong` for a `ping`")
def test_a_ping_of_the_applications_own(dial: Dial) -> None:
    socket = dial()
    say(socket, "ping", {})
    assert hear(socket)["type"] == "pong"


@CLIENTS.row("gets the reply to its request, or the error")
def test_replies_and_errors(dial: Dial) -> None:
    socket = dial()
    say(socket, "add", [20, 22], id=7)
    assert hear(socket) == {"type": "reply", "re": 7, "data": 42}
    say(socket, "add", "no numbers", id=8)
    error = hear(socket)
    assert (error["type"], error["re"], error["data"]["code"]) == ("error", 8, "invalid_payload")


@CLIENTS.row("hears a broadcast")
def test_a_broadcast(dial: Dial, server: Running, service: Service) -> None:
    tenant = secrets.token_hex()  # in which nobody is left of a test before
    sockets = [dial(query=f"token={token(user, tenant=tenant)}") for user in ("ann", "bob")]
    for socket in sockets:
        require_answers(socket)
    news = service.manager.broadcast({"type": "news", "data": "tea"}, tenant=tenant)
    assert server.do(news).sent == 2
    assert [hear(socket) for socket in sockets] == [{"type": "news", "data": "tea"}] * 2


@CLIENTS.row("exchanges MessagePack", no=OFFERS_NO_SUBPROTOCOL)
def test_messagepack(dial: Dial) -> None:
    socket = dial(subprotocols=["wsmanager.v1.msgpack"])
    assert msgspec.msgpack.decode(socket.receive())["type"] == "welcome"  # type: ignore[arg-type]  # text would fail, too
    message = {"type": "echo", "data": {"ü": [1, -2.5, None]}}
    socket.send(msgspec.msgpack.encode(message))
    assert msgspec.msgpack.decode(socket.receive()) == message  # type: ignore[arg-type]  # as above


@CLIENTS.row("exchanges binary frames with an application behind the guard", no=SENDS_TEXT)
def test_binary_frames(dial: Dial) -> None:
    socket = dial("/opaque")
    for frame in (bytes(range(256)), "text", b"\0"):
        socket.send(frame)
        assert socket.receive() == frame


@CLIENTS.row("exchanges messages of 900 KiB")
def test_large_messages(dial: Dial) -> None:
    socket = dial()
    text = "0123456789abcdef" * (900 * 64)
    say(socket, "echo", text)
    assert hear(socket) == {"type": "echo", "data": text}


@CLIENTS.row("over 1 MiB it gets an error, and may go on")
def test_too_large_messages(dial: Dial) -> None:
    socket = dial()
    say(socket, "echo", "x" * (1 << 20))
    error = hear(socket)
    assert (error["type"], error["data"]["code"]) == ("error", "too_large")
    require_answers(socket)


# --- signs of life, and ends


@CLIENTS.row("answers the server's own pings")
def test_pings_of_the_server(open_socket: Open) -> None:
    with serving(Service().app, ws=Pings, ws_ping_interval=0.05) as server:
        socket = open_socket(url_of(server), {}, ())
        say(socket, "await.pongs", id=1)
        assert hear(socket) == {"type": "reply", "re": 1, "data": True}
        socket.close()


@CLIENTS.row("its own pings are answered", no={BROWSER: "scripts cannot ping", CLI: "cannot ping"})
def test_pings_of_the_client(dial: Dial) -> None:
    for path in ("/ws", "/opaque"):
        dial(path).ping()


@CLIENTS.row("is shown the server's close code and reason")
def test_a_close_of_the_server(dial: Dial, server: Running, service: Service) -> None:
    for path, door in (("/ws", "endpoint"), ("/opaque", "guard")):
        socket = dial(path, query=f"token={token(door)}")
        say(socket, "ping")
        socket.receive()
        (conn,) = service.manager.connections(user_id=door)
        server.do(service.manager.disconnect(conn, 4321, "genug für heute"))
        assert end_of(socket) == (4321, "genug für heute")


@CLIENTS.row("its own close code and reason reach the application", no={CLI: "closes with 1000 only"})
def test_a_close_of_the_client(dial: Dial, service: Service) -> None:
    socket = dial("/opaque")
    socket.send("hello")
    assert socket.receive() == "hello"
    socket.close(4242, "tschüß")
    while service.ends.get(timeout=TIMEOUT) != (4242, "tschüß"):
        pass  # the end of a test before


@CLIENTS.row("is told that the manager ends, by 4001 and 1012, and comes back")
def test_an_end_of_the_manager(dial: Dial, server: Running, service: Service) -> None:
    spoken_to, opaque = dial(), dial("/opaque")
    require_answers(spoken_to)
    opaque.send("hello")
    assert opaque.receive() == "hello"
    server.do(service.manager.aclose())
    try:
        word = hear(spoken_to)
        assert (word["type"], word["data"]["reconnect"]) == ("disconnect", True)
        assert end_of(spoken_to) == (1012, "shutdown")
        assert end_of(opaque) == (1012, "shutdown")
    finally:
        server.do(service.manager.__aenter__())
    require_answers(dial())


@CLIENTS.row("is told that the server ends, by 1012, and comes back")
def test_a_restart_of_the_server(open_socket: Open) -> None:
    service, port = Service(), 0
    for _ in range(2):
        with serving(service.app, port=port) as server:
            socket = open_socket(url_of(server), {}, ())
            require_answers(socket)
            port = int(server.address.rpartition(":")[2])
            server.should_exit = True
            assert end_of(socket)[0] == 1012
