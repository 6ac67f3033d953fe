"""The guard around applications of every framework, on a real server, with a client that others wrote."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
import urllib.request
from collections.abc import Generator
from socket import SHUT_RDWR
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.frameworks.apps import SUBPROTOCOL
from tests.frameworks.columns import MATRIX, NO_SOCKETS, Framework
from tests.frameworks.servers import Running, dial, make_manager, readiness, serving, token
from wsmanager import ConnectionManager, WebSocketMiddleware


@contextlib.contextmanager
def guarded(
    framework: Framework, mode: Any, **settings: Any
) -> Generator[tuple[Running, ConnectionManager, list[Any]]]:
    manager, ends = make_manager(**settings), list[Any]()
    with serving(framework.guard(framework.make(ends), manager, mode)) as server:
        yield server, manager, ends


# --- the same client, the same script, with the guard and without


def observe(server: Running, ends: list[Any]) -> dict[str, Any]:
    """Everything a client sees of the application, and what that sees of the client's end."""
    seen: dict[str, Any] = {}
    with dial(server, subprotocols=[Subprotocol("x"), Subprotocol(SUBPROTOCOL)]) as socket:
        seen["subprotocol"] = socket.subprotocol
        for text in ("hello", '{"type": "ping"}', "x" * 70_000):
            socket.send(json.dumps(text))
            seen[f"echo of {len(text)}"] = socket.recv(timeout=10)
        socket.close(4242, "bye")
        seen["close"] = (socket.close_code, socket.close_reason)
    seen["ends"] = wait_for(ends)
    with dial(server) as socket:
        seen["no subprotocol"] = socket.subprotocol
    seen["ends"] += wait_for(ends)
    for path in ("/refuse", "/close", "/fail", "/nowhere"):
        seen[path] = outcome(server, path)
    with urllib.request.urlopen(f"http://{server.address}/hello", timeout=10) as response:
        seen["http"] = (response.status, sorted(response.headers), response.read())
    return seen


def outcome(server: Running, path: str) -> Any:
    try:
        with dial(server, path) as socket:
            with contextlib.suppress(ConnectionClosed):
                socket.send('"anything"')
                while True:
                    socket.recv(timeout=10)
            return socket.close_code, socket.close_reason
    except InvalidStatus as refusal:
        return refusal.response.status_code, refusal.response.body
    except InvalidHandshake as failure:
        return type(failure)


def wait_for(ends: list[Any]) -> list[Any]:
    deadline = time.monotonic() + 10
    while not ends:
        assert time.monotonic() < deadline, "the application was not told of the end"
        time.sleep(0.005)  # another thread appends it, and has no event to wait for
    return [ends.pop()]


@MATRIX.row("1 around the application: clients see no difference", no=NO_SOCKETS)
@pytest.mark.parametrize("mode", ["opaque", "json"])
def test_a_client_sees_no_difference(framework: Framework, mode: Any) -> None:
    ends: list[Any] = []
    with serving(framework.make(ends)) as server:
        without = observe(server, ends)
    with guarded(framework, mode) as (server, manager, ends):
        assert observe(server, ends) == without
        assert manager.connections() == []
    assert without["/close"] == (4321, "enough")
    assert without["/refuse"][0] in (400, 403)


# --- what the guard adds


@MATRIX.row("1: without a good token, a 401 that says why")
def test_who_has_no_good_token_is_told_why_and_stays_out(framework: Framework) -> None:
    with guarded(framework, "opaque") as (server, manager, _):
        for query, code in (("", "token_missing"), ("?token=nonsense", "token_malformed")):
            with (
                pytest.raises(InvalidStatus) as caught,
                connect(f"ws://{server.address}/echo{query}", proxy=None),
            ):
                pass
            assert caught.value.response.status_code == 401
            assert json.loads(caught.value.response.body or b"")["error"]["code"] == code
        assert manager.get_analytics().indexes["connections"] == 0


@MATRIX.row("1: connections are known and reached", no=NO_SOCKETS)
def test_a_connection_is_known_and_reached_while_it_lasts(framework: Framework) -> None:
    with guarded(framework, "json") as (server, manager, ends):
        with dial(server) as ann, dial(server, user="bob") as bob:
            for socket in (ann, bob):
                socket.send("1")
                assert socket.recv(timeout=10) == "1"
            (conn,) = manager.connections(user_id="ann")
            server.do(manager.join_session(conn, "lobby"))
            assert server.do(manager.send_to_session("lobby", {"event": "joined"})).sent == 1
            assert json.loads(ann.recv(timeout=10)) == {"event": "joined"}
            assert server.do(manager.broadcast({"event": "news"})).sent == 2
            assert [json.loads(socket.recv(timeout=10)) for socket in (ann, bob)] == [{"event": "news"}] * 2
        wait_for(ends)


@MATRIX.row("1: nothing is written to an opaque socket", no=NO_SOCKETS)
def test_an_opaque_socket_is_not_written_to(framework: Framework) -> None:
    with guarded(framework, "opaque") as (server, manager, ends):
        with dial(server) as ann:
            ann.send("hello")
            assert ann.recv(timeout=10) == "hello"
            assert server.do(manager.broadcast({"type": "news"})).unsupported == 1
        wait_for(ends)


@MATRIX.row("1: floods end with 4029, faults with 4501", no=NO_SOCKETS)
def test_floods_and_faults_end_a_socket_and_the_application_hears_of_it(framework: Framework) -> None:
    with guarded(framework, "json", rate_limit_max=3) as (server, _, ends):
        for frames, end in ((["1"] * 4, (4029, "rate_limited")), (["{"], (4501, "not_json"))):
            with dial(server, user=f"user-{end[0]}") as socket:
                with contextlib.suppress(ConnectionClosed):
                    for frame in frames:
                        socket.send(frame)
                    while True:
                        socket.recv(timeout=10)
                assert (socket.close_code, socket.close_reason) == end
            wait_for(ends)


@MATRIX.row("1: `await manager.aclose()` closes with 1012", no=NO_SOCKETS)
def test_the_end_of_the_application_is_a_restart_to_its_clients(framework: Framework) -> None:
    with guarded(framework, "json") as (server, manager, _), dial(server) as socket:
        socket.send("1")
        assert socket.recv(timeout=10) == "1"
        server.do(manager.aclose())
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        assert (socket.close_code, socket.close_reason) == (1012, "shutdown")


@MATRIX.row("1: who only sends is told of the end", no=NO_SOCKETS)
def test_an_application_that_only_sends_is_told_of_the_end(framework: Framework) -> None:
    with guarded(framework, "opaque", heartbeat_interval=1) as (server, manager, ends):
        with dial(server, "/tick") as socket:
            assert socket.recv(timeout=10) == "tick"
            socket.socket.shutdown(SHUT_RDWR)
        (told,) = wait_for(ends)
        assert told in framework.told
        assert manager.connections() == []


@pytest.mark.parametrize("is_guarded", [False, True], ids=["bare", "guarded"])
@pytest.mark.parametrize("implementation", ["websockets-sansio", "wsproto"])
def test_a_server_times_out_no_client_of_an_application_that_never_receives(
    implementation: Any, is_guarded: bool
) -> None:
    """Uvicorn stops reading while frames wait, and then hears no pong. Without the guard that is the end."""
    release = threading.Event()

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.to_thread(release.wait, 20)
        await send({"type": "websocket.close"})

    manager = make_manager(heartbeat_interval=0.5)
    app = WebSocketMiddleware(deaf, manager) if is_guarded else deaf
    pings = {"ws": implementation, "ws_ping_interval": 1.0, "ws_ping_timeout": 1.0, "lifespan": "off"}
    with serving(app, **pings) as server:
        with dial(server, "/") as socket:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(30):
                    socket.send("x" * 1_000)
                    time.sleep(0.1)  # the server's pings go by its own clock
            release.set()
            with contextlib.suppress(ConnectionClosed):
                socket.recv(timeout=10)
        assert socket.close_code == (1000 if is_guarded else 1011)


NO_LIFESPAN = "it answers no lifespan: route that to `manager.endpoint`"


@MATRIX.row(
    "1: the manager starts and ends with the application",
    no={"Channels": NO_LIFESPAN, "Django": NO_LIFESPAN},
)
def test_the_manager_starts_and_ends_with_the_application(framework: Framework) -> None:
    manager = make_manager()
    for _ in range(2):  # what has ended is not ready until it is started
        with serving(framework.guard(framework.make([]), manager, "opaque")):
            assert readiness(manager) == 200
        assert readiness(manager) == 503


@MATRIX.row("1: no token is logged", no=NO_SOCKETS)
def test_no_token_is_logged(framework: Framework, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with guarded(framework, "json") as (server, _, _ends):
        assert outcome(server, "/refuse")[0] in (400, 403)
        assert outcome(server, "/close") == (4321, "enough")
        outcome(server, "/fail")
    assert "?token=REDACTED" in caplog.text
    assert token().partition(".")[0] not in caplog.text
