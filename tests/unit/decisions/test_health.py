"""Scores, checks, and when a connection is given up."""

from __future__ import annotations

import math
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.decisions.health import ConnectionHealthMonitor, WeightedHealthScorer, status_of
from wsmanager.errors import ConfigurationError
from wsmanager.messages import HealthStatus
from wsmanager.protocols import HealthSample

from ...profiles import examples

SCORER = WeightedHealthScorer(max_latency_ms=500.0, max_error_rate=0.1, active_within=60.0)

latencies = st.floats(0, 2_000)
rates = st.floats(0, 1)
silences = st.floats(0, 300)


def score(latency_ms: float | None = None, error_rate: float = 0.0, idle_for: float = 0.0) -> float:
    return SCORER.score(HealthSample(latency_ms=latency_ms, error_rate=error_rate, idle_for=idle_for))


def settle(monitor: ConnectionHealthMonitor, checks: int, *, every: float = 30.0) -> list[HealthStatus]:
    """The answers of so many checks, with nothing in between."""
    return [monitor.get_status(now=every * (number + 1)) for number in range(checks)]


class TestScorer:
    @pytest.mark.parametrize(
        ("latency_ms", "error_rate", "idle_for", "expected"),
        [
            (0.0, 0.0, 0.0, 1.0),
            (500.0, 0.0, 0.0, 0.5),
            (250.0, 0.0, 0.0, 0.75),
            (0.0, 0.1, 0.0, 0.7),
            (0.0, 0.05, 0.0, 0.85),
            (0.0, 0.0, 61.0, 0.8),
            (500.0, 0.1, 61.0, 0.0),
            (9_999.0, 1.0, 9_999.0, 0.0),
        ],
    )
    def test_latency_weighs_half_errors_three_tenths_and_activity_two(
        self, latency_ms: float, error_rate: float, idle_for: float, expected: float
    ) -> None:
        assert score(latency_ms, error_rate, idle_for) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("error_rate", "idle_for", "expected"), [(0.0, 0.0, 1.0), (0.1, 0.0, 0.4), (0.0, 61.0, 0.6)]
    )
    def test_an_unknown_latency_leaves_its_weight_to_the_others(
        self, error_rate: float, idle_for: float, expected: float
    ) -> None:
        assert score(None, error_rate, idle_for) == expected

    @given(rates, silences, latencies)
    @examples(50)
    def test_an_unknown_latency_scores_between_the_best_and_the_worst(
        self, error_rate: float, idle_for: float, latency_ms: float
    ) -> None:
        unknown = score(None, error_rate, idle_for)
        assert score(500.0, error_rate, idle_for) <= unknown <= score(0.0, error_rate, idle_for)

    def test_a_peer_is_active_up_to_and_including_the_limit(self) -> None:
        assert score(0.0, 0.0, 60.0) == 1.0
        assert score(0.0, 0.0, math.nextafter(60.0, 61.0)) == 0.8

    @given(st.none() | st.floats(), st.floats(), st.floats())
    @examples(100)
    def test_a_score_is_never_outside_0_to_1(
        self, latency_ms: float | None, error_rate: float, idle_for: float
    ) -> None:
        assert 0.0 <= score(latency_ms, error_rate, idle_for) <= 1.0

    @given(latencies, latencies, rates, rates, silences, silences, st.booleans())
    @examples(100)
    def test_worse_never_scores_better(
        self,
        lat_a: float,
        lat_b: float,
        rate_a: float,
        rate_b: float,
        idle_a: float,
        idle_b: float,
        known: bool,
    ) -> None:
        better = score(min(lat_a, lat_b) if known else None, min(rate_a, rate_b), min(idle_a, idle_b))
        worse = score(max(lat_a, lat_b) if known else None, max(rate_a, rate_b), max(idle_a, idle_b))
        assert worse <= better

    @pytest.mark.parametrize("setting", ["max_latency_ms", "max_error_rate", "active_within"])
    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
    def test_a_maximum_that_is_not_positive_is_refused_by_name(self, setting: str, value: float) -> None:
        with pytest.raises(ConfigurationError, match=setting):
            WeightedHealthScorer(**{setting: value})


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (1.0, HealthStatus.HEALTHY),
        (0.7, HealthStatus.HEALTHY),
        (0.699, HealthStatus.DEGRADED),
        (0.4, HealthStatus.DEGRADED),
        (0.399, HealthStatus.UNHEALTHY),
        (0.0, HealthStatus.UNHEALTHY),
    ],
)
def test_a_score_is_healthy_from_seven_tenths_and_degraded_from_four(
    value: float, status: HealthStatus
) -> None:
    assert status_of(value) is status


class TestSample:
    def test_a_new_peer_counts_as_active_since_it_came(self) -> None:
        assert ConnectionHealthMonitor(now=100.0).sample(130.0) == HealthSample(idle_for=30.0)

    def test_every_frame_is_a_life_sign(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        monitor.record_message(error=True, now=50.0)
        assert monitor.last_active == 50.0
        assert monitor.sample(51.0).idle_for == 1.0

    def test_a_fault_without_a_frame_is_no_life_sign(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        monitor.record_error()
        assert monitor.sample(20.0) == HealthSample(error_rate=0.1, idle_for=20.0)

    def test_a_frame_that_arrived_after_the_moment_asked_about_leaves_no_negative_silence(self) -> None:
        assert ConnectionHealthMonitor(now=10.0).sample(9.0).idle_for == 0.0

    def test_the_first_latency_is_taken_as_it_is_and_later_ones_weigh_a_fifth(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        monitor.record_message(latency_ms=100.0, now=0.0)
        assert monitor.sample(0.0).latency_ms == 100.0
        monitor.record_message(now=0.0)
        assert monitor.sample(0.0).latency_ms == 100.0
        monitor.record_message(latency_ms=200.0, now=0.0)
        assert monitor.sample(0.0).latency_ms == 120.0

    @given(st.lists(latencies, min_size=1, max_size=20))
    @examples(50)
    def test_a_smoothed_latency_stays_within_what_was_measured(self, measured: list[float]) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        for latency_ms in measured:
            monitor.record_message(latency_ms=latency_ms, now=0.0)
        smoothed = monitor.sample(0.0).latency_ms
        assert smoothed is not None
        assert min(measured) - 1e-6 <= smoothed <= max(measured) + 1e-6

    @pytest.mark.parametrize(
        ("messages", "faults", "rate"), [(20, 5, 0.25), (10, 1, 0.1), (1, 1, 0.1), (4, 2, 0.2), (30, 30, 1.0)]
    )
    def test_the_error_rate_is_of_at_least_ten_messages(
        self, messages: int, faults: int, rate: float
    ) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        for number in range(messages):
            monitor.record_message(error=number < faults, now=0.0)
        assert monitor.sample(0.0).error_rate == rate

    def test_more_faults_than_messages_are_a_rate_of_one(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        for _ in range(25):
            monitor.record_error()
        assert monitor.sample(0.0).error_rate == 1.0


class TestMonitor:
    def test_a_new_monitor_is_healthy(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        assert monitor.status is HealthStatus.HEALTHY
        assert monitor.score_at(0.0) == 1.0
        assert not monitor.should_terminate()

    def test_status_is_what_the_last_check_found(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        monitor.record_message(latency_ms=400.0, now=0.0)
        before, answer, after = monitor.status, monitor.get_status(now=0.0), monitor.status
        assert (before, answer, after) == (HealthStatus.HEALTHY, HealthStatus.DEGRADED, HealthStatus.DEGRADED)

    def test_its_maxima_and_heartbeat_decide_the_score(self) -> None:
        monitor = ConnectionHealthMonitor(
            max_latency_ms=100.0, max_error_rate=1.0, heartbeat_interval=5.0, now=0.0
        )
        monitor.record_message(latency_ms=50.0, error=True, now=0.0)
        assert monitor.score_at(10.0) == pytest.approx(0.25 + 0.27 + 0.2)
        assert monitor.score_at(10.1) == pytest.approx(0.25 + 0.27)

    def test_a_scorer_of_ones_own_decides_alone(self) -> None:
        class Idle:
            def score(self, sample: HealthSample) -> float:
                return sample.idle_for / 100.0

        monitor = ConnectionHealthMonitor(Idle(), now=0.0)
        assert monitor.score_at(50.0) == 0.5
        assert monitor.get_status(now=39.0) is HealthStatus.UNHEALTHY

    def test_without_a_time_it_reads_the_monotonic_clock(self) -> None:
        before = monotonic()
        monitor = ConnectionHealthMonitor()
        created = monitor.last_active
        monitor.record_message()
        assert before <= created <= monitor.last_active <= monotonic()
        assert monitor.score == 1.0
        assert monitor.get_status() is HealthStatus.HEALTHY

    def test_it_carries_no_dictionary(self) -> None:
        assert not hasattr(ConnectionHealthMonitor(now=0.0), "__dict__")

    def test_a_check_keeps_the_error_rate_and_halves_the_weight_of_the_past(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        for number in range(40):
            monitor.record_message(error=number < 20, now=0.0)
        monitor.get_status(now=0.0)
        assert monitor.sample(0.0).error_rate == 0.5
        for _ in range(20):
            monitor.record_message(now=0.0)
        assert monitor.sample(0.0).error_rate == 0.25

    def test_good_messages_of_long_ago_do_not_hide_new_faults(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        for _ in range(1_000):
            monitor.record_message(now=0.0)
        settle(monitor, 10, every=0.0)
        for _ in range(10):
            monitor.record_message(error=True, now=0.0)
        assert monitor.sample(0.0).error_rate == 1.0

    def test_old_faults_fade_although_nothing_follows(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        for _ in range(10):
            monitor.record_message(latency_ms=10.0, error=True, now=0.0)
        settle(monitor, 10, every=0.0)
        assert monitor.sample(0.0).error_rate == pytest.approx(0.0, abs=0.001)
        assert monitor.get_status(now=0.0) is HealthStatus.HEALTHY

    def test_a_look_between_two_checks_is_remembered_but_is_no_check(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        for _ in range(10):
            monitor.record_error()
        for _ in range(5):
            assert monitor.reassess(now=100.0) is monitor.status is HealthStatus.UNHEALTHY
        assert not monitor.should_terminate()
        assert monitor.sample(100.0).error_rate == 1.0


class TestTermination:
    def dying(self) -> ConnectionHealthMonitor:
        """One that is UNHEALTHY whenever a minute has passed since its last frame."""
        monitor = ConnectionHealthMonitor(now=0.0)
        monitor.record_message(latency_ms=5_000.0, now=0.0)
        for _ in range(1_000):
            monitor.record_message(error=True, now=0.0)
        return monitor

    def test_three_unhealthy_checks_in_a_row_end_it(self) -> None:
        monitor = self.dying()
        monitor.get_status(now=100.0)
        monitor.get_status(now=130.0)
        assert not monitor.should_terminate()
        monitor.get_status(now=160.0)
        assert monitor.should_terminate()
        assert monitor.should_terminate()

    def test_looking_is_no_check(self) -> None:
        monitor = self.dying()
        for _ in range(10):
            assert monitor.score_at(100.0) == 0.0
        assert monitor.status is HealthStatus.HEALTHY
        assert not monitor.should_terminate()

    def test_a_slow_or_silent_peer_without_faults_is_only_degraded(self) -> None:
        silent = ConnectionHealthMonitor(now=0.0)
        slow = ConnectionHealthMonitor(now=0.0)
        slow.record_message(latency_ms=5_000.0, now=300.0)
        assert settle(silent, 10)[-1] is HealthStatus.DEGRADED
        assert settle(slow, 10)[-1] is HealthStatus.DEGRADED

    def test_one_fault_of_a_peer_that_falls_silent_never_ends_it(self) -> None:
        monitor = ConnectionHealthMonitor(now=0.0)
        monitor.record_message(error=True, now=0.0)
        assert HealthStatus.UNHEALTHY not in settle(monitor, 20)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["message", "slow", "fault", "send fault", "check"]),
                st.floats(0, 90),
                st.integers(1, 5),
            ),
            max_size=40,
        )
    )
    @examples(60)
    def test_it_ends_when_and_only_when_the_last_three_answers_were_unhealthy(
        self, steps: list[tuple[str, float, int]]
    ) -> None:
        monitor, now, answers = ConnectionHealthMonitor(now=0.0), 0.0, list[HealthStatus]()
        for step, wait, times in steps:
            now += wait
            for _ in range(times):
                if step == "check":
                    expected = status_of(monitor.score_at(now))
                    answers.append(monitor.get_status(now=now))
                    assert answers[-1] is expected
                elif step == "send fault":
                    monitor.record_error()
                else:
                    monitor.record_message(
                        latency_ms=3_000.0 if step == "slow" else None, error=step == "fault", now=now
                    )
                assert monitor.should_terminate() == (answers[-3:] == [HealthStatus.UNHEALTHY] * 3)


def test_most_frames_are_heard_as_they_are_recorded() -> None:
    heard, recorded = ConnectionHealthMonitor(now=0.0), ConnectionHealthMonitor(now=0.0)
    for monitor in (heard, recorded):
        monitor.record_error()
    for now in range(1, 20):
        heard.heard(float(now))
        recorded.record_message(now=float(now))
    assert heard.sample(25.0) == recorded.sample(25.0)
    assert heard.last_active == 19.0
