"""What `connect` says to a Starlette that keeps its insides otherwise than ours expects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import starlette
import starlette.exceptions
from starlette.websockets import WebSocket

from tests.engine.conftest import MakeManager
from wsmanager import ConfigurationError
from wsmanager.doors.starlette_socket import StarletteSocket, _bypassed_by
from wsmanager.testing import HandshakeRefused, connect, websocket_scope

pytestmark = pytest.mark.anyio

Change = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def fresh() -> Any:
    _bypassed_by.cache_clear()
    yield
    _bypassed_by.cache_clear()


def lacks(name: str, become: str) -> Change:
    """A Starlette whose sockets have `become` in place of `name`."""

    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        before = WebSocket.__init__

        def made(self: Any, *arguments: Any, **options: Any) -> None:
            before(self, *arguments, **options)
            setattr(self, become, self.__dict__.pop(name))

        monkeypatch.setattr(WebSocket, "__init__", made)

    return change


def states_are_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = WebSocket.__init__

    def made(self: Any, *arguments: Any, **options: Any) -> None:
        before(self, *arguments, **options)
        self.client_state = "connecting"

    monkeypatch.setattr(WebSocket, "__init__", made)


def exception_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(starlette.exceptions, "WebSocketException")


OTHER_METHODS = """
async def receive(self):
    return await self.channel.receive()

async def send(self, message):
    await self.channel.send(message)
"""


def goes_another_way(name: str) -> Change:
    """A Starlette that keeps all names, and has `name` use none of them."""

    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        module: dict[str, Any] = {"__name__": "starlette.websockets"}
        exec(OTHER_METHODS, module)  # noqa: S102 - the one way to be Starlette's own
        monkeypatch.setattr(WebSocket, name, module[name])

    return change


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lacks("_receive", "_channel"), "needs _receive of WebSocket"),
        (lacks("_send", "_channel"), "needs _send of WebSocket"),
        (lacks("client_state", "peer_state"), "needs client_state of WebSocket"),
        (lacks("application_state", "app_state"), "needs application_state of WebSocket"),
        (states_are_texts, r"needs client_state\.CONNECTING of"),
        (exception_is_gone, "needs WebSocketException of"),
        (goes_another_way("receive"), r"needs _receive in receive\(\) of"),
        (goes_another_way("send"), r"needs _send in send\(\) of"),
    ],
)
async def test_a_starlette_that_is_built_otherwise_is_named_with_what_it_lacks(
    change: Change, missing: str, make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, told = make_manager(), list[str]()
    change(monkeypatch)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ConfigurationError, match=missing) as raised:
            await manager.connect(WebSocket(scope, receive, send), user_id="ann")
        told.append(str(raised.value))
        await send({"type": "websocket.close"})

    with pytest.raises(HandshakeRefused):
        async with connect(app):
            pass
    (text,) = told
    assert f"Starlette {starlette.__version__} keeps otherwise" in text
    assert "known to work is Starlette 0.50 to" in text


def make_socket(kind: type[WebSocket] = WebSocket) -> WebSocket:
    async def nothing(*_: Any) -> Any: ...

    return kind(websocket_scope(), nothing, nothing)


async def test_the_starlette_that_is_installed_has_all_that_is_needed() -> None:
    socket = make_socket()
    assert StarletteSocket(socket).ends() == (socket._receive, socket._send)
    assert not StarletteSocket(socket).is_accepted


async def test_methods_that_others_wrapped_are_no_change_of_starlettes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = WebSocket.send

    @functools.wraps(before)
    async def traced(self: Any, message: Any) -> None:
        await before(self, message)

    class Own(WebSocket):
        async def receive(self) -> Any:
            return await super().receive()

    monkeypatch.setattr(WebSocket, "send", traced)
    assert not StarletteSocket(make_socket(Own)).is_accepted
