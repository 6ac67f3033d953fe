"""What every `RateLimiter` must do."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final

from ...messages import UserKey
from ...protocols import RateDecision, RateLimiter
from .obligations import require, require_type

__all__ = ["check_rate_limiter"]

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
    require_type(first, RateDecision, "check_rate_limit must answer a RateDecision, now given or not")
    require(first.allowed, "the first message of a key must pass")
    require(first.retry_after_ms == 0, "retry_after_ms must be 0 when the message may pass")
    require(0 <= first.remaining < first.limit, "remaining must tell how many units are left of the limit")


def _exhaust(limiter: RateLimiter, key: Any = "key", factor: float = 1.0) -> RateDecision:
    """Charge all units of `key` at once; answers the refusal that follows."""
    left = limiter.check_rate_limit(key, factor=factor, now=_START).remaining
    if left:
        last = limiter.check_rate_limit(key, cost=left, factor=factor, now=_START)
        require(last.allowed, "a cost of as many units as remain must pass")
        require(last.remaining == 0, "cost must be charged in full")
    return limiter.check_rate_limit(key, factor=factor, now=_START)


def _check_charges(factory: Callable[[], RateLimiter]) -> None:
    refusal = _exhaust(factory())
    require(not refusal.allowed, "no more units than the limit may pass at once")
    require(refusal.remaining == 0, "remaining must be 0 when no unit is left")
    require_type(refusal.retry_after_ms, int, "retry_after_ms must be a whole number")
    require(refusal.retry_after_ms > 0, "a refusal must tell in retry_after_ms when the request can pass")


def _check_refusal_charges_nothing(factory: Callable[[], RateLimiter]) -> None:
    limiter = factory()
    left = limiter.check_rate_limit("key", now=_START).remaining
    require(
        not limiter.check_rate_limit("key", cost=left + 1, now=_START), "a cost above the rest must not pass"
    )
    passes = not left or limiter.check_rate_limit("key", cost=left, now=_START).allowed
    require(passes, "a refusal must charge nothing: what was left before it must still pass")
    refusals = [limiter.check_rate_limit("key", now=_START).retry_after_ms for _ in range(20)]
    require(refusals[0] == refusals[-1], "a refusal must charge nothing: it must not put off the recovery")


def _check_keys_are_independent(limiter: RateLimiter) -> None:
    _exhaust(limiter, "a")
    for other in ("b", ("tenant", "a"), UserKey(None, "a"), UserKey("tenant", "a2"), 1):
        allowed = limiter.check_rate_limit(other, now=_START).allowed
        require(allowed, "keys must be independent: an exhausted one must not refuse another")


def _check_recovery(factory: Callable[[], RateLimiter]) -> None:
    limiter = factory()
    refusal = _exhaust(limiter)
    wait = refusal.retry_after_ms / 1000
    half = limiter.check_rate_limit("key", now=_START + wait / 2).allowed
    require(not half, "retry_after_ms must be right: the request passed after half of it")
    limiter = factory()
    _exhaust(limiter)
    passes = limiter.check_rate_limit("key", now=_START + wait).allowed
    require(passes, "retry_after_ms must be right: the request did not pass after it")
    much_later = _START + wait * (refusal.limit + 2)
    passes = limiter.check_rate_limit("key", cost=refusal.limit, now=much_later).allowed
    require(passes, "after a long rest the whole limit must be there again")


def _check_factor(factory: Callable[[], RateLimiter]) -> None:
    limit = factory().check_rate_limit("key", now=_START).limit
    for factor in (0.5, 2.0, 10.0):
        refusal = _exhaust(factory(), factor=factor)
        require(abs(refusal.limit - max(1.0, limit * factor)) <= 1, "factor must scale the limit")
        require(not refusal.allowed, "no more units than the scaled limit may pass at once")
    again = factory()
    again.check_rate_limit("key", factor=10.0, now=_START)
    require(again.check_rate_limit("b", now=_START).limit == limit, "factor must count for its own call only")


def _check_forgets(limiter: RateLimiter, max_keys: int) -> None:
    class Key:
        __slots__ = ("__weakref__",)

    alive: weakref.WeakSet[Key] = weakref.WeakSet()
    for n in range(3 * max_keys):
        key = Key()
        alive.add(key)
        limiter.check_rate_limit(key, now=_START + n * 1e-6)
        del key
    require(len(alive) <= max_keys, f"no more than {max_keys} keys may be kept in mind, not {len(alive)}")
