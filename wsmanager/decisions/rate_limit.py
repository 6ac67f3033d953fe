"""Who may send how much: sliding windows per user that learn, and token buckets per address.

Both keep their state in `Generations`, whose memory is bounded and which never forgets a key whose
state still means something.
"""

from __future__ import annotations

import copy
import math
import operator
import time
from collections.abc import Hashable
from typing import Any, Final

from ..errors import ConfigurationError
from ..protocols import RateDecision
from .generations import Generations

__all__ = ["AdaptiveRateLimiter", "TokenBuckets"]

_KEEP_WINDOWS: Final = 10
"""Windows for which an idle key's history is kept while there is plenty of room."""
_FULL_HISTORY: Final = 64
"""Windows of history at which the sums are halved, so that what is older weighs less."""
_ROUNDING: Final = 1e-6
"""More than the rounding errors of a float sum, less than anything counted here."""


class _Usage:
    """What is known of one key. Slices are numbered; a sum of units counts accepted ones only."""

    __slots__ = (
        "alarm",  # a total above it is an anomaly of the current window
        "carried",  # live units of the slices before the current one
        "clean",  # completed windows since the last refusal; -1 until the refusal's own has ended
        "count",  # units of the current window before the current slice
        "limit",  # with the bonus, without factor and anomaly
        "older",  # live slices before the current one: number, units, number, units ...
        "opened",  # the slice in which the current window began
        "slice",  # the current slice
        "squares",  # of the units of each completed window, summed
        "total",  # live units
        "units",  # of the completed windows, summed
        "usual",  # units of a window that are no anomaly
        "windows",  # completed
    )

    def __init__(self, current: float, limit: int) -> None:
        self.slice = self.opened = current
        self.limit = limit
        self.older: list[Any] | None = None
        self.total = self.carried = self.count = 0
        self.windows = self.units = self.squares = self.clean = 0
        self.usual = self.alarm = math.inf

    def copy(self) -> _Usage:
        """The same, to look ahead with."""
        twin = copy.copy(self)
        twin.older = self.older and self.older.copy()
        return twin

    def advance(self, current: float, slices: int) -> None:
        """Make `current` the slice that is charged, and give back the units that left the window.

        A slice counts until all of it has left, so it is still live `slices` later.
        """
        total = self.total
        units = total - self.carried
        self.count += units
        live_from = current - slices
        if self.slice < live_from:
            self.older = None
            total = 0
        else:
            if (older := self.older) is None:
                older = self.older = []
            older += (self.slice, units)
            while older[0] < live_from:
                total -= older[1]
                del older[:2]
        self.slice = current
        self.total = self.carried = total
        self.alarm = self.usual - self.count + total

    def opens(self, room: int, slices: int) -> float:
        """The first slice in which no more than `room` units are live, if none are added."""
        if room < 0:
            return math.inf
        excess = self.total - room
        if excess <= 0:
            return self.slice
        older = self.older or ()
        for i in range(0, len(older), 2):
            excess -= older[i + 1]
            if excess <= 0:
                return float(older[i]) + slices + 1
        return self.slice + slices + 1

    def learn(self) -> None:
        """Add the window that ended to the history."""
        self.windows += 1
        self.units += self.count
        self.squares += self.count * self.count
        if self.windows >= _FULL_HISTORY:
            self.windows //= 2
            self.units //= 2
            self.squares //= 2

    def most_usual(self, min_sigma: float) -> int:
        """The most units that are no more than two standard deviations above the mean: exact."""
        windows, units = self.windows, self.units
        deviation = int(2 * windows * min_sigma)
        squared = 4 * (windows * self.squares - units * units)
        if squared > deviation * deviation:
            deviation = math.isqrt(squared)
        return (units + deviation) // windows


class AdaptiveRateLimiter:
    """A sliding window per key that rewards good users and slows down unusual ones.

    Guaranteed: in any interval of length `window`, what was accepted of a key never exceeds the limit
    in force at the last acceptance. The window is counted in `slices`, each of which counts until all
    of it has left the window; so `retry_after_ms` is at most one slice longer than need be. If nothing
    else arrives, the same request passes then.

    The limit in force is ``limit * factor``, times

    - ``1 + bonus`` after `clean_windows` windows in which the key was active and never refused. A
      window begins with a message and the next one with the first message after its end, so idle
      time counts neither for nor against. A refusal ends the bonus, and the count starts anew;
    - `tighten` while the current window is an anomaly: it holds more accepted units than the mean of
      the key's completed windows plus two standard deviations (of the population). Below
      `anomaly_windows` windows of history nothing is one; a deviation below `min_sigma` (a twentieth
      of `limit`, at least 1, if None) is taken for `min_sigma`. From 64 windows on the older ones
      gradually lose weight, so `anomaly_windows` is at most 32.

    It is rounded down, and is never below 1.

    Memory: at most `max_keys` keys. A key idle for ten windows is forgotten with its history; while
    half of `max_keys` is in use, one idle for a window. If every key kept may still hold live units,
    a new key is refused, told when there is room, and counted in `overflowed`.

    Raises `ConfigurationError` for a parameter out of its range.
    """

    def __init__(
        self,
        limit: int = 100,
        window: float = 60.0,
        bonus: float = 0.2,
        *,
        max_keys: int = 200_000,
        slices: int = 60,
        clean_windows: int = 5,
        anomaly_windows: int = 10,
        tighten: float = 0.5,
        min_sigma: float | None = None,
    ) -> None:
        _require_counts(limit=limit, max_keys=max_keys, slices=slices, clean_windows=clean_windows)
        most = _FULL_HISTORY // 2
        _require(1 <= anomaly_windows <= most, "anomaly_windows", f"from 1 to {most}", anomaly_windows)
        _require(0 < window < math.inf, "window", "a positive number of seconds", window)
        _require(0 <= bonus < math.inf, "bonus", "at least 0", bonus)
        _require(0 < tighten <= 1, "tighten", "above 0 and at most 1", tighten)
        min_sigma = max(1.0, limit / 20) if min_sigma is None else min_sigma
        _require(0 <= min_sigma < math.inf, "min_sigma", "at least 0", min_sigma)
        self._limit = limit
        self._window = window
        self._slices = slices
        self._slice = window / slices
        self._generous = 1.0 + bonus
        self._rewarded = self._scaled(self._generous)
        self._clean_windows = clean_windows
        self._anomaly_windows = anomaly_windows
        self._tighten = tighten
        self._min_sigma = min_sigma
        self._current = -1.0
        self._keys: Generations[_Usage] = Generations(max_keys, live=slices + 1, keep=_KEEP_WINDOWS * slices)

    def __len__(self) -> int:
        """The number of keys in memory."""
        return len(self._keys)

    @property
    def overflowed(self) -> int:
        """Checks refused because there was no room for a new key."""
        return self._keys.overflowed

    def check_rate_limit(  # noqa: C901  # in one piece: a call more costs as much as the check
        self, key: Hashable, *, cost: int = 1, factor: float = 1.0, now: float | None = None
    ) -> RateDecision:
        """Charge `cost` units to `key` and say whether they fit; a refusal charges nothing.

        A cost above ``limit * factor`` fits at no time that is known now: `retry_after_ms` is the
        whole window then. Raises `ValueError` if `cost` is below 1 or `factor` not positive and
        finite, `TypeError` if `cost` is no integer.
        """
        if cost != 1 or factor != 1.0:
            _validate(cost, factor)
        if now is None:
            now = time.monotonic()
        current = now // self._slice
        if current != self._current:
            self._current = current
        current = self._current  # one object for all keys, which keep it
        keys = self._keys
        if current >= keys.due:
            keys.rotate(current)
        usage = keys.young.get(key)
        if usage is None:
            usage = self._enter(key, current)
            if usage is None:
                return self._overflow(factor, now)
        if current > usage.slice:
            usage.advance(current, self._slices)
            if current >= usage.opened + self._slices:
                self._close_window(usage)
        limit = usage.limit
        if factor != 1.0 or usage.total > usage.alarm:
            limit = self._limit_of(usage, factor)
        total = usage.total + cost
        if total > limit:
            return self._refuse(usage, cost, factor, limit, now)
        usage.total = total
        return RateDecision(True, limit - total, limit)

    def peek(self, key: Hashable, *, factor: float = 1.0, now: float | None = None) -> RateDecision:
        """How `key` stands: whether one unit fits now, and how many there are. Charges and changes nothing.

        A key that is not known has all of the limit, though there may be no room for it.
        """
        now = time.monotonic() if now is None else now
        current = now // self._slice
        known = self._keys.find(key, current)
        usage = _Usage(current, self._limit) if known is None else known.copy()
        if current > usage.slice:
            usage.advance(current, self._slices)
            if current >= usage.opened + self._slices:
                self._close_window(usage)
        limit = self._limit_of(usage, factor)
        if usage.total < limit:
            return RateDecision(True, limit - usage.total, limit)
        return self._refuse(usage, 1, factor, limit, now)

    def is_anomaly(self, key: Hashable, *, now: float | None = None) -> bool:
        """Whether the current window of `key` is far above what is usual for it. Touches nothing."""
        usage = self._keys.young.get(key) or self._keys.old.get(key)
        if usage is None or usage.total <= usage.alarm:
            return False
        now = time.monotonic() if now is None else now
        return now // self._slice < usage.opened + self._slices

    def _enter(self, key: Hashable, current: float) -> _Usage | None:
        """The usage of a key that is not young; None when there is no room for a new one."""
        usage = self._keys.recall(key, current)
        if usage is None:
            usage = _Usage(current, self._limit)
            if not self._keys.admit(key, usage):
                return None
        return usage

    def _close_window(self, usage: _Usage) -> None:
        """Learn from the window that ended; the next one begins now.

        One in which everything was refused tells nothing of what is usual.
        """
        if usage.count:
            usage.learn()
            if usage.windows >= self._anomaly_windows:
                usage.usual = usage.most_usual(self._min_sigma)
        usage.count = 0
        usage.alarm = usage.usual + usage.total
        usage.opened = usage.slice
        usage.clean += 1
        if usage.clean >= self._clean_windows:
            usage.limit = self._rewarded

    def _limit_of(self, usage: _Usage, factor: float) -> int:
        """The limit in force where it is not simply the one noted in `usage`."""
        scale = factor * self._generous if usage.clean >= self._clean_windows else factor
        return self._scaled(scale * self._tighten if usage.total > usage.alarm else scale)

    def _scaled(self, scale: float) -> int:
        return int(self._limit * scale + _ROUNDING) or 1

    def _refuse(self, usage: _Usage, cost: int, factor: float, limit: int, now: float) -> RateDecision:
        usage.clean = -1
        usage.limit = self._limit
        opens = self._opens(usage, cost, factor)
        retry = self._window if opens == math.inf else opens * self._slice - now
        return RateDecision(False, max(0, limit - usage.total), limit, _milliseconds(retry))

    def _opens(self, usage: _Usage, cost: int, factor: float) -> float:
        """The first slice in which `cost` fits. The bonus is gone; an anomaly ends with its window."""
        opens = usage.opens(self._scaled(factor) - cost, self._slices)
        if usage.total <= usage.alarm:
            return opens
        tightened = usage.opens(self._limit_of(usage, factor) - cost, self._slices)
        return min(tightened, max(opens, usage.opened + self._slices))

    def _overflow(self, factor: float, now: float) -> RateDecision:
        retry = self._keys.room_at * self._slice - now
        return RateDecision(False, 0, self._scaled(factor), _milliseconds(retry))


class TokenBuckets:
    """A bucket of tokens per key: at most `burst` at once, refilled with `rate` tokens a second.

    Guaranteed: over any interval of `t` seconds no more than ``burst + rate * t`` pass.

    Memory: at most `max_keys` keys; only a bucket that is full again is forgotten. If every bucket
    kept may still be refilling, a new key is refused, told when there is room, and counted in
    `overflowed`. Raises `ConfigurationError` for a parameter out of its range.
    """

    # A bucket is one float: when it will be full, on a clock that ticks once per token.
    def __init__(self, rate: float, burst: int, *, max_keys: int = 100_000) -> None:
        _require_counts(burst=burst, max_keys=max_keys)
        _require(0 < rate < math.inf, "rate", "a positive number per second", rate)
        self._rate = rate
        self._burst = burst
        self._keys: Generations[float] = Generations(max_keys, live=burst, keep=burst)

    def __len__(self) -> int:
        """The number of keys in memory."""
        return len(self._keys)

    @property
    def overflowed(self) -> int:
        """Takes refused because there was no room for a new key."""
        return self._keys.overflowed

    def take(self, key: Hashable, *, now: float | None = None) -> RateDecision:
        """Take one token of `key` and say whether there was one; a refusal takes nothing."""
        current = (time.monotonic() if now is None else now) * self._rate
        keys = self._keys
        if current >= keys.due:
            keys.rotate(current)
        full_at = keys.young.get(key)
        if full_at is None:
            full_at = keys.recall(key, current)
            if full_at is None:
                full_at = current
                if not keys.admit(key, full_at):
                    return self._refuse(keys.room_at - current)
        full_at = max(full_at, current) + 1.0
        left = self._burst - (full_at - current)
        if left < -_ROUNDING:
            return self._refuse(-left)
        keys.young[key] = full_at
        return RateDecision(True, int(left + _ROUNDING), self._burst)

    def _refuse(self, ticks: float) -> RateDecision:
        return RateDecision(False, 0, self._burst, _milliseconds(ticks / self._rate))


def _milliseconds(seconds: float) -> int:
    """Rounded up, by a microsecond more: on the caller's clock the time must really have come."""
    return math.ceil(seconds * 1000 + 0.001)


def _validate(cost: int, factor: float) -> None:
    if operator.index(cost) < 1:
        raise ValueError(f"cost must be at least 1, not {cost}")
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be positive and finite, not {factor}")


def _require_counts(**counts: int) -> None:
    for name, count in counts.items():
        _require(count >= 1, name, "at least 1", count)


def _require(holds: bool, name: str, allowed: str, value: float) -> None:
    if not holds:
        raise ConfigurationError(f"{name} must be {allowed}, not {value}")
