"""Ratios of what was measured side by side, in the same run; and what they say of the bounds."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from .lineup import BARE, OURS, OWN_TRANSPORT
from .rows import Row, judged
from .workloads import FIGURES, Sample

__all__ = [
    "Figures",
    "Runs",
    "Spread",
    "by_time_of_its_own",
    "side_by_side",
    "spread",
    "standings",
    "verdicts",
]

Runs = Mapping[int, Sample]
"""The samples of a contestant, by the number of the run."""

Figures = Mapping[str, Mapping[str, Runs]]
"""By the name of the figure, and that of the contestant."""

CLIENT_BOUND = 0.9


class Spread(NamedTuple):
    """A median, and the extremes beside it."""

    value: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


def side_by_side(
    ours: Runs, rivals: Runs, by: Callable[[float, float], float] = operator.truediv
) -> Spread | None:
    """The spread over the runs that both took part in, if there is one."""
    values = [by(ours[run].value, rivals[run].value) for run in ours if run in rivals]
    return spread(values) if values else None


def by_time_of_its_own(runs: Runs) -> Runs:
    """The same for each second that the server's core was the server's: where neighbours take their share of
    the machine, this suffers less."""
    return {run: one._replace(value=one.value / one.server) for run, one in runs.items() if one.server}


class _Bound(NamedTuple):
    id: str
    figure: str
    ours: str
    rival: str
    floor: float | None
    target: float
    by: Callable[[float, float], float] = operator.truediv


_LATENCIES = [name for name in FIGURES if name.startswith("latency")]
_BOUNDS = [
    _Bound("P1", "echo", OURS, BARE, 0.6, 0.85),
    _Bound("P2", "echo", OURS, "FastAPI", 1.0, 1.3),
    _Bound("P3", "fan-out to 1,000", OURS, BARE, 0.85, 0.97),
    _Bound("P4", "fan-out to 1,000", OWN_TRANSPORT, BARE, 1.25, 1.5),
    _Bound("P4", "fan-out to 1,000", OWN_TRANSPORT, "Node ws", None, 1.0),
    _Bound("P4", "fan-out to 1,000", OWN_TRANSPORT, "websockets", None, 1.0),
    _Bound("P4", "fan-out to 1,000", OWN_TRANSPORT, "picows", None, 0.9),
    _Bound("P5", "bursts to 1,000", OWN_TRANSPORT, BARE, 5, 10),
    _Bound("P6", "fan-out to 1,000", OURS, "python-socketio", 5, 9),
    _Bound("P6", "fan-out to 1,000", OURS, "Django Channels", 25, 50),
    _Bound("P8", "accepts", OURS, BARE, 0.6, 0.85),
    _Bound("P10", "idle connection", OURS, BARE, 4, 2, operator.sub),
    _Bound("P10", "idle connection", OWN_TRANSPORT, BARE, 4, 2, operator.sub),
    *(_Bound("P16", name, ours, BARE, 2, 1.2) for name in _LATENCIES for ours in (OURS, OWN_TRANSPORT)),
]
_DELIVERIES = 1_500_000
"""What P5 wants on one core, whatever the bare loop does there."""


def verdicts(figures: Figures) -> list[Row]:
    """The figures that have bounds, of those that were measured."""
    rows = [row for bound in _BOUNDS if (row := _verdict(bound, figures))]
    bursts = figures.get("bursts to 1,000", {}).get(OWN_TRANSPORT)
    if bursts:
        found = spread(sample.value / 1e6 for sample in bursts.values())
        measure = f"bursts to 1,000: {OWN_TRANSPORT}, million deliveries/s"
        rows.append(judged("P5", measure, target=_DELIVERIES / 1e6, floor=None, **found._asdict()))
    return rows


def _verdict(bound: _Bound, figures: Figures) -> Row | None:
    figure = figures.get(bound.figure, {})
    ours, rivals = figure.get(bound.ours, {}), figure.get(bound.rival, {})
    found = side_by_side(ours, rivals, bound.by)
    if found is None:
        return None
    sign = "/" if bound.by is operator.truediv else f"{FIGURES[bound.figure].unit} beyond"
    return judged(
        bound.id,
        f"{bound.figure}: {bound.ours} {sign} {bound.rival}",
        floor=bound.floor,
        target=bound.target,
        bound_by_client=_client(ours) >= CLIENT_BOUND or _client(rivals) >= CLIENT_BOUND,
        **found._asdict(),
    )


def standings(figures: Figures) -> Iterator[Row]:
    """Every figure of every contestant, as a ratio to the bare loop."""
    for name, figure in figures.items():
        for contestant, runs in figure.items():
            found = side_by_side(runs, figure[BARE]) if BARE in figure else None
            if found:
                own = side_by_side(by_time_of_its_own(runs), by_time_of_its_own(figure[BARE]))
                row = {"id": "", "measure": name, "contestant": contestant, **_standing(runs, name, found)}
                yield row | ({"by_own_time": own._asdict()} if own and FIGURES[name].more_is_better else {})


def _standing(runs: Runs, name: str, found: Spread) -> Row:
    return {
        **found._asdict(),
        "unit": FIGURES[name].unit,
        "absolute": spread(sample.value for sample in runs.values())._asdict(),
        "client": _client(runs),
        "server": statistics.median(sample.server for sample in runs.values()),
        "bound_by_client": _client(runs) >= CLIENT_BOUND,
        "runs": [round(sample.value, 4) for sample in runs.values()],
    }


def _client(runs: Runs) -> float:
    return statistics.median(sample.client for sample in runs.values())
