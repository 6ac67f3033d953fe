"""What a connection has only while its peer does not keep up: what waits, and the task that sends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Literal

from ..errors import ConnectionClosed
from ..logs import log_event
from ..tasks.supervision import is_being_cancelled
from ..wire.asgi import Event
from ..wire.outgoing import Outgoing, Prepared
from ..wire.stepping import discard

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["AppEvent", "Congestion"]


class AppEvent(Outgoing):
    """An event that the application sends by itself, and who waits until the server has it."""

    __slots__ = ("done",)

    def __init__(self, event: Event) -> None:
        super().__init__(event, type="", expires_at=inf)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def taken(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    @property
    def withdrawn(self) -> bool:
        return self.done.cancelled()

    def fail(self, error: BaseException) -> None:
        """Tell who waits, if somebody still does."""
        if not self.done.done():
            self.done.set_exception(error)


class Congestion:
    """Owns the order of one connection's frames until its peer has caught up.

    It begins with a frame that the server did not take at once; what comes meanwhile waits in a
    `MessageQueue`. Guaranteed: every message leaves once, sent or told to the host as given up; an event
    of the application's own is sent, or who waits for it is told.
    """

    __slots__ = (
        "_begun",
        "_bytes",
        "_conn",
        "_in_hand",
        "_queue",
        "_rest",
        "_roomy",
        "_since",
        "_spared",
        "_task",
        "_timeouts",
    )

    def __init__(self, conn: Connection, rest: Awaitable[None], in_hand: Prepared) -> None:
        """`rest` is what remains of sending `in_hand`. Nothing happens before `start`."""
        self._conn = conn
        self._queue = conn.host.new_queue()
        self._bytes = 0
        self._spared: list[Prepared] = []
        """Events of the application's own that had no place in the queue; they go first."""
        self._in_hand: Prepared | None = in_hand
        self._rest: Awaitable[None] | None = rest
        self._begun = False
        self._roomy: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._since = conn.host.now()
        """When the server last took a frame."""
        self._timeouts = 0
        """How many send timeouts have passed since."""
        in_hand.outgoing.waiting += 1

    def start(self) -> None:
        """Send in the background until nothing waits or the peer is gone, and tell the connection."""
        self._task = asyncio.create_task(self._drain(), name="wsmanager.drain")

    # --- what comes

    def push(self, prepared: Prepared) -> bool:
        """Take a message in, or answer false. What gives way for it is given up."""
        conn, outgoing = self._conn, prepared.outgoing
        now = conn.host.now()
        outcome = self._queue.enqueue(
            prepared,
            conn.priority_of(outgoing),
            size=prepared.size,
            ttl=None if outgoing.expires_at is None else outgoing.expires_at - now,
            key=outgoing.key,
            now=now,
        )
        if outcome.accepted:
            outgoing.waiting += 1
            self._bytes += prepared.size
        self._remove(outcome.evicted, "evicted")
        if outcome.replaced is not None:
            self._remove((outcome.replaced,), "conflated")
        return outcome.accepted

    async def send_event(self, event: Event) -> None:
        """Send an event of the application's own in its turn, whatever gives way for what.

        Raises what the server says to it, or `ConnectionClosed`. Who is cancelled before its turn has
        sent nothing.
        """
        outgoing = AppEvent(event)
        prepared = Prepared(event, 0, outgoing)
        if not self.push(prepared):
            self._spared.append(prepared)
        await outgoing.done

    # --- room

    def __len__(self) -> int:
        """How many messages wait, the one in the server's hands included."""
        return len(self._queue) + len(self._spared) + (self._in_hand is not None)

    @property
    def half_full(self) -> bool:
        """Whether more than half of the queue is taken, in messages or in bytes."""
        config = self._conn.host.config
        return len(self._queue) * 2 > config.queue_max_messages or self._bytes * 2 > config.queue_max_bytes

    def has_room_for(self, size: int) -> bool:
        """Whether a message of `size` bytes can wait without another giving way."""
        config = self._conn.host.config
        return len(self._queue) < config.queue_max_messages and self._bytes + size <= config.queue_max_bytes

    async def room(self) -> None:
        """Wait until half of the queue is free, or the end."""
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
            self.drop_expired()
            self._tell_room()
            self._conn.caught_up(self)

    async def _hand_over(self) -> bool:
        """Give the server one more, once it has what is in hand; False at the end."""
        try:
            if self._rest is not None:
                await self._rest
                self._rest = None
            prepared = self._next()
            if prepared is not None:
                self._rest = self._conn.write(prepared)
        except Exception as error:
            if isinstance(error, OSError) or not self._refused(error):
                raise
            return True
        return prepared is not None

    def _refused(self, error: Exception) -> bool:
        """The server does not want what is in hand, and the peer is still there: where that is an event of
        the application's own, its sender is told, and the rest goes on."""
        refused = self._in_hand
        if refused is None or not isinstance(refused.outgoing, AppEvent):
            return False
        self._in_hand = self._rest = None
        refused.outgoing.fail(error)
        return True

    def _next(self) -> Prepared | None:
        """The server took what was in hand: what goes next; None at the end."""
        taken, self._in_hand = self._in_hand, self._take()
        if taken is not None:
            self._taken(taken)
            if self._in_hand is None:
                self._in_hand = self._take()  # what the host had kept for it until now
        return self._in_hand

    def _taken(self, prepared: Prepared) -> None:
        breaker, host = self._conn.breaker, self._conn.host
        if self._timeouts == 0 and breaker is not None:
            breaker.record_success()
        self._since, self._timeouts = host.now(), 0
        prepared.outgoing.taken()
        host.handed_over(self._conn, prepared)
        if not self.half_full:
            self._tell_room()

    def _take(self) -> Prepared | None:
        """The next that somebody still wants to be sent."""
        prepared: Prepared | None
        while True:
            if self._spared:
                prepared = self._spared.pop(0)
            else:
                prepared = self._queue.dequeue(now=self._conn.host.now())
                if prepared is None:
                    return None
                self._bytes -= prepared.size
            if not prepared.outgoing.withdrawn:
                return prepared

    def _fail(self, error: BaseException) -> None:
        if self._in_hand is not None:
            _tell(self._in_hand, error)
        self._conn.peer_failed(error)

    async def drained(self) -> None:
        """Wait until nothing is sent any more, whoever else waits; the task's cancellation is not ours."""
        if self._task is not None:
            await asyncio.wait({self._task})

    # --- what does not go

    def check(self, now: float) -> Literal["overdue", "slow"] | None:
        """What the time without progress means; "overdue" once per send timeout."""
        config, stuck = self._conn.host.config, now - self._since
        if stuck >= config.slow_timeout:
            return "slow"
        if stuck < config.send_timeout * (self._timeouts + 1):
            return None
        self._timeouts += 1
        return "overdue"

    def drop_expired(self) -> None:
        """Give up what waited too long."""
        self._remove(self._queue.cleanup_expired(now=self._conn.host.now()), "expired")

    def abandon(self) -> None:
        """Stop, and give up what waits. What is in the server's hands may still arrive."""
        if self._rest is not None and not self._begun:
            discard(self._rest)
        with suppress(RuntimeError):  # of a loop that is closed
            if self._task is not None and self._task is not asyncio.current_task():
                self._task.cancel()
        in_hand, self._in_hand = self._in_hand, None
        left: list[Prepared] = []
        if in_hand is not None and _is_done(self._rest):
            self._taken(in_hand)
        elif in_hand is not None:
            left.append(in_hand)
        try:
            while (prepared := self._queue.dequeue(now=self._conn.host.now())) is not None:
                left.append(prepared)
            self.drop_expired()
        except Exception as error:  # of a replaced queue: what it holds is lost
            log_event(logging.ERROR, "queue.failed", error=error, connection=self._conn.id)
        self._remove(left, "abandoned")
        for prepared in self._spared:
            _tell(prepared, ConnectionClosed(f"connection {self._conn.id} is closed"))
        self._tell_room()

    def _remove(self, messages: Sequence[Prepared], reason: str) -> None:
        """Take out of the account what left the queue unsent."""
        given_up: list[Prepared] = []
        for prepared in messages:
            self._bytes -= prepared.size
            if isinstance(prepared.outgoing, AppEvent):
                self._spared.append(prepared)
            else:
                prepared.outgoing.waiting -= 1
                given_up.append(prepared)
        if given_up:
            self._conn.host.given_up(self._conn, given_up, reason)


def _is_done(rest: Awaitable[None] | None) -> bool:
    """Whether the server has finished without a fault what is still to be awaited."""
    return (
        isinstance(rest, asyncio.Future) and rest.done() and not rest.cancelled() and rest.exception() is None
    )


def _tell(prepared: Prepared, error: BaseException) -> None:
    if isinstance(prepared.outgoing, AppEvent):
        prepared.outgoing.fail(error)
