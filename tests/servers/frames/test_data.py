"""Messages: of every size, in every segmentation, and in the order in which they were sent."""

from __future__ import annotations

import pytest

from .apps import echo
from .line import Line
from .stage import Call, Stage, disconnect
from .wire import BINARY, CLOSE, CONT, PING, PONG, TEXT, reason_for, request, said, to_server

SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, 200_000]
CLOSING = to_server(CLOSE, reason_for(1000))
CLOSED = said(CLOSE, reason_for(1000))
END = (disconnect(1000, ""), "returned")


def text(payload: str) -> dict[str, object]:
    return {"type": "websocket.receive", "text": payload}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_any_size_comes_back(stage: Stage, opcode: int, size: int) -> None:
    payload = b"ab" * (size // 2) + b"c" * (size % 2)

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(opcode, payload))
        assert await line.hear(1) == payload
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.wire == said(opcode, payload) + CLOSED
    assert played.end == "FIN"
    kind = {"text": payload.decode()} if opcode == TEXT else {"bytes": payload}
    assert played.seen[1:] == ({"type": "websocket.receive", **kind}, *END)


def test_the_handshake_is_answered_and_seen(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.drip(request("X-Some: thing", "Sec-WebSocket-Protocol: a, b"))
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.head.split("\r\n") == [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "date: -",
        "server: uvicorn",
    ]
    assert played.seen == ({"type": "websocket.connect"}, *END)


def test_frames_may_come_byte_by_byte(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.drip(to_server(TEXT, b"one") + to_server(BINARY, b"x" * 130) + CLOSING)

    played = stage.play(script, echo)
    assert played.wire == said(TEXT, b"one") + said(BINARY, b"x" * 130) + CLOSED
    assert played.seen[-2:] == END


@pytest.mark.parametrize("number", [2, 3, 50])
def test_messages_in_one_segment_come_in_order(stage: Stage, number: int) -> None:
    payloads = [b"%d" % each for each in range(number)]

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(b"".join(to_server(TEXT, payload) for payload in payloads))
        await line.hear(number)
        await line.put(b"".join(to_server(BINARY, payload) for payload in payloads) + CLOSING)

    played = stage.play(script, echo)
    texts = b"".join(said(TEXT, payload) for payload in payloads)
    assert played.wire.startswith(texts)
    assert played.seen[1 : 1 + number] == tuple(text(payload.decode()) for payload in payloads)


def test_a_segment_may_end_within_a_frame(stage: Stage) -> None:
    wire = to_server(TEXT, b"first") + to_server(TEXT, b"second") + to_server(TEXT, b"third")

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(wire[:17], wire[17:30], wire[30:])
        await line.hear(3)
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.wire == said(TEXT, b"first") + said(TEXT, b"second") + said(TEXT, b"third") + CLOSED


@pytest.mark.parametrize("size", [1, 100, 125, 126, 127, 300, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_part_of_a_frame_may_look_like_a_whole_one(stage: Stage, opcode: int, size: int) -> None:
    """In a segment that is as long as it would be for each smaller form of the length."""
    payload = b"x" * size
    frame = to_server(opcode, payload)
    cuts = sorted({cut for cut in (5, 6, 7, 6 + (frame[1] & 127), 8 + (frame[1] & 127), 8 + size, 14) if cut})

    async def script(line: Line) -> None:
        await line.shake_hands()
        for cut in cuts:
            await line.put(to_server(TEXT, b"before"))
            await line.put(frame[:cut])
            await line.put(frame[cut:])
        assert await line.hear(2 * len(cuts))
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.wire == (said(TEXT, b"before") + said(opcode, payload)) * len(cuts) + CLOSED


def test_a_length_may_be_longer_than_it_need_be(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        mask = b"\x01\x02\x03\x04"
        await line.put(bytes([0x81, 0xFE, 0, 1]) + mask + b"`")
        await line.put(bytes([0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1]) + mask + b"`")
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.end == "FIN"


def test_what_comes_along_with_the_handshake_request_is_lost(stage: Stage) -> None:
    """By uvicorn's HTTP protocol, before either of these protocols is made."""

    async def script(line: Line) -> None:
        await line.put(request() + to_server(TEXT, b"early"))
        await line.put(to_server(TEXT, b"late") + CLOSING)

    played = stage.play(script, echo)
    assert text("early") not in played.seen
    assert text("late") in played.seen


def test_a_message_before_the_acceptance_waits_for_it(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.receive()
        await call.cue.wait()
        await call.send("accept")
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.put(request(), to_server(TEXT, b"early"), to_server(TEXT, b"too"))
        line.cue.set()
        await line.hear_the_answer()
        await line.put(CLOSING)

    played = stage.play(script, app)
    assert played.status == 101
    assert played.wire == CLOSED
    assert played.seen[1:] == (text("early"), text("too"), *END)


# --- fragments


def test_fragments_are_one_message(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"a", fin=False), to_server(CONT, fin=False), to_server(CONT, b"b"))
        await line.put(
            to_server(BINARY, b"c", fin=False) + to_server(CONT, b"d", fin=False) + to_server(CONT)
        )
        await line.hear(2)
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.wire == said(TEXT, b"ab") + said(BINARY, b"cd") + CLOSED


def test_pings_may_come_between_fragments(stage: Stage) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(TEXT, b"a", fin=False), to_server(PING, b"1"))
        assert await line.hear(1) == b"1"
        await line.put(to_server(CONT, b"b", fin=False) + to_server(PING, b"2") + to_server(CONT, b"c"))
        await line.hear(3)
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.wire == said(PONG, b"1") + said(PONG, b"2") + said(TEXT, b"abc") + CLOSED


def test_a_character_may_be_split_between_fragments_and_segments(stage: Stage) -> None:
    a, b = "aé€😀".encode()[:4], "aé€😀".encode()[4:]

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.drip(to_server(TEXT, a, fin=False) + to_server(CONT, b))
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.wire == said(TEXT, "aé€😀".encode()) + CLOSED


# --- control frames


@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 125])
def test_a_ping_is_answered(stage: Stage, payload: bytes) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(PING, payload))
        assert await line.hear(1) == payload
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.wire == said(PONG, payload) + CLOSED
    assert played.seen == ({"type": "websocket.connect"}, *END)


def test_a_ping_between_messages_is_answered_at_once(stage: Stage) -> None:
    pings = [to_server(PING, b"%d" % each) for each in range(3)]
    texts = [to_server(TEXT, b"%d" % each) for each in range(3)]

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(texts[0] + pings[0] + texts[1] + pings[1] + pings[2] + texts[2])
        await line.hear(6)
        await line.put(CLOSING)

    played = stage.play(script, echo)
    pongs = said(PONG, b"0") + said(PONG, b"1") + said(PONG, b"2")
    assert played.wire == pongs + said(TEXT, b"0") + said(TEXT, b"1") + said(TEXT, b"2") + CLOSED


def test_a_ping_in_the_middle_of_a_burst_is_answered_in_its_place(stage: Stage) -> None:
    async def app(call: Call) -> None:
        await call.accept()
        for _ in range(3):
            await call.send("send", text="before")
        await call.cue.wait()
        for _ in range(3):
            await call.send("send", bytes=b"after")
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.hear(3)
        await line.put(to_server(PING, b"?"))
        line.cue.set()
        await line.hear(7)
        await line.put(CLOSING)

    played = stage.play(script, app)
    burst, rest = said(TEXT, b"before") * 3, said(BINARY, b"after") * 3
    assert played.wire == burst + said(PONG, b"?") + rest + CLOSED


@pytest.mark.parametrize("payload", [b"", b"nobody asked"])
def test_a_pong_that_nobody_asked_for_is_ignored(stage: Stage, payload: bytes) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands()
        await line.put(to_server(PONG, payload), to_server(TEXT, b"still"))
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.wire == said(TEXT, b"still") + CLOSED
