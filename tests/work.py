"""Counts what a piece of code does, so that a test of its growth holds on a busy machine, too.

A profiler sees each call from Python, but not what a call does. So a method of a text counts as much as that
text is long, and any other call as much as the longest text that its frame holds: no linear expression looks
at more. `is_linear` tells which expressions are linear. What is done to lists and mappings is not counted.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

__all__ = ["is_linear", "work"]

_REPEATS: Final = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}
_ONE_CHARACTER: Final = {"IN", "LITERAL", "NOT_LITERAL", "ANY"}
_parser: Final[Any] = importlib.import_module("re._parser")


def work(call: Callable[[], object]) -> int:
    """Return how much `call` does: the same number in every run."""
    total = 0

    def count(frame: FrameType, event: str, function: object) -> None:
        nonlocal total
        if event not in {"call", "c_call"}:
            return
        owner = getattr(function, "__self__", None)
        if isinstance(owner, (list, dict, set)):
            total += 1
        elif isinstance(owner, (str, bytes)) and owner:
            total += 1 + len(owner)
        else:
            total += 1 + max(
                (len(v) for v in frame.f_locals.values() if isinstance(v, (str, bytes))), default=0
            )

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
    return total


def is_linear(expression: re.Pattern[Any]) -> bool:
    """Tell whether a search takes time linear in the text, whatever the text is.

    It does where each repetition has an end, or is of single characters and not followed by anything that
    must match: what was repeated is part of a match then, and is not looked at again.
    """
    return _ends(_parser.parse(expression.pattern, expression.flags), followed=False)


def _ends(sequence: Any, *, followed: bool) -> bool:
    """`followed`: something behind the sequence must match, too."""
    items = list(sequence)
    for place, (name, argument) in enumerate(items):
        behind = followed or any(_must_match(item, sequence) for item in items[place + 1 :])
        inner = _inner(argument)
        if str(name) in _REPEATS and argument[1] is _parser.MAXREPEAT:
            ((only, _),) = argument[2] if len(argument[2]) == 1 else ((None, None),)
            if behind or str(only) not in _ONE_CHARACTER:
                return False
        elif not all(_ends(part, followed=behind) for part in inner):
            return False
    return True


def _must_match(item: Any, sequence: Any) -> bool:
    part = _parser.SubPattern(sequence.state, [item])
    return str(item[0]) in {"AT", "ASSERT", "ASSERT_NOT"} or bool(part.getwidth()[0])


def _inner(argument: Any) -> list[Any]:
    """The sequences within an item of a parsed expression."""
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    if isinstance(argument, (list, tuple)):
        return [part for each in argument for part in _inner(each)]
    return []
