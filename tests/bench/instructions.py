"""How many instructions an echo and a delivery take, and whether that is more than it was.

Times mean little on a machine that others use; instructions are counted, by callgrind. Of ten runs on one
machine, loaded or idle, no count was more than 0.1 % from another, in an environment and a folder of other
lengths neither. A first run, which compiles the modules, differs by up to 0.6 %, and a processor without
AVX2, for which the C library has other functions, by up to 0.7 %. Valgrind chooses all addresses by itself:
that the kernel's are random plays no part.

Builds of Python differ by far more, and not in proportion: on Debian's 3.11 a bare echo takes 11 % fewer
instructions than on one that pyenv built, and one through the endpoint 1 %. So no ratio to a bare echo could
hold for all, and the baseline has the plain counts of each build. Which one it is, is told by what a
yardstick in Python alone costs; what builds say of themselves is too little. On a build that is not known the
command says that there is nothing to compare to, and passes. A dependency that costs more counts as the
package does: a rise is to be seen, whoever caused it.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from .callgrind import count
from .script import DELIVERY, DIRECT, ECHO, GUARDED, YARDSTICK

__all__ = ["Build", "changes", "like", "main", "verdict"]

Counts = Mapping[str, int]
"""Instructions for one of each, by name."""

BASELINE: Final = Path(__file__).with_suffix(".json")
COMMAND: Final = "python -m tests.bench instructions --update"
BARE: Final[Mapping[str, str]] = {
    ECHO: "bare echo",
    GUARDED: "bare echo",
    DELIVERY: "bare send",
    DIRECT: "bare send",
}
"""What is compared, and what it costs without the package."""
TOLERANCE: Final = 0.05
_ALIKE: Final = 0.02  # yardsticks of one build


class Build(msgspec.Struct):
    """A Python with what matters beside it, and what it needs for each."""

    python: str
    compiler: str
    msgspec: str
    counts: dict[str, int]

    def __str__(self) -> str:
        return f"Python {self.python} ({self.compiler}) with msgspec {self.msgspec}"


def main(*, update: bool = False, profile: bool = False) -> int:
    """Count and compare; the exit status. `update` makes what was counted the baseline; `profile` shows the
    parts of everything, and not only of what has risen."""
    counts = count()
    here = Build(platform.python_version(), platform.python_compiler(), version("msgspec"), counts)
    builds = msgspec.json.decode(BASELINE.read_bytes(), type=list[Build]) if BASELINE.exists() else []
    known = like(here, builds)
    before = {} if known is None else known.counts
    changed = changes(counts, before)
    show(counts, before)
    for whole in BARE:
        if profile or changed.get(whole, 0.0) > TOLERANCE:
            show_parts(whole, counts, before)
    print(f"\n{here}")
    if update:
        builds = sorted([*(build for build in builds if build is not known), here], key=lambda b: b.python)
        BASELINE.write_bytes(msgspec.json.format(msgspec.json.encode(builds), indent=2) + b"\n")
        print("This is the baseline now.")
        return 0
    return verdict(changed, known)


def verdict(changed: Mapping[str, float], known: Build | None) -> int:
    """Say what the changes mean; the exit status."""
    if known is None:
        print(f"There is no baseline for this build of Python: nothing was compared. To add one: {COMMAND}")
        return 0
    print(f"Baseline: {known}")
    if missing := BARE.keys() - changed.keys():
        print(f"Not in the baseline: {'; '.join(sorted(missing))}. To add it: {COMMAND}")
        return 1
    risen = [name for name, change in changed.items() if change > TOLERANCE]
    fallen = [name for name, change in changed.items() if change < -TOLERANCE]
    for name in risen:
        print(f"RISEN by {changed[name]:.1%}, and {TOLERANCE:.0%} is allowed: {name}")
    if risen:
        print(f"If it is worth that: {COMMAND}")
    elif fallen:
        print(f"Fallen by more than {TOLERANCE:.0%}: {'; '.join(fallen)}. Lower the baseline: {COMMAND}")
    return 1 if risen else 0


def changes(counts: Counts, before: Counts) -> dict[str, float]:
    """By what share each of what is compared has risen."""
    return {name: counts[name] / before[name] - 1 for name in BARE if name in before}


def like(here: Build, builds: Sequence[Build]) -> Build | None:
    """The one of `builds` that is this one, of another patch release at most."""
    yardstick, minor = here.counts[YARDSTICK], here.python.split(".")[:2]

    def distance(build: Build) -> float:
        return abs(build.counts[YARDSTICK] / yardstick - 1)

    alike = [b for b in builds if b.python.split(".")[:2] == minor and distance(b) <= _ALIKE]
    return min(alike, key=distance, default=None)


# --- what is printed


def show(counts: Counts, before: Counts) -> None:
    """What is compared, and what it is measured by."""
    print(f"{'instructions':<40}{'now':>10}{'baseline':>10}{'change':>9}{'times bare':>12}")
    for name in (*BARE, *sorted({*BARE.values(), YARDSTICK})):
        ratio = f"{counts[name] / counts[BARE[name]]:>12.2f}" if name in BARE else ""
        print(f"{name:<40}{_figures(counts[name], before.get(name))}{ratio}".rstrip())


def show_parts(whole: str, counts: Counts, before: Counts) -> None:
    """Where the instructions of `whole` go: each of its parts done alone, and what is between them."""
    parts, old = _parts(whole, counts), _parts(whole, before)
    print(f"\n{whole:<40}{'now':>10}{'baseline':>10}{'change':>9}{'share':>12}")
    for part, cost in parts.items():
        print(f"  {part:<38}{_figures(cost, old.get(part))}{cost / counts[whole]:>12.1%}")


def _parts(whole: str, counts: Counts) -> dict[str, int]:
    if whole not in counts:
        return {}
    head = f"{whole}: "
    parts = {name.removeprefix(head): cost for name, cost in counts.items() if name.startswith(head)}
    if whole in (ECHO, GUARDED):
        parts["the event, as in a bare echo"] = counts["bare echo"] - counts["bare send"]
    parts = dict(sorted(parts.items(), key=lambda item: -item[1]))
    return {**parts, "what is between them": counts[whole] - sum(parts.values())}


def _figures(now: int, then: int | None) -> str:
    return f"{now:>10,}" + (f"{'-':>10}{'':>9}" if then is None else f"{then:>10,}{now / then - 1:>+9.1%}")
