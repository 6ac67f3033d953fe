"""Handshakes: those that are none, and what an application may answer to those that are."""

from __future__ import annotations

from typing import Any

import pytest

from .apps import echo
from .line import Line
from .stage import Call, Stage, Transcript, disconnect
from .wire import CLOSE, TEXT, reason_for, request, said, to_server

CONNECT = {"type": "websocket.connect"}
CLOSING = to_server(CLOSE, reason_for(1000))


def headers_of(played: Transcript) -> dict[str, str]:
    lines = played.head.partition("\r\n\r\n")[0].split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def body_of(played: Transcript) -> str:
    return played.head.partition("\r\n\r\n")[2]


async def never_called(call: Call) -> None:
    raise AssertionError(call.scope)


@pytest.mark.parametrize(
    ("headers", "status", "what"),
    [
        (["Sec-WebSocket-Key: "], 400, "Sec-WebSocket-Key"),
        (["Sec-WebSocket-Key: short"], 400, "Sec-WebSocket-Key"),
        (["Sec-WebSocket-Version: "], 400, "Sec-WebSocket-Version"),
        (["Sec-WebSocket-Version: 8"], 400, "Sec-WebSocket-Version"),
        (["Sec-WebSocket-Extensions: ;;"], 400, "Sec-WebSocket-Extensions"),
    ],
)
def test_a_handshake_that_is_none_is_refused(
    stage: Stage, headers: list[str], status: int, what: str
) -> None:
    async def script(line: Line) -> None:
        await line.ask(*headers)

    played = stage.play(script, never_called)
    assert played.status == status
    assert played.end == "FIN"
    assert what in body_of(played)
    assert played.seen == ()


def test_a_handshake_by_another_method_is_refused(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.put(request().replace(b"GET", b"POST", 1))

    played = stage.play(script, never_called)
    assert (played.status, played.end, played.seen) == (405, "FIN", ())


def test_a_handshake_by_http_1_0_is_taken_for_one_by_1_1(stage: Stage) -> None:
    """By uvicorn's HTTP protocol, before either of these protocols is made."""

    async def script(line: Line) -> None:
        await line.put(request().replace(b"HTTP/1.1", b"HTTP/1.0", 1), to_server(TEXT, b"x"), CLOSING)

    played = stage.play(script, echo)
    assert played.wire == said(TEXT, b"x") + said(CLOSE, reason_for(1000))


@pytest.mark.parametrize("header", ["Upgrade: ", "Upgrade: h2c", "Connection: ", "Connection: close"])
def test_a_request_without_an_upgrade_is_plain_http(stage: Stage, header: str) -> None:
    async def app(call: Call) -> None:
        assert call.scope["type"] == "http"
        await call._send(
            {"type": "http.response.start", "status": 418, "headers": [(b"connection", b"close")]}
        )
        await call._send({"type": "http.response.body", "body": b"tea"})

    async def script(line: Line) -> None:
        await line.ask(header)

    played = stage.play(script, app)
    assert played.status == 418
    assert "tea" in body_of(played)


def test_the_application_sees_the_request(stage: Stage) -> None:
    scopes: list[dict[str, Any]] = []

    async def app(call: Call) -> None:
        scopes.append(
            {key: call.scope[key] for key in call.scope.keys() - {"client", "server", "extensions", "state"}}
        )
        assert "websocket.http.response" in call.scope["extensions"]
        await call.accept()
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands("Sec-WebSocket-Protocol: a, b", "X-Some: \xe4", "Cookie: c=d")
        await line.put(CLOSING)

    stage.play(script, app)
    theirs, ours = scopes
    assert ours == theirs
    assert theirs["path"] == "/some where"
    assert theirs["raw_path"] == b"/some%20where"
    assert theirs["query_string"] == b"a=b"
    assert theirs["subprotocols"] == ["a", "b"]
    assert dict(theirs["headers"])[b"cookie"] == b"c=d"


def test_an_acceptance_may_have_a_subprotocol_and_headers(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.receive()
        more = [(b"X-One", b"1"), (b"set-cookie", b"a=b"), (b"Set-Cookie", b"c=d")]
        await call.send("accept", subprotocol="b", headers=more)
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands("Sec-WebSocket-Protocol: a, b")
        await line.put(CLOSING)

    played = stage.play(script, app)
    assert played.status == 101
    assert headers_of(played)["sec-websocket-protocol"] == "b"
    assert headers_of(played)["x-one"] == "1"
    assert played.head.count("set-cookie: ") == 2


def test_the_servers_own_headers_are_sent(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(CLOSING)

    settings: dict[str, Any] = {"headers": [("x-more", "1")], "server_header": False, "date_header": False}
    assert stage.play(script, app, **settings).head.split("\r\n")[4:] == ["x-more: 1"]


# --- refusals


def test_a_close_instead_of_an_acceptance_is_a_403(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.receive()
        await call.send("close", code=4000, reason="no")
        await call.see_it_out()
        await call.try_to_send("accept")
        await call.try_to_send("send", text="late")

    async def script(line: Line) -> None:
        await line.ask()

    played = stage.play(script, app)
    assert played.status == 403
    assert played.end == "FIN"
    assert played.seen[1] == disconnect(1006)
    assert played.seen[-1] == "returned"


@pytest.mark.parametrize("bodies", [[b"no"], [b"n", b"", b"o"], [b""]])
def test_a_response_instead_of_an_acceptance(stage: Stage, bodies: list[bytes]) -> None:
    async def app(call: Call) -> None:
        await call.receive()
        await call.send("http.response.start", status=451, headers=[(b"x-why", b"law")])
        for body in bodies[:-1]:
            await call.send("http.response.body", body=body, more_body=True)
        await call.send("http.response.body", body=bodies[-1])
        await call.see_it_out()
        await call.try_to_send("accept")

    async def script(line: Line) -> None:
        await line.ask()

    played = stage.play(script, app)
    assert played.status == 451
    assert headers_of(played)["x-why"] == "law"
    assert headers_of(played)["content-length"] == str(len(b"".join(bodies)))
    assert body_of(played) == b"".join(bodies).decode()
    assert played.seen[1] == disconnect(1006)


def test_a_large_response_instead_of_an_acceptance(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.receive()
        await call.send("http.response.start", status=403, headers=[])
        await call.send("http.response.body", body=b"x" * 500_000)

    async def script(line: Line) -> None:
        await line.ask()

    assert body_of(stage.play(script, app)) == "x" * 500_000


async def return_before(call: Call) -> None:
    await call.receive()


async def fail_before(call: Call) -> None:
    raise LookupError


@pytest.mark.parametrize("app", [return_before, fail_before])
def test_an_application_that_ends_without_an_answer_is_a_500(stage: Stage, app: Any) -> None:
    async def script(line: Line) -> None:
        await line.ask()

    played = stage.play(script, app)
    assert (played.status, played.end) == (500, "FIN")


def test_an_application_that_ends_within_its_response(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.receive()
        await call.send("http.response.start", status=403, headers=[])
        await call.send("http.response.body", body=b"x", more_body=True)

    async def script(line: Line) -> None:
        await line.ask()
        await line.hear_the_rest()

    played = stage.play(script, app)
    assert (played.head, played.end) == ("", "FIN")


# --- what ASGI forbids


def test_what_is_out_of_turn_is_refused_and_does_no_harm(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.receive()
        await call.try_to_send("send", text="early")
        await call.try_to_send("http.response.body", body=b"")
        await call.try_to_send("http.response.start", status=99, headers=[])
        await call.send("accept")
        await call.try_to_send("accept")
        await call.try_to_send("http.response.start", status=403, headers=[])
        await call.send("send", text="fine")
        await call.try_to_send("nonsense")
        await call.try_to_send("send", text="\ud800")
        await call.send("send", text="still")
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.ask()
        await line.hear(2)
        await line.put(CLOSING)

    played = stage.play(script, app)
    assert played.wire == said(TEXT, b"fine") + said(TEXT, b"still") + said(CLOSE, reason_for(1000))
    assert played.seen == (
        CONNECT,
        "send: RuntimeError",
        "http.response.body: RuntimeError",
        "http.response.start: RuntimeError",
        "accept: RuntimeError",
        "http.response.start: RuntimeError",
        "nonsense: RuntimeError",
        "send: UnicodeEncodeError",
        disconnect(1000, ""),
        "returned",
    )


@pytest.mark.parametrize(
    ("event", "wire"),
    [
        ({"text": "a", "bytes": None}, said(TEXT, b"a")),
        ({"text": None, "bytes": b"a"}, said(0x2, b"a")),
        ({"text": "a", "bytes": b"b"}, said(0x2, b"b")),
        ({"text": "", "bytes": None}, said(TEXT, b"")),
        ({"text": None, "bytes": b""}, said(0x2, b"")),
        ({"bytes": bytearray(b"a" * 200)}, said(0x2, b"a" * 200)),
        ({"bytes": memoryview(b"a" * 70_000)}, said(0x2, b"a" * 70_000)),
        ({}, b""),
    ],
)
def test_either_kind_of_message_may_be_sent(stage: Stage, event: dict[str, Any], wire: bytes) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.send("send", **event)
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(CLOSING)

    assert stage.play(script, app).wire == wire + said(CLOSE, reason_for(1000))


@pytest.mark.parametrize(
    "event",
    [
        {"text": 1},
        {"bytes": 7},
        {"bytes": "a"},
        {"text": b"a"},
    ],
)
def test_what_is_neither_text_nor_bytes_is_refused(stage: Stage, event: dict[str, Any]) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        with pytest.raises((TypeError, AttributeError)):  # whichever: neither is promised
            await call.send("send", **event)
        call.seen.pop()
        await call.send("send", text="fine")
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.hear(1)
        await line.put(CLOSING)

    played = stage.play(script, app)
    assert played.wire == said(TEXT, b"fine") + said(CLOSE, reason_for(1000))


def test_bytes_that_change_later_are_sent_as_they_were(stage: Stage) -> None:
    async def app(call: Call) -> None:
        data = bytearray(b"as it was")
        await call.accept()
        await call.send("send", bytes=data)
        data[:] = b"otherwise"
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(CLOSING)

    assert stage.play(script, app).wire == said(0x2, b"as it was") + said(CLOSE, reason_for(1000))
