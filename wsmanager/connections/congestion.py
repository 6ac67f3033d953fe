"""What a connection has only while its peer does not keep up: what waits, and the task that sends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from math import inf
from typing import Literal

from ..errors import ConnectionClosed
from ..messages import MessagePriority
from ..protocols import MessageQueue
from ..tasks.supervision import is_being_cancelled
from ..wire.asgi import Event
from ..wire.outgoing import Outgoing
from ..wire.stepping import discard
from .seams import Line, Waiting, priority_of

__all__ = ["AppEvent", "Congestion"]


class AppEvent:
    """An event that the application sends by itself; `done` tells whoever waits until the server has it."""

    __slots__ = ("done", "event")

    size = 0
    priority: MessagePriority | None = None
    expires_at: float | None = inf
    key: str | None = None
    counted_as = ""

    def __init__(self, event: Event) -> None:
        self.event = event
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_wanted(self) -> bool:
        return not self.done.cancelled()

    def frame(self) -> None:
        return None

    def queued(self) -> None:
        pass

    def taken(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def left(self) -> Outgoing | None:
        return None

    def failed(self, error: BaseException) -> bool:
        if not self.done.done():
            self.done.set_exception(error)
        return True


class Congestion:
    """Owns the order of one connection's frames until its peer has caught up.

    It begins with a frame that the server did not take at once; what comes meanwhile waits in a
    `MessageQueue`. Guaranteed: every message leaves once, sent or told to the owner as given up; an event
    of the application's own is sent, or who waits for it is told.
    """

    __slots__ = (
        "_begun",
        "_bytes",
        "_in_hand",
        "_line",
        "_queue",
        "_rest",
        "_roomy",
        "_since",
        "_spared",
        "_task",
        "_timeouts",
    )

    def __init__(self, line: Line, rest: Awaitable[None], in_hand: Waiting) -> None:
        """`rest` is what remains of sending `in_hand`. Nothing happens before `start`."""
        self._line = line
        self._queue: MessageQueue[Waiting] = line.owner.new_queue()
        self._bytes = 0
        self._spared: list[Waiting] = []
        """Events of the application's own that had no place in the queue; they go first."""
        self._in_hand: Waiting | None = in_hand
        self._rest: Awaitable[None] | None = rest
        self._begun = False
        self._roomy: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._since = line.owner.now()
        """When the server last took a frame."""
        self._timeouts = 0
        """How many send timeouts have passed since."""
        in_hand.queued()

    def start(self) -> None:
        """Send in the background until nothing waits or the peer is gone, and tell the connection."""
        self._task = asyncio.create_task(self._drain(), name="wsmanager.drain")

    # --- what comes

    def push(self, item: Waiting) -> bool:
        """Take an item in, or answer false. What gives way for it is given up."""
        line = self._line
        now, expires_at = line.owner.now(), item.expires_at
        outcome = self._queue.enqueue(
            item,
            priority_of(line, item),
            size=item.size,
            ttl=None if expires_at is None else expires_at - now,
            key=item.key,
            now=now,
        )
        if outcome.accepted:
            item.queued()
            self._bytes += item.size
        self._remove(outcome.evicted, "evicted")
        if outcome.replaced is not None:
            self._remove((outcome.replaced,), "conflated")
        return outcome.accepted

    async def send_event(self, event: Event) -> None:
        """Send an event of the application's own in its turn, whatever gives way for what.

        Raises what the server says to it, or `ConnectionClosed`. Who is cancelled before its turn has
        sent nothing.
        """
        item = AppEvent(event)
        if not self.push(item):
            self._spared.append(item)
        await item.done

    # --- room

    def __len__(self) -> int:
        """How many messages wait, the one in the server's hands included."""
        return len(self._queue) + len(self._spared) + (self._in_hand is not None)

    @property
    def half_full(self) -> bool:
        """True while more than half of the queue is taken, in messages or in bytes."""
        config = self._line.owner.config
        return len(self._queue) * 2 > config.queue_max_messages or self._bytes * 2 > config.queue_max_bytes

    def has_room_for(self, size: int) -> bool:
        """True if a message of `size` bytes can wait without another giving way."""
        config = self._line.owner.config
        return len(self._queue) < config.queue_max_messages and self._bytes + size <= config.queue_max_bytes

    async def room(self) -> None:
        """Wait until at most half of the queue is taken, or the end."""
        if self.half_full:
            if self._roomy is None:
                self._roomy = asyncio.Event()
            await self._roomy.wait()

    def _tell_room(self) -> None:
        roomy, self._roomy = self._roomy, None
        if roomy is not None:
            roomy.set()

    # --- what goes

    async def _drain(self) -> None:
        self._begun = True
        try:
            while await self._hand_over():
                pass
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            self._fail(error)  # something of the server's was cancelled, not this task
        except Exception as error:
            self._fail(error)
        else:
            # No await since nothing was found to wait: nothing can have slipped in.
            self._tell_room()
            self._line.caught_up(self)

    async def _hand_over(self) -> bool:
        """Give the server one more, once it has what is in hand; False at the end."""
        try:
            if self._rest is not None:
                await self._rest
                self._rest = None
            item = self._next()
            if item is not None:
                self._rest = self._line.write(item)
        except Exception as error:
            if isinstance(error, OSError) or not self._refused(error):
                raise
            return True
        return item is not None

    def _refused(self, error: Exception) -> bool:
        """True where the server does not want what is in hand and the peer is still there: its sender is
        told, and the rest goes on."""
        refused = self._in_hand
        if refused is None or not refused.failed(error):
            return False
        self._in_hand = self._rest = None
        return True

    def _next(self) -> Waiting | None:
        """Return what goes next, now that the server took what was in hand; None at the end."""
        taken, self._in_hand = self._in_hand, self._take()
        if taken is not None:
            self._taken(taken)
        if self._in_hand is None:
            self.drop_expired()
            self._in_hand = self._take()  # what the owner had kept for it until now, or says of what expired
        return self._in_hand

    def _taken(self, item: Waiting) -> None:
        line = self._line
        if self._timeouts == 0 and line.trouble is not None:
            line.trouble.breaker.record_success()
        self._since, self._timeouts = line.owner.now(), 0
        item.taken()
        line.owner.handed_over(line, item)
        if not self.half_full:
            self._tell_room()

    def _take(self) -> Waiting | None:
        """Return the next that somebody still wants to be sent."""
        while True:
            if self._spared:
                item = self._spared.pop(0)
            else:
                queued = self._queue.dequeue(now=self._line.owner.now())
                if queued is None:
                    return None
                item = queued
                self._bytes -= item.size
            if item.is_wanted:
                return item

    def _fail(self, error: BaseException) -> None:
        if self._in_hand is not None:
            self._in_hand.failed(error)
        self._line.peer_failed(error)

    async def drained(self) -> None:
        """Wait until nothing is sent any more, whoever else waits; the task's cancellation is not ours."""
        if self._task is not None:
            await asyncio.wait({self._task})

    # --- what does not go

    def check(self, now: float) -> Literal["overdue", "slow"] | None:
        """What the time without progress means; "overdue" once per send timeout."""
        config, stuck = self._line.owner.config, now - self._since
        if stuck >= config.slow_timeout:
            return "slow"
        if stuck < config.send_timeout * (self._timeouts + 1):
            return None
        self._timeouts += 1
        return "overdue"

    def drop_expired(self) -> None:
        """Give up what waited too long."""
        self._remove(self._queue.cleanup_expired(now=self._line.owner.now()), "expired")

    def abandon(self) -> None:
        """Stop, and give up what waits. What is in the server's hands may still arrive."""
        if self._rest is not None and not self._begun:
            discard(self._rest)
        with suppress(RuntimeError):  # of a loop that is closed
            if self._task is not None and self._task is not asyncio.current_task():
                self._task.cancel()
        in_hand, self._in_hand = self._in_hand, None
        left: list[Waiting] = []
        if in_hand is not None and _is_done(self._rest):
            self._taken(in_hand)
        elif in_hand is not None:
            left.append(in_hand)
        owner = self._line.owner
        try:
            while (item := self._queue.dequeue(now=owner.now())) is not None:
                left.append(item)
            self.drop_expired()
        except Exception as error:  # of a replaced queue: what it holds is lost
            owner.note(logging.ERROR, "queue.failed", error=error, connection=self._line.id)
        self._remove(left, "abandoned")
        for spared in self._spared:
            spared.failed(ConnectionClosed(f"connection {self._line.id} is closed"))
        self._tell_room()

    def _remove(self, items: Sequence[Waiting], reason: str) -> None:
        """Take out of the account what left the queue unsent."""
        given_up: list[Outgoing] = []
        for item in items:
            self._bytes -= item.size
            if (outgoing := item.left()) is None:
                self._spared.append(item)
            else:
                given_up.append(outgoing)
        if given_up:
            self._line.owner.given_up(self._line, given_up, reason)


def _is_done(rest: Awaitable[None] | None) -> bool:
    """True when the server has finished without a fault what is still to be awaited."""
    return (
        isinstance(rest, asyncio.Future) and rest.done() and not rest.cancelled() and rest.exception() is None
    )
