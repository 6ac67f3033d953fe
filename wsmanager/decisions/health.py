"""How well a connection does: a score of latency, errors and life signs, and what follows from it."""

from __future__ import annotations

import functools
from time import monotonic

from ..errors import ConfigurationError
from ..messages import HealthStatus
from ..protocols import HealthSample, HealthScorer

__all__ = ["ConnectionHealthMonitor", "WeightedHealthScorer", "status_of"]

_LATENCY, _ERRORS, _ACTIVITY = 5, 3, 2  # tenths; as integers, scores at the borders come out exact
_HEALTHY = 0.7
_DEGRADED = 0.4
_SMOOTHING = 0.2
_FEWEST_MESSAGES = 10
_CHECKS_TO_TERMINATE = 3


def status_of(score: float) -> HealthStatus:
    """HEALTHY from 0.7, DEGRADED from 0.4, UNHEALTHY below."""
    if score >= _HEALTHY:
        return HealthStatus.HEALTHY
    return HealthStatus.DEGRADED if score >= _DEGRADED else HealthStatus.UNHEALTHY


class WeightedHealthScorer:
    """50 % latency, 30 % errors, 20 % activity. Stateless: one serves every connection.

    The latency and error terms fall linearly to nothing at their maxima. The activity term is all or
    nothing: the peer sent a frame within the last `active_within` seconds, or it did not. An unknown
    latency is left out and the other terms share its weight.

    Raises `ConfigurationError` for a maximum that is not positive.
    """

    __slots__ = ("_active_within", "_max_error_rate", "_max_latency_ms")

    def __init__(
        self, *, max_latency_ms: float = 500.0, max_error_rate: float = 0.1, active_within: float = 60.0
    ) -> None:
        self._max_latency_ms = _positive("max_latency_ms", max_latency_ms)
        self._max_error_rate = _positive("max_error_rate", max_error_rate)
        self._active_within = _positive("active_within", active_within)

    def score(self, sample: HealthSample) -> float:
        """A number from 0 (dead) to 1 (well); see `HealthScorer`."""
        points = _ERRORS * _headroom(sample.error_rate, self._max_error_rate)
        if sample.idle_for <= self._active_within:
            points += _ACTIVITY
        if sample.latency_ms is None:
            return points / (_ERRORS + _ACTIVITY)
        points += _LATENCY * _headroom(sample.latency_ms, self._max_latency_ms)
        return points / (_LATENCY + _ERRORS + _ACTIVITY)


def _positive(name: str, value: float) -> float:
    if value > 0:
        return value
    raise ConfigurationError(f"{name} must be above 0")


def _headroom(value: float, maximum: float) -> float:
    """1 at nothing, 0 at and beyond the maximum."""
    if value <= 0.0:
        return 1.0
    return 1.0 - value / maximum if value < maximum else 0.0


@functools.lru_cache(maxsize=16)
def _shared_scorer(
    max_latency_ms: float, max_error_rate: float, active_within: float
) -> WeightedHealthScorer:
    """One scorer for all monitors of the same numbers: a monitor exists per connection."""
    return WeightedHealthScorer(
        max_latency_ms=max_latency_ms, max_error_rate=max_error_rate, active_within=active_within
    )


class ConnectionHealthMonitor:
    """What is known of the health of one connection.

    Tell it of every inbound frame (`record_message`) and of faults without one (`record_error`), and
    call `get_status` once per check interval; `score` and `status` may be read at any time.

    `scorer` is shared between monitors; left out, a `WeightedHealthScorer` of the given maxima is, and
    a peer counts as active that sent a frame within two heartbeats. A peer that has sent nothing yet
    counts as active since `now`. All times are of one monotonic clock.
    """

    __slots__ = (
        "_errors",
        "_latency_ms",
        "_messages",
        "_scorer",
        "_unhealthy",
        "last_active",
        "pinged_at",
        "status",
    )

    last_active: float
    """When the peer last sent a frame."""
    pinged_at: float | None
    """When it was asked for a sign of life that has not come yet."""
    status: HealthStatus
    """What the last check found."""

    def __init__(
        self,
        scorer: HealthScorer | None = None,
        *,
        max_latency_ms: float = 500.0,
        max_error_rate: float = 0.1,
        heartbeat_interval: float = 30.0,
        now: float | None = None,
    ) -> None:
        if scorer is None:
            scorer = _shared_scorer(max_latency_ms, max_error_rate, 2 * heartbeat_interval)
        self._scorer = scorer
        self._latency_ms: float | None = None
        self._messages: float = 0
        self._errors: float = 0
        self._unhealthy = 0
        self.last_active = monotonic() if now is None else now
        self.pinged_at = None
        self.status = HealthStatus.HEALTHY

    def record_message(
        self, *, latency_ms: float | None = None, error: bool = False, now: float | None = None
    ) -> None:
        """Count a frame of the peer as a life sign; `error` says that it was faulty.

        `latency_ms` is the round trip that the frame completed, finite and not negative. It is smoothed:
        a new value weighs 20 %.
        """
        self.last_active = monotonic() if now is None else now
        self._messages += 1
        if error:
            self._errors += 1
        if latency_ms is not None:
            self.record_latency(latency_ms)

    def heard(self, now: float) -> None:
        """`record_message` for most frames."""
        self.last_active = now
        self._messages += 1

    def record_latency(self, latency_ms: float) -> None:
        """Take in a round trip whose frame was counted already."""
        known = self._latency_ms
        self._latency_ms = latency_ms if known is None else known + _SMOOTHING * (latency_ms - known)

    def record_error(self) -> None:
        """Count a fault that is no life sign, such as a send that timed out."""
        self._errors += 1

    def sample(self, now: float) -> HealthSample:
        """What a scorer gets to see at `now`.

        Fewer than ten messages count as ten: one fault of a peer that hardly speaks is no high rate, and
        is forgotten although nothing follows it.
        """
        errors = self._errors
        rate = min(1.0, errors / max(self._messages, _FEWEST_MESSAGES)) if errors else 0.0
        return HealthSample(self._latency_ms, rate, max(0.0, now - self.last_active))

    @property
    def score(self) -> float:
        """The score at this moment, from 0 to 1."""
        return self.score_at(monotonic())

    def score_at(self, now: float) -> float:
        """The score at `now`, from 0 to 1."""
        return self._scorer.score(self.sample(now))

    def reassess(self, *, now: float | None = None) -> HealthStatus:
        """Evaluate and remember the answer between two checks: nothing is counted, and nothing forgotten."""
        self.status = status_of(self.score_at(monotonic() if now is None else now))
        return self.status

    def get_status(self, *, now: float | None = None) -> HealthStatus:
        """Check once: evaluate, remember the answer, and let what was counted so far weigh half.

        Each call is one of the checks that `should_terminate` counts; to look without checking, read
        `status` or `score`.
        """
        self.reassess(now=now)
        self._unhealthy = self._unhealthy + 1 if self.status is HealthStatus.UNHEALTHY else 0
        if self._errors:
            self._errors /= 2
            self._messages /= 2
        else:
            self._messages //= 2  # stays a small integer, which takes no memory
        return self.status

    def should_terminate(self) -> bool:
        """Whether the last three checks in a row found it UNHEALTHY. Changes nothing."""
        return self._unhealthy >= _CHECKS_TO_TERMINATE
