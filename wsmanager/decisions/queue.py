"""What waits for a congested peer: bounded in messages and bytes, the most urgent first.

Each priority has a lane, ordered by age. A lane is an `OrderedDict` rather than a deque: a message can
leave its middle (evicted, expired, superseded) at once, so there are no dead slots to sweep. Expiry is a
heap beside the lanes; what left before its time stays in it until it is due or the heap is compacted.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

import msgspec

from ..errors import ConfigurationError, EncodeError
from ..messages import MessagePriority
from ..protocols import Enqueued

__all__ = ["MessagePriorityQueue"]

T = TypeVar("T")

_ACCEPTED: Final = Enqueued(accepted=True)
_REFUSED: Final = Enqueued(accepted=False)
_SPARE_DEADLINES: Final = 64


class _Waiting(msgspec.Struct, Generic[T], gc=False, eq=False):
    message: T
    size: int
    expires_at: float
    priority: MessagePriority
    key: str | None
    number: int
    """Its place: numbers grow with every arrival, and name the message in its lane."""


class MessagePriorityQueue(Generic[T]):
    """A `MessageQueue` with four priorities, first in, first out inside each.

    Guaranteed:

    - What is waiting never exceeds `max_messages` or `max_bytes`; what `dequeue` skipped as expired counts
      until it is reported.
    - Every accepted message leaves once: from `dequeue`, from `cleanup_expired`, or in the ``evicted`` or
      ``replaced`` of a later `enqueue`.
    - A message gives way only to one of its own or a higher priority, and a CRITICAL one to none at all.
    - A call takes logarithmic time for each message that comes or leaves, however many wait. Only a refusal
      for want of bytes looks at all that could have given way.

    `now` is monotonic; left out, the monotonic clock is read. A message has expired from
    ``enqueued at + ttl`` on.
    """

    __slots__ = (
        "_bytes",
        "_deadlines",
        "_held",
        "_keyed",
        "_lanes",
        "_max_bytes",
        "_max_messages",
        "_next_number",
        "_skipped",
        "_ttl",
    )

    def __init__(self, max_messages: int = 1_000, max_bytes: int = 1_048_576, ttl: float = 3_600.0) -> None:
        """Raises `ConfigurationError` for a bound that would let nothing in."""
        if max_messages < 1 or max_bytes < 1 or not ttl > 0:
            raise ConfigurationError("max_messages, max_bytes and ttl of a queue must be above 0")
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._lanes: tuple[OrderedDict[int, _Waiting[T]], ...] = tuple(OrderedDict() for _ in MessagePriority)
        self._keyed: dict[str, _Waiting[T]] = {}
        self._deadlines: list[tuple[float, int, MessagePriority]] = []
        self._skipped: list[_Waiting[T]] = []
        # Both include what was skipped and is not reported yet: else it could grow without bound.
        self._held = 0
        self._bytes = 0
        self._next_number = 0

    def __len__(self) -> int:
        """How many messages wait."""
        return self._held - len(self._skipped)

    @property
    def bytes_waiting(self) -> int:
        """The sizes of all messages that wait."""
        return self._bytes - sum(entry.size for entry in self._skipped)

    @property
    def counts(self) -> dict[MessagePriority, int]:
        """How many messages wait, by priority."""
        return {priority: len(self._lanes[priority]) for priority in MessagePriority}

    def enqueue(
        self,
        message: T,
        priority: MessagePriority = MessagePriority.MEDIUM,
        *,
        size: int | None = None,
        ttl: float | None = None,
        key: str | None = None,
        now: float | None = None,
    ) -> Enqueued:
        """Take `message` in, or answer false; what gave way is in the answer.

        Where room is short, expired messages go first, then the oldest of the lowest priority, up to the
        priority of `message` itself. Where that does not help, `message` is refused and nothing but
        expired messages went; one that is larger than the whole queue is refused at once.

        A message of the same `key` that still waits is replaced, whatever its priority: the new one takes
        its place in the order when the priority is the same, else it goes to the end of its own. When the
        new one is refused, the old one stays.

        `size` is in bytes and not negative; left out, it is measured, by encoding to JSON what is neither
        text nor bytes. Raises `EncodeError` when that fails; nothing has changed then.
        """
        if now is None:
            now = time.monotonic()
        if size is None:
            size = _measure(message)
        number = self._next_number
        self._next_number = number + 1
        expires_at = now + (self._ttl if ttl is None else ttl)
        entry = _Waiting(message, size, expires_at, priority, key, number)
        old = None if key is None else self._keyed.get(key)
        if old is None and self._held < self._max_messages and self._bytes + size <= self._max_bytes:
            self._insert(entry)
            return _ACCEPTED
        return self._displace(entry, now)

    def dequeue(self, *, now: float | None = None) -> T | None:
        """The oldest message of the highest priority that has not expired; None when there is none.

        Expired ones that stood before it are kept for `cleanup_expired`, or for the first `enqueue` that
        needs their room.
        """
        if now is None:
            now = time.monotonic()
        for lane in reversed(self._lanes):
            while lane:
                entry = lane.popitem(last=False)[1]
                if entry.key is not None:
                    del self._keyed[entry.key]
                if entry.expires_at > now:
                    self._held -= 1
                    self._bytes -= entry.size
                    return entry.message
                self._skipped.append(entry)
        return None

    def cleanup_expired(self, *, now: float | None = None) -> list[T]:
        """Remove and return what has expired, what `dequeue` skipped first."""
        if now is None:
            now = time.monotonic()
        expired = self._report_skipped() if self._skipped else []
        while self._deadlines and self._deadlines[0][0] <= now:
            expires_at, number, priority = heappop(self._deadlines)
            entry = self._lanes[priority].get(number)
            # What left earlier is not there; what took its place waits for a deadline of its own.
            if entry is not None and entry.expires_at == expires_at:
                self._remove(entry)
                expired.append(entry.message)
        return expired

    def _displace(self, entry: _Waiting[T], now: float) -> Enqueued:
        """Take in what needs room or supersedes a message of its key."""
        if entry.size > self._max_bytes:
            return _REFUSED
        evicted: list[T] = []
        old, messages, size = self._excess(entry)
        if messages > 0 or size > 0:
            evicted = self.cleanup_expired(now=now)
            old, messages, size = self._excess(entry)
            victims = self._victims(entry.priority, messages, size, old)
            if victims is None:
                return Enqueued(False, tuple(evicted))
            for victim in victims:
                self._remove(victim)
                evicted.append(victim.message)
        if old is None:
            self._insert(entry)
            return Enqueued(True, tuple(evicted))
        self._replace(old, entry)
        return Enqueued(True, tuple(evicted), old.message)

    def _excess(self, entry: _Waiting[T]) -> tuple[_Waiting[T] | None, int, int]:
        """What `entry` supersedes, and how many messages and bytes are too many with it instead."""
        messages = self._held - self._max_messages
        size = self._bytes + entry.size - self._max_bytes
        old = None if entry.key is None else self._keyed.get(entry.key)
        return (None, messages + 1, size) if old is None else (old, messages, size - old.size)

    def _victims(
        self, priority: MessagePriority, messages: int, size: int, spared: _Waiting[T] | None
    ) -> list[_Waiting[T]] | None:
        """What gives way to `priority`, the oldest of the lowest first; None when all of it is too little."""
        victims: list[_Waiting[T]] = []
        for lane in self._lanes[: min(priority + 1, MessagePriority.CRITICAL)]:
            for victim in lane.values():
                if messages <= 0 and size <= 0:
                    return victims
                if victim is not spared:
                    victims.append(victim)
                    messages -= 1
                    size -= victim.size
        return victims if messages <= 0 and size <= 0 else None

    def _insert(self, entry: _Waiting[T]) -> None:
        self._lanes[entry.priority][entry.number] = entry
        self._held += 1
        self._bytes += entry.size
        if entry.key is not None:
            self._keyed[entry.key] = entry
        heappush(self._deadlines, (entry.expires_at, entry.number, entry.priority))
        if len(self._deadlines) > 2 * self._held + _SPARE_DEADLINES:
            self._compact()

    def _replace(self, old: _Waiting[T], entry: _Waiting[T]) -> None:
        """Put `entry` where `old` stands, or at the end of its own priority."""
        if old.priority == entry.priority:
            entry.number = old.number  # assigning to the number that is there keeps the place in the lane
            self._release(old)
        else:
            self._remove(old)
        self._insert(entry)

    def _remove(self, entry: _Waiting[T]) -> None:
        del self._lanes[entry.priority][entry.number]
        self._release(entry)

    def _release(self, entry: _Waiting[T]) -> None:
        self._held -= 1
        self._bytes -= entry.size
        if entry.key is not None:
            del self._keyed[entry.key]

    def _report_skipped(self) -> list[T]:
        skipped, self._skipped = self._skipped, []
        self._held -= len(skipped)
        self._bytes -= sum(entry.size for entry in skipped)
        return [entry.message for entry in skipped]

    def _compact(self) -> None:
        """Forget the deadlines of what left."""
        self._deadlines = [
            (entry.expires_at, entry.number, entry.priority)
            for lane in self._lanes
            for entry in lane.values()
        ]
        heapify(self._deadlines)


def _measure(message: object) -> int:
    try:
        if isinstance(message, str):
            return len(message) if message.isascii() else len(message.encode())
        if isinstance(message, bytes | bytearray):
            return len(message)
        return len(msgspec.json.encode(message))
    except Exception as error:
        raise EncodeError(f"a message of type {type(message).__name__} cannot be encoded: {error}") from error
