"""What is wrong with a frame is decided by the frame, whatever a decoder says about it."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsmanager.errors import InvalidMessage
from wsmanager.messages import Frame
from wsmanager.wire.codecs import JSONCodec, MessagePackCodec, decode_json, fields_beyond_envelope
from wsmanager.wire.unreadable import fault_of_json, fault_of_msgpack, fault_of_strict_json

CODES = {
    *("bad_key", "bad_number", "bad_unicode", "bad_value", "invalid_id", "invalid_type", "missing_type"),
    *("not_json", "not_msgpack", "not_object", "too_deep", "unexpected_binary", "unexpected_text"),
}
READERS: list[Any] = [
    JSONCodec().decode,
    MessagePackCodec().decode,
    decode_json,
    fault_of_json,
    fault_of_strict_json,
]


def code_of(read: Any, frame: Frame) -> str | None:
    """Return the code that `read` raises or returns; None where the frame can be read."""
    try:
        fault = read(frame)
    except InvalidMessage as error:
        fault = error
    return fault.code if isinstance(fault, InvalidMessage) else None


# --- every frame

PIECES = [
    *('{"type":"x","data":', '"', "\\", "\\u", "\\ud800", "\\ude00", "NaN", "-Infinity", "1e999", "-", "."),
    *("9" * 4_301, "[" * 130, "]", "{", "}", ",", ":", " ", "e5", "\ud800", "\udcff", "\x00", "\n", "ü"),
]
JOINED = st.lists(st.sampled_from(PIECES)).map("".join)


@given(JOINED | st.text())
def test_any_text_is_read_or_refused_with_a_known_code(text: str) -> None:
    for read in READERS:
        assert code_of(read, text) in CODES | {None}


@given(st.binary() | JOINED.map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\x81\x80\x01")
@example(b"\xd6\x05\x00")
def test_any_bytes_are_read_or_refused_with_a_known_code(data: bytes) -> None:
    for read in [*READERS, fault_of_msgpack]:
        assert code_of(read, data) in CODES | {None}


# --- bad text

MARK = "#mark#"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def marked(draw: st.DrawFn) -> Any:
    """A value that holds the mark once, as a text or a key, at any depth."""
    value: Any = draw(st.sampled_from([MARK, {MARK: None}, {"a": 1, f"b{MARK}c": []}]))
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            value = [*draw(st.lists(VALUES, max_size=3)), value, *draw(st.lists(VALUES, max_size=3))]
        else:
            items = [*draw(st.dictionaries(st.text(), VALUES, max_size=3)).items(), ("#", value)]
            value = dict(draw(st.permutations(items)))
    return value


def as_json(value: Any) -> str:
    return json.dumps({"type": "x", "data": value}, ensure_ascii=False)


BAD_UTF8 = st.sampled_from([b"\xff", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8"])
LONE = st.sampled_from(
    ["\\ud800", "\\uDFFF", "\\ud83d\\u0041", "\\ud800\\ud800", "\\\\\\udc00", "\\udc00\\ud800", "\ud800"]
)


@given(marked(), BAD_UTF8)
def test_a_json_frame_whose_only_fault_is_bad_utf8_says_so(value: Any, bad: bytes) -> None:
    frame = as_json(value).encode().replace(MARK.encode(), bad)
    assert code_of(decode_json, frame) == "bad_unicode"
    assert fault_of_strict_json(frame).code == "bad_unicode"


@given(marked(), LONE)
def test_a_json_frame_whose_only_fault_is_a_lone_surrogate_says_so(value: Any, bad: str) -> None:
    frame = as_json(value).replace(MARK, bad)
    assert code_of(JSONCodec().decode, frame) == "bad_unicode"
    assert code_of(decode_json, frame.encode("utf-8", "surrogatepass")) == "bad_unicode"
    assert fault_of_strict_json(frame).code == "bad_unicode"


@given(marked(), BAD_UTF8)
def test_a_messagepack_frame_whose_only_fault_is_bad_utf8_says_so(value: Any, bad: bytes) -> None:
    frame = msgspec.msgpack.encode({"type": "x", "data": value})
    frame = frame.replace(MARK.encode(), bad.rjust(len(MARK), b"a"))  # of the same length
    assert code_of(MessagePackCodec().decode, frame) == "bad_unicode"


@pytest.mark.parametrize("size", [1, 31, 32, 255, 256, 65_535, 65_536])
def test_bad_utf8_is_found_in_a_text_of_any_size(size: int) -> None:
    frame = msgspec.msgpack.encode({"type": "x", "data": "x" * size})[:-1] + b"\xff"
    assert code_of(MessagePackCodec().decode, frame) == "bad_unicode"


def test_bad_utf8_is_found_in_fields_that_decoding_a_message_passes_over() -> None:
    frame = b"\x82\xa4type\xa1x\xa4more\xa1\xff"
    assert code_of(MessagePackCodec().decode, frame) is None
    assert code_of(fields_beyond_envelope, frame) == "bad_unicode"


@pytest.mark.parametrize(
    "frame",
    [b"\xff\xfe", b"\xff{}", b'\xef\xbb\xbf{"type":"x"}', b'{"type":"x"}\xff', b'{"a":"\\q"}', b'"\\u00"'],
)
def test_bytes_that_are_bad_outside_of_a_text_are_not_json(frame: bytes) -> None:
    assert code_of(decode_json, frame) == "not_json"


@pytest.mark.parametrize("text", ["\\ud83d\\ude00", "\\\\ud800", "\\\\\\ud83d\\udE00", "\\uFFFF", "\ud7ff"])
def test_a_good_text_is_not_blamed_for_the_fault_of_another_part(text: str) -> None:
    frame = '{"type":"x","data":["' + text + '",]}'
    assert code_of(JSONCodec().decode, frame) == "not_json"
    assert code_of(decode_json, frame.replace(",]", "]")) is None


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("\ud800", "bad_unicode"),
        ("[" * 500 + "\ud800", "bad_unicode"),
        ("[" * 500 + '"\\ud800"', "too_deep"),
        ("[" * 500 + "[NaN]", "too_deep"),
        ('["\\ud800", NaN, 1e999]', "bad_unicode"),
        ('["\\ud800', "bad_unicode"),
        ('["[NaN]', "not_json"),
    ],
)
def test_of_several_faults_one_counts(frame: str, code: str) -> None:
    assert fault_of_json(frame).code == code


# --- numbers

WITHOUT_VALUE = [
    *(
        "1e309",
        "-1e309",
        "1.8E+308",
        "9" * 4_301,
        "-" + "9" * 4_300,
        "9" * 400 + ".5",
        "1" + "0" * 400 + "e0",
    ),
    *("NaN", "-Infinity"),
]
WITH_VALUE = ["1e308", "9" * 4_300, "1" * 4_400 + "e-4400", "-1.5e-999", '"NaN"', '"1e999"']
NO_NUMBERS = ["-e5", "-.5", "1.", "--1e5", "NaNs", "a NaN", "5NaN"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, "bad_number") for number in WITHOUT_VALUE),
        *((number, "not_json") for number in WITH_VALUE + NO_NUMBERS),
    ],
    ids=lambda value: value[:12],
)
def test_a_number_is_blamed_only_where_it_has_no_value(number: str, code: str) -> None:
    for frame in (f"[{number},]", f'{{"a": {number} }} x', f"[1,\n{number}"):
        assert fault_of_json(frame).code == code
        assert fault_of_json(frame.encode()).code == code


def test_a_strict_reader_takes_nan_for_a_word() -> None:
    assert fault_of_json("[NaN]").code == "bad_number"
    assert fault_of_strict_json("[NaN]").code == "not_json"
    assert fault_of_strict_json("[1e999]").code == "bad_number"


# --- nesting


@pytest.mark.parametrize(("opened", "levels"), [("[", 1), ('{"a":', 1), ('[{"a":[0,', 3)])
def test_nesting_is_what_is_wrong_with_a_json_frame_of_many_levels(opened: str, levels: int) -> None:
    assert fault_of_json(opened * (128 // levels)).code == "not_json"
    assert fault_of_json(opened * (128 // levels + 1)).code == "too_deep"


@pytest.mark.parametrize("opened", [b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\x00\x02\x01", b"\xde\x00\x01\x01"])
def test_nesting_is_what_is_wrong_with_a_messagepack_frame_of_many_levels(opened: bytes) -> None:
    assert fault_of_msgpack(opened * 128).code == "not_msgpack"
    assert fault_of_msgpack(opened * 129).code == "too_deep"


def test_brackets_in_texts_and_containers_side_by_side_are_no_levels() -> None:
    assert fault_of_json('"' + "[" * 500 + '",').code == "not_json"
    assert fault_of_json('"\\"' + "[" * 500 + '",').code == "not_json"
    assert fault_of_json('"' + "[" * 500 + '\\ud800"').code == "bad_unicode"
    assert fault_of_json("[{}]" * 500).code == "not_json"
    assert fault_of_msgpack(b"\xdc\x02\x00" + b"\x91\x01" * 511 + b"\xc1").code == "not_msgpack"


# --- MessagePack

OF_EVERY_KIND = [
    *(b"\x05", b"\xe0", b"\xc0", b"\xc2", b"\xc3", b"\xc4\x02ab", b"\xc5\x00\x02ab"),
    *(b"\xc6\x00\x00\x00\x02ab", b"\xca" + b"1" * 4, b"\xcb" + b"1" * 8),
    *(b"\xcc1", b"\xcd12", b"\xce1234", b"\xcf" + b"1" * 8),
    *(b"\xd01", b"\xd112", b"\xd21234", b"\xd3" + b"1" * 8),
    *(b"\xa2ab", b"\xd9\x02ab", b"\xda\x00\x02ab", b"\xdb\x00\x00\x00\x02ab"),
    *(b"\x90", b"\x92\x01\xa1a", b"\xdc\x00\x01\x01", b"\xdd\x00\x00\x00\x01\x01"),
    *(b"\x80", b"\x81\xa1a\x01", b"\xde\x00\x01\xa1a\x01", b"\xdf\x00\x00\x00\x01\xa1a\x01"),
    *(b"\xd6\xff\x00\x00\x00\x01", b"\xd7\xff" + b"\x00" * 8, b"\xc7\x0c\xff" + b"\x00" * 12),
]


@pytest.mark.parametrize("value", OF_EVERY_KIND)
def test_a_value_of_every_kind_is_passed_over_to_the_fault_behind_it(value: bytes) -> None:
    assert len(msgspec.msgpack.decode(b"\x92" + value + b"\x01")) == 2
    assert fault_of_msgpack(b"\x92" + value + b"\xa1\xff").code == "bad_unicode"
    assert fault_of_msgpack(b"\x92" + value * 2 + b"\xa1\xff").code == "not_msgpack"
    assert fault_of_msgpack(b"\x92" + value).code == "not_msgpack"


@pytest.mark.parametrize("value", OF_EVERY_KIND)
def test_a_value_that_ends_too_soon_is_not_messagepack(value: bytes) -> None:
    for length in range(len(value)):
        assert fault_of_msgpack(value[:length]).code == "not_msgpack"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x80\x01", "bad_key"),
        (b"\x82\xa1a\x90\x81\xa1b\x01\x02", "bad_key"),
        (b"\x81\x91\x81\xa1a\x01\x02", "bad_key"),
        (b"\x81\x80\x01\x01", "not_msgpack"),
        (b"\x81\xa1a\x80", "not_msgpack"),
        (b"\x92\x80\x81\xa1a\x90", "not_msgpack"),
        (b"\xd4\x05\x00", "bad_value"),
        (b"\xc7\x01\x05\x00", "bad_value"),
        (b"\xc7\x00\xfe", "bad_value"),
    ],
)
def test_a_key_or_an_extension_that_no_message_has_is_named(frame: bytes, code: str) -> None:
    assert fault_of_msgpack(frame).code == code


@pytest.mark.parametrize(("data", "code"), [(b"\x81\x80\x01", "bad_key"), (b"\xd4\x05\x00", "bad_value")])
def test_a_message_that_holds_one_of_them_is_refused(data: bytes, code: str) -> None:
    assert code_of(MessagePackCodec().decode, b"\x82\xa4type\xa1x\xa4data" + data) == code


LAST_SECOND = 253_402_300_799  # of the year 9999


@pytest.mark.parametrize(
    ("stamp", "good"),
    [
        (struct.pack(">I", 2**32 - 1), True),
        (struct.pack(">Q", 999_999_999 << 34 | 5), True),
        (struct.pack(">Q", 1_000_000_000 << 34 | 5), False),
        (struct.pack(">Iq", 0, LAST_SECOND), True),
        (struct.pack(">Iq", 0, LAST_SECOND + 1), False),
        (struct.pack(">Iq", 0, -62_135_596_800), True),
        (struct.pack(">Iq", 0, -62_135_596_801), False),
        (struct.pack(">Iq", 1_000_000_000, 0), False),
        (b"", False),
        (b"abc", False),
    ],
)
def test_a_timestamp_is_a_moment_that_python_knows(stamp: bytes, good: bool) -> None:
    value = bytes([0xC7, len(stamp), 0xFF]) + stamp
    frame = b"\x82\xa4type\xa1x\xa4data" + value
    assert code_of(MessagePackCodec().decode, frame) == (None if good else "bad_number")
    assert fault_of_msgpack(b"\x92" + value + b"\xc1").code == ("not_msgpack" if good else "bad_number")


# --- whatever the decoder says


class Unheard(Exception):
    """As a release of tomorrow may raise."""


FAILURES = [
    Unheard(),
    RecursionError(),
    UnicodeDecodeError("x", b"", 0, 1, ""),
    msgspec.DecodeError("surrogate"),
    msgspec.ValidationError("Number out of range"),
]


def failing(failure: Exception) -> Any:
    def fail(*_: object) -> Any:
        raise failure

    return fail


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{}", "not_json"),
        ("[NaN]", "bad_number"),
        ("[1e999]", "bad_number"),
        ('["\\ud800"]', "bad_unicode"),
        (b'["\xff"]', "bad_unicode"),
        ("[" * 500, "too_deep"),
    ],
)
def test_the_error_of_a_json_decoder_decides_nothing(
    failure: Exception, frame: Frame, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = JSONCodec()
    monkeypatch.setattr(msgspec.json, "decode", failing(failure))
    monkeypatch.setattr(codec, "_decode", failing(failure))
    assert code_of(decode_json, frame) == code
    assert code_of(codec.decode, frame) == (code if isinstance(frame, str) else "unexpected_binary")


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x80", "not_msgpack"),
        (b"\x81\xa1\xff\x01", "bad_unicode"),
        (b"\xd4\x05\x00", "bad_value"),
        (b"\x91" * 500, "too_deep"),
    ],
)
def test_the_error_of_a_messagepack_decoder_decides_nothing(
    failure: Exception, frame: bytes, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = MessagePackCodec()
    monkeypatch.setattr("wsmanager.wire.codecs._read_msgpack", failing(failure))
    monkeypatch.setattr(codec, "_decode", failing(failure))
    assert code_of(codec.decode, frame) == code
    assert code_of(fields_beyond_envelope, frame) == code
