"""The manager inside applications of every framework: as an endpoint, and adopting a socket of theirs."""

from __future__ import annotations

import contextlib
import json
import logging
import urllib.request
from collections.abc import Generator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.frameworks.columns import MATRIX, NO_SOCKETS, Framework
from tests.frameworks.managed import Use, adopt
from tests.frameworks.servers import Running, dial, make_manager, readiness, serving, token
from wsmanager import Connection, ConnectionManager

NO_ADOPTION = {
    **dict.fromkeys(("Litestar", "Quart", "Falcon"), "its socket is no Starlette `WebSocket`"),
    "Channels": "its consumer is no Starlette `WebSocket`",
    **NO_SOCKETS,
}


@contextlib.contextmanager
def managed(
    framework: Framework, use: Use = adopt, *, is_guarded: bool = False
) -> Generator[tuple[Running, ConnectionManager]]:
    manager = make_manager()

    @manager.on("add")
    async def add(conn: Connection, data: list[int]) -> int:
        return sum(data)

    app = framework.managed(manager, use)
    with serving(framework.guard(app, manager, "json") if is_guarded else app) as server:
        yield server, manager


def ask(socket: ClientConnection, type: str, data: Any = None) -> Any:
    socket.send(json.dumps({"type": type, "data": data, "id": 1}))
    return json.loads(socket.recv(timeout=10))


def assert_it_is_the_endpoint(server: Running, manager: ConnectionManager) -> None:
    with dial(server, "/ws") as socket:
        assert ask(socket, "ping")["type"] == "pong"
        assert ask(socket, "add", [1, 2]) == {"type": "reply", "re": 1, "data": 3}
        (conn,) = manager.connections()
        assert conn.user_id == "ann"


def assert_it_adopts(server: Running, manager: ConnectionManager) -> None:
    with dial(server, "/own") as socket:
        assert json.loads(socket.recv(timeout=10)) == {"type": "hello", "data": "ann"}
        assert ask(socket, "ping")["type"] == "pong"
        assert ask(socket, "say", "hi") == {"type": "echo", "data": "hi"}
        (conn,) = manager.connections()
        assert conn.user_id == "ann"


def assert_it_refuses(server: Running, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught, connect(f"ws://{server.address}{path}?token=x", proxy=None):
        pass
    assert caught.value.response.status_code == 401
    assert json.loads(caught.value.response.body or b"")["error"]["code"] == "token_malformed"


def assert_it_asks_to_come_back(server: Running, manager: ConnectionManager, path: str) -> None:
    with dial(server, path) as socket:
        ask(socket, "ping")
        server.do(manager.aclose())
        heard: list[Any] = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                heard.append(json.loads(socket.recv(timeout=10)))
        assert (heard[-1]["type"], heard[-1]["data"]["reconnect"]) == ("disconnect", True)
        assert socket.close_code == 1012


def assert_no_token_is_in(log: str) -> None:
    assert "?token=REDACTED" in log
    assert token().partition(".")[0] not in log


# --- 1: around an application whose endpoints know of the manager


@MATRIX.row(
    "1: `manager.connection_of(websocket)`",
    no={"Falcon": "its socket shows no scope: `connection_of(req)`", **NO_SOCKETS},
)
def test_an_endpoint_finds_the_connection_that_the_guard_made(framework: Framework) -> None:
    found: list[str] = []

    async def find(manager: ConnectionManager, websocket: Any) -> None:
        found.append(manager.connection_of(websocket).user_id)
        await websocket.close(4400)

    with managed(framework, find, is_guarded=True) as (server, _):
        with contextlib.suppress(InvalidHandshake), dial(server, "/own"):
            pass
        assert found == ["ann"]


# --- 2: the manager is the endpoint


@MATRIX.row("2 `manager.endpoint`, beside HTTP of the framework's own")
def test_the_manager_is_the_endpoint(framework: Framework) -> None:
    with managed(framework) as (server, manager):
        assert_it_is_the_endpoint(server, manager)
        assert_it_refuses(server, "/ws")
        with urllib.request.urlopen(f"http://{server.address}/hello", timeout=10) as response:
            assert response.read() == b"hello"


@MATRIX.row("2: `await manager.aclose()` closes with 1012")
def test_the_end_of_the_manager_asks_its_clients_to_come_back(framework: Framework) -> None:
    with managed(framework) as (server, manager):
        assert_it_asks_to_come_back(server, manager, "/ws")


@MATRIX.row("2, 3: the manager starts and ends with the application")
def test_the_manager_lives_as_long_as_the_application_it_is_in(framework: Framework) -> None:
    manager = make_manager()
    for _ in range(2):  # what has ended is not ready until it is started
        with serving(framework.managed(manager, adopt)):
            assert readiness(manager) == 200
        assert readiness(manager) == 503


@MATRIX.row(
    "2: no token is logged",
    no={"Channels": "`URLRouter` copies the scope: 1 around it, or no token in the query"},
)
def test_the_endpoint_hides_tokens_from_the_log(
    framework: Framework, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with managed(framework) as (server, manager):
        assert_it_is_the_endpoint(server, manager)
    assert_no_token_is_in(caplog.text)


# --- 3: a socket is adopted

ADOPTED = MATRIX.row(
    "3 `async with manager.connect(websocket)`: answers, closes with 1012, logs no token", no=NO_ADOPTION
)


@ADOPTED
def test_a_socket_is_adopted(framework: Framework) -> None:
    with managed(framework) as (server, manager):
        assert_it_adopts(server, manager)
        assert_it_refuses(server, "/own")


@ADOPTED
def test_the_end_of_the_manager_asks_who_was_adopted_to_come_back(framework: Framework) -> None:
    with managed(framework) as (server, manager):
        assert_it_asks_to_come_back(server, manager, "/own")


@ADOPTED
def test_an_adopted_socket_hides_tokens_from_the_log(
    framework: Framework, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with managed(framework) as (server, manager):
        assert_it_adopts(server, manager)
    assert_no_token_is_in(caplog.text)


# --- both inside the guard


@MATRIX.row("2 inside 1: one connection, one life, no token logged")
def test_the_endpoint_inside_the_guard(framework: Framework, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with managed(framework, is_guarded=True) as (server, manager):
        assert_it_is_the_endpoint(server, manager)
    assert_no_token_is_in(caplog.text)
    assert readiness(manager) == 503


@MATRIX.row("3 inside 1: one connection, known to both", no=NO_ADOPTION)
def test_a_socket_is_adopted_inside_the_guard(framework: Framework) -> None:
    with managed(framework, is_guarded=True) as (server, manager):
        assert_it_adopts(server, manager)
