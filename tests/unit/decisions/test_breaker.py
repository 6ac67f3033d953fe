import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.decisions.breaker import BreakerState, CircuitBreaker
from wsmanager.errors import ConfigurationError

from ...profiles import examples

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def opened(*, failures: int = 5, reset_after: float = 30.0, at: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker(failures, reset_after)
    for _ in range(failures):
        assert breaker.allow(now=at)
        breaker.record_failure(now=at)
    return breaker


def test_a_new_breaker_is_closed_and_lets_everything_through() -> None:
    breaker = CircuitBreaker()
    assert all(breaker.allow(now=0.0) for _ in range(100))
    assert breaker.state(now=0.0) is CLOSED


def test_five_failures_in_a_row_open_it() -> None:
    breaker = CircuitBreaker()
    for _ in range(4):
        breaker.record_failure(now=0.0)
    assert breaker.allow(now=0.0)
    breaker.record_failure(now=0.0)
    assert not breaker.allow(now=0.0)
    assert breaker.state(now=0.0) is OPEN


def test_a_success_in_between_starts_the_count_anew() -> None:
    breaker = CircuitBreaker()
    for _ in range(3):
        for _ in range(4):
            breaker.record_failure(now=0.0)
        breaker.record_success()
    assert breaker.state(now=0.0) is CLOSED


def test_it_refuses_until_the_pause_is_over() -> None:
    breaker = opened(reset_after=30.0, at=100.0)
    assert not breaker.allow(now=129.9)
    assert breaker.allow(now=130.0)


def test_only_one_probe_is_let_through_at_a_time() -> None:
    breaker = opened()
    assert breaker.allow(now=30.0)
    assert breaker.state(now=30.0) is HALF_OPEN
    assert not breaker.allow(now=30.0)
    assert not breaker.allow(now=59.9)


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = opened()
    assert breaker.allow(now=30.0)
    breaker.record_success()
    assert breaker.state(now=30.0) is CLOSED
    assert breaker.allow(now=30.0)
    assert breaker.allow(now=30.0)


def test_after_a_success_it_takes_all_failures_again_to_open_it() -> None:
    breaker = opened()
    assert breaker.allow(now=30.0)
    breaker.record_success()
    breaker.record_failure(now=31.0)
    assert breaker.state(now=31.0) is CLOSED


def test_a_probe_that_fails_opens_it_for_another_pause() -> None:
    breaker = opened()
    assert breaker.allow(now=30.0)
    breaker.record_failure(now=40.0)
    assert breaker.state(now=40.0) is OPEN
    assert not breaker.allow(now=69.9)
    assert breaker.allow(now=70.0)


def test_a_probe_that_never_reports_back_makes_way_for_another() -> None:
    breaker = opened()
    assert breaker.allow(now=30.0)
    assert breaker.allow(now=60.0)
    assert not breaker.allow(now=60.0)


def test_late_failures_do_not_prolong_the_pause() -> None:
    breaker = opened(reset_after=30.0, at=0.0)
    breaker.record_failure(now=29.0)
    assert breaker.allow(now=30.0)


def test_a_late_success_closes_it() -> None:
    breaker = opened()
    breaker.record_success()
    assert breaker.allow(now=1.0)


def test_it_reads_half_open_as_soon_as_a_probe_may_go() -> None:
    breaker = opened(reset_after=30.0, at=0.0)
    assert breaker.state(now=29.9) is OPEN
    assert breaker.state(now=30.0) is HALF_OPEN


def test_the_statistics_tell_what_happened() -> None:
    breaker = opened(failures=2, reset_after=30.0, at=0.0)
    breaker.allow(now=10.0)
    breaker.allow(now=30.0)
    breaker.record_failure(now=30.0)
    breaker.allow(now=35.0)
    statistics = breaker.statistics(now=40.0)
    assert (statistics.state, statistics.failures) == (OPEN, 3)
    assert (statistics.opened, statistics.refused) == (2, 2)
    assert statistics.retry_after == 20.0


@pytest.mark.parametrize("now", [30.0, 1_000.0])
def test_nobody_has_to_wait_for_a_probe_that_is_due(now: float) -> None:
    assert opened(reset_after=30.0, at=0.0).statistics(now=now).retry_after == 0.0


def test_a_closed_breaker_has_nothing_to_wait_for() -> None:
    breaker = opened(at=0.0)
    breaker.record_success()
    statistics = breaker.statistics(now=1.0)
    assert (statistics.state, statistics.failures, statistics.retry_after) == (CLOSED, 0, 0.0)


def test_the_monotonic_clock_is_the_default() -> None:
    breaker = CircuitBreaker(failures=1, reset_after=3_600.0)
    assert breaker.allow()
    breaker.record_failure()
    assert not breaker.allow()
    assert breaker.state() is OPEN
    assert 0.0 < breaker.statistics().retry_after <= 3_600.0


@pytest.mark.parametrize(("failures", "reset_after"), [(0, 1.0), (1, 0.0), (1, math.nan)])
def test_bounds_that_make_no_sense_are_refused(failures: int, reset_after: float) -> None:
    with pytest.raises(ConfigurationError):
        CircuitBreaker(failures, reset_after)


History = list[tuple[str, int]]


def pause_ends(history: History, failures: int, reset_after: int) -> int | None:
    """From the whole history, when an attempt is let through again; None while all are."""
    in_a_row, ends, probing = 0, None, False
    for event, at in history:
        if event == "success":
            in_a_row, ends, probing = 0, None, False
        elif event == "failure":
            in_a_row += 1
            if probing or in_a_row == failures:
                ends, probing = at + reset_after, False
        elif ends is not None and at >= ends:
            ends, probing = at + reset_after, True
    return ends


EVENTS = st.lists(
    st.tuples(st.sampled_from(["failure", "attempt", "attempt", "failure", "success"]), st.integers(0, 3)),
    max_size=30,
)


@examples(80)
@given(EVENTS, st.integers(1, 3), st.integers(1, 4))
def test_it_allows_what_its_whole_history_allows(
    events: list[tuple[str, int]], failures: int, reset_after: int
) -> None:
    breaker = CircuitBreaker(failures, reset_after)
    history: History = []
    now = refused = 0
    for event, pause in events:
        now += pause
        ends = pause_ends(history, failures, reset_after)
        if event == "success":
            breaker.record_success()
        elif event == "failure":
            breaker.record_failure(now=now)
        else:
            allowed = breaker.allow(now=now)
            assert allowed == (ends is None or now >= ends)
            refused += not allowed
        history.append((event, now))
        ends = pause_ends(history, failures, reset_after)
        statistics = breaker.statistics(now=now)
        assert (statistics.state is CLOSED) == (ends is None)
        assert statistics.retry_after == max(0, (ends or 0) - now)
        assert statistics.refused == refused


@examples(40)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=40), st.integers(1, 5))
def test_without_a_success_there_is_never_more_than_one_probe_in_a_pause(
    steps: list[tuple[bool, int]], reset_after: int
) -> None:
    breaker = opened(failures=1, reset_after=reset_after, at=0)
    now, last_probe = 0, 0
    for fails, pause in steps:
        now += pause
        if fails:
            breaker.record_failure(now=now)
        elif breaker.allow(now=now):
            assert now - last_probe >= reset_after
            last_probe = now
