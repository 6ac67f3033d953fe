"""Whatever a client sends, in whatever segments, and whatever an application does: both do the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.profiles import examples

from .apps import echo
from .deflate import Deflater
from .line import Line
from .stage import App, Call, Stage
from .wire import CLOSE, CONT, PING, PONG, RSV1, TEXT, reason_for, to_server

LIMIT = 300
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover"
KEEPS_NOTHING = Deflater("client_no_context_takeover")

# --- what a client sends

DATA = st.sampled_from([TEXT, 2])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=60).map(str.encode)
PAYLOADS = TEXTS | st.binary(max_size=130) | st.integers(0, LIMIT + 2).map(lambda size: b"x" * size)
PINGS = st.builds(to_server, st.sampled_from([PING, PONG]), st.binary(max_size=5) | st.just(b"x" * 125))
MASKS = st.sampled_from([b"\x00\x00\x00\x00", b"\x01\x80\xff\x7f"])


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message in fragments, with control frames between them."""
    payload, opcode, rsv = draw(PAYLOADS), draw(DATA), draw(st.sampled_from([0, 0, 0, RSV1]))
    if rsv:
        payload = KEEPS_NOTHING.payload(payload)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    wire = b""
    for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True):
        is_last = end == len(payload)
        wire += to_server(opcode, payload[start:end], fin=is_last, rsv=rsv, mask=draw(MASKS))
        if is_last:
            break
        opcode, rsv = CONT, 0
        wire += draw(st.just(b"") | PINGS)
    return wire


FRAMES = st.builds(
    to_server,
    st.integers(0, 15),
    PAYLOADS,
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0x10, 0x20, RSV1]),
    mask=st.sampled_from([b"abcd", b"abcd", b"abcd", b""]),
)
CODES = st.sampled_from([0, 999, 1000, 1001, 1005, 1006, 1012, 2999, 3000, 4999, 5000])
CLOSES = st.builds(to_server, st.just(CLOSE), st.builds(reason_for, CODES, st.text(max_size=20))) | st.builds(
    to_server, st.just(CLOSE), st.binary(max_size=4)
)
ANNOUNCED = st.builds(to_server, DATA, announced=st.sampled_from([LIMIT + 1, 2**40]))
PIECES = st.one_of(
    messages(), messages(), messages(), PINGS, CLOSES, FRAMES, ANNOUNCED, st.binary(max_size=4)
)


@st.composite
def segments(draw: st.DrawFn) -> list[bytes]:
    wire = b"".join(draw(st.lists(PIECES, min_size=1, max_size=8)))
    cuts = sorted(draw(st.lists(st.integers(1, max(1, len(wire) - 1)), max_size=6)))
    return [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True) if start < end]


# --- what an application does


async def echo_late(call: Call) -> None:
    """Let some turns of the loop pass before each answer."""
    await call.accept()
    while (event := await call.receive())["type"] == "websocket.receive":
        for _ in range(25):
            await asyncio.sleep(0)
        await call.try_to_send("send", **{kind: event[kind] for kind in ("text", "bytes") if kind in event})


async def close_after_two(call: Call) -> None:
    await call.accept()
    for _ in range(2):
        if (await call.receive())["type"] == "websocket.disconnect":
            return
        await call.try_to_send("send", text="burst")
        await call.try_to_send("send", bytes=b"x" * LIMIT)
    await call.try_to_send("close", code=4000, reason="enough")
    await call.see_it_out()


async def return_after_one(call: Call) -> None:
    await call.accept()
    await call.receive()
    await call.try_to_send("send", text="last")


async def receive_late(call: Call) -> None:
    await call.accept()
    await call.cue.wait()
    await call.see_it_out()


APPS: Sequence[App] = [echo, echo, echo_late, close_after_two, return_after_one, receive_late]


@dataclass(frozen=True)
class Acting:
    """An application that does one thing after the other, whatever becomes of it, and returns."""

    acts: tuple[tuple[Any, ...], ...]

    async def __call__(self, call: Call) -> None:
        await call.accept()
        for act, *more in self.acts:
            await getattr(self, act)(call, *more)

    async def send_text(self, call: Call, size: int) -> None:
        await call.try_to_send("send", text="é" * (size // 2))

    async def send_bytes(self, call: Call, size: int) -> None:
        await call.try_to_send("send", bytes=b"x" * size)

    async def close(self, call: Call, code: int) -> None:
        await call.try_to_send("close", code=code)

    async def receive(self, call: Call) -> None:
        if not any("code" in event for event in call.seen if isinstance(event, dict)):
            await call.receive()

    async def wait(self, call: Call, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    async def fail(self, call: Call) -> None:
        raise LookupError


# Together less than a socket holds that nobody reads from: else the kernel decides what a RST lets through.
SIZES = st.sampled_from([0, 1, 125, 126, 255, 256, 4_500])
SENDS = st.tuples(st.sampled_from(["send_text", "send_bytes"]), SIZES)
ACTS = st.one_of(
    SENDS,
    SENDS,
    st.tuples(st.just("receive")),
    st.tuples(st.just("receive")),
    st.tuples(st.just("wait"), st.integers(1, 25)),
    st.tuples(st.just("close"), CODES),
    st.tuples(st.just("fail")),
)


@pytest.mark.timeout(600)
@given(sent=segments(), app=st.sampled_from(APPS), deflates=st.booleans())
@settings(examples(170), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_client_is_served_the_same(stage: Stage, sent: list[bytes], app: App, deflates: bool) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands(*[OFFER] * deflates)
        await line.put(*sent)
        line.cue.set()
        await line.settle()
        await line.half_close()

    assert stage.play(script, app, ws_max_size=LIMIT).status == 101


@pytest.mark.timeout(600)
@given(
    acts=st.lists(ACTS, max_size=12).map(tuple),
    sent=st.lists(messages() | PINGS | CLOSES, max_size=8),
    together=st.booleans(),
    deflates=st.booleans(),
)
@settings(examples(170), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_application_is_served_the_same(
    stage: Stage, acts: tuple[tuple[Any, ...], ...], sent: list[bytes], together: bool, deflates: bool
) -> None:
    async def script(line: Line) -> None:
        await line.shake_hands(*[OFFER] * deflates)
        await line.put(*([b"".join(sent)] if together and sent else sent))
        await line.half_close()

    stage.play(script, Acting(acts), ws_max_size=LIMIT)
