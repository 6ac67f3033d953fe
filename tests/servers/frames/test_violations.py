"""Frames that RFC 6455 forbids, and messages that are too big: the connection fails with the code for it."""

from __future__ import annotations

from typing import Any

import pytest

from .apps import echo
from .line import Line
from .stage import Stage, Transcript, disconnect
from .wire import BINARY, CLOSE, CONT, PING, PONG, RSV1, TEXT, reason_for, said, to_server

CONNECT = {"type": "websocket.connect"}
CLOSING = to_server(CLOSE, reason_for(1000))
CLOSED = said(CLOSE, reason_for(1000))
LIMIT = 1_000


def failed_with(code: int, played: Transcript) -> None:
    """It was closed with `code`, of which the application knows, and ended."""
    assert played.code == code
    assert played.end in ("FIN", "RST")
    told = [event for event in played.seen if isinstance(event, dict) and "code" in event]
    assert [event["code"] for event in told] == [code]
    assert said(CLOSE, reason_for(code, told[0]["reason"])) == played.wire[len(played.before_close) :]


VIOLATIONS = {
    "an unmasked frame": to_server(TEXT, b"x", mask=b""),
    "an unmasked close": to_server(CLOSE, reason_for(1000), mask=b""),
    "RSV1 without an extension": to_server(TEXT, b"x", rsv=RSV1),
    "RSV2": to_server(TEXT, b"x", rsv=0x20),
    "RSV3": to_server(BINARY, b"x", rsv=0x10),
    "RSV1 in a ping": to_server(PING, b"x", rsv=RSV1),
    "RSV1 in a close": to_server(CLOSE, rsv=RSV1),
    **{f"opcode {opcode}": to_server(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a continuation of nothing": to_server(CONT, b"x"),
    "a fragment of nothing": to_server(CONT, b"x", fin=False),
    "text within text": to_server(TEXT, b"x", fin=False) + to_server(TEXT, b"y"),
    "binary within text": to_server(TEXT, b"x", fin=False) + to_server(BINARY, b"y", fin=False),
    "a close within a message": to_server(TEXT, b"x", fin=False) + CLOSING,
    "a fragment of a ping": to_server(PING, b"x", fin=False),
    "a fragment of a pong": to_server(PONG, b"x", fin=False),
    "a fragment of a close": to_server(CLOSE, fin=False),
    "a ping of 126 bytes": to_server(PING, b"x" * 126),
    "a pong of 65,536 bytes": to_server(PONG, b"x" * 65_536),
    "a close of 126 bytes": to_server(CLOSE, reason_for(1000, "x" * 124)),
    "half of the head of what is unmasked": to_server(TEXT, b"x" * 200, mask=b"")[:2],
}


@pytest.mark.parametrize("wire", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_fails_with_1002(stage: Stage, wire: bytes) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(wire)

    played = stage.play(script, echo)
    failed_with(1002, played)
    assert not played.before_close


@pytest.mark.parametrize("wire", VIOLATIONS.values(), ids=VIOLATIONS)
def test_messages_before_a_violation_are_answered(stage: Stage, wire: bytes) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"fine"), to_server(PING, b"fine"))
        await line.hear(2)
        await line.put(wire)

    played = stage.play(script, echo)
    failed_with(1002, played)
    assert played.before_close.startswith(said(TEXT, b"fine") + said(PONG, b"fine"))


@pytest.mark.parametrize("before", [to_server(TEXT, b"x"), to_server(TEXT, b"x") * 3, to_server(PING, b"x")])
def test_a_violation_in_one_segment_with_others(stage: Stage, before: bytes) -> None:
    """Messages of that segment are lost, and pings are answered."""

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(before + to_server(3) + CLOSING)

    played = stage.play(script, echo)
    failed_with(1002, played)
    assert played.before_close == (said(PONG, b"x") if before == to_server(PING, b"x") else b"")


def test_what_follows_a_violation_is_ignored(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"x", mask=b""), to_server(PING, b"late"), CLOSING)

    played = stage.play(script, echo)
    failed_with(1002, played)
    assert not played.before_close


# --- text that is none


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param((to_server(TEXT, b"\xff"),), id="one frame"),
        pytest.param((to_server(TEXT, b"\xed\xa0\x80"),), id="a surrogate"),
        pytest.param((to_server(TEXT, "€".encode()[:2]),), id="cut short"),
        pytest.param(
            (to_server(TEXT, "€".encode()[:2], fin=False), to_server(CONT, b"")), id="cut short, by fragments"
        ),
        pytest.param((to_server(TEXT, b"ab\xc0", fin=False) + to_server(CONT, b"cd"),), id="by fragments"),
        pytest.param((to_server(TEXT, b"\xff") + to_server(TEXT, b"fine"),), id="and a message"),
    ],
)
def test_text_that_is_none_fails_with_1007(stage: Stage, segments: tuple[bytes, ...]) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(*segments)

    played = stage.play(script, echo)
    failed_with(1007, played)
    assert not played.before_close
    assert played.seen[2:] == ("returned",)


def test_text_that_is_none_after_a_message_of_the_same_segment(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"fine") + to_server(TEXT, b"\xff"))

    played = stage.play(script, echo)
    assert played.code == 1007
    assert played.seen[1:] == (
        {"type": "websocket.receive", "text": "fine"},
        "send: RuntimeError",
        "raised RuntimeError",
    )


def test_text_that_is_none_and_a_close_in_one_segment(stage: Stage) -> None:
    """More than uvicorn is prepared for: its transport is aborted, after what it answered so far."""

    async def script(line: Line) -> None:
        await line.shake_hands()
        fine, ping = to_server(TEXT, b"fine"), to_server(PING, b"?")
        await line.put(fine + ping + to_server(TEXT, b"\xff") + CLOSING)

    played = stage.play(script, echo)
    assert played.wire == said(PONG, b"?") + CLOSED
    assert played.seen[1:] == (
        {"type": "websocket.receive", "text": "fine"},
        "send: OSError",
        "raised ClientDisconnected",
    )


# --- too big


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_at_the_limit_is_fine(stage: Stage, opcode: int) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(opcode, b"x" * LIMIT))
        await line.put(to_server(opcode, b"x" * (LIMIT - 1), fin=False), to_server(CONT, b"x"))
        await line.hear(2)
        await line.put(CLOSING)

    assert stage.play(script, echo, ws_max_size=LIMIT).wire == said(opcode, b"x" * LIMIT) * 2 + CLOSED


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param((to_server(TEXT, b"x" * (LIMIT + 1)),), id="one frame"),
        pytest.param((to_server(BINARY, announced=LIMIT + 1),), id="announced only"),
        pytest.param((to_server(BINARY, announced=2**63 - 1),), id="a lot, announced only"),
        pytest.param((to_server(PING, announced=LIMIT + 1),), id="a ping, announced only"),
        pytest.param(
            (to_server(TEXT, b"x" * LIMIT, fin=False), to_server(CONT, fin=False), to_server(CONT, b"x")),
            id="by fragments",
        ),
        pytest.param((to_server(TEXT, b"x" * 600, fin=False) + to_server(CONT, b"x" * 401),), id="together"),
        pytest.param((to_server(BINARY, b"x" * 200_000),), id="much more than is read at once"),
    ],
)
def test_a_message_beyond_the_limit_fails_with_1009(stage: Stage, segments: tuple[bytes, ...]) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"fine"))
        await line.hear(1)
        await line.put(*segments)

    played = stage.play(script, echo, ws_max_size=LIMIT)
    failed_with(1009, played)
    assert played.before_close == said(TEXT, b"fine")


def test_a_violation_while_the_application_sends(stage: Stage) -> None:
    async def app(call: Any) -> None:
        await call.accept()
        await call.send("send", text="before")
        await call.cue.wait()
        await call.try_to_send("send", text="after")
        await call.try_to_send("close", code=4000)
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.hear(1)
        await line.put(to_server(TEXT, b"x", mask=b""))
        line.cue.set()

    played = stage.play(script, app)
    failed_with(1002, played)
    assert played.before_close == said(TEXT, b"before")
    assert played.seen[1:3] == ("send: OSError", "close: OSError")


def test_a_violation_ends_what_nobody_receives(stage: Stage) -> None:
    async def app(call: Any) -> None:
        await call.accept()
        await call.cue.wait()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(3))

    played = stage.play(script, app)
    assert played.code == 1002
    assert played.seen == (CONNECT, "returned")


def test_nothing_of_a_violation_is_told_twice(stage: Stage) -> None:
    async def app(call: Any) -> None:
        await call.accept()
        await call.see_it_out()
        await call.receive()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(3))

    assert stage.play(script, app).seen[2:] == (disconnect(1005), "returned")
