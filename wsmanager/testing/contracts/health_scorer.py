"""What every `HealthScorer` must do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Final

from ...protocols import HealthSample, HealthScorer
from .obligations import require

__all__ = ["check_health_scorer"]

_LATENCIES: Final = (0.0, 0.1, 1.0, 20.0, 100.0, 250.0, 499.9, 500.0, 501.0, 5_000.0, 1e9, float("inf"))
_ERROR_RATES: Final = (0.0, 1e-9, 0.01, 0.05, 0.1, 0.2, 0.5, 0.99, 1.0)
_SILENCES: Final = (0.0, 0.5, 10.0, 29.0, 31.0, 59.0, 61.0, 600.0, 1e9, float("inf"))


def check_health_scorer(factory: Callable[[], HealthScorer]) -> None:
    """Hold a `HealthScorer` against its obligations."""
    score = factory().score
    for error_rate, idle_for in itertools.product(_ERROR_RATES, _SILENCES):
        by_latency = [score(HealthSample(latency, error_rate, idle_for)) for latency in _LATENCIES]
        unknown = score(HealthSample(None, error_rate, idle_for))
        in_range = all(0.0 <= value <= 1.0 for value in (unknown, *by_latency))
        require(in_range, "a score must be a number from 0 to 1")
        _require_falling(by_latency, "more latency must never raise the score")
        neutral = by_latency[-1] <= unknown <= by_latency[0]
        require(
            neutral, "an unknown latency must be neutral: neither better than none nor worse than the worst"
        )
    for latency, idle_for in itertools.product((None, *_LATENCIES), _SILENCES):
        by_errors = (score(HealthSample(latency, rate, idle_for)) for rate in _ERROR_RATES)
        _require_falling(by_errors, "more errors must never raise the score")
    for latency, error_rate in itertools.product((None, *_LATENCIES), _ERROR_RATES):
        by_silence = (score(HealthSample(latency, error_rate, silence)) for silence in _SILENCES)
        _require_falling(by_silence, "a longer silence must never raise the score")
    well, dead = HealthSample(0.0), HealthSample(_LATENCIES[-1], 1.0, _SILENCES[-1])
    require(score(well) > score(dead), "a connection that does well must score above one that is dead")
    require(score(well) == score(well), "the same sample must always get the same score")


def _require_falling(scores: Iterable[float], obligation: str) -> None:
    require(all(worse <= better for better, worse in itertools.pairwise(scores)), obligation)
