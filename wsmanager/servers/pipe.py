"""A transport that writes once per turn of the loop, whatever it is given meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from weakref import WeakValueDictionary

from ..logs import log_event
from ..wire.framing import WireFrame

__all__ = ["Pipe", "Turn"]

_GONE: Final = "the peer is gone"


class Turn:
    """The pipes of one loop that were written into since its last turn: one callback writes for all.

    Messages to the same many are kept once for all of them, as long as nothing else is written.
    """

    __slots__ = ("__weakref__", "_due", "_loop", "_size", "_to_all", "wide")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: list[Pipe] = []
        self.wide: Sequence[Pipe] = ()
        """Those that get `_to_all`, and nothing else so far."""
        self._to_all: list[WireFrame] = []
        self._size = 0
        """Bytes that were written to many at once: no pipe holds more of those."""

    def add(self, pipe: Pipe) -> None:
        """`pipe` has something to write at the end."""
        if not self._due:
            self._loop.call_soon(self.end)
        self._due.append(pipe)

    def fan_out(self, pipes: Sequence[Pipe], frame: WireFrame) -> None:
        """Write one message into pipes that take it."""
        if not self.wide and not self._due:
            self._loop.call_soon(self.end)
            self.wide = pipes
        if pipes == self.wide:
            self._to_all.append(frame)
        else:
            self.spread()
            self._give(pipes, frame)
        self._size += len(frame.plain)
        if self._size > Pipe.high_water:
            self.end()

    def spread(self) -> None:
        """Give each pipe what all were given: one of them is about to get something else."""
        pipes, frames, self.wide, self._to_all = self.wide, self._to_all, (), []
        for frame in frames:
            self._give(pipes, frame)

    def _give(self, pipes: Sequence[Pipe], frame: WireFrame) -> None:
        due, plain = self._due, frame.plain
        for pipe in pipes:
            data = frame.deflated(pipe.window) if pipe.window else plain
            frames = pipe._frames
            if frames is None:
                pipe._frames = [data]
                due.append(pipe)
            else:
                frames.append(data)

    def end(self) -> None:
        """Write what was given: equal batches are joined once."""
        due, self._due, self._size = self._due, [], 0
        if self.wide:
            self._write_to_all()
        last: list[bytes] = []
        joined = b""
        for pipe in due:
            frames = pipe._frames or ()
            pipe._frames, pipe._held = None, 0
            if len(frames) == 1:
                data = frames[0]
            elif frames:
                if frames != last:
                    last, joined = frames, b"".join(frames)
                data = joined
            else:
                continue
            try:
                pipe._transport.write(data)
            except Exception as error:  # one that fails harms no other of the turn
                _log_failure(error)

    def _write_to_all(self) -> None:
        pipes, frames, self.wide, self._to_all = self.wide, self._to_all, (), []
        window, data = -1, b""
        for pipe in pipes:
            if pipe.window != window:
                window = pipe.window
                data = b"".join([frame.deflated(window) if window else frame.plain for frame in frames])
            try:
                pipe._transport.write(data)
            except Exception as error:
                _log_failure(error)


def _log_failure(error: Exception) -> None:
    """uvloop's transports raise once they are closed."""
    log_event(logging.DEBUG, "send.failed", kind=type(error).__name__, error=error)


# Each lives as long as a pipe has it.
_turns: WeakValueDictionary[asyncio.AbstractEventLoop, Turn] = WeakValueDictionary()


def _turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    turn = _turns.get(loop)
    if turn is None:
        turn = _turns[loop] = Turn(loop)
    return turn


class Pipe:
    """Stands in for an asyncio transport: as its server sees it, every write is a write.

    What is written within one turn of the loop leaves together at its end, in order; sooner, when it is more
    than `high_water`, and before a close. Once the transport holds more than `high_water` because the peer
    does not take it, the pipe is full, until that is down to `low_water`: who writes prepared frames then has
    to wait, and the server is expected to make its own senders wait for `room`.
    """

    __slots__ = (
        "_frames",
        "_held",
        "_listener",
        "_roomy",
        "_transport",
        "_turn",
        "heard_at",
        "is_full",
        "latency",
        "takes",
        "window",
    )

    high_water = 16_384
    low_water = 4_096

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._turn = _turn_of(loop)
        self._frames: list[bytes] | None = None
        """What this turn was given; None while it is not due."""
        self._held = 0
        """Bytes of those, but for messages to many."""
        self.takes = False
        """Whether it takes messages: it is open, and not full."""
        self.is_full = False
        """Whether the peer has to take something first."""
        self._roomy: asyncio.Event | None = None
        self._listener: Callable[[], None] | None = None
        self.window = 0
        """Of permessage-deflate, in bits, where that was agreed on."""
        self.latency: float | None = None
        """Seconds that the peer took to answer the last ping of the protocol; None before."""
        self.heard_at: float | None = None
        """When it did, on the loop's clock."""
        transport.set_write_buffer_limits(self.high_water, self.low_water)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    # --- messages

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Have `listener` called whenever `takes` may have changed."""
        self._listener = listener

    def _turn_into(self, *, takes: bool, is_full: bool) -> None:
        self.takes, self.is_full = takes, is_full
        if self._listener is not None:
            self._listener()

    def open(self) -> None:
        """The handshake is through."""
        self._turn_into(takes=not self.is_full, is_full=self.is_full)

    def shut(self) -> None:
        """No message may follow: a close has been sent."""
        self._turn_into(takes=False, is_full=self.is_full)

    def write_prepared(self, frame: WireFrame) -> Awaitable[None] | None:
        """Write one message. None: it will leave in this turn. Else the caller must await the answer, which
        writes it once there is room, or close it, which gives it up.

        Raises `ConnectionResetError` when there is nobody to write to.
        """
        if not self.takes:
            return self._write_later(frame)
        self.write(frame.deflated(self.window) if self.window else frame.plain)
        return None

    @staticmethod
    def fan_out(pipes: Sequence[Pipe], frame: WireFrame) -> None:
        """Write one message into pipes of one loop that all take it."""
        pipes[0]._turn.fan_out(pipes, frame)

    def _write_later(self, frame: WireFrame) -> Awaitable[None]:
        if self.is_full:
            return self._write_when_roomy(frame)
        raise ConnectionResetError(_GONE)

    async def _write_when_roomy(self, frame: WireFrame) -> None:
        while self.is_full:
            await self.room()
        self.write_prepared(frame)

    async def room(self) -> None:
        """Wait until it may be no longer full."""
        if self._roomy is None:
            self._roomy = asyncio.Event()
        await self._roomy.wait()

    def fill(self) -> None:
        """The transport holds more than `high_water`."""
        self._turn_into(takes=False, is_full=True)

    def drain(self, *, is_open: bool) -> None:
        """The transport is down to `low_water`, or the connection has ended."""
        self._turn_into(takes=is_open, is_full=False)
        roomy, self._roomy = self._roomy, None
        if roomy is not None:
            roomy.set()

    # --- one turn

    def flush(self) -> None:
        """Write now what the turn was given so far."""
        if self._turn.wide:
            self._turn.spread()
        if self._frames:
            data = b"".join(self._frames)
            self._frames = []  # it stays due
            self._held = 0
            try:
                self._transport.write(data)
            except Exception as error:
                _log_failure(error)

    def lose(self) -> None:
        """The connection is lost, and what was still to be written."""
        if self._turn.wide:
            self._turn.spread()
        if self._frames:
            self._frames = []
        self._held = 0
        self.drain(is_open=False)

    # --- as a transport

    def write(self, data: bytes) -> None:
        if not data:
            return
        if self._turn.wide:
            self._turn.spread()
        if self._frames is None:
            self._frames = [data]
            self._turn.add(self)
        else:
            self._frames.append(data)
        self._held += len(data)
        if self._held > self.high_water:
            self.flush()

    def close(self) -> None:
        self.shut()
        self.flush()
        with suppress(RuntimeError):  # uvloop's, of one that is closed
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once; what is still to be written is lost."""
        self.lose()
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that are still to be written."""
        if self._turn.wide:
            self._turn.spread()
        return sum(map(len, self._frames or ())) + self._transport.get_write_buffer_size()

    buffered = get_write_buffer_size
