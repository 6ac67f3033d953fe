"""Prints a constraints file with the oldest release of everything that the package and its tests allow.

`python -m tests.oldest > oldest.txt && pip install -c oldest.txt …`: floors are those of `pyproject.toml`,
and one that does not hold is found by the tests instead of by a user.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Final

__all__ = ["floors", "requirements"]

PROJECT: Final = Path(__file__).parents[1] / "pyproject.toml"
_REQUIREMENT: Final = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,-]+\])?(?:>=(?P<floor>[\w.]+))?")


def requirements(project: dict[str, Any]) -> list[str]:
    """Return what a project needs, always and for its extras, without its own name."""
    every = chain(project["dependencies"], *project["optional-dependencies"].values())
    return [one for one in every if not re.match(rf"{project['name']}\b", one)]


def floors(every: Iterable[str]) -> dict[str, str]:
    """Return the oldest release that each requirement allows, by name.

    Raises `ValueError` for one without a floor, and where two of one name differ.
    """
    found: dict[str, str] = {}
    for one in every:
        match = _REQUIREMENT.match(one)
        if match is None or match["floor"] is None:
            raise ValueError(f"{one!r} names no oldest release: write it as name>=1.2")
        if found.setdefault(match["name"], match["floor"]) != match["floor"]:
            raise ValueError(f"{match['name']} has two oldest releases")
    return found


def main() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    found = floors(requirements(project))
    sys.stdout.writelines(f"{name}=={found[name]}\n" for name in sorted(found))


if __name__ == "__main__":
    main()
