"""Benchmarks: what a connection and a message cost, and how that compares.

``memory``, ``components``, ``growth``, ``stack`` and ``walks`` run on fake sockets, ``stalled`` and
``servers`` on real ones. ``servers`` drives each contestant for each workload in turn, which takes some
minutes a run. Without a measure: all of these. ``instructions`` counts them with callgrind, compares them to
the baseline beside it, and is not among all. ``page`` measures nothing: it writes page and plot of the
figures that are kept.

Every figure is a ratio, or bytes: absolute times mean nothing on a shared machine. One *unit* is one
``msgspec.json.decode`` of a 103-byte envelope, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from pathlib import Path

from . import instructions
from .lineup import CONTESTANTS
from .measures import MEASURES, run
from .options import Options
from .results import Results
from .rows import Row
from .tables import show
from .workloads import WORKLOADS


def main(arguments: list[str] | None = None) -> int:
    choice = parser().parse_args(arguments)
    if choice.measure == "instructions":
        return instructions.main(update=choice.update, profile=choice.profile)
    if choice.measure == "page":
        Results.read().write()
        return 0
    options = Options(
        scale=0.1 if choice.quick else 1.0,
        runs=choice.runs,
        only=tuple(choice.only),
        contestants=tuple(choice.contestants),
        profile=choice.profile,
    )
    names = list(MEASURES) if choice.measure == "all" else [choice.measure]
    rows = [row for name in names for row in measure(name, options, save=choice.save)]
    show(rows)
    if choice.json:
        choice.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row.get("met", True) for row in rows) else 1


def measure(name: str, options: Options, *, save: bool) -> list[Row]:
    """In a fresh process: what an earlier measure left of the heap would slow down a later one."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = pool.apply(run, (name, options))
    if save:  # at once: what comes later may fail
        results = Results.read()
        results.keep(name, options, rows)
        results.write()
    return rows


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        epilog=f"workloads: {', '.join(WORKLOADS)}\ncontestants: {'; '.join(CONTESTANTS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*MEASURES, "all", "instructions", "page"]
    made.add_argument("measure", nargs="?", default="all", choices=names, metavar=f"{{{','.join(names)}}}")
    made.add_argument("--quick", action="store_true", help="a tenth of the sockets, or of the time")
    made.add_argument("--json", type=Path, help="write the figures to this file")
    made.add_argument(
        "--save", action="store_true", help="keep the figures beside the program, with a page and a plot"
    )
    made.add_argument("--profile", action="store_true", help="with instructions and walks: where they go")
    made.add_argument("--update", action="store_true", help="with instructions: make them the baseline")
    servers = made.add_argument_group("with servers")
    servers.add_argument("--runs", type=int, default=3, help="how often each is driven (3)")
    servers.add_argument("--only", nargs="+", default=(), choices=WORKLOADS, metavar="WORKLOAD")
    servers.add_argument("--contestants", nargs="+", default=(), choices=CONTESTANTS, metavar="NAME")
    return made


if __name__ == "__main__":
    sys.exit(main())
