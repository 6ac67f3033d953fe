"""Each example runs as a process of its own, and a client that somebody else wrote talks to it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from examples.custom_parts import FairLimiter, LatencyScorer, NoLinks, Pace, PatientScorer, PoliteValidator
from wsmanager.messages import UserKey
from wsmanager.testing import check_health_scorer, check_message_validator, check_rate_limiter

from .. import processes
from ..processes import ROOT


@contextlib.contextmanager
def running(module: str, **settings: str) -> Generator[int]:
    """The port of ``python -m module``."""
    with processes.running(module, **settings) as server:
        yield server.port


def ask(socket: Any, **message: Any) -> Any:
    socket.send(json.dumps(message))
    return hear(socket)


def hear(socket: Any) -> Any:
    return json.loads(socket.recv(timeout=10))


def token_for(user: str) -> str:
    command = [sys.executable, "-m", "examples.starlette_mount", "--token", user]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def test_two_users_chat_through_the_mounted_endpoint() -> None:
    alice_token, bob_token = token_for("alice"), token_for("bob")
    with running("examples.starlette_mount") as port:
        url = f"ws://127.0.0.1:{port}/ws"
        with connect(f"{url}?token={alice_token}") as alice, connect(f"{url}?token={bob_token}") as bob:
            assert ask(alice, type="chat.join", data={"room": "general"}, id=1)["data"] == ["alice"]
            assert ask(bob, type="chat.join", data={"room": "general"}, id=1)["data"] == ["alice", "bob"]
            heard = ask(alice, type="chat.message", data={"room": "general", "text": "Hi"}, id=2)
            assert heard == {
                "type": "chat.message",
                "data": {"from": "alice", "room": "general", "text": "Hi"},
            }
            assert hear(alice) == {"type": "reply", "re": 2, "data": {"delivered": 2}}
            assert hear(bob)["data"]["text"] == "Hi"
            assert ask(bob, type="chat.message", data={"room": "secret", "text": "?"}, id=3)["data"] == {
                "code": "forbidden",
                "message": "You may not send to this room.",
                "temporary": False,
                "re": 3,
            }


def test_a_client_without_a_token_is_refused_with_a_reason() -> None:
    with (
        running("examples.starlette_mount") as port,
        pytest.raises(InvalidStatus) as caught,
        connect(f"ws://127.0.0.1:{port}/ws"),
    ):
        pass
    assert caught.value.response.status_code == 401
    assert json.loads(caught.value.response.body or b"")["error"]["code"] == "token_missing"


def test_the_adopted_endpoint_is_guarded_and_reachable() -> None:
    with running("examples.existing_endpoint") as port:
        with connect(f"ws://127.0.0.1:{port}/ws?user=alice") as alice:
            assert ask(alice, type="say", data="hi") == {"type": "echo", "to": "alice", "data": "hi"}
            assert ask(alice, type="say", data="<script>")["data"]["code"] == "forbidden_pattern"
            assert ask(alice, type="ping", data={}) == {"type": "pong", "data": {}}
            assert post(f"http://127.0.0.1:{port}/notify/alice", b"tea") == {"sent": 1, "kept": 0}
            assert hear(alice) == {"type": "notice", "data": "tea"}
        assert post(f"http://127.0.0.1:{port}/notify/bob", b"later") == {"sent": 0, "kept": 1}
        with connect(f"ws://127.0.0.1:{port}/ws?user=bob") as bob:
            assert hear(bob) == {"type": "notice", "data": "later"}


def test_an_application_that_exists_is_guarded_with_one_line() -> None:
    with running("examples.guarded_app", WSMANAGER_RATE_LIMIT_MAX="5") as port:
        url = f"ws://127.0.0.1:{port}"
        with connect(f"{url}/poll") as voter, connect(f"{url}/terminal") as terminal:
            voter.send('{"vote": "tea"}')
            assert hear(voter) == {"standing": [["tea", 1]]}
            terminal.send(b"\x1b[2J")
            assert terminal.recv(timeout=10) == b"\x1b[2J"
            closing = post(f"http://127.0.0.1:{port}/close-poll", b"")
            assert closing == {"reached": 1, "out_of_reach": 1}
            assert hear(voter) == {"winner": [["tea", 1]]}
            voter.send('{"vote": "<script>alert(1)</script>"}')
            assert end_of(voter) == (4501, "forbidden_pattern")
            for _ in range(6):
                terminal.send(b"x")
            assert end_of(terminal) == (4029, "rate_limited")


def end_of(socket: Any) -> tuple[int, str]:
    """How the server closed it; what comes before is passed over."""
    with contextlib.suppress(ConnectionClosedError):
        while True:
            socket.recv(timeout=10)
    return socket.close_code, socket.close_reason


@pytest.mark.parametrize(
    ("parts", "data", "code"),
    [("protocol", {"text": "see http://x"}, "link"), ("subclass", {"text": "DO NOT SHOUT"}, "shouting")],
)
def test_parts_of_ones_own_are_asked(parts: str, data: dict[str, str], code: str) -> None:
    with (
        running("examples.custom_parts", PARTS=parts) as port,
        connect(f"ws://127.0.0.1:{port}/ws") as client,
    ):
        assert ask(client, type="say", data={"text": "hello"}, id=0)["data"] == {"heard": 5, "score": 1.0}
        assert ask(client, type="say", data=data, id=1)["data"]["code"] == code
        answers = [ask(client, type="say", data={"text": "hello"}, id=n) for n in range(19)]
        assert "rate_limited" in [answer["data"].get("code") for answer in answers]


def test_parts_of_ones_own_keep_what_their_seams_promise() -> None:
    check_rate_limiter(lambda: Pace(2.0, burst=5, max_keys=50), max_keys=50)
    check_rate_limiter(lambda: FairLimiter(limit=5, window=10.0, max_keys=50), max_keys=50)
    for validator in (NoLinks, PoliteValidator):
        check_message_validator(validator)
    for scorer in (LatencyScorer, PatientScorer):
        check_health_scorer(scorer)


def test_robots_have_a_tenth() -> None:
    limiter = FairLimiter(limit=20, window=10.0)
    for name, allowed in (("ann", 20), ("robot-7", 2)):
        key = UserKey(None, name)
        assert [bool(limiter.check_rate_limit(key, now=0.0)) for _ in range(30)].count(True) == allowed


def post(url: str, body: bytes) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10) as response:  # noqa: S310  # loopback
        return json.load(response)
