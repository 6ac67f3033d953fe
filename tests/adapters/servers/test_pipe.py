"""A transport that writes once per turn: order, batches, bounds and the end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsmanager.servers.pipe import Pipe
from wsmanager.wire.framing import wire_frame
from wsmanager.wire.stepping import discard

pytestmark = pytest.mark.anyio


class Socket:
    """An asyncio transport whose peer takes only what it is told to."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.waiting = 0
        self.takes_all = True
        self.is_lost = False
        self.end: str | None = None
        self.limits: tuple[int, int] | None = None
        self.pipe: Pipe | None = None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self.limits = (high, low)

    def write(self, data: bytes) -> None:
        if self.is_lost:
            raise RuntimeError("the handler is closed")
        self.writes.append(data)
        if not self.takes_all:
            self.waiting += len(data)
            self._tell()

    def take(self, number: int) -> None:
        """The peer takes so many of the bytes that wait."""
        self.waiting -= number
        self._tell()

    def _tell(self) -> None:
        # As asyncio's transports tell their protocol.
        assert self.pipe is not None
        assert self.limits is not None
        if self.waiting > self.limits[0] and not self.pipe.is_full:
            self.pipe.fill()
        elif self.waiting <= self.limits[1] and self.pipe.is_full:
            self.pipe.drain(is_open=True)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"


MakePipe = Callable[[], tuple[Pipe, Socket]]


def make_pipe() -> tuple[Pipe, Socket]:
    socket = Socket()
    pipe = Pipe(cast("Any", socket), asyncio.get_running_loop())
    socket.pipe = pipe
    pipe.open()
    return pipe, socket


def frame(text: str) -> bytes:
    return wire_frame(text).plain


async def turn() -> None:
    await asyncio.sleep(0)


# --- one turn


async def test_what_is_written_within_a_turn_leaves_in_one_write() -> None:
    pipe, socket = make_pipe()
    assert pipe.write_prepared(wire_frame("a")) is None
    pipe.write(b"control")
    assert pipe.write_prepared(wire_frame("b")) is None
    assert socket.writes == []
    await turn()
    assert socket.writes == [frame("a") + b"control" + frame("b")]


async def test_a_message_waits_for_no_later_turn() -> None:
    pipe, socket = make_pipe()
    seen: list[int] = []
    asyncio.get_running_loop().call_soon(lambda: seen.append(len(socket.writes)))
    pipe.write_prepared(wire_frame("a"))
    asyncio.get_running_loop().call_soon(lambda: seen.append(len(socket.writes)))
    await turn()
    assert seen == [0, 1]


async def test_one_callback_writes_for_all_pipes() -> None:
    loop, count = asyncio.get_running_loop(), 0
    before = loop.call_soon

    def counted(*arguments: Any, **keywords: Any) -> asyncio.Handle:
        nonlocal count
        count += 1
        return before(*arguments, **keywords)

    pipes = [make_pipe() for _ in range(100)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "call_soon", counted)
        for pipe, _ in pipes:
            pipe.write_prepared(wire_frame("a"))
            pipe.write_prepared(wire_frame("b"))
        assert count == 1
    await turn()
    assert all(socket.writes == [frame("a") + frame("b")] for _, socket in pipes)


async def test_equal_batches_are_joined_once() -> None:
    pipes = [make_pipe() for _ in range(3)]
    messages = [wire_frame("a"), wire_frame("b")]
    for message in messages:
        for pipe, _ in pipes:
            pipe.write_prepared(message)
    await turn()
    assert len({id(socket.writes[0]) for _, socket in pipes}) == 1


async def test_batches_that_differ_are_not_mixed_up() -> None:
    pipes = [make_pipe() for _ in range(4)]
    for number, (pipe, _) in enumerate(pipes):
        pipe.write_prepared(wire_frame("a"))
        pipe.write_prepared(wire_frame("b" * (number % 2)))
    await turn()
    assert [socket.writes for _, socket in pipes] == [
        [frame("a") + frame("b" * (number % 2))] for number in range(4)
    ]


async def test_each_turn_has_its_own_batch() -> None:
    pipe, socket = make_pipe()
    for text in "ab":
        pipe.write_prepared(wire_frame(text))
        await turn()
    assert socket.writes == [frame("a"), frame("b")]


async def test_one_that_fails_harms_no_other_of_the_turn() -> None:
    pipes = [make_pipe() for _ in range(3)]
    pipes[0][1].is_lost = True
    for pipe, _ in pipes:
        pipe.write_prepared(wire_frame("a"))
    await turn()
    assert [len(socket.writes) for _, socket in pipes] == [0, 1, 1]


async def test_nothing_is_written_for_nothing() -> None:
    pipe, socket = make_pipe()
    pipe.write(b"")
    await turn()
    assert socket.writes == []


# --- bounds


async def test_a_turn_that_holds_much_does_not_wait_for_its_end() -> None:
    pipe, socket = make_pipe()
    big = "x" * 9_000
    pipe.write_prepared(wire_frame(big))
    pipe.write_prepared(wire_frame(big))
    assert socket.writes == [frame(big) * 2]
    pipe.write(b"y" * 20_000)
    assert socket.writes[1:] == [b"y" * 20_000]
    pipe.write_prepared(wire_frame("a"))
    await turn()
    assert socket.writes[2:] == [frame("a")]


async def test_what_waits_is_counted() -> None:
    pipe, socket = make_pipe()
    socket.takes_all = False
    pipe.write_prepared(wire_frame("abc"))
    assert pipe.buffered() == 5
    await turn()
    pipe.write(b"xy")
    assert pipe.get_write_buffer_size() == 7


async def test_a_full_pipe_takes_no_message_until_the_peer_has_taken_some() -> None:
    pipe, socket = make_pipe()
    socket.takes_all = False
    pipe.write_prepared(wire_frame("x" * 20_000))
    assert pipe.is_full
    rest = pipe.write_prepared(wire_frame("late"))
    assert rest is not None
    waiting = asyncio.ensure_future(rest)
    await turn()
    assert len(socket.writes) == 1
    socket.take(10_000)
    await turn()
    assert not waiting.done()
    socket.take(8_000)
    await waiting
    await turn()
    assert socket.writes[1:] == [frame("late")]


async def test_who_waits_looks_again_before_it_writes() -> None:
    pipe, socket = make_pipe()
    socket.takes_all = False
    pipe.write_prepared(wire_frame("x" * 20_000))
    first, second = pipe.write_prepared(wire_frame("y" * 20_000)), pipe.write_prepared(wire_frame("z"))
    assert first is not None
    assert second is not None
    both = [asyncio.ensure_future(first), asyncio.ensure_future(second)]
    await turn()
    socket.take(20_000)
    await turn()
    await turn()
    assert both[0].done()
    assert not both[1].done()
    assert len(socket.writes) == 2
    pipe.lose()
    with pytest.raises(ConnectionResetError):
        await both[1]


async def test_a_message_that_is_given_up_is_not_written() -> None:
    pipe, socket = make_pipe()
    socket.takes_all = False
    pipe.write_prepared(wire_frame("x" * 20_000))
    rest = pipe.write_prepared(wire_frame("late"))
    assert rest is not None
    discard(rest)
    socket.take(20_000)
    await turn()
    assert len(socket.writes) == 1


async def test_control_frames_wait_for_nobody() -> None:
    pipe, socket = make_pipe()
    socket.takes_all = False
    pipe.write_prepared(wire_frame("x" * 20_000))
    pipe.write(b"pong")
    await turn()
    assert socket.writes[-1] == b"pong"


# --- many at once


async def test_a_message_to_many_leaves_with_what_else_each_was_given() -> None:
    pairs = [make_pipe() for _ in range(3)]
    pipes = [pipe for pipe, _ in pairs]
    pipes[1].write_prepared(wire_frame("before"))
    Pipe.fan_out(pipes, wire_frame("all"))
    pipes[2].write(b"after")
    Pipe.fan_out(pipes[:2], wire_frame("two"))
    await turn()
    assert [b"".join(socket.writes) for _, socket in pairs] == [
        frame("all") + frame("two"),
        frame("before") + frame("all") + frame("two"),
        frame("all") + b"after",
    ]
    assert all(len(socket.writes) == 1 for _, socket in pairs)


async def test_each_of_many_gets_what_it_agreed_on() -> None:
    pairs = [make_pipe() for _ in range(3)]
    pairs[1][0].window, pairs[2][0].window = 12, 9
    message = wire_frame("all work and no play " * 50)
    Pipe.fan_out([pipe for pipe, _ in pairs], message)
    await turn()
    assert [socket.writes[0] for _, socket in pairs] == [
        message.plain,
        message.deflated(12),
        message.deflated(9),
    ]


async def test_messages_to_many_do_not_pile_up_within_a_turn() -> None:
    pipe, socket = make_pipe()
    other, _ = make_pipe()
    for _ in range(3):
        Pipe.fan_out([pipe, other], wire_frame("x" * 9_000))
    assert len(socket.writes) == 1
    await turn()
    assert b"".join(socket.writes) == frame("x" * 9_000) * 3


async def test_messages_to_the_same_many_are_joined_once_for_all() -> None:
    pairs = [make_pipe() for _ in range(3)]
    for text in ("a", "b"):
        Pipe.fan_out([pipe for pipe, _ in pairs], wire_frame(text))
    await turn()
    assert {tuple(socket.writes) for _, socket in pairs} == {(frame("a") + frame("b"),)}
    assert len({id(socket.writes[0]) for _, socket in pairs}) == 1


async def test_messages_to_others_of_the_same_number_are_not_mixed_up() -> None:
    pairs = [make_pipe() for _ in range(3)]
    pipes = [pipe for pipe, _ in pairs]
    Pipe.fan_out(pipes[:2], wire_frame("a"))
    Pipe.fan_out(pipes[1:], wire_frame("b"))
    assert [pipe.buffered() for pipe in pipes] == [
        len(frame("a")),
        len(frame("a") + frame("b")),
        len(frame("b")),
    ]
    await turn()
    assert [socket.writes for _, socket in pairs] == [[frame("a")], [frame("a") + frame("b")], [frame("b")]]


async def test_one_of_many_that_ends_takes_nothing_from_the_others() -> None:
    pairs = [make_pipe() for _ in range(4)]
    Pipe.fan_out([pipe for pipe, _ in pairs], wire_frame("a"))
    pairs[1][0].abort()
    pairs[2][0].close()
    pairs[3][1].is_lost = True
    await turn()
    assert [socket.writes for _, socket in pairs] == [[frame("a")], [], [frame("a")], []]


async def test_what_is_for_many_is_written_though_some_have_gone() -> None:
    pairs = [make_pipe() for _ in range(3)]
    pairs[0][1].is_lost = True
    Pipe.fan_out([pipe for pipe, _ in pairs], wire_frame("a"))
    await turn()
    assert [socket.writes for _, socket in pairs] == [[], [frame("a")], [frame("a")]]


async def test_whoever_listens_is_told_whenever_it_takes_messages_or_no_longer() -> None:
    pipe, socket = make_pipe()
    socket.takes_all = False
    heard: list[bool] = []
    pipe.listen(lambda: heard.append(pipe.takes))
    pipe.write_prepared(wire_frame("x" * 20_000))
    socket.take(20_000)
    pipe.shut()
    pipe.listen(None)
    pipe.lose()
    assert heard == [False, True, False]


# --- the end


async def test_a_close_comes_after_what_was_written_before_it() -> None:
    pipe, socket = make_pipe()
    pipe.write_prepared(wire_frame("a"))
    pipe.write(b"close")
    pipe.close()
    assert (socket.writes, socket.end) == ([frame("a") + b"close"], "closed")
    await turn()
    assert len(socket.writes) == 1


@pytest.mark.parametrize("end", [Pipe.close, Pipe.abort, Pipe.shut, Pipe.lose])
async def test_after_its_end_no_message_is_taken(end: Callable[[Pipe], None]) -> None:
    pipe, _ = make_pipe()
    end(pipe)
    assert not pipe.takes
    with pytest.raises(ConnectionResetError):
        pipe.write_prepared(wire_frame("late"))


async def test_before_it_is_open_no_message_is_taken() -> None:
    pipe = Pipe(cast("Any", Socket()), asyncio.get_running_loop())
    with pytest.raises(ConnectionResetError):
        pipe.write_prepared(wire_frame("early"))


async def test_an_abort_loses_what_waits() -> None:
    pipe, socket = make_pipe()
    pipe.write_prepared(wire_frame("a"))
    pipe.abort()
    await turn()
    assert (socket.writes, socket.end, pipe.buffered()) == ([], "aborted", 0)


async def test_who_waits_is_told_of_the_end() -> None:
    pipe, socket = make_pipe()
    socket.takes_all = False
    pipe.write_prepared(wire_frame("x" * 20_000))
    rest = pipe.write_prepared(wire_frame("late"))
    assert rest is not None
    waiting = asyncio.ensure_future(rest)
    await turn()
    pipe.lose()
    with pytest.raises(ConnectionResetError):
        await waiting


async def test_it_is_a_transport_in_everything_else() -> None:
    pipe, _ = make_pipe()
    assert pipe.get_extra_info("peername") == "the peername"


def test_a_loop_that_is_over_leaves_nothing_behind() -> None:
    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        pipe, _ = make_pipe()
        pipe.write_prepared(wire_frame("a"))
        await turn()
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(main())
    gc.collect()
    assert loop() is None


# --- laws


class Trio:
    """Three pipes, and what has been written into each."""

    def __init__(self) -> None:
        self.pairs = [make_pipe() for _ in range(3)]
        self.written = [b""] * 3
        for _, socket in self.pairs:
            socket.takes_all = False

    def message(self, which: int, data: bytes) -> None:
        if self.pairs[which][0].takes:
            self.pairs[which][0].write_prepared(wire_frame(data))
            self.written[which] += wire_frame(data).plain

    def fan_out(self, _: int, data: bytes) -> None:
        places = [place for place, (pipe, _) in enumerate(self.pairs) if pipe.takes]
        if places:
            Pipe.fan_out([self.pairs[place][0] for place in places], wire_frame(data))
        for place in places:
            self.written[place] += wire_frame(data).plain

    def raw(self, which: int, data: bytes) -> None:
        self.pairs[which][0].write(data)
        self.written[which] += data

    def take(self, which: int, data: bytes) -> None:
        socket = self.pairs[which][1]
        socket.take(min(3 * len(data), socket.waiting))

    def check(self) -> None:
        assert all(pipe.is_full or pipe.buffered() <= 3 * pipe.high_water for pipe, _ in self.pairs)

    def close(self) -> None:
        for (pipe, socket), written in zip(self.pairs, self.written, strict=True):
            pipe.close()
            assert b"".join(socket.writes) == written


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["message", "fan_out", "raw", "take", "turn"]),
        st.integers(0, 2),
        st.integers(0, 9_000),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(OPERATIONS)
def test_every_byte_leaves_once_and_in_order(operations: list[tuple[str, int, int]]) -> None:
    async def main() -> None:
        trio = Trio()
        for number, (kind, which, size) in enumerate(operations):
            if kind == "turn":
                await turn()
            else:
                getattr(trio, kind)(which, bytes([number]) * size)
            trio.check()
        trio.close()

    asyncio.run(main())
