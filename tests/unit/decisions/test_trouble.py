from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsmanager.decisions.breaker import BreakerState, CircuitBreaker
from wsmanager.decisions.trouble import Trouble


def trouble(max_faults: int = 3) -> Trouble:
    return Trouble(max_faults, CircuitBreaker())


def test_one_fault_more_than_allowed_within_a_minute_is_too_many() -> None:
    faults = trouble()
    assert [faults.count_fault(now) for now in (0.0, 1.0, 59.0, 59.9)] == [False, False, False, True]


def test_a_minute_after_the_first_all_is_forgiven() -> None:
    faults = trouble()
    assert [faults.count_fault(now) for now in (0.0, 1.0, 2.0, 60.0, 61.0)] == [False] * 5


def test_the_clock_may_start_anywhere() -> None:
    assert not trouble(1).count_fault(-1_000.0)


@given(st.lists(st.floats(60, 1_000), max_size=20))
def test_faults_a_minute_apart_are_never_too_many(pauses: list[float]) -> None:
    faults, now = trouble(1), 0.0
    for pause in pauses:
        now += pause
        assert not faults.count_fault(now)


def test_its_breaker_is_closed_at_first() -> None:
    assert trouble().breaker.state(now=0.0) is BreakerState.CLOSED
