"""Benchmarks: ``python -m tests.bench memory|components|growth|stalled|all``, and ``instructions``.

All but ``stalled`` run on fake sockets. ``instructions`` counts them with callgrind, compares them to the
baseline beside it, and is not among all.

Every figure is a ratio, or bytes: absolute times mean nothing on a shared machine. One *unit* is one
``msgspec.json.decode`` of a 103-byte envelope, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

from . import instructions
from .measures import MEASURES, run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("measure", nargs="?", default="all", choices=[*MEASURES, "instructions", "all"])
    parser.add_argument("--quick", action="store_true", help="a tenth of the sockets")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--profile", action="store_true", help="with instructions: where they go")
    parser.add_argument("--update", action="store_true", help="with instructions: make them the baseline")
    options = parser.parse_args(arguments)
    if options.measure == "instructions":
        return instructions.main(update=options.update, profile=options.profile)
    chosen = MEASURES if options.measure == "all" else {options.measure: MEASURES[options.measure]}
    scale = 0.1 if options.quick else 1.0
    # Each in a fresh process: what an earlier measure left of the heap would slow down a later one.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = [row for name in chosen for row in pool.apply(run, (name, scale))]
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row.get("met", True) for row in rows) else 1


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'id':5}{'measure':60}{'value':>12}{'floor':>10}{'target':>10}  met")
    for row in rows:
        figures, mark = f"{row['value']:>12.3f}", ""
        if "floor" in row:
            figures += f"{row['floor']:>10}{row['target']:>10}"
            mark = "target" if row["value"] <= row["target"] else "floor" if row["met"] else "NOT MET"
        print(f"{row['id']:5}{row['measure']:60}{figures}  {mark}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
