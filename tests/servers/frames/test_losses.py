"""Connections that end without a closing handshake: half-closed, reset, or ended with the server."""

from __future__ import annotations

import pytest

from .apps import FAREWELL, close_when_told, echo
from .line import Line
from .stage import Call, Stage, disconnect
from .wire import CLOSE, TEXT, reason_for, said, to_server

CONNECT = {"type": "websocket.connect"}


# --- by the client


def test_a_half_close_after_a_message(stage: Stage) -> None:
    """The disconnect has no code of its own."""

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"last"))
        await line.half_close()

    played = stage.play(script, echo)
    assert (played.wire, played.end) == (said(TEXT, b"last"), "FIN")
    assert played.seen[-2:] == (disconnect(1005), "returned")


def test_a_half_close_right_after_a_message(stage: Stage) -> None:
    """The answer was sent before the end was seen."""

    async def script(line: Line) -> None:
        await line.shake_hands()
        line.put_at_once(to_server(TEXT, b"last"))
        await line.half_close()

    played = stage.play(script, echo)
    assert (played.wire, played.end) == (said(TEXT, b"last"), "FIN")
    assert played.seen[-2:] == (disconnect(1005), "returned")


@pytest.mark.parametrize("rest", [b"", to_server(TEXT, b"half")[:-2], to_server(TEXT, b"a", fin=False)])
def test_a_half_close_without_a_close(stage: Stage, rest: bytes) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        if rest:
            await line.put(rest)
        await line.half_close()

    played = stage.play(script, echo)
    assert (played.wire, played.end) == (b"", "FIN")
    assert played.seen == (CONNECT, disconnect(1005), "returned")


def test_a_half_close_while_the_application_sends(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.send("send", text="before")
        await call.cue.wait()
        for _ in range(2):
            await call.try_to_send("send", text="after")
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.half_close()
        line.cue.set()

    played = stage.play(script, app)
    assert played.wire == said(TEXT, b"before")
    assert played.seen[1:] == (*["send: OSError"] * 2, disconnect(1005), "returned")


def test_a_half_close_in_the_handshake(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.receive()
        await call.cue.wait()
        await call.try_to_send("accept")
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.ask()
        await line.half_close()
        line.cue.set()

    played = stage.play(script, app)
    assert (played.wire, played.end) == (b"", "FIN")
    assert played.seen == (CONNECT, "accept: OSError", disconnect(1006), "returned")


def test_a_reset(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"x"))
        await line.hear(1)
        await line.reset()

    assert stage.play(script, echo).seen[-2:] == (disconnect(1005), "returned")


def test_a_reset_while_the_application_sends(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.cue.wait()
        for _ in range(3):
            await call.try_to_send("send", bytes=b"x" * 1_000)
        await call.try_to_send("close", code=4000)
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.reset()
        line.cue.set()

    played = stage.play(script, app)
    assert played.seen[1:] == (*["send: OSError"] * 3, "close: OSError", disconnect(1005), "returned")


def test_a_reset_after_the_application_closed(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"go"))
        await line.hear(2)
        await line.reset()

    assert disconnect(4002, "enough, ä") in stage.play(script, close_when_told).seen


def test_a_half_close_after_the_application_closed(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"go"))
        await line.hear(2)
        await line.half_close()

    played = stage.play(script, close_when_told)
    assert (played.wire, played.end) == (FAREWELL, "FIN")


# --- by the server


def test_a_shutdown_closes_with_1012(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.send("send", text="before")
        await call.see_it_out()
        await call.try_to_send("send", text="late")

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.hear(1)
        await line.shut_down()

    played = stage.play_alone(script, app)
    assert played.wire == said(TEXT, b"before") + said(CLOSE, reason_for(1012))
    assert played.seen == (CONNECT, disconnect(1012), "send: OSError", "returned")


def test_a_shutdown_in_the_handshake_answers_500(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.receive()
        await call.receive()
        await call.try_to_send("accept")

    async def script(line: Line) -> None:
        await line.ask()
        await line.shut_down()

    played = stage.play_alone(script, app)
    assert played.status == 500
    assert played.seen[1:] == (disconnect(1006), "accept: OSError", "returned")


def test_a_shutdown_after_the_application_closed_waits_for_nobody(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"go"))
        await line.hear(2)
        await line.shut_down()

    played = stage.play_alone(script, close_when_told)
    assert (played.wire, played.end) == (FAREWELL, "FIN")
