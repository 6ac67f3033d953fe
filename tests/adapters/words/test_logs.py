"""Records with stable names, whose texts nobody can forge."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.logs import LOGGER, log_event


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler, level = Kept(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    yield handler
    LOGGER.propagate = True
    LOGGER.setLevel(level)
    LOGGER.removeHandler(handler)


def shown(record: logging.LogRecord) -> str:
    return logging.Formatter("%(levelname)s:%(message)s").format(record)


def logged(**options: Any) -> str:
    """The text of one record."""
    handler = Kept()
    LOGGER.addHandler(handler)
    LOGGER.propagate = False
    try:
        log_event(logging.CRITICAL, "it.happened", **options)
    finally:
        LOGGER.propagate = True
        LOGGER.removeHandler(handler)
    (record,) = handler.records
    return shown(record)


def test_a_record_reads_as_its_name_and_its_fields(kept: Kept) -> None:
    log_event(logging.INFO, "it.happened", user="ann", count=3, room=None)
    (record,) = kept.records
    assert shown(record) == "INFO:it.happened user=ann count=3 room=None"
    assert (record.name, record.levelno) == ("wsmanager", logging.INFO)
    assert vars(record)["event"] == "it.happened"
    assert vars(record)["fields"] == {"user": "ann", "count": 3, "room": None}
    assert record.funcName == "test_a_record_reads_as_its_name_and_its_fields"
    assert record.exc_info is None


def test_what_nobody_listens_to_costs_nothing(kept: Kept) -> None:
    class Costly:
        def __repr__(self) -> str:
            raise AssertionError("was shown")

    LOGGER.setLevel(logging.WARNING)
    log_event(logging.INFO, "it.happened", value=Costly())
    assert kept.records == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        ("two words", "'two words'"),
        ("a\r\nb", r"'a\r\nb'"),
        ("\x1b[31mred", r"'\x1b[31mred'"),
        ("\u202egnp", r"'\u202egnp'"),
        ("\u2028", r"'\u2028'"),
        ("\ud800", r"'\ud800'"),
        ("ü中", "ü中"),
        ("x" * 300, "x" * 200 + "…"),
        (b"\x00", r"b'\x00'"),
        (["a", "b\n"], r'''"['a', 'b\\n']"'''),
    ],
)
def test_f32_values_are_escaped(value: Any, text: str) -> None:
    assert logged(value=value) == f"CRITICAL:it.happened value={text}"


@given(st.text(), st.text())
def test_f32_no_value_and_no_exception_can_forge_a_line(value: str, message: str) -> None:
    text = logged(value=value, error=ValueError(message))
    first, *others = text.split("\n")
    assert text.splitlines() == [first, *others]
    assert first.startswith("CRITICAL:it.happened value=")
    assert all(line.startswith("  ") and line.isprintable() for line in others)


def test_an_error_brings_its_traceback_and_its_causes(kept: Kept) -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise LookupError("second") from error
    except LookupError as error:
        log_event(logging.ERROR, "it.failed", error=error)
        plain = traceback.format_exc()
    (record,) = kept.records
    text = shown(record)
    assert text == "ERROR:it.failed\n" + "\n".join("  " + line for line in plain.rstrip().split("\n"))
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


def test_an_error_that_says_too_much_is_cut() -> None:
    assert len(logged(error=ValueError("x" * 1_000_000))) < 11_000
    assert len(logged(error=ValueError("\n" * 50_000))) < 40_000


def test_a_traceback_that_was_written_already_is_left_alone(kept: Kept) -> None:
    record = logging.LogRecord(
        "wsmanager", logging.ERROR, "", 0, "x", (), (ValueError, ValueError("y"), None)
    )
    record.exc_text = "already"
    LOGGER.handle(record)
    assert kept.records[0].exc_text == "already"
