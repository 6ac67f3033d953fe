"""What every `MessageQueue` must do."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Final, Protocol

from ...messages import MessagePriority
from ...protocols import MessageQueue
from .obligations import require

__all__ = ["QueueFactory", "check_message_queue"]

LOW, MEDIUM, HIGH, CRITICAL = MessagePriority

_ROOM: Final = 1_000_000
_DISPLACED: Final = "a message must not displace one of a higher priority"


class QueueFactory(Protocol):
    """Makes a queue with these bounds; ``ttl`` is for messages that come without one."""

    def __call__(self, max_messages: int, max_bytes: int, ttl: float) -> MessageQueue[Any]: ...


def check_message_queue(factory: QueueFactory) -> None:
    """Hold a `MessageQueue` against its obligations."""
    _check_order(factory(100, _ROOM, 60.0))
    _check_bounds(factory)
    _check_eviction(factory)
    _check_critical(factory(3, _ROOM, 60.0))
    _check_conflation(factory(10, _ROOM, 60.0))
    _check_expiry(factory)
    _check_conservation(factory)
    _check_own_clock(factory(10, _ROOM, 60.0))


def _check_order(queue: MessageQueue[Any]) -> None:
    sent = [(priority, n) for n in range(5) for priority in (LOW, CRITICAL, MEDIUM, HIGH)]
    for item in sent:
        require(bool(queue.enqueue(item, item[0], size=1, now=0.0)), "a queue with room must accept")
    require(len(queue) == len(sent), "len must tell how many messages wait")
    left: list[Any] = [queue.dequeue(now=0.0) for _ in sent]
    require(None not in left, "dequeue must answer a message while one waits")
    in_order = sorted(sent, key=lambda item: -item[0])
    require(
        [rank for rank, _ in left] == [rank for rank, _ in in_order], "the highest priority must leave first"
    )
    require(left == in_order, "inside one priority the oldest must leave first")
    require(queue.dequeue(now=0.0) is None, "an empty queue must answer None")
    require(len(queue) == 0, "an empty queue must have the length 0")


def _check_bounds(factory: QueueFactory) -> None:
    queue = factory(3, _ROOM, 60.0)
    for n in range(10):
        queue.enqueue(n, size=1, now=0.0)
        require(len(queue) <= 3, "no more than max_messages may wait")
    queue = factory(100, 100, 60.0)
    for n in range(10):
        queue.enqueue(n, size=30, now=0.0)
        require(len(queue) <= 3, "no more than max_bytes may wait")
    require(not queue.enqueue("big", CRITICAL, size=101, now=0.0), "what exceeds max_bytes must be refused")


def _check_eviction(factory: QueueFactory) -> None:
    queue = _filled(factory, LOW, LOW, HIGH)
    answer = queue.enqueue("new", MEDIUM, size=1, now=0.0)
    require(answer.accepted, "a message must find room among those of a lower priority")
    require(answer.evicted == (0,), "the oldest of the lowest priority must give way, and be told in evicted")
    answer = _filled(factory, HIGH, HIGH, HIGH).enqueue("new", LOW, size=1, now=0.0)
    require(not answer.evicted, _DISPLACED)
    require(not answer.accepted, "a message that finds no room must be refused")


def _filled(factory: QueueFactory, *priorities: MessagePriority) -> MessageQueue[Any]:
    queue = factory(len(priorities), _ROOM, 60.0)
    for n, priority in enumerate(priorities):
        queue.enqueue(n, priority, size=1, now=0.0)
    return queue


def _check_critical(queue: MessageQueue[Any]) -> None:
    known: set[Any] = set()
    for n in range(6):
        answer = queue.enqueue(n, CRITICAL, size=1, now=0.0)
        known.update(answer.evicted if answer else (*answer.evicted, n))
    known.update(queue.dequeue(now=0.0) for _ in range(len(queue)))
    require(known == set(range(6)), "a CRITICAL message must never be dropped silently")


def _check_conflation(queue: MessageQueue[Any]) -> None:
    queue.enqueue("old", size=1, key="k", now=0.0)
    queue.enqueue("other", size=1, key="k2", now=0.0)
    answer = queue.enqueue("new", size=1, key="k", now=0.0)
    require(
        answer.replaced == "old", "a message of the same key must replace the one that waits, and tell it"
    )
    left = {queue.dequeue(now=0.0) for _ in range(len(queue))}
    require(left == {"new", "other"}, "only the last message of a key may leave, and other keys must stay")
    answer = queue.enqueue("later", size=1, key="k", now=0.0)
    require(answer.replaced is None, "what left the queue already cannot be replaced")


def _check_expiry(factory: QueueFactory) -> None:
    queue = factory(10, _ROOM, 60.0)
    queue.enqueue("short", size=1, ttl=10.0, now=0.0)
    queue.enqueue("long", size=1, ttl=100.0, now=0.0)
    queue.enqueue("default", size=1, now=0.0)
    require(queue.dequeue(now=30.0) == "long", "an expired message must not be dequeued")
    require(queue.cleanup_expired(now=30.0) == ["short"], "cleanup_expired must tell what dequeue skipped")
    require(queue.cleanup_expired(now=59.0) == [], "no message may expire before its time")
    require(queue.cleanup_expired(now=61.0) == ["default"], "cleanup_expired must tell what has expired")
    queue = factory(2, _ROOM, 60.0)
    queue.enqueue("stale", HIGH, size=1, ttl=10.0, now=0.0)
    queue.enqueue("live", LOW, size=1, now=0.0)
    answer = queue.enqueue("new", LOW, size=1, now=20.0)
    require(answer.evicted == ("stale",), "expired messages must give way before live ones")


def _check_conservation(factory: QueueFactory) -> None:
    """Many steps of everything at once, with an account of what must be inside."""
    dice = random.Random(1)  # noqa: S311 - reproducible, not secret
    account = _Account(factory(8, 80, 20.0))
    for step in range(2_000):
        account.now = step * 0.5
        choice = dice.random()
        if choice < 0.3:
            account.dequeue()
        elif choice < 0.35:
            account.leave(account.queue.cleanup_expired(now=account.now))
        else:
            account.enqueue(
                step,
                dice.choice((LOW, MEDIUM, HIGH, CRITICAL)),
                size=dice.randint(1, 20),
                ttl=dice.choice((3.0, 15.0)),
                key=dice.choice((None, None, "a", "b")),
            )
    while account.dequeue() is not None:
        pass
    account.leave(account.queue.cleanup_expired(now=account.now))
    require(not account.inside, "no accepted message may be lost: each must leave by an answer of the queue")


class _Account:
    """A queue, and what was accepted and did not leave yet, with its priority, size and end."""

    def __init__(self, queue: MessageQueue[int]) -> None:
        self.queue = queue
        self.inside: dict[int, tuple[MessagePriority, int, float]] = {}
        self.now = 0.0

    def enqueue(
        self, item: int, priority: MessagePriority, *, size: int, ttl: float, key: str | None
    ) -> None:
        answer = self.queue.enqueue(item, priority, size=size, ttl=ttl, key=key, now=self.now)
        displaced = (self.inside[gone][0] for gone in answer.evicted if gone in self.live())
        require(all(rank <= priority for rank in displaced), _DISPLACED)
        self.leave(answer.evicted)
        self.leave(() if answer.replaced is None else (answer.replaced,))
        if answer.accepted:
            self.inside[item] = (priority, size, self.now + ttl)
        sizes = [self.inside[waiting][1] for waiting in self.live()]
        require(len(sizes) <= 8, "no more than max_messages may wait")
        require(sum(sizes) <= 80, "no more than max_bytes may wait")

    def dequeue(self) -> int | None:
        ranks = [self.inside[waiting][0] for waiting in self.live()]
        item = self.queue.dequeue(now=self.now)
        if item is None:
            require(not ranks, "dequeue must answer a message while one waits")
            return None
        require(item in self.live(), "an expired message must not be dequeued, and none twice")
        require(self.inside[item][0] == max(ranks), "the highest priority must leave first")
        self.leave((item,))
        return item

    def live(self) -> set[int]:
        return {item for item, (_, _, end) in self.inside.items() if end > self.now}

    def leave(self, items: Iterable[int]) -> None:
        for item in items:
            require(item in self.inside, "every accepted message must leave exactly once")
            del self.inside[item]


def _check_own_clock(queue: MessageQueue[Any]) -> None:
    message = {"type": "chat.message", "data": "hello"}
    require(bool(queue.enqueue(message)), "a message must be accepted without size and now")
    require(queue.cleanup_expired() == [], "no message may expire before its time")
    require(queue.dequeue() == message, "a message must leave as it came")
