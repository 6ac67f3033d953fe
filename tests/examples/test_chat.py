"""The chat as a program sees it; how its page sees it is tested in a browser."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Generator
from typing import Any

import pytest
from websockets.sync.client import connect

from ..processes import running

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def chat() -> Generator[str]:
    """The address of a chat."""
    with running("examples.chat") as server:
        yield server.address


def post(url: str, body: bytes) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10) as response:  # noqa: S310  # loopback
        return json.load(response)


def log_in(address: str, user: str) -> str:
    """Where the user's socket is."""
    answer = post(f"http://{address}/login", json.dumps({"user": user}).encode())
    assert answer["user"] == user.strip()
    return f"ws://{address}/ws?token={answer['token']}"


def hear(socket: Any) -> Any:
    return json.loads(socket.recv(timeout=10))


def next_of(socket: Any, type: str) -> Any:
    """The data of the next message of a type; who is here is told again and again."""
    while (message := hear(socket))["type"] != type:
        assert message["type"] in {"chat.here", "chat.rooms"}
    return message["data"]


def send(socket: Any, type: str, **data: Any) -> None:
    socket.send(json.dumps({"type": type, "data": data, "id": 1}))


def request(socket: Any, type: str, **data: Any) -> Any:
    send(socket, type, **data)
    return next_of(socket, "reply")


def test_users_of_the_chat_meet_in_a_room() -> None:
    with running("examples.chat") as server:
        alice_at, bob_at = log_in(server.address, " alice "), log_in(server.address, "bob")
        with connect(alice_at) as alice, connect(bob_at) as bob:
            assert list(next_of(alice, "chat.rooms")) == ["general", "music", "garden"]
            assert request(alice, "chat.join", room="garden") == []
            assert request(bob, "chat.join", room="garden") == []
            send(alice, "chat.say", room="garden", text="Hi", key=KEY)
            heard = next_of(bob, "chat.message")
            assert (heard["author"], heard["text"], heard["room"]) == ("alice", "Hi", "garden")
            assert next_of(alice, "chat.message") == heard
            send(bob, "chat.feel", id=heard["id"], emotion="joy", room="garden")
            assert next_of(bob, "chat.felt")["emotion"] == "joy"
            with connect(log_in(server.address, "carol")) as carol:
                assert request(carol, "chat.join", room="garden") == [{**heard, "emotions": {"bob": "joy"}}]


def test_the_chat_keeps_a_private_message_and_tells_so(chat: str) -> None:
    with connect(log_in(chat, "alice")) as alice:
        send(alice, "chat.tell", to="bob", text="Hi", key=KEY)
        assert next_of(alice, "chat.message")["kept"] is True
        assert next_of(alice, "reply") == {"reached": 0, "kept": 1}
    with connect(log_in(chat, "bob")) as bob:
        assert hear(bob)["data"]["text"] == "Hi"


def test_the_chat_tells_how_a_connection_does(chat: str) -> None:
    with connect(log_in(chat, "carol")) as carol:
        vitals = request(carol, "me")
    assert (vitals["score"], vitals["status"], vitals["tabs"]) == (1.0, "healthy", 1)
    assert (vitals["limit"], vitals["remaining"]) == (40, 39)


@pytest.mark.parametrize("user", ["", "  ", "x" * 33, "bell\a", "\u202eevil", 7])
def test_a_name_for_the_chat_is_short_and_printable(chat: str, user: str | int) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(f"http://{chat}/login", json.dumps({"user": user}).encode())
    with caught.value as response:
        assert response.status == 422
        assert json.load(response)["error"]["code"] in {"bad_name", "bad_request"}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"{}", id="no name"),
        pytest.param(b'{"user": "\xff"}', id="no UTF-8"),
        pytest.param(b'{"user": "\\ud800"}', id="half a character"),
        pytest.param(b'{"x":' + b"[" * 9_999, id="deep"),
    ],
)
def test_a_body_that_says_no_name_is_refused_in_words(chat: str, body: bytes) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(f"http://{chat}/login", body)
    with caught.value as response:
        assert json.load(response)["error"] == {
            "code": "bad_request",
            "message": 'Say who you are: {"user": "your name"}.',
        }


def test_the_page_of_the_chat_runs_nothing_but_its_own_scripts(chat: str) -> None:
    with urllib.request.urlopen(f"http://{chat}/", timeout=10) as response:
        policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["app.py", "..%2fapp.py", "static", "docs", "openapi.json"])
def test_the_page_of_the_chat_serves_its_own_files_only(chat: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{chat}/{path}", timeout=10)
    with caught.value as response:
        assert response.status == 404
