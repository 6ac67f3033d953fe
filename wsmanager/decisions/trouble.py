"""What is remembered of a connection that gives trouble: its faults, and its sends that timed out."""

from __future__ import annotations

from .breaker import CircuitBreaker

__all__ = ["Trouble"]

_WINDOW = 60.0


class Trouble:
    """Made at the first fault or send timeout; most connections never have one."""

    __slots__ = ("_faults", "_max_faults", "_since", "breaker")

    def __init__(self, max_faults: int, breaker: CircuitBreaker) -> None:
        self._max_faults = max_faults
        self._since = 0.0
        self._faults = 0
        self.breaker = breaker
        """Counts send timeouts."""

    def count_fault(self, now: float) -> bool:
        """Count one fault of the client; True when that was one too many within a minute."""
        if not self._faults or now - self._since >= _WINDOW:
            self._since, self._faults = now, 0
        self._faults += 1
        return self._faults > self._max_faults
