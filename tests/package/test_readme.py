"""What the README shows is what the package does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.matrix import MATRICES, fill
from wsmanager import MessagePriority
from wsmanager.config import settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def tables() -> dict[str, str]:
    """What is written by a program, by the name that marks its place."""
    fill()
    return {"settings": settings_table(), **{name: str(matrix) for name, matrix in MATRICES.items()}}


def place_of(name: str) -> str:
    return rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- /{name} -->)"


def settings_table() -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    rows += [f"| `{one.name}` | `{_shown(one.default)}` | {one.description} |" for one in settings()]
    return "\n".join(rows)


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value).strip('"')


@pytest.mark.parametrize("name", tables())
def test_a_table_says_what_the_code_says(name: str) -> None:
    shown = re.search(place_of(name), README, re.DOTALL)
    assert shown is not None
    assert shown[0] == tables()[name], "run: python -m tests.package.test_readme"


def test_every_relative_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)
    assert all((ROOT / link).exists() for link in links)


@pytest.mark.parametrize("name", [priority.name for priority in MessagePriority])
def test_the_priorities_are_named(name: str) -> None:
    assert name in README


if __name__ == "__main__":
    text = README
    for name, table in tables().items():
        text = re.sub(place_of(name), table.replace("\\", r"\\"), text, flags=re.DOTALL)
    (ROOT / "README.md").write_text(text)
