"""Closing handshakes, whoever begins them and however they go wrong."""

from __future__ import annotations

from typing import Any

import pytest

from .apps import FAREWELL, close_when_told, echo
from .line import Line
from .stage import Call, Stage, disconnect
from .wire import BINARY, CLOSE, PING, TEXT, reason_for, said, to_server

CONNECT = {"type": "websocket.connect"}
CLOSING = to_server(CLOSE, reason_for(1000))
CLOSED = said(CLOSE, reason_for(1000))


def close_of(code: int, reason: str = "") -> bytes:
    return to_server(CLOSE, reason_for(code, reason))


# --- by the client


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"", 1005, ""),
        (reason_for(1000), 1000, ""),
        (reason_for(1000, "enough, ä"), 1000, "enough, ä"),
        (reason_for(1001, "x" * 123), 1001, "x" * 123),
        (reason_for(1011), 1011, ""),
        (reason_for(3000), 3000, ""),
        (reason_for(4999, "bye"), 4999, "bye"),
    ],
)
def test_a_close_is_echoed_and_told(stage: Stage, payload: bytes, code: int, reason: str) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(CLOSE, payload))

    played = stage.play(script, echo)
    assert played.wire == said(CLOSE, payload)
    assert played.end == "FIN"
    assert played.seen == (CONNECT, disconnect(code, reason), "returned")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (reason_for(0), 1002),
        (reason_for(999), 1002),
        (reason_for(1004), 1002),
        (reason_for(1005), 1002),
        (reason_for(1006), 1002),
        (reason_for(1015), 1002),
        (reason_for(2999), 1002),
        (reason_for(5000), 1002),
        (b"\x03", 1002),
        (reason_for(1000) + b"\xff", 1007),
        (reason_for(1000) + "€".encode()[:2], 1007),
    ],
)
def test_a_close_that_is_none_is_refused(stage: Stage, payload: bytes, code: int) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(CLOSE, payload))

    played = stage.play(script, echo)
    assert played.code == code
    assert not played.before_close
    assert played.seen[1]["code"] == code
    assert played.seen[2:] == ("returned",)


def test_nothing_counts_after_a_close(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(CLOSING + to_server(TEXT, b"late") + to_server(PING, b"late") + b"\xff\xff")

    played = stage.play(script, echo)
    assert played.wire == CLOSED
    assert played.seen == (CONNECT, disconnect(1000, ""), "returned")


def test_a_message_right_before_a_close_is_received(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"last") + close_of(4000))

    played = stage.play(script, echo)
    assert played.wire == said(CLOSE, reason_for(4000))
    assert played.seen[1:] == (
        {"type": "websocket.receive", "text": "last"},
        "send: OSError",
        "raised ClientDisconnected",
    )


def test_a_close_in_the_middle_of_a_burst_ends_it(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.send("send", text="before")
        await call.cue.wait()
        for _ in range(3):
            await call.try_to_send("send", text="after")
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.hear(1)
        await line.put(close_of(4001, "bye"))
        line.cue.set()

    played = stage.play(script, app)
    assert played.wire == said(TEXT, b"before") + said(CLOSE, reason_for(4001, "bye"))
    assert played.seen[1:] == (*["send: OSError"] * 3, disconnect(4001, "bye"), "returned")


def test_what_was_sent_in_one_turn_with_the_answer_to_a_close_leaves_before_it(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.receive()
        for _ in range(5):
            await call.send("send", bytes=b"burst")
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"go"), close_of(1000))

    played = stage.play(script, app)
    assert played.wire == said(BINARY, b"burst") * 5 + CLOSED


def test_events_go_on_after_the_disconnect(stage: Stage) -> None:
    """An application that receives on gets what the lost connection leaves, and no more."""

    async def app(call: Call) -> None:
        await call.accept()
        await call.see_it_out()
        await call.receive()
        await call.try_to_send("send", text="late")
        await call.try_to_send("close")

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(close_of(4000, "x"))

    played = stage.play(script, app)
    assert played.seen == (
        CONNECT,
        disconnect(4000, "x"),
        disconnect(1005),
        "send: OSError",
        "close: OSError",
        "returned",
    )


# --- by the application


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((to_server(CLOSE, reason_for(4002)),), id="at once"),
        pytest.param((to_server(TEXT, b"x"), to_server(BINARY, b"y" * 200), CLOSING), id="after data"),
        pytest.param((to_server(TEXT, b"x") + to_server(TEXT, b"y") + CLOSING,), id="with data"),
        pytest.param((to_server(TEXT, b"x", fin=False), CLOSING), id="within a message"),
        pytest.param((to_server(CLOSE, b"\x01"),), id="badly"),
        pytest.param((to_server(TEXT, b"x", mask=b""),), id="by nonsense"),
        pytest.param((to_server(TEXT, b"\xff"), CLOSING), id="by text that is none"),
    ],
)
def test_the_application_closes_and_the_client_answers(stage: Stage, answer: tuple[bytes, ...]) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"go"))
        await line.hear(2)
        await line.put(*answer)

    played = stage.play(script, close_when_told)
    assert played.wire == FAREWELL
    assert disconnect(4002, "enough, ä") in played.seen
    assert played.seen[-3].startswith("send: ")
    assert played.seen[-2:] == ("close: RuntimeError", "returned")


def test_a_ping_after_the_application_closed_is_answered(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"go"))
        await line.hear(2)
        await line.put(to_server(PING, b"?"), CLOSING)

    played = stage.play(script, close_when_told)
    assert played.wire == FAREWELL + said(0xA, b"?")


def test_messages_that_nobody_received_do_not_keep_a_close_open(stage: Stage) -> None:
    """The application closes while reading is paused."""

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"go") * 5)
        await line.put(to_server(TEXT, b"more"), CLOSING)

    played = stage.play(script, close_when_told)
    assert played.wire == FAREWELL
    assert played.end == "FIN"


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ({}, reason_for(1000)),
        ({"code": 1001}, reason_for(1001)),
        ({"code": 3000, "reason": None}, reason_for(3000)),
        ({"code": 4999, "reason": "x" * 123}, reason_for(4999, "x" * 123)),
    ],
)
def test_the_application_may_close_with(stage: Stage, event: dict[str, Any], payload: bytes) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.send("close", **event)
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.hear(1)
        await line.put(CLOSING)

    assert stage.play(script, app).wire == said(CLOSE, payload)


@pytest.mark.parametrize("event", [{"code": 999}, {"code": 1005}, {"reason": "x" * 124}])
def test_the_application_may_not_close_with(stage: Stage, event: dict[str, Any]) -> None:
    """What could not be sent does not close, though a disconnect is told."""

    async def app(call: Call) -> None:
        await call.accept()
        await call.try_to_send("close", **event)
        await call.send("send", text="still here")
        await call.receive()
        await call.receive()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.hear(1)
        await line.put(CLOSING)

    played = stage.play(script, app)
    assert played.wire == said(TEXT, b"still here") + CLOSED
    told = disconnect(event.get("code", 1000), event.get("reason", ""))
    assert played.seen == (CONNECT, "close: ProtocolError", told, disconnect(1000, ""), "returned")


async def return_at_once(call: Call) -> None:
    await call.accept()
    await call.send("send", text="last")


async def fail_at_once(call: Call) -> None:
    await return_at_once(call)
    raise LookupError


async def return_after_a_message(call: Call) -> None:
    await call.accept()
    await call.receive()
    await call.send("send", text="last")


@pytest.mark.parametrize("app", [return_at_once, fail_at_once])
def test_an_application_that_ends_ends_the_connection(stage: Stage, app: object) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()

    played = stage.play(script, app)  # type: ignore[arg-type]
    assert played.wire == said(TEXT, b"last")
    assert played.end == "FIN"


def test_an_application_that_ends_with_messages_unread(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"x") * 3)

    played = stage.play(script, return_after_a_message)
    assert played.wire == said(TEXT, b"last")
