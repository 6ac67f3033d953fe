"""Peers that do not read, applications that do not receive, and the pings of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import pytest

from .apps import echo
from .line import Line, until
from .stage import Call, Stage, Transcript, disconnect
from .wire import BINARY, CLOSE, FIN, PING, PONG, TEXT, frames_of, reason_for, said, to_server

CONNECT = {"type": "websocket.connect"}
CLOSING = to_server(CLOSE, reason_for(1000))
CLOSED = said(CLOSE, reason_for(1000))
# More than the sockets of both sides hold.
REFUSED = ("send: OSError", "send: RuntimeError")
CHUNK, CHUNKS = b"x" * 50_000, 40


def text(payload: str) -> dict[str, object]:
    return {"type": "websocket.receive", "text": payload}


def without_repeats(played: Transcript) -> Transcript:
    """How much a server sends before it waits is its own affair; so is whether a send that waits is refused
    for the close or for the loss that follows it."""
    frames = [frame for frame, _ in groupby(frames_of(played.wire)) if frame[0] != -1]
    wire = b"".join(said(first & 0x0F, payload) for first, payload in frames)
    seen = tuple("send: refused" if each in REFUSED else each for each in played.seen)
    return replace(played, wire=wire, seen=seen)


def without_pings(played: Transcript) -> Transcript:
    """When they are due is a matter of time, and what is in them of chance."""
    frames = [frame for frame in frames_of(played.wire) if frame[0] != FIN | PING]
    return replace(played, wire=b"".join(said(first & 0x0F, payload) for first, payload in frames))


# --- peers that do not read


async def flood(call: Call) -> None:
    """Send until nobody is there, at most all."""
    await call.accept()
    try:
        for _ in range(CHUNKS):
            await call.send("send", bytes=CHUNK)
        call.seen.append("all sent")
    except (OSError, RuntimeError):
        pass
    await call.see_it_out()


def test_a_peer_that_reads_late_gets_everything(stage: Stage) -> None:
    async def script(line: Line) -> None:
        line.narrow()
        await line.shake_hands()
        await line.hear_bytes(CHUNKS * len(said(BINARY, CHUNK)))
        await line.put(CLOSING)

    played = stage.play(script, flood)
    assert played.wire == said(BINARY, CHUNK) * CHUNKS + CLOSED
    assert played.seen == (CONNECT, "all sent", disconnect(1000, ""), "returned")


@pytest.mark.parametrize(
    ("end", "code"),
    [(CLOSING, 1000), (to_server(3), 1002), (to_server(TEXT, b"\xff"), 1007)],
    ids=["a close", "a violation", "text that is none"],
)
def test_an_end_that_comes_while_the_peer_does_not_read(stage: Stage, end: bytes, code: int) -> None:
    """What is on its way still arrives, and the waiting send fails."""

    async def script(line: Line) -> None:
        line.narrow()
        await line.shake_hands()
        await line.put(end)

    played = stage.play(script, flood, view=without_repeats)
    assert (played.code, played.before_close) == (code, said(BINARY, CHUNK))
    assert played.seen[:2] == (CONNECT, "send: refused")
    assert played.seen[2]["code"] == code


def test_a_reset_while_the_peer_does_not_read(stage: Stage) -> None:
    async def script(line: Line) -> None:
        line.narrow()
        await line.shake_hands()
        await line.reset()

    played = stage.play(script, flood, view=without_repeats)
    assert played.seen == (CONNECT, "send: refused", disconnect(1005), "returned")


def test_a_half_close_while_the_peer_does_not_read(stage: Stage) -> None:
    async def script(line: Line) -> None:
        line.narrow()
        await line.shake_hands()
        await line.half_close()

    played = stage.play(script, flood, view=without_repeats)
    assert (played.wire, played.end) == (said(BINARY, CHUNK), "FIN")
    assert played.seen == (CONNECT, "send: refused", disconnect(1005), "returned")


def test_a_shutdown_while_the_peer_does_not_read(stage: Stage) -> None:
    async def script(line: Line) -> None:
        line.narrow()
        await line.shake_hands()
        await line.shut_down()

    played = stage.play_alone(script, flood, view=without_repeats)
    assert played.wire == said(BINARY, CHUNK) + said(CLOSE, reason_for(1012))
    assert played.seen == (CONNECT, "send: refused", disconnect(1012), "returned")


def test_a_ping_while_the_peer_does_not_read_is_answered_in_its_place(stage: Stage) -> None:
    async def script(line: Line) -> None:
        line.narrow()
        await line.shake_hands()
        await line.put(to_server(PING, b"?"))
        await line.hear_bytes(CHUNKS * len(said(BINARY, CHUNK)) + len(said(PONG, b"?")))
        await line.put(CLOSING)

    played = stage.play(script, flood, view=without_repeats)
    assert played.wire == said(BINARY, CHUNK) + said(PONG, b"?") + said(BINARY, CHUNK) + CLOSED


def test_one_message_of_any_size_is_taken_before_a_close(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.send("send", bytes=CHUNK * 40)
        await call.send("close", code=4000)

    async def script(line: Line) -> None:
        line.narrow()
        await line.shake_hands()
        await line.settle()
        await line.hear_bytes(len(said(BINARY, CHUNK * 40)) + 4)
        await line.put(CLOSING)

    played = stage.play(script, app)
    assert played.wire == said(BINARY, CHUNK * 40) + said(CLOSE, reason_for(4000))


def test_an_application_that_ends_leaves_what_it_sent(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.send("send", bytes=CHUNK * 40)

    async def script(line: Line) -> None:
        line.narrow()
        await line.shake_hands()

    played = stage.play(script, app)
    assert (played.wire, played.end) == (said(BINARY, CHUNK * 40), "FIN")


def test_several_senders_keep_their_order(stage: Stage) -> None:
    async def app(call: Call) -> None:
        async def sender(name: str) -> None:
            for number in range(CHUNKS):
                await call.send("send", text=f"{name} {number} " + "x" * 50_000)

        await call.accept()
        await asyncio.gather(sender("a"), sender("b"))
        await call.see_it_out()

    async def script(line: Line) -> None:
        line.narrow()
        await line.shake_hands()
        size = sum(2 * len(said(TEXT, b"a %d " % each + b"x" * 50_000)) for each in range(CHUNKS))
        await line.hear_bytes(size)
        await line.put(CLOSING)

    for played in stage.play_both(script, app):
        names = [payload[:6].split()[:2] for _, payload in frames_of(played.before_close)]
        for name in (b"a", b"b"):
            assert [int(number) for which, number in names if which == name] == [*range(CHUNKS)]


def test_a_burst_of_many_sizes_keeps_its_order(stage: Stage) -> None:
    sizes = [0, 10, 125, 126, 16_383, 1, 16_384, 16_385, 70_000, 1, 0] * 5

    async def app(call: Call) -> None:
        await call.accept()
        for size in sizes:
            await call.send("send", bytes=b"x" * size)
            if size == 1:
                await asyncio.sleep(0)
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        wire = b"".join(said(BINARY, b"x" * size) for size in sizes)
        await line.hear_bytes(len(wire))
        await line.put(CLOSING)

    played = stage.play(script, app)
    assert [len(payload) for _, payload in frames_of(played.before_close)] == sizes


# --- applications that do not receive


def test_nothing_is_read_while_a_message_waits(stage: Stage) -> None:
    """Neither messages nor pings: what is not received is bounded by the sockets."""

    async def app(call: Call) -> None:
        await call.accept()
        await call.cue.wait()
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(PING, b"1"), to_server(TEXT, b"a"))
        await line.put(to_server(PING, b"2"), to_server(TEXT, b"b"), CLOSING)
        await line.hear(1)
        assert not await line.hears_more()
        line.cue.set()

    played = stage.play(script, app)
    assert played.wire == said(PONG, b"1") + said(PONG, b"2") + CLOSED
    assert played.seen == (CONNECT, text("a"), text("b"), disconnect(1000, ""), "returned")


def test_reading_goes_on_once_a_message_is_taken(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.receive()
        await call.cue.wait()
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"a"), to_server(PING, b"1"))
        await line.hear(1)
        await line.put(to_server(TEXT, b"b"), to_server(PING, b"2"))
        assert not await line.hears_more()
        line.cue.set()
        await line.hear(2)
        await line.put(CLOSING)

    played = stage.play(script, app)
    assert played.wire == said(PONG, b"1") + said(PONG, b"2") + CLOSED


def test_an_application_that_never_receives(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.send("accept")
        await call.cue.wait()
        await call.try_to_send("send", text="late")

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(CLOSING)

    played = stage.play(script, app)
    assert played.wire == CLOSED
    assert played.seen == ("send: OSError", "returned")


def test_a_receive_that_is_cancelled_loses_nothing(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        while not call.seen[-1].get("code"):
            receiving = asyncio.create_task(call.receive())
            await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def script(line: Line) -> None:
        await line.shake_hands()
        for number in range(20):
            line.put_at_once(to_server(TEXT, b"%d" % number))
            for _ in range(number % 4):
                await asyncio.sleep(0)
        await line.put(CLOSING)

    played = stage.play(script, app)
    numbers = tuple(text(str(number)) for number in range(20))
    assert played.seen == (CONNECT, *numbers, disconnect(1000, ""), "returned")


@pytest.mark.parametrize("turns", range(6))
def test_a_message_finds_another_receiver_when_one_is_cancelled(stage: Stage, turns: int) -> None:
    """Also when that one has been woken for it."""

    async def app(call: Call) -> None:
        async def answer() -> None:
            await call.receive()
            await call.send("send", text="received")

        await call.accept()
        first, second = [asyncio.create_task(answer()) for _ in range(2)]
        await until(call.cue.is_set)  # which, unlike to wait, takes no turn of its own
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await second
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        line.put_at_once(to_server(TEXT, b"a"))
        for _ in range(turns):
            await asyncio.sleep(0)
        line.cue.set()
        await line.hear(1)
        await line.put(to_server(TEXT, b"b"), CLOSING)

    played = stage.play(script, app)
    assert played.seen == (CONNECT, text("a"), text("b"), disconnect(1000, ""), "returned")


def test_several_receivers_take_turns(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        first, second, third = [asyncio.create_task(call.receive()) for _ in range(3)]
        await asyncio.sleep(0)
        second.cancel()
        call.seen.append([event.get("text") for event in await asyncio.gather(first, third)])
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"a") + to_server(TEXT, b"b") + to_server(TEXT, b"c"))
        await line.put(CLOSING)

    played = stage.play(script, app)
    assert played.seen[1:] == (
        text("a"),
        text("b"),
        ["a", "b"],
        text("c"),
        disconnect(1000, ""),
        "returned",
    )


# --- pings of the server


def test_a_ping_that_is_answered_keeps_it_open(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        for number in range(1, 4):
            await line.put(to_server(PONG, await line.hear(number)))
        await line.put(to_server(TEXT, b"still"))
        while (FIN | TEXT, b"still") not in line.frames:
            await line.hear(len(line.frames) + 1)
        await line.put(CLOSING)

    played = stage.play(script, echo, view=without_pings, ws_ping_interval=0.05, ws_ping_timeout=5)
    assert played.wire == said(TEXT, b"still") + CLOSED


@pytest.mark.parametrize("answer", [lambda ping: None, lambda ping: b"", lambda ping: ping + b"x"])
def test_a_ping_that_is_not_answered_closes_with_1011(
    stage: Stage, answer: Callable[[bytes], bytes | None]
) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        payload = answer(await line.hear(1))
        if payload is not None:
            await line.put(to_server(PONG, payload))

    played = stage.play(script, echo, view=without_pings, ws_ping_interval=0.05, ws_ping_timeout=0.05)
    assert played.wire == said(CLOSE, reason_for(1011, "keepalive ping timeout"))
    assert played.seen == (CONNECT, disconnect(1005), "returned")


def test_pings_without_a_timeout_go_on_unanswered(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.hear(3)
        await line.put(CLOSING)

    played = stage.play(script, echo, view=without_pings, ws_ping_interval=0.02, ws_ping_timeout=None)
    assert played.wire == CLOSED


def test_a_ping_comes_in_order_with_messages(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        await call.send("send", text="before")
        await call.cue.wait()
        await call.send("send", text="after")
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.hear(2)
        line.cue.set()
        await line.hear(3)
        await line.put(CLOSING)

    played = stage.play(script, app, view=without_pings, ws_ping_interval=0.05, ws_ping_timeout=5)
    assert played.wire == said(TEXT, b"before") + said(TEXT, b"after") + CLOSED
