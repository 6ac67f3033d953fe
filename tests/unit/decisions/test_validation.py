"""What a message may be, what is done about patterns, and that a frame only ever shortens the way."""

from __future__ import annotations

import contextlib
import copy
import datetime
import json
import math
import random
import re
from functools import partial
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.decisions.patterns import INJECTION, XSS, Pattern
from wsmanager.decisions.validation import SecurityValidator
from wsmanager.errors import ConfigurationError, InvalidMessage, SuspiciousMessage
from wsmanager.messages import Frame, InboundMessage
from wsmanager.protocols import MessageValidator

from ...profiles import examples
from ...work import work


def refusal(
    message: Any, *, raw: Frame | None = None, validator: MessageValidator | None = None
) -> str | None:
    """The code that `message` is refused with; None when it passes."""
    try:
        (validator or SecurityValidator()).validate_message(message, raw=raw)
    except InvalidMessage as error:
        return error.code
    return None


def framed(data: str) -> str:
    return '{"type":"a","data":' + data + "}"


def nested(depth: int) -> Any:
    """A value of so many levels."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


# --- shape


@pytest.mark.parametrize(
    "message",
    [
        InboundMessage("chat.message", {"text": "hello"}, 17),
        {"type": "chat.message", "data": {"text": "hello"}, "more": None},
        MappingProxyType({"type": "chat.message"}),
        '{"type":"chat.message","data":{"text":"hello"}}',
        b'{"type":"chat.message","data":{"text":"hello"}}',
    ],
)
def test_an_ordinary_message_passes_in_every_form(message: Any) -> None:
    assert refusal(message) is None


@pytest.mark.parametrize("message", [[], None, 5, '["type"]', b"null", '"type"'])
def test_what_is_no_object_is_refused(message: Any) -> None:
    assert refusal(message) == "not_object"


@pytest.mark.parametrize("message", [{}, {"data": "type"}, "{}", b'{"Type":"a"}'])
def test_a_message_without_type_is_refused(message: Any) -> None:
    assert refusal(message) == "missing_type"


@pytest.mark.parametrize(
    "type", [None, 5, True, [], {}, b"a", "", "x" * 256, "a\nb", "a\x00", "\x7f", "a\ud800"]
)
def test_a_type_that_is_no_short_printable_text_is_refused(type: Any) -> None:
    assert refusal({"type": type}) == "invalid_type"
    assert refusal(InboundMessage(type), raw='{"type":"a"}') == "invalid_type"


def test_the_length_of_a_type_is_a_setting() -> None:
    validator = SecurityValidator(max_name_length=3)
    assert refusal({"type": "abc"}, validator=validator) is None
    assert refusal({"type": "abcd"}, validator=validator) == "invalid_type"


@pytest.mark.parametrize(
    "frame", ["", "{", "{'type':'a'}", '{"type":"a"} x', '{"type":"a","data":NaN}', b"\x81"]
)
def test_a_frame_that_is_no_json_is_refused(frame: Frame) -> None:
    assert refusal(frame) == "not_json"


# --- bounds


def test_a_frame_is_measured_in_bytes_before_it_is_decoded() -> None:
    validator = SecurityValidator(max_size=40)
    assert refusal(framed('"' + "x" * 18 + '"'), validator=validator) is None
    assert refusal(framed('"' + "x" * 19 + '"'), validator=validator) == "too_large"
    assert refusal(framed('"' + "\xe9" * 9 + '"'), validator=validator) is None
    assert refusal(framed('"' + "\xe9" * 10 + '"'), validator=validator) == "too_large"
    assert refusal(b"{" * 41, validator=validator) == "too_large"
    assert refusal(InboundMessage("a"), raw=b" " * 41, validator=validator) == "too_large"


@pytest.mark.parametrize("data", ["x" * 41, ["x" * 20] * 2, {"x" * 41: 1}, [[]] * 40, ["x" * 10] * 4])
def test_a_message_without_frame_is_refused_when_no_frame_could_hold_it(data: Any) -> None:
    assert refusal(InboundMessage("a", data), validator=SecurityValidator(max_size=40)) == "too_large"


def test_a_value_that_stands_in_many_places_counts_in_each() -> None:
    value: Any = "x"
    for _ in range(30):
        value = [value, value]
    assert refusal({"type": "a", "data": value}, validator=SecurityValidator(max_size=1_000)) == "too_large"


@pytest.mark.parametrize("raw", [False, True])
def test_the_message_itself_is_the_first_level(raw: bool) -> None:
    for depth, code in [(31, None), (32, "too_deep")]:
        data = nested(depth)
        frame = framed(json.dumps(data)) if raw else None
        assert refusal(InboundMessage("a", data), raw=frame) == code
        assert refusal({"type": "a", "data": data}, raw=frame) == code


def test_levels_are_counted_through_objects_and_packed_frames() -> None:
    data: Any = 1
    for _ in range(32):
        data = {"a": data}
    assert refusal(InboundMessage("a", data)) == "too_deep"
    assert (
        refusal(InboundMessage("a", data), raw=msgspec.msgpack.encode({"type": "a", "data": data}))
        == "too_deep"
    )


def test_no_depth_exhausts_the_stack() -> None:
    assert refusal({"type": "a", "data": nested(10_000)}) == "too_deep"
    assert refusal(framed("[" * 10_000 + "]" * 10_000)) == "too_deep"


def test_a_message_that_holds_itself_is_too_deep() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert refusal({"type": "a", "data": circle}) == "too_deep"


@pytest.mark.parametrize(
    "make", [lambda n: [0] * n, lambda n: {str(i): 0 for i in range(n)}, lambda n: [[0] * n]]
)
def test_one_array_or_object_has_so_many_items_at_most(make: Any) -> None:
    validator = SecurityValidator(max_items=30)
    for width, code in [(30, None), (31, "too_many_items")]:
        message = InboundMessage("a", make(width))
        assert refusal(message, validator=validator) == code
        assert refusal(message, raw=msgspec.msgpack.encode(message), validator=validator) == code


# --- values


@pytest.mark.parametrize("data", ["\ud800", ["a", "\udfff"], {"\ud800": 1}])
def test_a_lone_surrogate_is_refused(data: Any) -> None:
    assert refusal({"type": "a", "data": data}) == "bad_unicode"
    assert refusal(InboundMessage("a", None, "\ud800")) == "bad_unicode"


@pytest.mark.parametrize("frame", [framed('"\ud800"'), framed('"\\ud800"'), framed('{"\\udc00":1}')])
def test_a_text_frame_that_is_no_unicode_is_refused(frame: str) -> None:
    assert refusal(frame) == "bad_unicode"
    assert refusal(frame.encode("utf-8", "surrogatepass")) == "bad_unicode"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b'{"type":"a","data":"\xff"}', "bad_unicode"),
        (b'{"type":"a","more":{"\xc0\xaf":1}}', "bad_unicode"),
        (b'{"type":"\xe4\xb8"}', "bad_unicode"),
        (b'{"type":"a","data":1e999}', "bad_number"),
        (b'{"type":"a","data":' + b"9" * 5_000 + b"}", "bad_number"),
        (b'{"type":"a","data":NaN}', "not_json"),
        (b"[" * 5_000, "too_deep"),
        (b"\xff\xfe", "not_json"),
        (b"", "not_json"),
    ],
)
def test_a_binary_frame_that_cannot_be_read_has_a_stable_code(frame: bytes, code: str) -> None:
    assert refusal(frame) == code


def test_a_lone_surrogate_in_the_frame_of_a_decoded_message_is_refused() -> None:
    assert refusal(InboundMessage("a"), raw='{"type":"a","data":"\ud800"}') == "bad_unicode"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -(2**63) - 1, 2**64, 10**4000])
def test_a_number_that_not_every_codec_has_is_refused(number: float) -> None:
    assert refusal({"type": "a", "data": [number]}) == "bad_number"
    assert refusal({"type": "a", "data": {number: 1}}) == "bad_number"
    assert refusal(InboundMessage("a", {"n": number})) == "bad_number"


@pytest.mark.parametrize("digits", ["18446744073709551616", "-9223372036854775809", "1e999", "9" * 5_000])
def test_a_number_of_a_frame_that_is_too_large_is_refused(digits: str) -> None:
    assert refusal(framed(digits)) == "bad_number"


def test_an_id_is_a_number_like_the_others() -> None:
    assert (
        refusal(InboundMessage("a", None, 2**64), raw='{"type":"a","id":18446744073709551616}')
        == "bad_number"
    )


@pytest.mark.parametrize(
    "value", [-(2**63), 2**64 - 1, 1.5, 5e-324, True, None, b"\xff", datetime.date.min, (1, "x")]
)
def test_other_values_pass(value: Any) -> None:
    assert refusal({"type": "a", "data": {"x": [value]}}) is None


def test_a_message_is_not_changed() -> None:
    data = {"b": ["<b>&amp;\x01", {"A": 1.5}], "$ne": ("x",)}
    message = InboundMessage("a", copy.deepcopy(data))
    SecurityValidator().validate_message(message)
    assert message.data == data
    assert list(message.data) == list(data)


# --- patterns


def test_xss_is_blocked_and_injection_is_reported() -> None:
    validator = SecurityValidator()
    with pytest.raises(SuspiciousMessage, match=r"xss\.script") as caught:
        validator.validate_message(InboundMessage("a", "<script>"))
    assert caught.value.code == "forbidden_pattern"
    validator.validate_message(InboundMessage("a", ["' or 1=1", "' or 2=2", {"$ne": 1}]))
    validator.validate_message(InboundMessage("a", "' or 1=1"))
    assert validator.reports == {Pattern.SQL: 2, Pattern.NOSQL: 1}


def test_reports_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        SecurityValidator().reports["other"] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]


def test_the_callback_learns_type_and_pattern() -> None:
    seen: list[tuple[str, str]] = []
    validator = SecurityValidator(on_report=lambda type, pattern: seen.append((type, pattern)))
    validator.validate_message(InboundMessage("q", {"$ne": "x'--"}))
    assert seen == [("q", Pattern.NOSQL), ("q", Pattern.SQL)]


def test_what_is_blocked_is_not_reported_too() -> None:
    validator = SecurityValidator(block=INJECTION, report=INJECTION)
    assert refusal(InboundMessage("a", "x'--"), validator=validator) == "forbidden_pattern"
    assert refusal(InboundMessage("a", "<script"), validator=validator) is None
    assert set(validator.reports.values()) == {0}


def test_an_override_says_what_is_blocked_for_one_type() -> None:
    validator = SecurityValidator(overrides={"code.paste": frozenset(), "query": XSS | {Pattern.SQL}})
    code = InboundMessage("code.paste", "<script>onclick=f</script>")
    assert refusal(code, validator=validator) is None
    assert refusal(InboundMessage("chat", code.data), validator=validator) == "forbidden_pattern"
    assert refusal(InboundMessage("query", "x'--"), validator=validator) == "forbidden_pattern"
    assert refusal(InboundMessage("code.paste", "x'--"), validator=validator) is None
    assert validator.reports[Pattern.SQL] == 1


def test_without_patterns_the_bounds_still_hold() -> None:
    validator = SecurityValidator(block=(), report=())
    assert (
        refusal(
            InboundMessage("a", "<script \\"), raw=r'{"type":"a","data":"<script \\"}', validator=validator
        )
        is None
    )
    assert refusal({"type": "a", "data": [math.nan]}, validator=validator) == "bad_number"
    assert validator.reports == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_size": 0},
        {"max_depth": 0},
        {"max_items": -1},
        {"max_name_length": 0},
        {"block": {"xss.scripts"}},
        {"report": {"sql"}},
        {"overrides": {"a": {"xss"}}},
        {"patterns": {"unused": re.compile("x")}},
        {"patterns": {"xss.script": re.compile("x")}},
    ],
)
def test_a_wrong_setting_is_told_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SecurityValidator(**wrong)


# --- frames


@pytest.mark.parametrize(
    "encode", [msgspec.json.encode, msgspec.msgpack.encode, lambda m: msgspec.json.encode(m).decode()]
)
def test_a_frame_that_can_hold_nothing_is_believed(encode: Any) -> None:
    harmless = InboundMessage(
        "chat.message", {"room": "general", "text": "hello, it's me!", "n": 12345, "ok": True}, 17
    )
    assert refusal(InboundMessage("chat.message", "<script"), raw=encode(harmless)) is None


FRAGMENTS = [
    *[
        "<",
        "script",
        "SCRIPT",
        "iframe",
        "java",
        "script:",
        "vb",
        "data:",
        "text/html",
        "<img",
        "on",
        "click",
    ],
    *[
        "error",
        "=",
        "&",
        "&lt;",
        "&#60;",
        "&amp;",
        "&#x3a;",
        ";",
        "'",
        '"',
        "or",
        "1",
        "union",
        "select",
        "--",
    ],
    *["drop table", "$", "where", "$ne", "\\", "\n", "\t", "\x00", "\x01", "\x7f", " ", "  ", "\xa0", "\xad"],
    *["\u200b", "\uff1c", "\uff1d", "\u212a", "\u017f", "\u4f60", "\U0001f600", "[", "{", "/", "x", "hello"],
]
ATTACKS = [
    *["<script", "<iframe", "<object", "<embed", "javascript:", "vbscript:", "data:text/html", "onclick="],
    *[
        "<p onnew=",
        "' or 1=1",
        "union select",
        ";drop table",
        ";delete from",
        "x'--",
        "x';--",
        "$where",
        "a.$in",
    ],
]
SPLITTERS = [
    "",
    " ",
    "\n",
    "\x00",
    "\x01",
    "\x7f",
    "\x85",
    "\xa0",
    "\xad",
    "\u200b",
    "\u2028",
    "\ufeff",
    "\u4f60",
]
NUMBERS = [0, 1.5, -1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, math.nan, math.inf, True, None]
VALIDATORS: list[dict[str, Any]] = [
    {},
    *({"block": {name}, "report": ()} for name in Pattern),
    {"block": {Pattern.NOSQL}, "report": {Pattern.XSS_SCHEME, Pattern.SQL}},
    {"block": (), "report": ()},
    {"max_depth": 4, "max_items": 4},
    {"block": {"mine"}, "patterns": {"mine": re.compile("hello")}},
]


ESCAPED = 0xE000  # such characters stand for the ones of ASCII, and become escapes in JSON


def some_text(chance: random.Random) -> str:
    if chance.random() < 0.5:
        return "".join(chance.choices(FRAGMENTS, k=chance.choice([0, 1, 2, 3, 4, 8])))
    text = chance.choice(ATTACKS)
    place = chance.randrange(len(text))
    code = ord(text[place])
    disguises = [chr(code), chr(code).upper(), f"&#{code};", chr(code + 0xFEE0), chr(code + ESCAPED)]
    return text[:place] + chance.choice(SPLITTERS) + chance.choice(disguises) + text[place + 1 :]


def some_value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.choice("tttnlo" if depth < 5 else "t")
    if kind == "t":
        return some_text(chance)
    if kind == "n":
        return chance.choice(NUMBERS)
    values = [some_value(chance, depth + 1) for _ in range(chance.choice([0, 1, 1, 2, 5]))]
    return values if kind == "l" else {some_text(chance): value for value in values}


def frames(value: Any) -> list[tuple[InboundMessage, Frame]]:
    """`value` as it arrives in JSON and in MessagePack, as far as these can hold it."""
    text = json.dumps(value, ensure_ascii=False)
    text = re.sub("[\ue000-\ue07f]", lambda mark: f"\\u{ord(mark[0]) - ESCAPED:04x}", text)
    pairs: list[tuple[InboundMessage, Frame]] = []
    with contextlib.suppress(msgspec.DecodeError):
        pairs.append((msgspec.json.decode(text, type=InboundMessage), text))
    with contextlib.suppress(OverflowError):
        packed = msgspec.msgpack.encode(json.loads(text))
        pairs.append((msgspec.msgpack.decode(packed, type=InboundMessage), packed))
    return pairs


class Recorded:
    """A validator, and what it says of a message: the code and the patterns it reported."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._seen: list[str] = []
        self._validator = SecurityValidator(
            **arguments, on_report=lambda type, pattern: self._seen.append(pattern)
        )

    def says(self, message: InboundMessage, raw: Frame | None = None) -> tuple[str | None, list[str]]:
        self._seen.clear()
        return refusal(message, raw=raw, validator=self._validator), list(self._seen)


def thorough(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same with a pattern of its own, for which every message is looked at in full."""
    report = {*arguments.get("report", INJECTION), "never"}
    patterns = {**arguments.get("patterns", {}), "never": re.compile("(?!)")}
    return {**arguments, "report": report, "patterns": patterns}


@examples(40)
@given(seed=st.integers(0, 2**32), arguments=st.sampled_from(VALIDATORS))
def test_no_short_way_changes_the_answer(seed: int, arguments: dict[str, Any]) -> None:
    chance = random.Random(seed)
    validator, reference = Recorded(arguments), Recorded(thorough(arguments))
    for _ in range(60):
        for message, frame in frames({"type": "t", "data": some_value(chance)}):
            expected = reference.says(message)
            assert validator.says(message) == expected
            assert validator.says(message, frame) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda n: ["=<a "] * n,
        lambda n: [[[]]] * n,
        lambda n: [{"$": "\x01"}] * n,
        lambda n: {f"<a on{i}": "=" for i in range(n)},
    ],
)
def test_work_grows_with_the_number_of_values_and_no_faster(make: Any) -> None:
    validator = SecurityValidator(max_items=10**6, block=(), report=XSS | INJECTION)
    few, many = (InboundMessage("t", make(number)) for number in (500, 4_000))
    once = work(partial(validator.validate_message, few))
    assert once < work(partial(validator.validate_message, many)) < 10 * once
