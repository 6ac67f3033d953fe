"""Benchmarks: what a connection and a message cost, and how that compares.

``memory``, ``components`` and ``growth`` run on fake sockets, ``stalled`` and ``servers`` on real ones.
``servers`` drives each contestant for each workload in turn; some minutes a run. Without a measure: all.

Every figure is a ratio, or bytes: absolute times mean nothing on a shared machine. One *unit* is one
``msgspec.json.decode`` of a 103-byte envelope, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from pathlib import Path

from .lineup import CONTESTANTS
from .measures import MEASURES, run
from .options import Options
from .results import Results
from .rows import Row
from .tables import show
from .workloads import WORKLOADS


def main(arguments: list[str] | None = None) -> int:
    choice = parser().parse_args(arguments)
    options = Options(
        scale=0.1 if choice.quick else 1.0,
        runs=choice.runs,
        only=tuple(choice.only),
        contestants=tuple(choice.contestants),
    )
    results = Results.read()
    rows: list[Row] = []
    for name in {"all": MEASURES, "page": ()}.get(choice.measure, (choice.measure,)):
        found = measure(name, options)
        results.keep(name, options, found)
        rows += found
    show(rows)
    if choice.save or choice.measure == "page":
        results.write()
    if choice.json:
        choice.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row.get("met", True) for row in rows) else 1


def parser() -> argparse.ArgumentParser:
    words = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__, formatter_class=words)
    made.add_argument(
        "measure",
        nargs="?",
        default="all",
        choices=[*MEASURES, "all", "page"],
        help="page: measure nothing, write page and plot of the figures that are kept",
    )
    made.add_argument("--quick", action="store_true", help="a tenth of the sockets, or of the time")
    made.add_argument("--json", type=Path, help="write the figures to this file")
    made.add_argument(
        "--save", action="store_true", help="keep the figures beside the program, with a page and a plot"
    )
    servers = made.add_argument_group("servers")
    servers.add_argument("--runs", type=int, default=3, help="how often each is driven (3)")
    servers.add_argument("--only", nargs="+", default=(), choices=WORKLOADS, metavar="WORKLOAD")
    servers.add_argument("--contestants", nargs="+", default=(), choices=CONTESTANTS, metavar="NAME")
    made.epilog = f"workloads: {', '.join(WORKLOADS)}\ncontestants: {'; '.join(CONTESTANTS)}"
    return made


def measure(name: str, options: Options) -> list[Row]:
    """In a fresh process: what an earlier measure left of the heap would slow down a later one."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(run, (name, options))


if __name__ == "__main__":
    sys.exit(main())
