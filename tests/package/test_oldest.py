"""The constraints for the oldest releases are those of the project."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.oldest import floors, requirements

ROOT = Path(__file__).parents[2]
PROJECT = {
    "name": "own",
    "dependencies": ["a>=1.2,<3", "b.c-d>=0.4"],
    "optional-dependencies": {"x": ["a[fast,small]>=1.2", "own[y]"], "y": ["e>=2; sys_platform != 'win32'"]},
}


def test_every_requirement_is_pinned_to_its_floor_but_the_project_itself() -> None:
    assert floors(requirements(PROJECT)) == {"a": "1.2", "b.c-d": "0.4", "e": "2"}


@pytest.mark.parametrize("requirement", ["a", "a<2", "a==1", "a[x]", "a @ https://example.com"])
def test_a_requirement_without_a_floor_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match="names no oldest release"):
        floors([requirement])


def test_two_floors_of_one_package_are_refused() -> None:
    with pytest.raises(ValueError, match="a has two oldest releases"):
        floors(["a>=1", "a[x]>=2"])


def test_the_floors_of_this_project_are_printed_as_constraints() -> None:
    command = [sys.executable, "-m", "tests.oldest"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    pins = dict(line.split("==") for line in printed.splitlines())
    assert {"anyio", "msgspec", "pyjwt", "starlette", "uvicorn", "pytest"} <= pins.keys()
    text = (ROOT / "pyproject.toml").read_text()
    for name, floor in pins.items():
        assert re.search(rf'"{re.escape(name)}(\[\w+\])?>={re.escape(floor)}[",;]', text)
