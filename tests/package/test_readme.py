"""What the README shows is what the package does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from wsmanager import MessagePriority
from wsmanager.config import settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def settings_table() -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    rows += [f"| `{one.name}` | `{_shown(one.default)}` | {one.description} |" for one in settings()]
    return "\n".join(rows)


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value).strip('"')


def test_the_settings_table_is_the_configuration_itself() -> None:
    shown = README.partition("<!-- settings -->\n")[2].partition("\n<!-- /settings -->")[0]
    assert shown == settings_table(), "run: python -m tests.package.test_readme"


def test_every_relative_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)
    assert all((ROOT / link).exists() for link in links)


@pytest.mark.parametrize("name", [priority.name for priority in MessagePriority])
def test_the_priorities_are_named(name: str) -> None:
    assert name in README


if __name__ == "__main__":
    head, _, rest = README.partition("<!-- settings -->\n")
    tail = rest.partition("<!-- /settings -->")[2]
    text = f"{head}<!-- settings -->\n{settings_table()}\n<!-- /settings -->{tail}"
    (ROOT / "README.md").write_text(text)
