"""What the named groups find, what they let pass, and that they do so in linear time."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.decisions import patterns
from wsmanager.decisions.patterns import INJECTION, XSS, Pattern
from wsmanager.decisions.validation import SecurityValidator
from wsmanager.errors import SuspiciousMessage
from wsmanager.messages import InboundMessage

from ...profiles import examples
from ...work import is_linear, work

SAMPLES = {
    Pattern.XSS_SCRIPT: ["<script>alert(1)</script>", "<script src=//x>"],
    Pattern.XSS_FRAME: ["<iframe src=//x>", "<object data=x>", "<embed src=x>"],
    Pattern.XSS_SCHEME: [
        "javascript:alert(1)",
        "vbscript:x",
        "data:text/html,x",
        "data:text/html;base64,eA==",
    ],
    Pattern.XSS_HANDLER: [
        "onclick=alert(1)",
        "<img src=x onerror=alert(1)>",
        "<img src=x onerror =alert(1)>",
        "<svg/onload=alert(1)>",
        '<p title=">" onsomethingnew=x>',
        '" onmouseover="alert(1)',
        "' autofocus onfocus='x",
    ],
    Pattern.SQL: [
        "' or 1=1",
        "x' OR 'a'='a",
        "') or (1=1",
        '" or ""="',
        "1 union select password from users",
        "1 UNION ALL SELECT 1",
        "1 union/**/select 1",
        "x; drop table users",
        "x; DELETE FROM users",
        "admin'--",
        "admin';--",
        "admin');--",
    ],
}
ORDINARY = [
    "hello, everyone!",
    "version=3",
    "action = 5",
    "is online = true",
    "once upon a time",
    "5 < 6 and a script",
    "if a < b then on c = d",
    "don't; select one",
    "rock 'n' roll, it's the boys' -- and the girls' --",
    "the union of workers selects a leader",
    "I learned Java and script writing: fun",
    "<3 you = me, on top",
    "<b>version=3</b> of the condition=new <font face=Arial>",
    "<option selected=selected>",
    "a.onclick = f",
    "https://example.org/watch?v=12&lt_x=3&region=eu",
    "R&D; Q&A &copy; &unknown; &#128512; &#99999999999; &#xffffff; &#xd800; AT&T",
    "costs $5, $neat",
    "caf\u00e9, \u4f60\u597d\uff0c\u4e16\u754c\uff01 \u2764\ufe0f \U0001f600",
    "",
]


def found(value: object, names: frozenset[str] = XSS | INJECTION) -> set[str]:
    """The groups that report something in `value`."""
    validator = SecurityValidator(block=(), report=names)
    validator.validate_message(InboundMessage("t", value))
    return {name for name, count in validator.reports.items() if count}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in SAMPLES.items() for text in texts]
)
def test_a_group_finds_its_shapes(name: Pattern, text: str) -> None:
    assert name in found(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_no_pattern(text: str) -> None:
    assert found(text) == set()


@pytest.mark.parametrize("key", ["$where", "$ne", " $GT ", "user[$in]", "a.$regex", "&#36;or", "\uff04or"])
def test_operators_are_found_in_keys(key: str) -> None:
    assert Pattern.NOSQL in found([{"a": [{key: 1}]}])


@pytest.mark.parametrize(
    "value", ["$where", {"a$ne": 1}, {"$next": 1}, {"price": "$5"}, {"$": 1}, {5: "$in"}]
)
def test_operators_are_not_found_elsewhere(value: object) -> None:
    assert found(value) == set()


@pytest.mark.parametrize(
    "text",
    [
        "&lt;script",
        "&ltscript",
        "&LT;script",
        "&#60;script",
        "&#60script",
        "&#x3c;script",
        "&#X3Cscript",
        "&#0000060script",
        "&#00000000000000000060script",
        "&amp;lt;script",
        "&amp;amp;lt;script",
        "&am\x00p;lt;script",
        "& l t ; script",
        "<&#115;cript",
        "<scr&shy;ipt",
        "<scr&#1;ipt",
        "<scr&#8203;ipt",
        "<scr&ZeroWidthSpace;ipt",
        "<scr&Tab;ipt",
        "<scr&#160;ipt",
        "&#xff1c;script",
        "\uff1cscript",
        "\uff06lt;script",
        "< s c r i p t",
        "<\u2003script",
        "<scr\tipt",
        "<scr\nipt",
        "<scr\x00ipt",
        "<scr\x01ipt",
        "<scr\x7fipt",
        "<scr\u0085ipt",
        "<scr\u200bipt",
        "<scr\xadipt",
        "<scr\ufeffipt",
        "<scr\ufe0fipt",
        "<scr\U000e0041ipt",
        "\u4f60\u597d<ScRiPt",
    ],
)
def test_a_tag_is_found_in_disguise(text: str) -> None:
    assert Pattern.XSS_SCRIPT in found(text)


@pytest.mark.parametrize(
    "text",
    ["java\nscript :", "java&#115;cript:", "javascript&colon;", "java&NewLine;script:", "JaVaScRiPt&#58;"],
)
def test_a_scheme_is_found_in_disguise(text: str) -> None:
    assert Pattern.XSS_SCHEME in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "OnClick=",
        "on\x00click=",
        "on\u200bclick=",
        "o n c l i c k =",
        "onclick&equals;",
        "&#111;nclick=",
        "<img src=x on\nerror=1>",
        "<img/\n/onerror\t= 1>",
    ],
)
def test_a_handler_is_found_in_disguise(text: str) -> None:
    assert Pattern.XSS_HANDLER in found(text)


def test_a_tag_does_not_reach_into_the_next_text() -> None:
    assert found(["<b", "x onsomethingnew=1"]) == set()


def test_two_texts_do_not_make_one_pattern() -> None:
    assert found(["<scr", "ipt", {"java": "script:"}]) == set()


@pytest.mark.parametrize("value", [{"<script": 1}, [[{"a": "<script"}]], {"a": {"b": ["x", "<script"]}}])
def test_keys_and_values_are_searched_at_any_depth(value: object) -> None:
    assert found(value) == {Pattern.XSS_SCRIPT}


def test_the_type_is_searched() -> None:
    with pytest.raises(SuspiciousMessage):
        SecurityValidator().validate_message(InboundMessage("<script"))


def test_a_pattern_of_the_application_sees_the_decoded_texts() -> None:
    seen: list[str] = []
    validator = SecurityValidator(
        block={"secret", "seen"}, patterns={"secret": re.compile("hunter2"), "seen": seen.append}
    )
    validator.validate_message(
        InboundMessage("t", {"K": ["a\n", 1]}), raw='{"type":"t","data":{"K":["a\\n",1]}}'
    )
    assert sorted(seen) == ["K", "a\n", "t"]
    with pytest.raises(SuspiciousMessage):
        validator.validate_message(InboundMessage("t", ["my hunter2"]))


INVISIBLE = [
    "",
    "",
    "",
    "\x00",
    "\x01",
    "\x1b",
    "\x7f",
    "\xad",
    "\u200b",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\ufe0f",
]
ENCODERS: list[Callable[[str], str]] = [
    str,
    str.upper,
    html.escape,
    lambda text: "".join(f"&#{ord(each)};" for each in text),
    lambda text: "".join(f"&#x{ord(each):06x};" for each in text),
    lambda text: text.replace("<", "\uff1c").replace(":", "\uff1a"),
]


@examples(50)
@given(
    seed=st.integers(0, 2**32),
    name=st.sampled_from([Pattern.XSS_SCRIPT, Pattern.XSS_FRAME, Pattern.XSS_SCHEME]),
)
def test_no_stack_of_disguises_hides_a_pattern(seed: int, name: Pattern) -> None:
    chance = random.Random(seed)
    text = chance.choice(SAMPLES[name])
    for encode in chance.choices(ENCODERS, k=2):
        text = encode(text)
    text = "".join(each + chance.choice(INVISIBLE) for each in text)
    assert name in found(f"a \u4f60 {text} z")


BOMBS = [
    *[
        "<",
        "&",
        "&amp;",
        "&#",
        "&#0",
        "&#60;",
        "a&",
        "amp;",
        "on",
        "on=",
        "<a",
        "<a on",
        "<a =",
        "onerror ",
        " ",
    ],
    *["= ", "' or 1=", "'or ", "union ", "union/*", ";", "; drop ", "\x01", "\u200b<", "\uff1c", "\u4f60="],
    *["&emsp", "a b "],
]


@pytest.mark.parametrize("unit", BOMBS)
def test_work_grows_with_the_length_of_a_bomb_and_no_faster(unit: str) -> None:
    validator = SecurityValidator(block=(), report=XSS | INJECTION)
    head, tail = '= <a $ &; "', "' or"
    short, long = (InboundMessage("t", head + unit * (size // len(unit)) + tail) for size in (1_000, 8_000))
    once = work(partial(validator.validate_message, short))
    assert once < work(partial(validator.validate_message, long)) < 10 * once


EXPRESSIONS = {name: each for name, each in vars(patterns).items() if isinstance(each, re.Pattern)}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_no_expression_looks_at_a_character_again_and_again(name: str) -> None:
    assert is_linear(EXPRESSIONS[name])
