"""What holds on every server: who comes in, what is said, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from .servers import MATRIX, Process, token


@contextmanager
def dial(url: str, **options: Any) -> Generator[ClientConnection]:
    with connect(url, proxy=None, **options) as socket:
        yield socket


def ask(socket: ClientConnection, type: str, data: Any = None) -> Any:
    socket.send(json.dumps({"type": type, "data": data, "id": 1}))
    return hear(socket)


def hear(socket: ClientConnection) -> Any:
    return json.loads(socket.recv(timeout=10))


def refusal(url: str) -> tuple[int, Any]:
    with pytest.raises(InvalidStatus) as caught, dial(url):
        pass
    return caught.value.response.status_code, caught.value.response.body


# --- who comes in


@MATRIX.row("a client with a token connects")
def test_a_client_with_a_token_connects(process: Process) -> None:
    with dial(process.url()) as socket:
        assert ask(socket, "ping", {})["type"] == "pong"
    with dial(
        f"ws://{process.address}/ws", additional_headers={"authorization": f"Bearer {token()}"}
    ) as socket:
        assert ask(socket, "ping", {})["type"] == "pong"


@MATRIX.row("a subprotocol is agreed on")
def test_a_subprotocol_is_agreed_on(process: Process) -> None:
    with dial(process.url(), subprotocols=[Subprotocol("other"), Subprotocol("wsmanager.v1.json")]) as socket:
        assert socket.subprotocol == "wsmanager.v1.json"
        assert hear(socket)["type"] == "welcome"


@MATRIX.row(
    "one without is refused with 401 and the reason in JSON", no={"daphne": "403: it has no Denial Response"}
)
def test_who_has_no_token_is_told_why(process: Process) -> None:
    url = f"ws://{process.address}/ws?token=nonsense"
    status, body = refusal(url)
    assert status == 401
    assert json.loads(body)["error"]["code"] == "token_malformed"


@MATRIX.row("one that offered a subprotocol is refused with a close code")
def test_who_offered_a_subprotocol_is_refused_with_a_code(process: Process) -> None:
    url = f"ws://{process.address}/ws?token=nonsense"
    with dial(url, subprotocols=[Subprotocol("wsmanager.v1.json")]) as socket:
        assert hear(socket)["data"]["reason"] == "token_malformed"
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        assert socket.close_code == 4500


@MATRIX.row("a token in the query reaches no log")
def test_f20_a_token_in_the_query_reaches_no_log(process: Process) -> None:
    for path in ("/ws", "/json", "/opaque"):
        secret = token(f"logged{path}")
        with dial(f"ws://{process.address}{path}?a=1&token={secret}&b=2"):
            pass
        refusal(f"ws://{process.address}{path}?token={secret}x")
    assert process.figures()
    output = process.output()
    assert path in output or "WSCONNECT" in output or "GET /figures" in output, "it logs no access"
    assert secret not in output
    assert secret.rpartition(".")[2] not in output


# --- what is said


@MATRIX.row("messages, replies, errors")
def test_messages_are_answered(process: Process) -> None:
    with dial(process.url()) as socket:
        for data in ("", "ä€😀\u0000", [1, {"a": None}], "x" * 200_000):
            assert ask(socket, "echo", data) == {"type": "reply", "re": 1, "data": data}
        assert ask(socket, "fail")["data"]["code"] == "internal_error"
        assert ask(socket, "nothing")["data"]["code"] == "unknown_type"
        assert ask(socket, "echo", "still here")["data"] == "still here"


@MATRIX.row("an application's own loop, guarded, text and binary")
def test_a_guarded_loop_is_as_it_was(process: Process) -> None:
    for path in ("/json", "/opaque"):
        with dial(process.url(path)) as socket:
            for text in ('""', '{"any": "ä€😀"}', '"' + "x" * 70_000 + '"'):
                socket.send(text)
                assert socket.recv(timeout=10) == text


@MATRIX.row("binary messages (MessagePack)")
def test_binary_messages(process: Process) -> None:
    with dial(process.url(), subprotocols=[Subprotocol("wsmanager.v1.msgpack")]) as socket:
        assert msgspec.msgpack.decode(socket.recv(timeout=10, decode=False))["type"] == "welcome"
        socket.send(msgspec.msgpack.encode({"type": "echo", "data": b"\x00\xff", "id": 1}))
        assert msgspec.msgpack.decode(socket.recv(timeout=10, decode=False))["data"] == b"\x00\xff"


@MATRIX.row("a broadcast reaches everybody in order")
def test_a_broadcast_reaches_everybody(process: Process) -> None:
    with (
        dial(process.url()) as ann,
        dial(process.url(user="bob")) as bob,
        dial(process.url("/json")) as cat,
    ):
        sockets = (ann, bob, cat)
        for number in range(20):
            report = process.ask("/broadcast", {"type": "news", "data": number})
            assert report["sent"] + report["queued"] == 3
        for socket in sockets:
            assert [hear(socket)["data"] for _ in range(20)] == list(range(20))


@MATRIX.row(
    "a message over the limit is answered, and the connection lives",
    no={"daphne": "cut off: its own limit is 1 MiB, too"},
)
def test_a_message_over_the_limit(process: Process) -> None:
    with dial(process.url(), max_size=None) as socket:
        socket.send('{"type":"echo","data":"' + "x" * 1_048_576 + '"}')
        assert hear(socket)["data"]["code"] == "too_large"
        assert ask(socket, "echo", 1)["data"] == 1


# --- how it ends


@MATRIX.row("the code of a close reaches the client")
def test_the_code_of_a_close_reaches_the_client(process: Process) -> None:
    with dial(process.url()) as socket:
        assert ask(socket, "kick", [4321, "enough"])["data"]["reason"] == "enough"
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        assert socket.close_code == 4321


@MATRIX.row("its reason, too", no={"daphne": "dropped by it; the `disconnect` message has it"})
def test_the_reason_of_a_close_reaches_the_client(process: Process) -> None:
    with dial(process.url()) as socket:
        ask(socket, "kick", [4321, "enough"])
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        assert socket.close_reason == "enough"


def ends_of(process: Process, user: str) -> Any:
    def heard(seen: Any) -> list[Any]:
        return [end for name, end in seen["ends"] if name == user]

    return heard(process.wait_for("the end", heard))[-1]


@MATRIX.row("the code of the client's close reaches the application", no={"hypercorn": "always 1006"})
def test_the_code_of_the_clients_close_reaches_the_application(process: Process) -> None:
    with dial(process.url(user="coded")) as socket:
        assert ask(socket, "ping")
        socket.close(4242, "bye")
    assert ends_of(process, "coded")[0] == 4242


@MATRIX.row("and the reason of it", no=dict.fromkeys(("hypercorn", "granian", "daphne"), "dropped by it"))
def test_the_reason_of_the_clients_close_reaches_the_application(process: Process) -> None:
    with dial(process.url(user="reasoned")) as socket:
        assert ask(socket, "ping")
        socket.close(4242, "bye")
    assert ends_of(process, "reasoned") == [4242, "bye"]


@MATRIX.row("everything that came before the close is worked on")
def test_what_came_before_the_close_is_worked_on(process: Process) -> None:
    before = process.figures()["figures"]["messages"]["types"].get("echo", {}).get("count_in", 0)
    with dial(process.url()) as socket:
        for number in range(100):
            socket.send(json.dumps({"type": "echo", "data": number}))
    process.wait_until_empty()
    after = process.figures()["figures"]["messages"]["types"]["echo"]["count_in"]
    assert after == before + 100


@MATRIX.row("a client that is gone leaves no trace")
def test_who_is_gone_leaves_no_trace(process: Process) -> None:
    tasks = process.figures()["tasks"]
    for _ in range(20):
        with dial(process.url()) as socket:
            assert ask(socket, "ping")
    process.wait_until_empty()
    process.wait_for("the tasks of before", lambda seen: seen["tasks"] <= tasks + 2)
