"""Runs the script under callgrind, and reads what it counted."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .script import EMPTY, FEW, MANY

__all__ = ["count", "per_call"]

_ROOT: Final = Path(__file__).parents[2]
_REGION: Final = re.compile(r"^desc: Trigger: Client Request: (.+) (\d+)$", re.MULTILINE)
_TOTAL: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def count() -> dict[str, int]:
    """Instructions for one of each thing that the script does. Ends the program where none can be counted."""
    valgrind = shutil.which("valgrind")
    if valgrind is None or platform.machine() != "x86_64":
        raise SystemExit("Instructions are counted on x86-64, with valgrind: apt install valgrind")
    with tempfile.TemporaryDirectory() as folder:
        # Start-up goes five times as fast while nothing is watched.
        tool = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/part"]
        done = subprocess.run(
            [valgrind, *tool, sys.executable, "-m", "tests.bench.script"],
            cwd=_ROOT,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"The script failed:\n{done.stdout}")
        return per_call(file.read_text() for file in Path(folder).glob("part.*"))


def _environment() -> dict[str, str]:
    """The same for everybody: no options of valgrind's or Python's, and no chance in hashes."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "HOME": "/", "PYTHONHASHSEED": "0"}


def per_call(files: Iterable[str]) -> dict[str, int]:
    """What one of each costs, by the files of callgrind: of a part, without the call that it takes alone."""
    totals: dict[str, dict[int, int]] = {}
    for text in files:
        region, total = _REGION.search(text), _TOTAL.search(text)
        if region is not None and total is not None:
            totals.setdefault(region[1], {})[int(region[2])] = int(total[1])
    costs = {name: (of[MANY] - of[FEW]) / (MANY - FEW) for name, of in totals.items()}
    empty = costs.pop(EMPTY)
    return {name: round(cost - empty if ": " in name else cost) for name, cost in sorted(costs.items())}
