"""permessage-deflate: what is agreed on is kept to, whoever compresses what."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest

from .apps import echo
from .deflate import Deflater, agreed_on
from .line import Line
from .stage import Call, Stage, disconnect
from .wire import BINARY, CLOSE, CONT, PING, PONG, RSV1, TEXT, reason_for, said, to_server

CONNECT = {"type": "websocket.connect"}
CLOSING = to_server(CLOSE, reason_for(1000))
CLOSED = said(CLOSE, reason_for(1000))
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"

NOISE = random.Random(7).randbytes(6_000)
MESSAGES = [
    b"",
    b"a",
    b"ab" * 60,
    b"ab" * 127,
    b"ab" * 128,
    b"all of this again. " * 50,
    b"all of this again. " * 50,  # which a compressor with a memory refers to
    NOISE,
    NOISE + NOISE,  # farther back than a small window
    b"ab" * 100_000,
]

OFFERS = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; client_max_window_bits=15",
    "permessage-deflate; client_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=15",
    "permessage-deflate; server_max_window_bits=12",
    "permessage-deflate; server_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
    "permessage-deflate; server_no_context_takeover",
    "permessage-deflate; client_no_context_takeover",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
    "permessage-deflate; server_max_window_bits=99, permessage-deflate; client_no_context_takeover",
    "x-webkit-deflate-frame, permessage-deflate",
]

NO_OFFERS = [
    "permessage-deflate; server_max_window_bits=8",  # which zlib does not have
    "permessage-deflate; server_max_window_bits=99",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; client_max_window_bits=7",
    "permessage-deflate; unheard_of",
    "permessage-deflate; server_no_context_takeover=1",
    "permessage-deflate; client_max_window_bits=12; client_max_window_bits=13",
    "deflate-frame",
]


async def deflating(line: Line, header: str = OFFER) -> Deflater:
    """Shake hands, and have the compression that was agreed on."""
    await line.shake_hands(header)
    extension = agreed_on(bytes(line.heard))
    assert extension
    return Deflater(extension)


# --- the agreement


def test_each_message_is_compressed_by_itself_by_ours(stage: Stage) -> None:
    """So that one that goes to many is compressed once."""

    async def script(line: Line) -> None:
        await line.shake_hands(OFFER)
        await line.put(CLOSING)

    theirs, ours = [played.extension for played in stage.play_both(script, echo)]
    assert theirs == "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
    parts = set(ours.split("; "))
    assert parts == {*theirs.split("; "), "server_no_context_takeover"}


@pytest.mark.parametrize("offer", OFFERS)
def test_what_is_offered_is_kept_to(stage: Stage, offer: str) -> None:
    async def script(line: Line) -> None:
        deflater = await deflating(line, f"Sec-WebSocket-Extensions: {offer}")
        for number, message in enumerate(MESSAGES, 1):
            await line.put(deflater.binary(message))
            await line.hear(number)
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.wire == b"".join(said(BINARY, message) for message in MESSAGES) + CLOSED
    assert [event["bytes"] for event in played.seen[1:-2]] == MESSAGES


@pytest.mark.parametrize("offer", NO_OFFERS)
def test_what_is_no_offer_is_declined(stage: Stage, offer: str) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands(f"Sec-WebSocket-Extensions: {offer}")
        await line.put(to_server(TEXT, b"a" * 1_000))
        await line.hear(1)
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.extension == ""
    assert played.wire == said(TEXT, b"a" * 1_000) + CLOSED


@pytest.mark.parametrize("offer", [OFFER, "Sec-WebSocket-Extensions: "])
def test_nothing_is_compressed_where_it_is_switched_off_or_not_offered(stage: Stage, offer: str) -> None:
    settings: dict[str, Any] = {"ws_per_message_deflate": False} if offer is OFFER else {}

    async def script(line: Line) -> None:
        await line.shake_hands(offer)
        await line.put(to_server(TEXT, b"a" * 1_000))
        await line.hear(1)
        await line.put(to_server(TEXT, b"x", rsv=RSV1))

    played = stage.play(script, echo, **settings)
    assert played.extension == ""
    assert (played.before_close, played.code) == (said(TEXT, b"a" * 1_000), 1002)


# --- what the client compresses


def test_a_client_need_not_compress_everything(stage: Stage) -> None:
    async def script(line: Line) -> None:
        deflater = await deflating(line)
        await line.put(
            deflater.text(b"one" * 100), to_server(TEXT, b"two" * 100), deflater.text(b"one" * 100)
        )
        await line.hear(3)
        await line.put(CLOSING)

    one, two = said(TEXT, b"one" * 100), said(TEXT, b"two" * 100)
    assert stage.play(script, echo).wire == one + two + one + CLOSED


def test_a_compressed_message_may_be_in_fragments(stage: Stage) -> None:
    message = NOISE * 2

    async def script(line: Line) -> None:
        deflater = await deflating(line)
        for payload in (deflater.payload(b""), deflater.payload(message)):
            a, b, c = payload[:5], payload[5:1_000], payload[1_000:]
            await line.put(to_server(BINARY, a, fin=False, rsv=RSV1), to_server(PING, b"?"))
            await line.drip(to_server(CONT, b, fin=False)[:20])
            await line.put(to_server(CONT, b, fin=False)[20:] + to_server(CONT, c))
        await line.hear(4)
        await line.put(CLOSING)

    played = stage.play(script, echo)
    pong = said(PONG, b"?")
    assert played.wire == pong + said(BINARY, b"") + pong + said(BINARY, message) + CLOSED


@pytest.mark.parametrize("size", [1, 64])
def test_compressed_messages_may_come_in_any_segments(stage: Stage, size: int) -> None:
    async def script(line: Line) -> None:
        deflater = await deflating(line)
        wire = b"".join(deflater.text(b"%d " % number * 50) for number in range(5))
        await line.put(*(wire[at : at + size] for at in range(0, len(wire), size)))
        await line.hear(5)
        await line.put(CLOSING)

    played = stage.play(script, echo)
    assert played.before_close == b"".join(said(TEXT, b"%d " % number * 50) for number in range(5))


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(
            to_server(TEXT, b"x", fin=False) + to_server(CONT, b"y", rsv=RSV1), 1002, id="late RSV1"
        ),
        pytest.param(to_server(PING, b"x", rsv=RSV1), 1002, id="RSV1 in a ping"),
        pytest.param(to_server(CLOSE, reason_for(1000), rsv=RSV1), 1002, id="RSV1 in a close"),
        pytest.param(to_server(TEXT, b"x", rsv=0x20), 1002, id="RSV2"),
        pytest.param(to_server(TEXT, b"\xff\xff\xff\xff", rsv=RSV1), 1002, id="what was not compressed"),
        pytest.param(Deflater("").text(b"\xff" * 300), 1007, id="compressed text that is none"),
        pytest.param(Deflater("").text(b"x" * 2_001), 1009, id="small until it is inflated"),
        pytest.param(Deflater("").text(b"x" * 1_000_000), 1009, id="a bomb"),
        pytest.param(to_server(TEXT, announced=2_001, rsv=RSV1), 1009, id="too big, announced only"),
    ],
)
def test_a_violation_with_compression(stage: Stage, wire: bytes, code: int) -> None:
    async def script(line: Line) -> None:
        await deflating(line, "Sec-WebSocket-Extensions: permessage-deflate")
        await line.put(Deflater("").text(b"fine " * 100))
        await line.hear(1)
        await line.put(wire)

    played = stage.play(script, echo, ws_max_size=2_000)
    assert (played.before_close, played.code) == (said(TEXT, b"fine " * 100), code)
    assert played.seen[-2]["code"] == code


# --- what the server compresses


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_a_burst_of_all_kinds_keeps_its_order(
    stage: Stage, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether or not each frame is logged."""
    caplog.set_level(level, "uvicorn.error")

    async def app(call: Call) -> None:
        await call.accept()
        for message in MESSAGES * 3:
            await call.send("send", bytes=message)
            await call.send("send", text=message.hex())
        await call.send("close", code=4000, reason="done")
        await call.see_it_out()

    async def script(line: Line) -> None:
        await line.shake_hands(OFFER)
        await line.hear(len(MESSAGES) * 6 + 1)
        await line.put(CLOSING)

    played = stage.play(script, app)
    both = [said(BINARY, message) + said(TEXT, message.hex().encode()) for message in MESSAGES * 3]
    assert played.wire == b"".join(both) + said(CLOSE, reason_for(4000, "done"))
    assert played.seen == (CONNECT, disconnect(4000, "done"), "returned")


def test_large_messages_are_compressed(stage: Stage) -> None:
    heard: list[int] = []

    async def script(line: Line) -> None:
        deflater = await deflating(line)
        await line.put(deflater.text(b"ab" * 50_000))
        await line.hear(1)
        heard.append(len(line.frames[0][1]))
        await line.put(CLOSING)

    stage.play(script, echo)
    assert max(heard) < 1_000
