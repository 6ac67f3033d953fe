"""Every fault that must be survived has a test named after it, so that none vanishes unnoticed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

# A test of the fault 7 is named `test_f07_…`, one of the faults 7 and 15 `test_f07_f15_…`.
FAULTS = {
    1: "reset in the middle of a send",
    2: "half-open peer",
    3: "slow reader",
    7: "deep, huge, NaN, duplicate-key or surrogate JSON",
    8: "fragments of one byte",
    9: "compression bomb",
    12: "flood of pings and pongs",
    14: "patterns that take quadratic time",
    15: "unknown type, binary, subprotocol that is not ASCII",
    16: "algorithm none or confused, unknown crit, PyJWK bypass",
    17: "keys fetched from where an unverified token says",
    18: "keys cached by their id only",
    19: "sockets opened by pages of other sites",
    20: "token in the URL",
    21: "peer that never authenticates",
    26: "rooms guessed by their answers",
    28: "connections of an address, user or tenant exhausted",
    29: "a million users in the limiters",
    31: "metric labels that a client makes up",
    32: "line breaks and escapes in the log",
    43: "SIGTERM",
    45: "event loop that stands still",
    46: "wall clock that is set",
    47: "handler that raises, hangs or is cancelled anywhere",
    48: "send after the close",
    49: "connection id twice",
    50: "back before the disconnect was seen",
    51: "join, leave, close and publish at once",
}


def names(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


@pytest.fixture(scope="module")
def tested() -> set[int]:
    """The faults that tests are named after."""
    found = (
        re.match(r"test((?:_f\d+)+)_", name)
        for path in TESTS.rglob("test_*.py")
        for name in names(path.read_text())
    )
    return {int(number) for match in found if match for number in re.findall(r"\d+", match[1])}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_the_catalogue_has_a_test(tested: set[int], fault: int) -> None:
    assert fault in tested, FAULTS[fault]
