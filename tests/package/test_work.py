"""The counter of work sees what it is there to see."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest

from tests.work import is_linear, work


def looks_once(text: str) -> None:
    text.count("<")


def looks_from_each_sign(text: str) -> None:
    at = text.find("<")
    while at >= 0:
        at = text.find("<", at + 1)


def asks_for_each_sign(text: str) -> None:
    def follows(text: str, at: int) -> bool:
        return ">" in text[at:]

    for at in range(len(text)):
        follows(text, at)


@pytest.mark.parametrize(
    ("call", "growth"), [(looks_once, 8), (looks_from_each_sign, 64), (asks_for_each_sign, 64)]
)
def test_work_is_calls_times_the_text_that_they_may_look_at(call: Callable[[str], None], growth: int) -> None:
    short, long = (work(partial(call, "<" * size)) for size in (1_000, 8_000))
    assert long / short == pytest.approx(growth, rel=0.1)
    assert work(partial(call, "<" * 1_000)) == short


@pytest.mark.parametrize(
    ("expression", "linear"),
    [
        ("a*", True),
        ("x[a-z]+;?", True),
        ("a{1,9}b", True),
        ("&(?:#([0-9]+)|(?:b|[a-z]{2,24}(?=;)));?", True),
        ("a+b", False),
        ("a+$", False),
        ("a+(?=b)", False),
        ("(a|b+)c", False),
        ("(?:ab)+", False),
        ("(a*)*", False),
        ("<.*>", False),
    ],
)
def test_an_expression_is_linear_where_no_character_is_looked_at_again(expression: str, linear: bool) -> None:
    assert is_linear(re.compile(expression)) is linear
