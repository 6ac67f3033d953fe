"""Messages for absent users, kept in memory until they connect: oldest first, bounded in every direction."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final

import msgspec

from ..errors import ConfigurationError
from ..messages import MessagePriority, UserKey

__all__ = ["Kept", "OfflineMessages", "StoredMessage"]


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """One message as it waits for its user. `OfflineMessages.stamp` makes them."""

    payload: bytes
    """The encoded message."""
    type: str | None
    """None for a message without one."""
    priority: MessagePriority
    expires_at: float
    """Monotonic seconds: it is handed over before this moment or not at all."""
    sequence: int = 0
    """Where it stands among all messages of the process."""

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return len(self.payload)


class Kept(msgspec.Struct, frozen=True):
    """What became of a message to keep. It is true when it was taken in."""

    accepted: bool
    evicted: tuple[StoredMessage, ...] = ()
    """Messages of the same user that gave way: expired ones first, then the oldest."""

    def __bool__(self) -> bool:
        return self.accepted


_KEPT: Final = Kept(accepted=True)
_REFUSED: Final = Kept(accepted=False)
_SPARE_DEADLINES: Final = 64


class _Inbox:
    """The messages of one user, oldest first."""

    __slots__ = ("bytes", "deadline", "earliest", "messages")

    def __init__(self) -> None:
        self.messages: deque[StoredMessage] = deque()
        self.bytes = 0
        self.earliest = inf
        """Nothing in it expires before."""
        self.deadline = inf
        """When to look whether all of it has expired: not later than it has."""

    def add(self, messages: Sequence[StoredMessage]) -> None:
        """Count what was just put into `messages`."""
        self.bytes += _size(messages)
        self.earliest = min(self.earliest, *(message.expires_at for message in messages))

    def shrink(self, max_messages: int, max_bytes: int, now: float) -> list[StoredMessage]:
        """Remove and return what is too much: all that has expired, then the oldest."""
        left: list[StoredMessage] = []
        if len(self.messages) > max_messages or self.bytes > max_bytes:
            left = self.expire(now)
        while len(self.messages) > max_messages or self.bytes > max_bytes:
            oldest = self.messages.popleft()
            self.bytes -= oldest.size
            left.append(oldest)
        return left

    def expire(self, now: float) -> list[StoredMessage]:
        """Remove and return what has expired; looks at every message only when there can be one."""
        if now < self.earliest:
            return []
        expired = [message for message in self.messages if message.expires_at <= now]
        self.messages = deque(message for message in self.messages if message.expires_at > now)
        self.bytes -= _size(expired)
        self.earliest = min((message.expires_at for message in self.messages), default=inf)
        return expired


class OfflineMessages:
    """What waits for users without a connection.

    Guaranteed:

    - A user's messages come out in the order they came in, and only under the key they were kept for.
    - No user has more than `max_messages` or `max_bytes` waiting, and no more than `max_users` have any; a
      user with none takes no place.
    - Every message kept leaves once: taken, given to the caller as ``evicted``, counted by `purge` or by
      `cleanup_expired`.

    `now` is monotonic; left out, the monotonic clock is read. All is lost with the process.
    """

    def __init__(
        self,
        max_messages: int = 1_000,
        max_bytes: int = 1_048_576,
        ttl: float = 86_400.0,
        max_users: int = 10_000,
    ) -> None:
        """Raises `ConfigurationError` for a bound that would let nothing in."""
        if min(max_messages, max_bytes, max_users) < 1 or not ttl > 0:
            raise ConfigurationError(
                "max_messages, max_bytes, ttl and max_users of offline messages must be above 0"
            )
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._max_users = max_users
        self._inboxes: dict[UserKey, _Inbox] = {}
        self._deadlines: list[tuple[float, int, UserKey]] = []
        self._ties = itertools.count()
        self._expired = 0

    @property
    def users(self) -> int:
        """Users with messages waiting."""
        return len(self._inboxes)

    @property
    def messages(self) -> int:
        """Messages waiting for all users, with those that have expired and are not removed yet."""
        return sum(len(inbox.messages) for inbox in self._inboxes.values())

    @property
    def bytes_waiting(self) -> int:
        """The sizes of `messages`, all together."""
        return sum(inbox.bytes for inbox in self._inboxes.values())

    def count(self, key: UserKey) -> int:
        """Messages waiting for one user, with those that have expired and are not removed yet."""
        inbox = self._inboxes.get(key)
        return 0 if inbox is None else len(inbox.messages)

    def stamp(
        self,
        payload: bytes,
        *,
        type: str | None,
        priority: MessagePriority = MessagePriority.MEDIUM,
        ttl: float | None = None,
        sequence: int = 0,
        now: float | None = None,
    ) -> StoredMessage:
        """A message to `keep`, for as many users as it is meant for.

        It expires `ttl` seconds from now; left out, the time to live of this object applies.
        """
        now = time.monotonic() if now is None else now
        expires_at = now + (self._ttl if ttl is None else ttl)
        return StoredMessage(payload, type, priority, expires_at, sequence)

    def keep(self, key: UserKey, message: StoredMessage, *, now: float | None = None) -> Kept:
        """Add the user's newest message. Where room is short, expired ones give way, then the oldest.

        Refused, with nothing changed, when the message alone is larger than `max_bytes`, or when it
        would be the first of one user too many and no other user's messages have all expired.
        """
        now = time.monotonic() if now is None else now
        inbox = None if message.size > self._max_bytes else self._inbox(key, now)
        if inbox is None:
            return _REFUSED
        inbox.messages.append(message)
        return self._settle(key, inbox, (message,), now)

    def take(
        self, key: UserKey, limit: int | None = None, *, now: float | None = None
    ) -> list[StoredMessage]:
        """Remove and return what waits for a user and has not expired, oldest first; at most `limit`."""
        inbox = self._inboxes.get(key)
        if inbox is None:
            return []
        self._expired += len(inbox.expire(time.monotonic() if now is None else now))
        if limit is None or limit >= len(inbox.messages):
            del self._inboxes[key]
            return list(inbox.messages)
        taken = [inbox.messages.popleft() for _ in range(limit)]
        inbox.bytes -= _size(taken)
        return taken

    def restore(self, key: UserKey, messages: Sequence[StoredMessage], *, now: float | None = None) -> Kept:
        """Put back what was taken and not handed over: among what came since, in the order of `sequence`,
        and before what has the same.

        Room is made as by `keep`, so the first of `messages` may be the first to go. Refused, with
        nothing changed, when it would be one user too many.
        """
        if not messages:
            return _KEPT
        now = time.monotonic() if now is None else now
        inbox = self._inbox(key, now)
        if inbox is None:
            return _REFUSED
        inbox.messages = deque(sorted((*messages, *inbox.messages), key=_place))
        return self._settle(key, inbox, messages, now)

    def purge(self, key: UserKey) -> int:
        """Forget a user's messages; how many there were."""
        inbox = self._inboxes.pop(key, None)
        return 0 if inbox is None else len(inbox.messages)

    def cleanup_expired(self, *, now: float | None = None) -> int:
        """Remove what has expired. How many did since the last call, those found on the way included."""
        now = time.monotonic() if now is None else now
        for key, inbox in list(self._inboxes.items()):
            self._expired += len(inbox.expire(now))
            if not inbox.messages:
                del self._inboxes[key]
        expired_since, self._expired = self._expired, 0
        return expired_since

    def _inbox(self, key: UserKey, now: float) -> _Inbox | None:
        """The user's inbox, a new one where there is a place for it."""
        inbox = self._inboxes.get(key)
        if inbox is None:
            if len(self._inboxes) >= self._max_users:
                self._vacate(now)
            if len(self._inboxes) < self._max_users:
                inbox = self._inboxes[key] = _Inbox()
        return inbox

    def _settle(self, key: UserKey, inbox: _Inbox, added: Sequence[StoredMessage], now: float) -> Kept:
        """Count what was added to an inbox, and let go of what is too much."""
        inbox.add(added)
        # Only the newest message is sure to stay until it expires: what is older may give way to the next.
        if inbox.messages[-1].expires_at < inbox.deadline:
            self._schedule(key, inbox, inbox.messages[-1].expires_at)
        evicted = inbox.shrink(self._max_messages, self._max_bytes, now)
        if not inbox.messages:
            del self._inboxes[key]
        return Kept(True, tuple(evicted)) if evicted else _KEPT

    def _schedule(self, key: UserKey, inbox: _Inbox, deadline: float) -> None:
        inbox.deadline = deadline
        heappush(self._deadlines, (deadline, next(self._ties), key))
        if len(self._deadlines) > 2 * len(self._inboxes) + _SPARE_DEADLINES:
            self._deadlines = [(box.deadline, next(self._ties), user) for user, box in self._inboxes.items()]
            heapify(self._deadlines)

    def _vacate(self, now: float) -> None:
        """Drop the users whose messages have all expired; the others are not looked at before they can."""
        while self._deadlines and self._deadlines[0][0] <= now:
            key = heappop(self._deadlines)[2]
            inbox = self._inboxes.get(key)
            if inbox is None:
                continue  # the user came meanwhile
            last = max(message.expires_at for message in inbox.messages)
            if last > now:
                self._schedule(key, inbox, last)
            else:
                self._expired += self.purge(key)


def _place(message: StoredMessage) -> int:
    return message.sequence


def _size(messages: Iterable[StoredMessage]) -> int:
    return sum(message.size for message in messages)
