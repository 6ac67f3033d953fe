"""What becomes of figures: ratios, bounds, the page and the plot."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from .comparison import side_by_side, spread, standings, verdicts
from .lineup import BARE, CONTESTANTS, OURS, OWN_TRANSPORT
from .plot import PANELS, svg
from .results import BEGIN, END, merged, page
from .rows import judged, verdict_of
from .tables import ratio
from .workloads import FIGURES, Sample

ECHO = "echo"


def runs(*values: float, client: float = 0.5) -> dict[int, Sample]:
    return {number: Sample(value, client, 1.0) for number, value in enumerate(values)}


FIGURES_OF_ECHO = {ECHO: {BARE: runs(10, 20, 40), OURS: runs(9, 16, 36)}}


def test_a_spread_is_the_median_and_the_extremes() -> None:
    assert spread([3, 1, 2, 10]) == (2.5, 1, 10)


def test_ratios_are_those_of_one_run() -> None:
    assert side_by_side(runs(10, 400), runs(5, 100)) == (3.0, 2.0, 4.0)


def test_a_run_that_one_of_them_missed_is_left_out() -> None:
    assert side_by_side({1: Sample(8)}, runs(1, 2, 3)) == (4.0, 4.0, 4.0)
    assert side_by_side({7: Sample(8)}, runs(1, 2, 3)) is None


@pytest.mark.parametrize(("value", "said"), [(2.5, "target"), (1.5, "floor"), (0.5, "NOT MET")])
def test_more_is_better_where_the_target_is_above_the_floor(value: float, said: str) -> None:
    assert verdict_of(judged("P0", "speed", value, floor=1, target=2)) == said


@pytest.mark.parametrize(("value", "said"), [(0.5, "target"), (1.5, "floor"), (2.5, "NOT MET")])
def test_less_is_better_where_it_is_below(value: float, said: str) -> None:
    assert verdict_of(judged("P0", "cost", value, floor=2, target=1)) == said


def test_a_target_without_a_floor_may_be_missed() -> None:
    row = judged("P0", "speed", 0.5, floor=None, target=1)
    assert row["met"]
    assert verdict_of(row) == "below target"


def test_a_figure_that_was_not_measured_has_no_verdict() -> None:
    (row,) = verdicts(FIGURES_OF_ECHO)
    assert (row["id"], row["value"], verdict_of(row)) == ("P1", 0.9, "target")
    assert verdicts({ECHO: {OURS: runs(1)}}) == []


def test_bursts_are_judged_by_their_number_too() -> None:
    rows = verdicts({"bursts to 1,000": {OWN_TRANSPORT: runs(2e6)}})
    assert [(row["id"], row["value"], verdict_of(row)) for row in rows] == [("P5", 2.0, "target")]


def test_memory_is_judged_by_the_difference() -> None:
    figure = {BARE: runs(18.0), OURS: runs(19.0), OWN_TRANSPORT: runs(15.0)}
    assert [row["value"] for row in verdicts({"idle connection": figure})] == [1.0, -3.0]


def test_a_client_that_had_no_more_to_give_is_told() -> None:
    rows = standings({ECHO: {BARE: runs(10), OURS: runs(20, client=0.95)}})
    assert [ratio(row) for row in rows] == ["1.00 (1.00 … 1.00)", "≥ 2.00 (2.00 … 2.00)"]


def test_every_figure_that_is_plotted_is_measured() -> None:
    assert PANELS.keys() <= FIGURES.keys()


def plotted(*contestants: str) -> ET.Element:
    figure = {name: runs(place + 1) for place, name in enumerate(contestants)}
    return ET.fromstring(svg(standings({ECHO: figure})))  # noqa: S314 - it is our own


def test_the_plot_has_a_bar_for_each_the_longest_first() -> None:
    bars = [float(bar.attrib["width"]) for bar in plotted(*CONTESTANTS).findall("{*}rect")]
    assert len(bars) == len(CONTESTANTS)
    assert bars == sorted(bars, reverse=True)


def test_names_are_escaped() -> None:
    assert "a < b" in [text.text for text in plotted(BARE, "a < b").findall("{*}text")]


def kept(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"measures": {"servers": {"date": "2025-01-01", "runs": 3, "scale": 1.0, "rows": rows}}}


def test_the_page_keeps_what_was_written_by_hand() -> None:
    rows = [*verdicts(FIGURES_OF_ECHO), *standings(FIGURES_OF_ECHO)]
    first = page(kept(rows), "")
    assert "| P1 | echo: wsmanager / bare | 0.90 (0.80 … 0.90) | 0.6 | 0.85 | target |" in first
    by_hand = first.replace(f"{BEGIN}\n", f"{BEGIN}\nIn `send`, a \\ and 3 < 4.\n")
    assert page(kept([]), by_hand).count(f"{BEGIN}\nIn `send`, a \\ and 3 < 4.\n\n{END}") == 1


def test_what_was_measured_anew_replaces_what_was() -> None:
    before = [{"measure": ECHO, "contestant": BARE, "value": 1}, {"measure": ECHO, "value": 2}]
    now = [{"measure": ECHO, "value": 3}]
    assert [row["value"] for row in merged(before, now)] == [1, 3]
