"""Counts, rates, quantiles and errors by type, in bounded memory."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.decisions.analytics import OTHER, AnalyticsStats, Direction, MessageAnalytics, TypeStats
from wsmanager.errors import ConfigurationError, FailureKind

from ...profiles import examples

SUMS = ("count_in", "count_out", "bytes_in", "bytes_out", "errors")


def exact_quantile(values: list[float], percent: int) -> float:
    """The smallest value that is not below `percent` of all values."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


class TestCounts:
    def test_nothing_yet_is_all_zeros(self) -> None:
        stats = MessageAnalytics(now=10.0).get_stats(now=10.0)
        assert stats == AnalyticsStats(uptime=0.0, total=TypeStats(), types={}, errors={})

    def test_a_message_in_counts_once_with_its_bytes(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("chat", size=100, now=0.0)
        analytics.record_message("chat", size=20, now=0.0)
        chat = analytics.get_stats(now=1.0).types["chat"]
        assert (chat.count_in, chat.bytes_in, chat.count_out, chat.bytes_out) == (2, 120, 0, 0)

    def test_a_message_out_counts_on_the_other_side(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("chat", size=100, direction="out", now=0.0)
        chat = analytics.get_stats(now=1.0).types["chat"]
        assert (chat.count_in, chat.bytes_in, chat.count_out, chat.bytes_out) == (0, 0, 1, 100)

    def test_a_broadcast_counts_every_delivery_in_one_call(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_sent("news", 1_000, 50, now=0.0)
        news = analytics.get_stats(now=1.0).types["news"]
        assert (news.count_out, news.bytes_out) == (1_000, 50_000)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["a", "b", "c", "d", "e"]),
                st.integers(0, 1_000),
                st.sampled_from(["in", "out"]),
                st.none() | st.floats(0, 1_000),
                st.none() | st.sampled_from(["bad", "worse"]),
            ),
            max_size=20,
        )
    )
    @examples(50)
    def test_the_total_is_the_sum_of_the_types(
        self, messages: list[tuple[str, int, Direction, float | None, str | None]]
    ) -> None:
        analytics = MessageAnalytics(max_types=3, now=0.0)
        for type, size, direction, latency_ms, error in messages:
            analytics.record_message(
                type, size=size, direction=direction, latency_ms=latency_ms, error=error, now=0.0
            )
        stats = analytics.get_stats(now=1.0)
        for name in SUMS:
            assert getattr(stats.total, name) == sum(getattr(each, name) for each in stats.types.values())
        assert stats.total.count_in + stats.total.count_out == len(messages)
        assert stats.total.errors == sum(stats.errors.values())
        assert stats.total.rate_in == stats.total.count_in
        maxima = [each.max_ms for each in stats.types.values() if each.max_ms is not None]
        assert stats.total.max_ms == max(maxima, default=None)

    def test_the_figures_survive_json(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("chat", size=1, latency_ms=2.5, error="bad", now=0.0)
        analytics.record_sent("news", 2, 3, now=0.0)
        stats = analytics.get_stats(now=8.0)
        assert msgspec.json.decode(msgspec.json.encode(stats), type=AnalyticsStats) == stats

    def test_the_figures_do_not_change_afterwards(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("chat", error="bad", now=0.0)
        stats = analytics.get_stats(now=1.0)
        analytics.record_message("chat", error="bad", now=1.0)
        assert stats.types["chat"].count_in == 1
        assert stats.errors == {"bad": 1}

    def test_without_a_time_it_reads_the_monotonic_clock(self) -> None:
        analytics = MessageAnalytics()
        analytics.record_message("chat")
        analytics.record_sent("chat", 3, 0)
        stats = analytics.get_stats()
        assert 0.0 <= stats.uptime < 5.0
        assert (stats.total.rate_in, stats.total.rate_out) == (1.0, 3.0)

    def test_a_reset_forgets_everything_and_starts_again(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("chat", size=1, latency_ms=2.5, error="bad", now=0.0)
        analytics.reset(now=100.0)
        assert analytics.get_stats(now=107.0) == AnalyticsStats(
            uptime=7.0, total=TypeStats(), types={}, errors={}
        )


class TestBounds:
    def test_types_beyond_the_limit_are_counted_together(self) -> None:
        analytics = MessageAnalytics(max_types=2, now=0.0)
        for type in ("a", "b", "c", "d", "a"):
            analytics.record_message(type, now=0.0)
        types = analytics.get_stats(now=1.0).types
        assert {type: each.count_in for type, each in types.items()} == {"a": 2, "b": 1, OTHER: 2}

    def test_what_is_sent_is_bounded_like_what_is_received(self) -> None:
        analytics = MessageAnalytics(max_types=1, now=0.0)
        for type in ("a", "b", "c"):
            analytics.record_sent(type, 10, 0, now=0.0)
        types = analytics.get_stats(now=1.0).types
        assert {type: each.count_out for type, each in types.items()} == {"a": 10, OTHER: 20}

    def test_a_type_too_long_to_keep_is_counted_with_the_others(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("x" * 255, now=0.0)
        analytics.record_message("y" * 256, now=0.0)
        assert set(analytics.get_stats(now=1.0).types) == {"x" * 255, OTHER}

    def test_a_client_that_invents_types_and_errors_grows_nothing(self) -> None:
        analytics = MessageAnalytics(max_types=10, now=0.0)
        for number in range(1_000):
            analytics.record_message(f"type-{number}", error=f"code-{number}", now=0.0)
        stats = analytics.get_stats(now=1.0)
        assert len(stats.types) == 11
        assert stats.types[OTHER].count_in == 990
        assert len(stats.errors) == 101
        assert stats.errors[OTHER] == 900

    def test_what_was_known_before_the_flood_is_still_counted_by_itself(self) -> None:
        analytics = MessageAnalytics(max_types=10, now=0.0)
        for number in range(1_000):
            analytics.record_message(f"type-{number}", error=f"code-{number}", now=0.0)
        analytics.record_message("type-0", error="code-0", now=0.0)
        stats = analytics.get_stats(now=1.0)
        assert stats.types["type-0"].count_in == 2
        assert stats.errors["code-0"] == 2

    @pytest.mark.parametrize("max_types", [0, -1])
    def test_fewer_than_one_type_is_refused(self, max_types: int) -> None:
        with pytest.raises(ConfigurationError, match="max_types"):
            MessageAnalytics(max_types=max_types)


class TestErrors:
    def test_errors_are_counted_by_code_and_by_type(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        for type, code in (("a", "bad"), ("a", "late"), ("b", "bad")):
            analytics.record_message(type, error=code, now=0.0)
        stats = analytics.get_stats(now=1.0)
        assert stats.errors == {"bad": 2, "late": 1}
        assert {type: each.errors for type, each in stats.types.items()} == {"a": 2, "b": 1}

    def test_a_code_too_long_to_keep_is_counted_with_the_others(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("a", error="x" * 256, now=0.0)
        assert analytics.get_stats(now=1.0).errors == {OTHER: 1}

    def test_resetting_the_errors_leaves_the_rest(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("a", size=5, error="bad", now=0.0)
        analytics.reset_errors()
        stats = analytics.get_stats(now=1.0)
        assert stats.errors == {}
        assert (stats.total.errors, stats.total.count_in, stats.total.bytes_in) == (0, 1, 5)


class TestQuantiles:
    def test_there_are_none_without_a_latency(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("chat", now=0.0)
        chat = analytics.get_stats(now=1.0).types["chat"]
        assert (chat.p50_ms, chat.p90_ms, chat.p99_ms, chat.max_ms) == (None, None, None, None)

    @given(st.lists(st.floats(0.01, 100_000), min_size=1, max_size=30), st.integers(0, 3))
    @examples(100)
    def test_they_are_at_most_five_percent_off(self, latencies: list[float], exponent: int) -> None:
        latencies = [max(0.01, latency_ms / 10**exponent) for latency_ms in latencies]
        analytics = MessageAnalytics(now=0.0)
        for number, latency_ms in enumerate(latencies):
            analytics.record_message("odd" if number % 2 else "even", latency_ms=latency_ms, now=0.0)
        total = analytics.get_stats(now=1.0).total
        assert total.p50_ms == pytest.approx(exact_quantile(latencies, 50), rel=0.05)
        assert total.p90_ms == pytest.approx(exact_quantile(latencies, 90), rel=0.05)
        assert total.p99_ms == pytest.approx(exact_quantile(latencies, 99), rel=0.05)
        assert total.max_ms == max(latencies)

    def test_the_last_of_a_hundred_is_beyond_the_99th_percentile(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        for latency_ms in [1.0] * 99 + [1_000.0]:
            analytics.record_message("chat", latency_ms=latency_ms, now=0.0)
        chat = analytics.get_stats(now=1.0).types["chat"]
        assert chat.p99_ms == pytest.approx(1.0, rel=0.05)
        assert chat.max_ms == 1_000.0

    @pytest.mark.parametrize(
        ("latency_ms", "expected"), [(0.0, 0.0), (0.001, 0.001), (0.01, 0.01), (1e9, 1e9)]
    )
    def test_a_latency_off_the_scale_is_bounded_by_the_exact_maximum(
        self, latency_ms: float, expected: float
    ) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("chat", latency_ms=latency_ms, now=0.0)
        chat = analytics.get_stats(now=1.0).types["chat"]
        assert (chat.p50_ms, chat.p99_ms, chat.max_ms) == (expected, expected, expected)

    def test_below_the_scale_counts_as_its_smallest(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        for latency_ms in (0.001, 0.001, 5.0):
            analytics.record_message("chat", latency_ms=latency_ms, now=0.0)
        assert analytics.get_stats(now=1.0).types["chat"].p50_ms == 0.01


class TestRates:
    def test_a_steady_stream_has_its_rate(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        for tick in range(1_800):
            analytics.record_message("chat", now=tick / 10)
            analytics.record_sent("chat", 3, 0, now=tick / 10)
        chat = analytics.get_stats(now=180.0).types["chat"]
        assert chat.rate_in == pytest.approx(10.0, rel=0.01)
        assert chat.rate_out == pytest.approx(30.0, rel=0.01)

    def test_a_process_that_only_sends_has_a_rate_too(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        for tick in range(180):
            analytics.record_sent("news", 4, 0, now=float(tick))
        total = analytics.get_stats(now=180.0).total
        assert total.rate_in == 0.0
        assert total.rate_out == pytest.approx(4.0, rel=0.02)

    def test_at_first_the_rate_is_of_the_time_since_the_start(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        for _ in range(20):
            analytics.record_message("chat", now=2.0)
        assert analytics.get_stats(now=4.0).total.rate_in == 5.0

    def test_the_first_moment_is_no_flood(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        analytics.record_message("chat", now=0.0)
        assert analytics.get_stats(now=0.0).total.rate_in == 1.0

    def test_a_burst_is_forgotten_after_a_minute(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        for _ in range(600):
            analytics.record_message("chat", now=3.0)
        assert analytics.get_stats(now=60.0).total.rate_in == 10.0
        assert analytics.get_stats(now=65.1).total.rate_in == 0.0
        assert analytics.get_stats(now=1e6).total.rate_in == 0.0

    def test_a_type_that_came_later_has_a_rate_of_its_own(self) -> None:
        analytics = MessageAnalytics(now=0.0)
        for tick in range(120):
            analytics.record_message("old", now=float(tick))
        for tick in range(120, 180):
            analytics.record_message("new", now=float(tick))
        types = analytics.get_stats(now=180.0).types
        assert types["old"].rate_in == pytest.approx(0.0, abs=0.02)
        assert types["new"].rate_in == pytest.approx(1.0, rel=0.02)

    @given(
        st.lists(st.floats(0, 20) | st.just(0.0) | st.floats(50, 200), max_size=40),
        st.floats(0, 100),
        st.sets(st.integers(0, 39), max_size=5),
    )
    @examples(100)
    def test_a_rate_is_of_the_last_55_to_60_seconds_whoever_looks_and_when(
        self, gaps: list[float], rest: float, looks: set[int]
    ) -> None:
        analytics, now = MessageAnalytics(now=-1_000.0), 0.0
        times: list[float] = []
        for number, gap in enumerate(gaps):
            now += gap
            times.append(now)
            analytics.record_message("chat", now=now)
            if number in looks:
                analytics.get_stats(now=now)
        now += rest
        rate = analytics.get_stats(now=now).total.rate_in
        surely = sum(time > now - 55 for time in times)
        perhaps = sum(time >= now - 60 for time in times)
        assert surely / 60 - 1e-9 <= rate <= perhaps / 55 + 1e-9


def test_failures_are_counted_by_kind_and_reset_with_the_errors() -> None:
    analytics = MessageAnalytics(now=0)
    for kind in (FailureKind.BUG, FailureKind.AUTH, FailureKind.BUG):
        analytics.record_failure(kind)
    assert analytics.get_stats(now=1).failures == {FailureKind.BUG: 2, FailureKind.AUTH: 1}
    analytics.reset_errors()
    assert analytics.get_stats(now=1).failures == {}
