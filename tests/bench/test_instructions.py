"""What the counts of two runs mean."""

from __future__ import annotations

import pytest

from .callgrind import per_call
from .instructions import Build, changes, like, verdict
from .script import DELIVERY, DIRECT, ECHO, EMPTY, FEW, GUARDED, MANY, YARDSTICK

BEFORE = {ECHO: 1000, GUARDED: 1000, DELIVERY: 100, DIRECT: 50, YARDSTICK: 500}


def build(python: str, counts: dict[str, int]) -> Build:
    return Build(python, "a compiler", "1.0", counts)


KNOWN = build("3.11.7", BEFORE)


def status(**now: int) -> int:
    names = {"echo": ECHO, "guarded": GUARDED, "delivery": DELIVERY, "direct": DIRECT}
    return verdict(changes(BEFORE | {names[name]: cost for name, cost in now.items()}, BEFORE), KNOWN)


@pytest.mark.parametrize("cost", [{"echo": 1051}, {"guarded": 1051}, {"delivery": 106}, {"direct": 53}])
def test_a_rise_above_the_tolerance_fails_and_says_how_to_accept_it(
    cost: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(**cost) == 1
    said = capsys.readouterr().out
    assert "RISEN" in said
    assert "--update" in said


def test_a_rise_within_the_tolerance_passes() -> None:
    assert status(echo=1049, delivery=104) == 0


def test_a_fall_passes_and_asks_for_a_lower_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(echo=900) == 0
    assert "Lower the baseline" in capsys.readouterr().out


def test_a_fall_makes_up_for_no_rise() -> None:
    assert status(echo=500, delivery=106) == 1


def test_what_a_known_build_has_no_count_of_fails() -> None:
    assert verdict(changes(BEFORE, {ECHO: 1000}), KNOWN) == 1


def test_an_unknown_build_passes_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({}, None) == 0
    assert "There is no baseline" in capsys.readouterr().out


def test_a_build_is_known_by_its_minor_version_and_the_nearest_yardstick() -> None:
    near, nearest = build("3.11.7", {YARDSTICK: 1010}), build("3.11.2", {YARDSTICK: 1005})
    far, other = build("3.11.2", {YARDSTICK: 1100}), build("3.12.1", {YARDSTICK: 1000})
    assert like(build("3.11.9", {YARDSTICK: 1000}), [near, nearest, far, other]) is nearest
    assert like(build("3.11.9", {YARDSTICK: 1000}), [far, other]) is None


def test_what_a_run_costs_once_and_the_call_of_a_part_are_left_out() -> None:
    once, call = 7_000, 30
    costs = {"whole": 100, "whole: part": 40 + call, EMPTY: call}
    files = [
        f"desc: Trigger: Client Request: {name} {times}\ntotals: {once + times * cost}\n"
        for name, cost in costs.items()
        for times in (FEW, MANY)
    ]
    assert per_call(["totals: 1\n", *files]) == {"whole": 100, "whole: part": 40}
