"""When to stop trying: a circuit breaker for one connection or one backend.

========= ============ ========================== ===============================
from      success to   failure to                 `allow`
========= ============ ========================== ===============================
closed    closed       open, when there were      yes
                       enough in a row
open      closed       open                       after the pause, as a probe:
                                                  to half-open
half-open closed       open, for another pause    after the pause, as another probe
========= ============ ========================== ===============================

A probe starts a pause of its own. So there is at most one probe to a pause, and one that never reports
back delays the next, but does not prevent it.
"""

from __future__ import annotations

import enum
import time

import msgspec

from ..errors import ConfigurationError

__all__ = ["BreakerState", "BreakerStatistics", "CircuitBreaker"]


class BreakerState(enum.StrEnum):
    """What a breaker does with the next attempt."""

    CLOSED = "closed"
    """Lets it through."""
    OPEN = "open"
    """Refuses it."""
    HALF_OPEN = "half_open"
    """Waits for the outcome of a probe, or lets the next attempt through as one."""


class BreakerStatistics(msgspec.Struct, frozen=True, gc=False):
    """The figures of one breaker."""

    state: BreakerState
    failures: int
    """Failures since the last success."""
    opened: int
    """How often it opened; a failed probe opens it again."""
    refused: int
    """Attempts that it did not let through."""
    retry_after: float
    """Seconds until an attempt can pass; 0 when one can now."""


class CircuitBreaker:
    """Opens after `failures` failures in a row; then lets one probe through every `reset_after` seconds.

    The caller asks `allow` before an attempt, and reports the outcome of each attempt that was allowed.
    Any success closes the breaker, a late one too: the other side works. `now` is monotonic; left out,
    the monotonic clock is read.
    """

    __slots__ = ("_failures", "_in_a_row", "_opened", "_refused", "_reset_after", "_state", "_until")

    def __init__(self, failures: int = 5, reset_after: float = 30.0) -> None:
        """Raises `ConfigurationError` unless both are above 0."""
        if failures < 1 or not reset_after > 0:
            raise ConfigurationError("failures and reset_after of a circuit breaker must be above 0")
        self._failures = failures
        self._reset_after = reset_after
        self._state = BreakerState.CLOSED
        self._until = 0.0
        self._in_a_row = 0
        self._opened = 0
        self._refused = 0

    def allow(self, *, now: float | None = None) -> bool:
        """Whether to make an attempt now. The caller reports what became of it, if it was allowed."""
        if self._state is BreakerState.CLOSED:
            return True
        now = time.monotonic() if now is None else now
        if now < self._until:
            self._refused += 1
            return False
        self._state = BreakerState.HALF_OPEN
        self._until = now + self._reset_after
        return True

    def record_success(self) -> None:
        """An attempt went well."""
        self._state = BreakerState.CLOSED
        self._in_a_row = 0

    def record_failure(self, *, now: float | None = None) -> None:
        """An attempt failed.

        One that began before the breaker opened does not prolong the pause; while it is half-open, any
        failure counts as the probe's.
        """
        self._in_a_row += 1
        enough = self._state is BreakerState.CLOSED and self._in_a_row >= self._failures
        if enough or self._state is BreakerState.HALF_OPEN:
            self._state = BreakerState.OPEN
            self._opened += 1
            self._until = (time.monotonic() if now is None else now) + self._reset_after

    def state(self, *, now: float | None = None) -> BreakerState:
        """Half-open as soon as the next attempt would be let through as a probe."""
        if self._state is BreakerState.OPEN and (time.monotonic() if now is None else now) >= self._until:
            return BreakerState.HALF_OPEN
        return self._state

    def statistics(self, *, now: float | None = None) -> BreakerStatistics:
        """The figures as of `now`."""
        now = time.monotonic() if now is None else now
        state = self.state(now=now)
        wait = 0.0 if state is BreakerState.CLOSED else max(0.0, self._until - now)
        return BreakerStatistics(state, self._in_a_row, self._opened, self._refused, wait)
