"""What holds where: tests that fill the tables of the README.

A row is a behaviour; a column is a server, a framework or a client. A test of a row runs once for each
column. In a cell that has a reason it must fail, so that a reason that holds no longer is noticed.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pytest

__all__ = ["MATRICES", "Matrix", "fill"]

F = TypeVar("F", bound=Callable[..., Any])

MATRICES: dict[str, Matrix] = {}
"""By the name that marks the table in the README."""

_PACKAGES = ("tests.servers", "tests.frameworks", "tests.clients")


class Matrix:
    """One table. Tests get the value of their column as the argument `argument`."""

    def __init__(self, name: str, heading: str, argument: str, columns: Mapping[str, Any]) -> None:
        self._heading = heading
        self._argument = argument
        self._columns = columns
        self._rows: dict[str, dict[str, str]] = {}
        self._places: dict[str, tuple[str, int]] = {}
        MATRICES[name] = self

    def row(
        self, title: str, *, no: Mapping[str, str] | None = None, only: Iterable[str] | None = None
    ) -> Callable[[F], F]:
        """Mark a test of the row `title`. `no` names the columns where it does not hold, and why. Where
        several tests fill one row, `only` says which columns this one is for."""
        reasons = dict(no or {})
        columns = [name for name in self._columns if only is None or name in only]
        assert reasons.keys() <= set(columns), f"{title}: unknown columns"
        cells = self._rows.setdefault(title, {})
        # Rows stand as they do in the files, in whatever order these are imported.
        frame = sys._getframe(1)
        place = (frame.f_code.co_filename, frame.f_lineno)
        self._places[title] = min(place, self._places.get(title, place))
        for name in columns:
            told = cells.setdefault(name, reasons.get(name, "yes"))
            assert told == reasons.get(name, "yes"), f"{title}, {name}: two tests, two answers"
        values = [
            pytest.param(
                self._columns[name],
                id=name,
                marks=pytest.mark.xfail(reason=reasons[name], strict=True) if name in reasons else (),
            )
            for name in columns
        ]
        return pytest.mark.parametrize(self._argument, values)

    def __str__(self) -> str:
        """As a table in Markdown."""
        lines = [
            f"| {self._heading} | " + " | ".join(self._columns) + " |",
            "|---" * (len(self._columns) + 1) + "|",
        ]
        for title in sorted(self._rows, key=self._places.__getitem__):
            reasons = self._rows[title]
            lines.append(f"| {title} | " + " | ".join(reasons[name] for name in self._columns) + " |")
        return "\n".join(lines)


def fill() -> None:
    """Import every test that has a row."""
    for package in _PACKAGES:
        path = importlib.import_module(package).__path__
        for module in sorted(one.name for one in pkgutil.iter_modules(path) if one.name.startswith("test_")):
            importlib.import_module(f"{package}.{module}")
