"""One check per seam of `wsmanager.protocols`: run your part through it, and it says what is broken.

Each takes a factory that makes a fresh part, and raises `AssertionError` with the obligation that the
part does not meet. The answer is the same on every run.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, Protocol

import msgspec

from ..errors import AuthenticationError, EncodeError, InvalidMessage
from ..messages import Frame, InboundMessage, MessagePriority, UserKey
from ..protocols import (
    Authenticator,
    Codec,
    Handshake,
    HealthSample,
    HealthScorer,
    Identity,
    MessageQueue,
    MessageValidator,
    RateDecision,
    RateLimiter,
)

__all__ = [
    "QueueFactory",
    "check_authenticator",
    "check_codec",
    "check_health_scorer",
    "check_message_queue",
    "check_message_validator",
    "check_rate_limiter",
]

LOW, MEDIUM, HIGH, CRITICAL = MessagePriority


def _require(kept: bool, obligation: str) -> None:
    if not kept:
        raise AssertionError(obligation)


# --- RateLimiter

_START: Final = 1_000.0


def check_rate_limiter(factory: Callable[[], RateLimiter], *, max_keys: int | None = None) -> None:
    """Hold a `RateLimiter` against its obligations.

    `max_keys` is how many keys the factory's limiters keep in mind; given, that is checked too.
    """
    for now in (_START, None):
        _check_decision(factory().check_rate_limit("key", now=now))
    _check_charges(factory)
    _check_refusal_charges_nothing(factory)
    _check_keys_are_independent(factory())
    _check_recovery(factory)
    _check_factor(factory)
    if max_keys is not None:
        _check_forgets(factory(), max_keys)


def _check_decision(first: RateDecision) -> None:
    _require(isinstance(first, RateDecision), "check_rate_limit must answer a RateDecision, now given or not")
    _require(first.allowed, "the first message of a key must pass")
    _require(first.retry_after_ms == 0, "retry_after_ms must be 0 when the message may pass")
    _require(0 <= first.remaining < first.limit, "remaining must tell how many units are left of the limit")


def _exhaust(limiter: RateLimiter, key: Any = "key", factor: float = 1.0) -> RateDecision:
    """Charge all units of `key` at once; answers the refusal that follows."""
    left = limiter.check_rate_limit(key, factor=factor, now=_START).remaining
    if left:
        last = limiter.check_rate_limit(key, cost=left, factor=factor, now=_START)
        _require(last.allowed, "a cost of as many units as remain must pass")
        _require(last.remaining == 0, "cost must be charged in full")
    return limiter.check_rate_limit(key, factor=factor, now=_START)


def _check_charges(factory: Callable[[], RateLimiter]) -> None:
    refusal = _exhaust(factory())
    _require(not refusal.allowed, "no more units than the limit may pass at once")
    _require(refusal.remaining == 0, "remaining must be 0 when no unit is left")
    told = isinstance(refusal.retry_after_ms, int) and refusal.retry_after_ms > 0
    _require(told, "a refusal must tell in retry_after_ms when the request can pass")


def _check_refusal_charges_nothing(factory: Callable[[], RateLimiter]) -> None:
    limiter = factory()
    left = limiter.check_rate_limit("key", now=_START).remaining
    _require(not limiter.check_rate_limit("key", cost=left + 1, now=_START), "a cost above the rest must not pass")
    passes = not left or limiter.check_rate_limit("key", cost=left, now=_START).allowed
    _require(passes, "a refusal must charge nothing: what was left before it must still pass")
    refusals = [limiter.check_rate_limit("key", now=_START).retry_after_ms for _ in range(20)]
    _require(refusals[0] == refusals[-1], "a refusal must charge nothing: it must not put off the recovery")


def _check_keys_are_independent(limiter: RateLimiter) -> None:
    _exhaust(limiter, "a")
    for other in ("b", ("tenant", "a"), UserKey(None, "a"), UserKey("tenant", "a2"), 1):
        allowed = limiter.check_rate_limit(other, now=_START).allowed
        _require(allowed, "keys must be independent: an exhausted one must not refuse another")


def _check_recovery(factory: Callable[[], RateLimiter]) -> None:
    limiter = factory()
    refusal = _exhaust(limiter)
    wait = refusal.retry_after_ms / 1000
    half = limiter.check_rate_limit("key", now=_START + wait / 2).allowed
    _require(not half, "retry_after_ms must be right: the request passed after half of it")
    limiter = factory()
    _exhaust(limiter)
    passes = limiter.check_rate_limit("key", now=_START + wait).allowed
    _require(passes, "retry_after_ms must be right: the request did not pass after it")
    much_later = _START + wait * (refusal.limit + 2)
    passes = limiter.check_rate_limit("key", cost=refusal.limit, now=much_later).allowed
    _require(passes, "after a long rest the whole limit must be there again")


def _check_factor(factory: Callable[[], RateLimiter]) -> None:
    limit = factory().check_rate_limit("key", now=_START).limit
    for factor in (0.5, 2.0, 10.0):
        refusal = _exhaust(factory(), factor=factor)
        _require(abs(refusal.limit - max(1.0, limit * factor)) <= 1, "factor must scale the limit")
        _require(not refusal.allowed, "no more units than the scaled limit may pass at once")
    again = factory()
    again.check_rate_limit("key", factor=10.0, now=_START)
    _require(again.check_rate_limit("b", now=_START).limit == limit, "factor must count for its own call only")


def _check_forgets(limiter: RateLimiter, max_keys: int) -> None:
    import weakref  # noqa: PLC0415 - for this one check

    class Key:
        __slots__ = ("__weakref__",)

    alive: weakref.WeakSet[Key] = weakref.WeakSet()
    for n in range(3 * max_keys):
        key = Key()
        alive.add(key)
        limiter.check_rate_limit(key, now=_START + n * 1e-6)
        del key
    _require(len(alive) <= max_keys, f"no more than {max_keys} keys may be kept in mind, not {len(alive)}")


# --- MessageQueue

_ROOM: Final = 1_000_000


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
        _require(bool(queue.enqueue(item, item[0], size=1, now=0.0)), "a queue with room must accept")
    _require(len(queue) == len(sent), "len must tell how many messages wait")
    left = [queue.dequeue(now=0.0) for _ in sent]
    ranks = [priority for priority, _ in left]
    _require(ranks == sorted(ranks, reverse=True), "the highest priority must leave first")
    in_order = sorted(sent, key=lambda item: -item[0])
    _require(left == in_order, "inside one priority the oldest must leave first")
    _require(queue.dequeue(now=0.0) is None, "an empty queue must answer None")
    _require(len(queue) == 0, "an empty queue must have the length 0")


def _check_bounds(factory: QueueFactory) -> None:
    queue = factory(3, _ROOM, 60.0)
    for n in range(10):
        queue.enqueue(n, size=1, now=0.0)
        _require(len(queue) <= 3, "no more than max_messages may wait")
    queue = factory(100, 100, 60.0)
    for n in range(10):
        queue.enqueue(n, size=30, now=0.0)
        _require(len(queue) <= 3, "no more than max_bytes may wait")
    _require(not queue.enqueue("big", CRITICAL, size=101, now=0.0), "what exceeds max_bytes must be refused")


def _check_eviction(factory: QueueFactory) -> None:
    queue = _filled(factory, LOW, LOW, HIGH)
    answer = queue.enqueue("new", MEDIUM, size=1, now=0.0)
    _require(answer.accepted, "a message must find room among those of a lower priority")
    _require(answer.evicted == (0,), "the oldest of the lowest priority must give way, and be told in evicted")
    answer = _filled(factory, HIGH, HIGH, HIGH).enqueue("new", LOW, size=1, now=0.0)
    _require(not answer.evicted, "a message must not displace one of a higher priority")
    _require(not answer.accepted, "a message that finds no room must be refused")


def _filled(factory: QueueFactory, *priorities: MessagePriority) -> MessageQueue[Any]:
    queue = factory(len(priorities), _ROOM, 60.0)
    for n, priority in enumerate(priorities):
        queue.enqueue(n, priority, size=1, now=0.0)
    return queue


def _check_critical(queue: MessageQueue[Any]) -> None:
    known = set[int]()
    for n in range(6):
        answer = queue.enqueue(n, CRITICAL, size=1, now=0.0)
        known.update(answer.evicted if answer else (*answer.evicted, n))
    known.update(queue.dequeue(now=0.0) for _ in range(len(queue)))
    _require(known == set(range(6)), "a CRITICAL message must never be dropped silently")


def _check_conflation(queue: MessageQueue[Any]) -> None:
    queue.enqueue("old", size=1, key="k", now=0.0)
    queue.enqueue("other", size=1, key="k2", now=0.0)
    answer = queue.enqueue("new", size=1, key="k", now=0.0)
    _require(answer.replaced == "old", "a message of the same key must replace the one that waits, and tell it")
    left = {queue.dequeue(now=0.0) for _ in range(len(queue))}
    _require(left == {"new", "other"}, "only the last message of a key may leave, and other keys must stay")
    answer = queue.enqueue("later", size=1, key="k", now=0.0)
    _require(answer.replaced is None, "what left the queue already cannot be replaced")


def _check_expiry(factory: QueueFactory) -> None:
    queue = factory(10, _ROOM, 60.0)
    queue.enqueue("short", size=1, ttl=10.0, now=0.0)
    queue.enqueue("long", size=1, ttl=100.0, now=0.0)
    queue.enqueue("default", size=1, now=0.0)
    _require(queue.dequeue(now=30.0) == "long", "an expired message must not be dequeued")
    _require(queue.cleanup_expired(now=30.0) == ["short"], "cleanup_expired must tell what dequeue skipped")
    _require(queue.cleanup_expired(now=59.0) == [], "no message may expire before its time")
    _require(queue.cleanup_expired(now=61.0) == ["default"], "cleanup_expired must tell what has expired")
    queue = factory(2, _ROOM, 60.0)
    queue.enqueue("stale", HIGH, size=1, ttl=10.0, now=0.0)
    queue.enqueue("live", LOW, size=1, now=0.0)
    answer = queue.enqueue("new", LOW, size=1, now=20.0)
    _require(answer.evicted == ("stale",), "expired messages must give way before live ones")


def _check_conservation(factory: QueueFactory) -> None:
    """Many steps of everything at once, with an account of what must be inside."""
    dice = random.Random(1)  # noqa: S311 - reproducible, not secret
    queue = factory(8, 80, 20.0)
    inside: dict[Any, tuple[MessagePriority, int, float]] = {}

    def leave(items: Collection[Any]) -> None:
        for item in items:
            _require(item in inside, "every accepted message must leave exactly once")
            del inside[item]

    for step in range(2_000):
        now = step * 0.5
        if dice.random() < 0.3:
            live = [rank for rank, _, until in inside.values() if until > now]
            item = queue.dequeue(now=now)
            _require((item is None) == (not live), "dequeue must answer a message while one waits")
            if item is not None:
                _require(item in inside and inside[item][0] == max(live), "the highest priority must leave first")
                leave([item])
        elif dice.random() < 0.05:
            leave(queue.cleanup_expired(now=now))
        else:
            priority, size, ttl = dice.choice((LOW, MEDIUM, HIGH, CRITICAL)), dice.randint(1, 30), dice.choice((3.0, 15.0))
            answer = queue.enqueue(
                step, priority, size=size, ttl=ttl, key=dice.choice((None, None, "a", "b")), now=now
            )
            for item in answer.evicted:
                gone = inside.get(item)
                fair = gone is None or gone[0] <= priority or gone[2] <= now
                _require(fair, "a message must not displace one of a higher priority")
            leave(answer.evicted)
            if answer.accepted:
                leave([] if answer.replaced is None else [answer.replaced])
                inside[step] = (priority, size, now + ttl)
            held = [size for _, size, until in inside.values() if until > now]
            _require(len(held) <= 8, "no more than max_messages may wait")
            _require(sum(held) <= 80, "no more than max_bytes may wait")
    while (item := queue.dequeue(now=1_000.0)) is not None:
        leave([item])
    leave(queue.cleanup_expired(now=1_000.0))
    _require(not inside, "no accepted message may be lost: each must leave by an answer of the queue")


def _check_own_clock(queue: MessageQueue[Any]) -> None:
    message = {"type": "chat.message", "data": "hello"}
    _require(bool(queue.enqueue(message)), "a message must be accepted without size and now")
    _require(queue.cleanup_expired() == [], "no message may expire before its time")
    _require(queue.dequeue() == message, "a message must leave as it came")
