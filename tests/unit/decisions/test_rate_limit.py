from __future__ import annotations

import copy
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Hashable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.decisions.rate_limit import AdaptiveRateLimiter, TokenBuckets
from wsmanager.errors import ConfigurationError
from wsmanager.protocols import RateDecision, RateLimiter

from ...profiles import examples

MINUTE = 60.0
SEEDS = st.integers(0, 2**32)
SLICES = st.sampled_from([1, 3, 6])


def send(limiter: AdaptiveRateLimiter, units: int, *, now: float, key: Hashable = "ann") -> RateDecision:
    """The decision on the last of `units` messages at one moment."""
    return [limiter.check_rate_limit(key, now=now) for _ in range(units)][-1]


def allowed(limiter: AdaptiveRateLimiter, units: int, *, now: float, key: Hashable = "ann") -> int:
    return sum(limiter.check_rate_limit(key, now=now).allowed for _ in range(units))


def good_user(**settings: Any) -> AdaptiveRateLimiter:
    """A limiter that saw one message in each of five windows, the last of which ends at 300 s."""
    limiter = AdaptiveRateLimiter(**settings)
    for window in range(5):
        send(limiter, 1, now=window * MINUTE)
    return limiter


def regular_user(units: int = 10, **settings: Any) -> AdaptiveRateLimiter:
    """A limiter that saw `units` in each of ten windows, the last of which ends at 600 s."""
    limiter = AdaptiveRateLimiter(**settings)
    for window in range(10):
        send(limiter, units, now=window * MINUTE)
    return limiter


# --- the window


def test_the_101st_message_of_a_minute_is_refused() -> None:
    limiter: RateLimiter = AdaptiveRateLimiter()
    decisions = [limiter.check_rate_limit("ann", now=i * 0.5) for i in range(101)]
    assert all(decisions[:100])
    assert not decisions[100]


def test_a_decision_names_the_limit_and_what_is_left_of_it() -> None:
    limiter = AdaptiveRateLimiter(10)
    assert limiter.check_rate_limit("ann", cost=3, now=0) == RateDecision(True, 7, 10, 0)
    refused = limiter.check_rate_limit("ann", cost=8, now=0)
    assert (refused.allowed, refused.remaining, refused.limit) == (False, 7, 10)


def test_a_refusal_charges_nothing() -> None:
    limiter = AdaptiveRateLimiter(10)
    send(limiter, 9, now=0)
    assert not limiter.check_rate_limit("ann", cost=2, now=0)
    assert limiter.check_rate_limit("ann", now=0)


def test_keys_do_not_share_a_window() -> None:
    limiter = AdaptiveRateLimiter(1)
    assert send(limiter, 1, now=0, key=("acme", "ann"))
    assert send(limiter, 1, now=0, key=("other", "ann"))


def test_units_come_back_as_their_slices_leave_the_window() -> None:
    limiter = AdaptiveRateLimiter(10, window=60, slices=60)
    send(limiter, 4, now=0.9)
    send(limiter, 6, now=30)
    assert not send(limiter, 1, now=60.9)
    assert allowed(limiter, 10, now=61) == 4
    assert send(limiter, 1, now=91).remaining == 5


def test_a_window_that_was_idle_is_free_again() -> None:
    limiter = AdaptiveRateLimiter(10)
    send(limiter, 5, now=0)
    send(limiter, 5, now=10)
    assert allowed(limiter, 11, now=1_000) == 10


def test_a_clock_reading_from_the_past_is_charged_to_the_present() -> None:
    limiter = AdaptiveRateLimiter(2)
    send(limiter, 1, now=100)
    send(limiter, 1, now=90)
    assert not send(limiter, 1, now=155)


def test_a_factor_scales_the_limit() -> None:
    limiter = AdaptiveRateLimiter(10)
    assert limiter.check_rate_limit("ann", factor=2.5, now=0) == RateDecision(True, 24, 25)
    assert limiter.check_rate_limit("bob", factor=0.01, now=0) == RateDecision(True, 0, 1)


def test_the_clock_is_read_when_no_time_is_given() -> None:
    limiter = AdaptiveRateLimiter(1, window=3_600)
    assert limiter.check_rate_limit("ann")
    assert not limiter.check_rate_limit("ann")


def capricious(random: Random, slices: int) -> AdaptiveRateLimiter:
    """A limiter that rewards and tightens often."""
    return AdaptiveRateLimiter(
        20,
        window=6,
        bonus=0.5,
        slices=slices,
        clean_windows=random.choice((1, 2)),
        anomaly_windows=random.choice((1, 30)),
        min_sigma=0,
    )


@examples(20)
@given(SEEDS, SLICES, st.sampled_from([0.5, 1.0, 2.0]))
def test_no_interval_of_one_window_holds_more_than_the_limit_in_force(
    seed: int, slices: int, factor: float
) -> None:
    random = Random(seed)
    limiter = capricious(random, slices)
    pace = random.choice((0.1, 0.5, 2.0))
    accepted: list[tuple[float, int]] = []
    limits = set[int]()
    now = 0.0
    for _ in range(200):
        now += random.choice((0.0, random.random() * pace, random.random() * 8 * pace))
        cost = random.choice((1, 1, 2, 7))
        decision = limiter.check_rate_limit("ann", cost=cost, factor=factor, now=now)
        if decision:
            accepted = [(at, units) for at, units in accepted if at >= now - 6]
            accepted.append((now, cost))
            assert sum(units for _, units in accepted) <= decision.limit
            limits.add(decision.limit)
    assert limits <= {int(20 * factor * share) for share in (0.5, 0.75, 1.0, 1.5)}


@examples(20)
@given(SEEDS)
def test_what_is_left_is_the_limit_less_the_slices_that_touch_the_window(seed: int) -> None:
    random = Random(seed)
    limiter = AdaptiveRateLimiter(20, window=6, bonus=0, slices=6, tighten=1)
    accepted: list[tuple[float, int]] = []
    now = 0.0
    for _ in range(100):
        now += random.choice((0.0, random.random(), random.random() * 5))
        cost = random.choice((1, 2, 7))
        live = sum(units for at, units in accepted if math.floor(at) >= math.floor(now) - 6)
        decision = limiter.check_rate_limit("ann", cost=cost, now=now)
        assert decision.allowed == (live + cost <= 20)
        assert decision.remaining == 20 - live - (cost if decision else 0)
        if decision:
            accepted.append((now, cost))


# --- looking without charging


@examples(20)
@given(SEEDS, SLICES, st.sampled_from([0.5, 1.0, 2.0]))
def test_a_look_tells_what_the_next_check_will_find(seed: int, slices: int, factor: float) -> None:
    random = Random(seed)
    limiter = capricious(random, slices)
    now = 0.0
    for _ in range(100):
        limiter.check_rate_limit("ann", cost=random.choice((1, 2, 9)), factor=factor, now=now)
        now += random.choice((0.0, random.random(), random.random() * 8, random.random() ** 9 * 200))
        seen = limiter.peek("ann", factor=factor, now=now)
        assert limiter.peek("ann", factor=factor, now=now) == seen
        found = limiter.check_rate_limit("ann", factor=factor, now=now)
        expected = RateDecision(True, seen.remaining - 1, seen.limit) if seen else seen
        assert found == expected


def test_a_look_is_charged_to_nobody_and_keeps_no_key() -> None:
    limiter = AdaptiveRateLimiter(10)
    assert limiter.peek("ann", factor=2.0, now=0) == RateDecision(True, 20, 20)
    assert len(limiter) == 0
    send(limiter, 4, now=0)
    assert {limiter.peek("ann", now=30).remaining for _ in range(20)} == {6}
    assert limiter.peek("bob") == RateDecision(True, 10, 10)


# --- when to come back


@examples(20)
@given(SEEDS, SLICES)
def test_retry_after_is_right_to_one_slice(seed: int, slices: int) -> None:
    random = Random(seed)
    limiter = capricious(random, slices)
    slice_length = 6 / slices
    now = 1e6
    for _ in range(80):
        now += random.random() * random.choice((0, 0.2, 5))
        cost = random.choice((1, 1, 5, 15))
        decision = limiter.check_rate_limit("ann", cost=cost, now=now)
        if decision:
            continue
        retry = decision.retry_after_ms / 1000
        early, in_time = copy.deepcopy(limiter), copy.deepcopy(limiter)
        assert in_time.check_rate_limit("ann", cost=cost, now=now + retry)
        if retry > slice_length + 0.002:
            assert not early.check_rate_limit("ann", cost=cost, now=now + retry - slice_length - 0.002)


@pytest.mark.parametrize(("now", "retry_after_ms"), [(5.5, 60_501), (20, 46_001), (65.5, 501)])
def test_a_full_window_opens_when_its_first_slice_has_left(now: float, retry_after_ms: int) -> None:
    limiter = AdaptiveRateLimiter(1)
    send(limiter, 1, now=5.5)
    assert send(limiter, 1, now=now).retry_after_ms == retry_after_ms


def test_what_the_bonus_let_in_makes_the_refused_wait_longer() -> None:
    limiter = good_user()
    send(limiter, 20, now=300)
    send(limiter, 100, now=320)
    refused = send(limiter, 1, now=330)
    assert (refused.limit, refused.retry_after_ms) == (120, 51_001)


def test_a_tightened_key_may_come_back_when_its_window_ends() -> None:
    limiter = regular_user(min_sigma=1)
    send(limiter, 50, now=655)
    refused = limiter.check_rate_limit("ann", cost=11, now=655)
    assert (refused.limit, refused.retry_after_ms) == (60, 60_001)


def test_a_tightened_key_may_come_back_when_the_tightened_limit_has_room() -> None:
    limiter = regular_user(min_sigma=1)
    limiter.check_rate_limit("ann", cost=40, now=600)
    limiter.check_rate_limit("ann", cost=30, now=660)
    refused = limiter.check_rate_limit("ann", now=660)
    assert (refused.limit, refused.retry_after_ms) == (60, 1_001)


@pytest.mark.parametrize("sent", [0, 5])
def test_a_cost_above_the_limit_is_told_to_wait_for_the_whole_window(sent: int) -> None:
    limiter = AdaptiveRateLimiter(10)
    for _ in range(sent):
        send(limiter, 1, now=0)
    refused = limiter.check_rate_limit("ann", cost=11, now=30)
    assert refused == RateDecision(False, 10 - sent, 10, 60_001)


# --- the bonus


def test_five_clean_windows_earn_a_fifth_more() -> None:
    limiter = good_user()
    assert send(limiter, 1, now=299).limit == 100
    assert allowed(limiter, 130, now=300) == 118
    refused = send(limiter, 1, now=300)
    assert (refused.limit, refused.remaining) == (100, 0)


def test_idle_windows_between_clean_ones_count_neither_for_nor_against() -> None:
    limiter = AdaptiveRateLimiter()
    for window in range(5):
        assert send(limiter, 1, now=window * 7 * MINUTE).limit == 100
    assert send(limiter, 1, now=35 * MINUTE).limit == 120


def test_a_refusal_ends_the_bonus_until_five_more_windows_are_clean() -> None:
    limiter = good_user()
    assert not send(limiter, 130, now=300)
    for window in range(5):
        assert send(limiter, 1, now=361 + window * MINUTE).limit == 100
    assert send(limiter, 1, now=661).limit == 120


def test_a_window_in_which_all_was_refused_is_not_clean() -> None:
    limiter = AdaptiveRateLimiter(10, clean_windows=2)
    send(limiter, 10, now=59)
    assert not send(limiter, 1, now=119)
    limits = [send(limiter, 1, now=now).limit for now in (180, 240, 300)]
    assert limits == [10, 10, 12]


def test_bonus_and_factor_multiply() -> None:
    limiter = good_user()
    assert limiter.check_rate_limit("ann", factor=2.0, now=300).limit == 240


# --- anomalies


@examples(40)
@given(st.lists(st.integers(1, 60), min_size=10, max_size=30), st.floats(0, 9))
def test_an_anomaly_is_above_the_mean_by_two_deviations(history: list[int], min_sigma: float) -> None:
    limiter = AdaptiveRateLimiter(1_000, slices=2, min_sigma=min_sigma)
    for window, units in enumerate(history):
        limiter.check_rate_limit("ann", cost=units, now=window * MINUTE)
    now = len(history) * MINUTE
    sigma = max(statistics.pstdev(history), min_sigma)
    usual = math.floor(round(statistics.fmean(history) + 2 * sigma, 6))
    limiter.check_rate_limit("ann", cost=usual, now=now)
    assert not limiter.is_anomaly("ann", now=now)
    limiter.check_rate_limit("ann", now=now)
    assert limiter.is_anomaly("ann", now=now)


def test_an_anomaly_is_judged_over_all_slices_of_its_window() -> None:
    limiter = regular_user()
    for i in range(20):
        send(limiter, 1, now=600 + i)
    assert not limiter.is_anomaly("ann", now=620)
    send(limiter, 1, now=620)
    assert limiter.is_anomaly("ann", now=620)


def test_an_anomaly_halves_the_limit_until_its_window_ends() -> None:
    limiter = regular_user()
    assert send(limiter, 21, now=650).limit == 120
    assert send(limiter, 1, now=650).limit == 60
    assert limiter.is_anomaly("ann", now=709)
    assert not limiter.is_anomaly("ann", now=710)
    assert send(limiter, 1, now=710).limit == 120


def test_a_very_regular_user_may_send_one_more() -> None:
    limiter = regular_user()
    send(limiter, 11, now=600)
    assert not limiter.is_anomaly("ann", now=600)


def test_nothing_is_an_anomaly_before_ten_windows() -> None:
    limiter = AdaptiveRateLimiter()
    for window in range(9):
        send(limiter, 1, now=window * MINUTE)
    send(limiter, 100, now=540)
    assert not limiter.is_anomaly("ann", now=540)


def test_few_messages_are_no_anomaly() -> None:
    limiter = regular_user(50)
    send(limiter, 1, now=600)
    assert not limiter.is_anomaly("ann", now=600)


def test_a_window_in_which_all_was_refused_tells_nothing_of_what_is_usual() -> None:
    limiter = AdaptiveRateLimiter(20, anomaly_windows=2)
    limiter.check_rate_limit("ann", cost=10, now=59)
    assert not limiter.check_rate_limit("ann", cost=20, now=119)
    limiter.check_rate_limit("ann", cost=16, now=179)
    assert not limiter.is_anomaly("ann", now=179)


def test_an_anomaly_is_seen_after_others_came() -> None:
    limiter = regular_user(max_keys=2)
    send(limiter, 30, now=600)
    send(limiter, 1, now=600, key="bob")
    assert limiter.is_anomaly("ann", now=600)


def test_an_unknown_key_is_no_anomaly() -> None:
    assert not AdaptiveRateLimiter().is_anomaly("nobody")


def test_the_clock_is_read_for_an_anomaly_too() -> None:
    assert not AdaptiveRateLimiter().is_anomaly("ann")
    limiter = AdaptiveRateLimiter(window=3_600, slices=1, anomaly_windows=1, min_sigma=0)
    send(limiter, 1, now=time.monotonic() - 7_200)
    limiter.check_rate_limit("ann", cost=2)
    assert limiter.is_anomaly("ann")


def test_a_tightened_limit_is_never_below_one() -> None:
    limiter = AdaptiveRateLimiter(10, slices=1, anomaly_windows=1, min_sigma=0, tighten=0.01)
    send(limiter, 1, now=0)
    send(limiter, 2, now=120)
    assert send(limiter, 1, now=120).limit == 1


def test_what_a_user_did_lately_weighs_more() -> None:
    limiter = AdaptiveRateLimiter(slices=1)
    for window in range(300):
        limiter.check_rate_limit("ann", cost=10, now=window * 2 * MINUTE)
    for window in range(300, 364):
        limiter.check_rate_limit("ann", cost=50, now=window * 2 * MINUTE)
    limiter.check_rate_limit("ann", cost=55, now=364 * 2 * MINUTE)
    assert not limiter.is_anomaly("ann", now=364 * 2 * MINUTE)


# --- memory


def test_a_flood_of_keys_leaves_no_more_than_the_cap() -> None:
    limiter = AdaptiveRateLimiter(1, max_keys=500)
    assert send(limiter, 1, now=0)
    sizes = set[int]()
    for i in range(20_000):
        limiter.check_rate_limit(i, now=i / 1_000)
        sizes.add(len(limiter))
    assert max(sizes) == 500
    assert limiter.overflowed == 20_000 - 499
    assert not send(limiter, 1, now=20)


def test_a_key_is_remembered_until_all_of_its_slice_has_left_the_window() -> None:
    limiter = AdaptiveRateLimiter(1, window=6, slices=6, max_keys=3)
    for key in ("ann", "bob", "carol"):
        assert send(limiter, 1, now=0.9, key=key)
    send(limiter, 1, now=6.85, key="dave")
    assert not send(limiter, 1, now=6.88)


@examples(15)
@given(SEEDS, st.integers(1, 12))
def test_forgetting_never_resets_a_live_window(seed: int, max_keys: int) -> None:
    random = Random(seed)
    limiter = AdaptiveRateLimiter(2, window=6, bonus=0, slices=3, max_keys=max_keys, tighten=1)
    pace = random.choice((0.2, 1.0, 4.0))
    accepted = defaultdict[int, list[float]](list)
    now = 0.0
    for _ in range(300):
        now += random.random() * pace
        key = int(random.expovariate(0.2))
        decision = limiter.check_rate_limit(key, now=now)
        if decision:
            recent = [at for at in accepted[key] if at >= now - 6]
            assert len(recent) < 2
            accepted[key] = [*recent, now]
        assert len(limiter) <= max_keys


@examples(15)
@given(SEEDS, st.integers(1, 6))
def test_a_key_turned_away_finds_room_when_it_was_told(seed: int, max_keys: int) -> None:
    random = Random(seed)
    limiter = AdaptiveRateLimiter(2, window=6, slices=6, max_keys=max_keys)
    now = 0.0
    for i in range(40):
        now += random.random() * 2
        turned_away = limiter.overflowed
        decision = limiter.check_rate_limit(i, factor=3.0, now=now)
        assert decision.allowed == (limiter.overflowed == turned_away)
        if not decision:
            assert decision.limit == 6
            retry = decision.retry_after_ms / 1000
            early, in_time = copy.deepcopy(limiter), copy.deepcopy(limiter)
            assert in_time.check_rate_limit(i, now=now + retry)
            assert not early.check_rate_limit(i, now=now + retry - 1.002)


def test_nobody_is_turned_away_while_half_the_cap_suffices() -> None:
    limiter = AdaptiveRateLimiter(window=6, slices=6, max_keys=10)
    for i in range(500):
        limiter.check_rate_limit(i, now=i * 1.75)
        limiter.check_rate_limit(i - 2, now=i * 1.75)
    assert limiter.overflowed == 0


def test_history_outlives_ten_idle_windows_while_there_is_room() -> None:
    limiter = good_user()
    for now in range(0, 900, 10):
        send(limiter, 1, now=now, key="bob")
    assert send(limiter, 1, now=899).limit == 120


def test_a_key_idle_for_long_is_forgotten_with_its_history() -> None:
    limiter = good_user()
    for now in range(0, 1_700, 10):
        send(limiter, 1, now=now, key="bob")
    assert len(limiter) == 1
    assert send(limiter, 1, now=1_700).limit == 100


def test_after_a_long_silence_everybody_is_forgotten() -> None:
    limiter = good_user()
    send(limiter, 1, now=1e6, key="bob")
    assert len(limiter) == 1


# --- what is refused as a parameter


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"window": 0.0},
        {"window": math.inf},
        {"bonus": -0.1},
        {"bonus": math.nan},
        {"max_keys": 0},
        {"slices": 0},
        {"clean_windows": 0},
        {"anomaly_windows": 0},
        {"anomaly_windows": 33},
        {"tighten": 0.0},
        {"tighten": 1.1},
        {"min_sigma": -1.0},
    ],
)
def test_a_wrong_parameter_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=f"^{name} must be .*, not "):
        AdaptiveRateLimiter(**wrong)


@pytest.mark.parametrize("wrong", [{"cost": 0}, {"cost": -1}, {"factor": 0.0}, {"factor": math.inf}])
def test_a_wrong_cost_or_factor_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} must be "):
        AdaptiveRateLimiter().check_rate_limit("ann", **wrong)


def test_a_cost_is_a_whole_number() -> None:
    cost: Any = 1.5
    with pytest.raises(TypeError):
        AdaptiveRateLimiter().check_rate_limit("ann", cost=cost)


# --- token buckets


def test_a_burst_passes_at_once_and_then_the_rate() -> None:
    buckets = TokenBuckets(300 / 60, 100)
    assert [bool(buckets.take("10.0.0.1", now=1e6)) for _ in range(101)] == [True] * 100 + [False]
    assert [bool(buckets.take("10.0.0.1", now=1e6 + 1)) for _ in range(6)] == [True] * 5 + [False]


def test_a_bucket_tells_what_is_left_and_when_to_come_back() -> None:
    buckets = TokenBuckets(0.5, 2)
    assert buckets.take("ip", now=10) == RateDecision(True, 1, 2)
    assert buckets.take("ip", now=10) == RateDecision(True, 0, 2)
    assert buckets.take("ip", now=11) == RateDecision(False, 0, 2, 1_001)


@examples(20)
@given(SEEDS, st.sampled_from([0.3, 1.0, 7.0]), st.integers(1, 5), st.sampled_from([1, 3, 100]))
def test_no_interval_holds_more_than_burst_and_rate(
    seed: int, rate: float, burst: int, max_keys: int
) -> None:
    random = Random(seed)
    buckets = TokenBuckets(rate, burst, max_keys=max_keys)
    passed = defaultdict[int, list[float]](list)
    now = 1e5
    for _ in range(80):
        now += random.random() * random.choice((0, 0.3, 3)) / rate
        key = random.randrange(4)
        decision = buckets.take(key, now=now)
        assert len(buckets) <= max_keys
        if decision:
            passed[key].append(now)
            for taken, start in enumerate(reversed(passed[key]), 1):
                assert taken <= burst + rate * (now - start) + 1e-3
        else:
            retry = decision.retry_after_ms / 1000
            early, in_time = copy.deepcopy(buckets), copy.deepcopy(buckets)
            assert in_time.take(key, now=now + retry)
            assert not early.take(key, now=now + retry - 0.003)


def test_a_flood_of_addresses_is_bounded_and_resets_nothing() -> None:
    buckets = TokenBuckets(0.001, 1, max_keys=100)
    assert buckets.take("ip", now=0)
    for i in range(1_000):
        buckets.take(i, now=i * 0.01)
    assert (len(buckets), buckets.overflowed) == (100, 901)
    assert not buckets.take("ip", now=10)


def test_a_bucket_is_remembered_until_it_is_full() -> None:
    buckets = TokenBuckets(1, 10, max_keys=3)
    for _ in range(10):
        assert buckets.take("ip", now=0)
    buckets.take("second", now=0)
    buckets.take("third", now=0)
    buckets.take("fourth", now=6)
    assert sum(bool(buckets.take("ip", now=6)) for _ in range(10)) == 6


def test_full_buckets_are_forgotten() -> None:
    buckets = TokenBuckets(1, 10)
    for i in range(100):
        buckets.take(i, now=0)
    buckets.take("ip", now=100)
    assert len(buckets) == 1


def test_the_clock_is_read_for_a_bucket_too() -> None:
    buckets = TokenBuckets(0.001, 1)
    assert buckets.take("ip")
    assert not buckets.take("ip")


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": math.inf}, {"burst": 0}, {"max_keys": 0}])
def test_a_wrong_parameter_of_buckets_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    parameters: dict[str, Any] = {"rate": 1.0, "burst": 1, **wrong}
    with pytest.raises(ConfigurationError, match=f"^{name} must be .*, not "):
        TokenBuckets(**parameters)
