"""The figures that are kept beside the program, and the page that shows them."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from tests.node import NODE

from .lineup import NODE_PACKAGES
from .options import Options
from .plot import PANELS, svg
from .rows import Row, verdict_of
from .tables import absolute, markdown, ratio, standings_of

__all__ = ["Results", "page"]

HERE = Path(__file__).parent
BEGIN, END = "<!-- kept by hand -->", "<!-- generated again -->"
HEADER = """\
# What was measured

Written by `python -m tests.bench --save`. Servers run on one core and the load generator on another, without
compression and without life signs; contestants take turns. Ratios are those of one run, side by side; shown
are the median of the runs and, in brackets, the least and the greatest. Absolute figures are those of this
machine and this day, and mean nothing beside those of another.
"""
PACKAGES = (
    "uvicorn",
    "uvloop",
    "websockets",
    "msgspec",
    "fastapi",
    "starlette",
    "python-socketio",
    "channels",
    "picows",
)


class Results:
    """``results.json``: by measure, when and how it was taken, and its rows."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self._kept = kept

    @classmethod
    def read(cls) -> Self:
        path = HERE / "results.json"
        return cls(json.loads(path.read_text()) if path.exists() else {"measures": {}})

    def keep(self, name: str, options: Options, rows: list[Row]) -> None:
        """Take the place of what was kept; of a part, if only a part was measured."""
        if options.partial and name in self._kept["measures"]:
            rows = merged(self._kept["measures"][name]["rows"], rows)
        self._kept["machine"] = _machine()
        self._kept["measures"][name] = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "runs": options.runs,
            "scale": options.scale,
            "rows": rows,
        }

    def write(self) -> None:
        """The figures, the page and the plot."""
        (HERE / "results.json").write_text(json.dumps(self._kept, indent=1, ensure_ascii=False) + "\n")
        path = HERE / "RESULTS.md"
        path.write_text(page(self._kept, path.read_text() if path.exists() else ""))
        servers = self._kept["measures"].get("servers", {"rows": []})["rows"]
        if any(row["measure"] in PANELS for row in standings_of(servers)):
            (HERE / "results.svg").write_text(svg(standings_of(servers)))


def merged(before: Iterable[Row], now: Iterable[Row]) -> list[Row]:
    """The rows of both; where they measured the same, those of now."""
    return list({(row["measure"], row.get("contestant")): row for row in (*before, *now)}.values())


# --- the machine: what it is, and not which


def _machine() -> dict[str, str]:
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "Python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name))},
        **_of_node(),
    }


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return f"{model[1] if model else platform.machine()}, {text.count('processor	:')} cores"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _of_node() -> dict[str, str]:
    node = subprocess.run((NODE, "--version"), capture_output=True, text=True, check=True).stdout.strip()
    packages: dict[str, str] = json.loads((NODE_PACKAGES / "package.json").read_text())["dependencies"]
    return {"Node": node.removeprefix("v"), **{f"{name} (Node)": its for name, its in packages.items()}}


# --- the page


def page(kept: dict[str, Any], before: str) -> str:
    """In Markdown. What stands between the markers of the page before stands there again."""
    measures = kept["measures"]
    parts = [
        HEADER,
        markdown(("machine", ""), kept.get("machine", {}).items()),
        markdown(("measure", "date", "runs", "share of its full length"), map(_occasion, measures.items())),
        "## Bounds\n",
        _bounds(row for measure in measures.values() for row in measure["rows"]),
        *_servers(standings_of(measures.get("servers", {"rows": []})["rows"])),
        "## Where the time goes\n",
        f"{BEGIN}\n{_by_hand(before)}\n{END}\n",
    ]
    return "\n".join(parts)


def _occasion(item: tuple[str, Any]) -> tuple[str, ...]:
    name, measure = item
    return name, measure["date"], str(measure["runs"]) if name == "servers" else "", f"{measure['scale']:.0%}"


def _by_hand(before: str) -> str:
    """What somebody wrote between the markers."""
    found = re.search(f"{BEGIN}\n(.*)\n{END}", before, re.DOTALL)
    return found[1] if found else ""


def _bounds(rows: Iterable[Row]) -> str:
    head = ("id", "measure", "value", "floor", "target", "reached")
    bounded = sorted((row for row in rows if "target" in row), key=lambda row: int(row["id"][1:]))
    return markdown(head, map(_bound, bounded))


def _bound(row: Row) -> tuple[str, ...]:
    value = ratio(row) if "low" in row else f"{row['value']:.2f}"
    floor = "" if row["floor"] is None else f"{row['floor']:g}"
    return row["id"], row["measure"], value, floor, f"{row['target']:g}", verdict_of(row)


def _servers(rows: list[Row]) -> Iterable[str]:
    if not rows:
        return
    yield "## Beside the bare ASGI loop\n"
    yield "![Deliveries and echoes beside the bare loop](results.svg)\n"
    yield _matrix(rows, ratio)
    yield "Of latencies and of memory, less is better. ≥: the load generator had no more to give.\n"
    yield "### For each second that the server had its core\n"
    yield _matrix([row for row in rows if "by_own_time" in row], lambda row: ratio(row, row["by_own_time"]))
    yield "### Absolute\n"
    yield _matrix(rows, absolute, units=True)
    yield "### The share of its core that the load generator used\n"
    yield _matrix([row for row in rows if row["client"]], lambda row: f"{row['client']:.0%}")


def _matrix(rows: list[Row], cell: Callable[[Row], str], *, units: bool = False) -> str:
    """A line for each contestant, a column for each figure."""
    figures = {row["measure"]: row["unit"] for row in rows}
    cells = {(row["contestant"], row["measure"]): cell(row) for row in rows}
    names = dict.fromkeys(row["contestant"] for row in rows)
    head = [f"{figure}, {unit}" if units else figure for figure, unit in figures.items()]
    return markdown(
        ("", *head), [(name, *(cells.get((name, figure), "") for figure in figures)) for name in names]
    )
