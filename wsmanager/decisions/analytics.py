"""What goes through: messages, bytes, latencies and errors by type, in bounded memory."""

from __future__ import annotations

import itertools
import math
import operator
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from ..errors import ConfigurationError, FailureKind

__all__ = ["OTHER", "AnalyticsStats", "Direction", "MessageAnalytics", "TypeStats"]

Direction: TypeAlias = Literal["in", "out"]

OTHER: Final = "other"
"""Where types and error codes are counted that are too many, or too long, to be counted one by one."""

_MAX_CODES = 100
_MAX_NAME_LENGTH = 255

_WINDOW = 60.0
_SLICE = 5.0
_SHORTEST = 1.0  # below a second of counting, a rate would be a guess

# Each bucket is 10 % wider than the one below, so the middle of a bucket is within 5 % of all it holds.
_GROWTH = 1.1
_SMALLEST_MS = 0.01
_LARGEST_MS = 100_000.0
_BOUNDS = [
    _SMALLEST_MS * _GROWTH**power
    for power in range(math.ceil(math.log(_LARGEST_MS / _SMALLEST_MS, _GROWTH)) + 1)
]
_MIDDLES = [_SMALLEST_MS, *(bound / math.sqrt(_GROWTH) for bound in _BOUNDS[1:]), math.inf]


class TypeStats(msgspec.Struct, frozen=True, gc=False):
    """The figures of one message type.

    Quantiles are None while no latency is known. They are at most 5 % off between 0.01 ms and 100 s;
    less counts as 0.01 ms, more as `max_ms`, which is exact.
    """

    count_in: int = 0
    count_out: int = 0
    """Deliveries: a broadcast to ten counts ten."""
    bytes_in: int = 0
    bytes_out: int = 0
    errors: int = 0
    rate_in: float = 0.0
    """Messages per second over the last minute."""
    rate_out: float = 0.0
    """Deliveries per second over the last minute."""
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None


class AnalyticsStats(msgspec.Struct, frozen=True):
    """The figures of a process since it started, or since they were reset. JSON-encodable."""

    uptime: float
    total: TypeStats
    """All types together."""
    types: dict[str, TypeStats]
    errors: dict[str, int]
    """Errors by code."""
    failures: dict[FailureKind, int] = {}
    """Failures by kind: of messages, handshakes and sends."""


class _Counters:
    """What is counted of one type."""

    __slots__ = ("buckets", "bytes_in", "bytes_out", "count_in", "count_out", "errors", "max_ms")

    def __init__(self) -> None:
        self.count_in = self.count_out = self.bytes_in = self.bytes_out = self.errors = 0
        self.buckets: list[int] | None = None  # most types never have a latency, and it is 1.4 KB
        self.max_ms = 0.0

    def add_latency(self, latency_ms: float) -> None:
        buckets = self.buckets
        if buckets is None:
            buckets = self.buckets = [0] * (len(_BOUNDS) + 1)
        buckets[bisect_left(_BOUNDS, latency_ms)] += 1
        if latency_ms > self.max_ms:
            self.max_ms = latency_ms

    def add(self, other: _Counters) -> None:
        self.count_in += other.count_in
        self.count_out += other.count_out
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.errors += other.errors
        self.max_ms = max(self.max_ms, other.max_ms)
        if other.buckets is not None:
            self.buckets = list(map(operator.add, self.buckets or itertools.repeat(0), other.buckets))

    def stats(self, before_in: int, before_out: int, elapsed: float) -> TypeStats:
        """The figures; `before_in` and `before_out` had been counted `elapsed` seconds ago."""
        quantiles = _quantiles(self.buckets, self.max_ms) if self.buckets else {}
        return TypeStats(
            count_in=self.count_in,
            count_out=self.count_out,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            errors=self.errors,
            rate_in=(self.count_in - before_in) / elapsed,
            rate_out=(self.count_out - before_out) / elapsed,
            **quantiles,
        )


def _quantiles(buckets: Iterable[int], max_ms: float) -> dict[str, float]:
    cumulated = list(itertools.accumulate(buckets))
    quantiles = {"max_ms": max_ms}
    for percent in (50, 90, 99):
        rank = -(-cumulated[-1] * percent // 100)
        bucket = bisect_left(cumulated, rank)
        quantiles[f"p{percent}_ms"] = min(max_ms, _MIDDLES[bucket])
    return quantiles


_Counts: TypeAlias = Mapping[str, tuple[int, int]]
"""Messages in and out by type."""


class _Mark(NamedTuple):
    """What had been counted at every moment from `since` to `until`: nothing arrived in between."""

    since: float
    until: float
    counts: _Counts


class MessageAnalytics:
    """Counts the messages of a process.

    At most `max_types` types are counted one by one, the rest together as `OTHER`, so that a client
    that invents types can't grow it. Error codes are bounded likewise.

    Raises `ConfigurationError` for a `max_types` below 1.
    """

    def __init__(self, *, max_types: int = 200, now: float | None = None) -> None:
        if max_types < 1:
            raise ConfigurationError("max_types must be at least 1")
        self._max_types = max_types
        self.reset(now=now)

    def record_message(
        self,
        type: str,
        *,
        size: int = 0,
        latency_ms: float | None = None,
        error: str | None = None,
        direction: Direction = "in",
        now: float | None = None,
    ) -> None:
        """Count one message: its bytes, how long it took, and the code of the error it ended in."""
        if now is None:
            now = monotonic()
        if now >= self._next_mark:
            self._mark(now)
        counters = self._types.get(type) or self._admit(type)
        if direction == "in":
            counters.count_in += 1
            counters.bytes_in += size
        else:
            counters.count_out += 1
            counters.bytes_out += size
        if latency_ms is not None:
            counters.add_latency(latency_ms)
        if error is not None:
            self._count_error(counters, error)

    def record_sent(self, type: str, count: int, size: int, *, now: float | None = None) -> None:
        """Count `count` deliveries of one message of `size` bytes."""
        if now is None:
            now = monotonic()
        if now >= self._next_mark:
            self._mark(now)
        counters = self._types.get(type) or self._admit(type)
        counters.count_out += count
        counters.bytes_out += count * size

    def record_failure(self, kind: FailureKind) -> None:
        """Count one failure, whatever it was of."""
        self._failures[kind] += 1

    def get_stats(self, *, now: float | None = None) -> AnalyticsStats:
        """The figures at `now`."""
        now = monotonic() if now is None else now
        counted, elapsed = self._last_minute(now)
        total, total_in, total_out = _Counters(), 0, 0
        types: dict[str, TypeStats] = {}
        for type, counters in self._types.items():
            before_in, before_out = counted.get(type, (0, 0))
            types[type] = counters.stats(before_in, before_out, elapsed)
            total.add(counters)
            total_in += before_in
            total_out += before_out
        return AnalyticsStats(
            uptime=now - self._started,
            total=total.stats(total_in, total_out, elapsed),
            types=types,
            errors=dict(self._errors),
            failures=dict(self._failures),
        )

    def reset(self, *, now: float | None = None) -> None:
        """Forget everything, and start again at `now`."""
        self._started = monotonic() if now is None else now
        self._types: dict[str, _Counters] = {}
        self._errors: dict[str, int] = {}
        self._failures: Counter[FailureKind] = Counter()
        self._marks = deque([_Mark(self._started, self._started, {})])
        self._next_mark = self._started + _SLICE

    def reset_errors(self) -> None:
        """Forget the errors, of every type, code and kind; everything else stays."""
        self._errors.clear()
        self._failures.clear()
        for counters in self._types.values():
            counters.errors = 0

    def _admit(self, type: str) -> _Counters:
        if len(self._types) >= self._max_types or len(type) > _MAX_NAME_LENGTH:
            type = OTHER
        return self._types.setdefault(type, _Counters())

    def _count_error(self, counters: _Counters, code: str) -> None:
        counters.errors += 1
        errors = self._errors
        if code not in errors and (len(errors) >= _MAX_CODES or len(code) > _MAX_NAME_LENGTH):
            code = OTHER
        errors[code] = errors.get(code, 0) + 1

    def _mark(self, now: float) -> None:
        """Remember what was counted so far: rates cost a comparison per message, and this per slice."""
        counts = {type: (counters.count_in, counters.count_out) for type, counters in self._types.items()}
        self._marks.append(_Mark(self._next_mark, now, counts))
        self._next_mark = now + _SLICE
        while self._marks[0].until < now - _WINDOW:
            self._marks.popleft()

    def _last_minute(self, now: float) -> tuple[_Counts, float]:
        """What had been counted when the last minute began, and its length: 55 to 60 s, less at first."""
        if now >= self._next_mark:
            self._mark(now)
        start = now - _WINDOW
        mark = next(mark for mark in self._marks if mark.until >= start)
        return mark.counts, max(_SHORTEST, now - max(start, mark.since))
