"""Messages to frames and back, and what becomes of frames that are no messages."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import math
import struct
import uuid
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsmanager import EncodeError, InboundMessage, InvalidMessage
from wsmanager.messages import Frame
from wsmanager.protocols import Codec
from wsmanager.testing import check_codec
from wsmanager.wire.codecs import OPAQUE, JSONCodec, MessagePackCodec, decode_json, fields_beyond_envelope

JSON, MSGPACK = JSONCodec(), MessagePackCodec()
CODECS: list[Codec] = [JSON, MSGPACK]
pack = msgspec.msgpack.encode


def fault(codec: Codec, frame: Frame) -> str:
    with pytest.raises(InvalidMessage) as caught:
        codec.decode(frame)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.code


def as_json(data: str) -> str:
    return '{"type":"x","data":' + data + "}"


def as_msgpack(data: bytes) -> bytes:
    return b"\x82\xa4type\xa1x\xa4data" + data


@pytest.mark.parametrize("codec", [JSONCodec, MessagePackCodec])
def test_the_codecs_keep_the_contract(codec: Any) -> None:
    check_codec(codec)


# --- frames that are no messages

BAD_JSON = [
    ("", "not_json"),
    (" ", "not_json"),
    ("hello", "not_json"),
    ('{"type":"x"', "not_json"),
    ('{"type":"x"} {}', "not_json"),
    ("{'type':'x'}", "not_json"),
    ('\ufeff{"type":"x"}', "not_json"),
    ("nan", "not_json"),
    (as_json("01"), "not_json"),
    (as_json('"NaN" x'), "not_json"),
    ("[]", "not_object"),
    ("null", "not_object"),
    ("1", "not_object"),
    ('"x"', "not_object"),
    ("{}", "missing_type"),
    ('{"data":1}', "missing_type"),
    ('{"type":null}', "invalid_type"),
    ('{"type":1}', "invalid_type"),
    ('{"type":["x"]}', "invalid_type"),
    ('{"type":"x","type":1}', "invalid_type"),
    ('{"type":"x","id":1.5}', "invalid_id"),
    ('{"type":"x","id":true}', "invalid_id"),
    ('{"type":"x","id":{}}', "invalid_id"),
    (as_json("[" * 10_000 + "]" * 10_000), "too_deep"),
    (as_json('{"a":' * 10_000 + "1" + "}" * 10_000), "too_deep"),
    ("[" * 100_000, "too_deep"),
    (as_json("9" * 5_000), "bad_number"),
    (as_json("-" + "9" * 5_000), "bad_number"),
    (as_json("NaN"), "bad_number"),
    (as_json("[1,NaN]"), "bad_number"),
    (as_json("Infinity"), "bad_number"),
    (as_json("-Infinity"), "bad_number"),
    (as_json('"ü",NaN'), "bad_number"),
    ('{"ü":1,"type":"x","data":NaN}', "bad_number"),
    (as_json("1e999"), "bad_number"),
    (as_json("-1e999"), "bad_number"),
    ('{"type":1,"data":1e999}', "bad_number"),
    (as_json('"\\ud800"'), "bad_unicode"),
    (as_json('"\\udc00"'), "bad_unicode"),
    (as_json('"\\ud800\\u0041"'), "bad_unicode"),
    (as_json('"\ud800"'), "bad_unicode"),
    ('{"type":"\\ud83d"}', "bad_unicode"),
    ('{"\\ud83d":1,"type":"x"}', "bad_unicode"),
    (b'{"type":"x"}', "unexpected_binary"),
]

BAD_MSGPACK = [
    (b"", "not_msgpack"),
    (b"\xc1", "not_msgpack"),
    (b"hello", "not_msgpack"),
    (b"\x81\xa4type", "not_msgpack"),
    (pack({"type": "x"}) + b"\x00", "not_msgpack"),
    (b"\xdd\xff\xff\xff\xff", "not_msgpack"),
    (b"\xdf\xff\xff\xff\xff\xa1a", "not_msgpack"),
    (pack([]), "not_object"),
    (pack(None), "not_object"),
    (pack({}), "missing_type"),
    (pack({"type": None}), "invalid_type"),
    (pack({"type": 1}), "invalid_type"),
    (pack({"type": "x", "id": 1.5}), "invalid_id"),
    (pack({"type": "x", "id": True}), "invalid_id"),
    (pack({"type": "x", "id": b"x"}), "invalid_id"),
    (as_msgpack(b"\x91" * 10_000 + b"\xc0"), "too_deep"),
    (as_msgpack(b"\x81\xa1a" * 10_000 + b"\xc0"), "too_deep"),
    (as_msgpack(b"\xcb" + struct.pack(">d", math.nan)), "bad_number"),
    (as_msgpack(b"\xcb" + struct.pack(">d", -math.inf)), "bad_number"),
    (as_msgpack(b"\xca" + struct.pack(">f", math.inf)), "bad_number"),
    (as_msgpack(b"\x92\x01\x81\xa1a\xcb" + struct.pack(">d", math.nan)), "bad_number"),
    (as_msgpack(b"\x81\x01\x02"), "bad_key"),
    (as_msgpack(b"\x81\xc4\x01a\x02"), "bad_key"),
    (as_msgpack(b"\x81\xc0\x02"), "bad_key"),
    (as_msgpack(b"\x91\x81\xa1a\x81\x91\x01\x02"), "bad_key"),
    (as_msgpack(b"\x81\xcb" + struct.pack(">d", math.nan) + b"\x02"), "bad_key"),
    (b"\x82\x01\x02\xa4type\xa1x", "bad_key"),
    (as_msgpack(b"\xa2\xff\xff"), "bad_unicode"),
    (as_msgpack(b"\xa3\xed\xa0\x80"), "bad_unicode"),
    (as_msgpack(b"\xd6\x05\x00\x00\x00\x01"), "bad_value"),
    ("x", "unexpected_text"),
]


@pytest.mark.parametrize(("frame", "code"), BAD_JSON)
def test_f07_a_bad_json_frame_has_a_stable_code(frame: Frame, code: str) -> None:
    assert fault(JSON, frame) == code


@pytest.mark.parametrize(("frame", "code"), BAD_MSGPACK)
def test_f07_a_bad_messagepack_frame_has_a_stable_code(frame: Frame, code: str) -> None:
    assert fault(MSGPACK, frame) == code


@given(st.text())
@example('{"type":"x","data":"\\ud800')
@example('{"type": NaN')
def test_any_text_is_a_message_or_a_typed_error(text: str) -> None:
    with contextlib.suppress(InvalidMessage):
        assert isinstance(JSON.decode(text), InboundMessage)


@given(st.binary())
@example(b"\x81\xa4type\xc1")
def test_any_bytes_are_a_message_or_a_typed_error(data: bytes) -> None:
    for codec in CODECS:
        with contextlib.suppress(InvalidMessage):
            assert isinstance(codec.decode(data), InboundMessage)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.data())
def test_a_frame_that_was_damaged_is_a_message_or_a_typed_error(value: Any, data: st.DataObject) -> None:
    for codec in CODECS:
        whole = codec.encode({"type": "x", "data": value})
        frame = bytearray(whole if isinstance(whole, bytes) else whole.encode())
        place = data.draw(st.integers(0, len(frame) - 1))
        frame[place] = data.draw(st.integers(0, 255))
        damaged: Frame = (
            bytes(frame) if isinstance(whole, bytes) else frame.decode("utf-8", "surrogateescape")
        )
        try:
            message = codec.decode(damaged)
        except InvalidMessage:
            continue
        for other in CODECS:  # what one client may say, every other can be told
            other.encode({"type": message.type, "data": message.data})


@given(VALUES, st.none() | st.text() | st.integers(-(2**63), 2**63 - 1))
def test_what_is_written_reads_the_same(value: Any, id: Any) -> None:
    for codec in CODECS:
        message = codec.decode(codec.encode({"type": "x", "data": value, "id": id, "unheard": 1}))
        assert message == InboundMessage("x", value, id)


def test_the_last_of_equal_keys_wins() -> None:
    assert JSON.decode('{"type":"a","data":1,"type":"b","data":{"x":1,"x":2}}') == InboundMessage(
        "b", {"x": 2}
    )
    frame = b"\x82\xa4type\xa1a\xa4type\xa1b"
    assert MSGPACK.decode(frame) == InboundMessage("b")


# --- frames that are not the manager's own


@pytest.mark.parametrize("value", [None, 1, "x", [], {"a": [1.5, "ü"]}])
def test_any_json_value_is_read_from_text_and_from_bytes(value: Any) -> None:
    frame = msgspec.json.encode(value)
    assert decode_json(frame) == decode_json(frame.decode()) == value


@pytest.mark.parametrize("frame", ["{}", b"", '{"type":"x"}'])
def test_an_opaque_connection_reads_nothing_and_writes_nothing(frame: Frame) -> None:
    assert fault(OPAQUE, frame) == "opaque"
    assert OPAQUE.encode({"type": "x"}) == ""
    assert (OPAQUE.subprotocol, OPAQUE.transparent) == ("", False)


# --- fields of the application's own


def test_fields_beyond_the_envelope_are_found() -> None:
    for codec in CODECS:
        frame = codec.encode({"type": "x", "data": 1, "id": 2, "room": "r", "list": [1, {"a": None}]})
        assert fields_beyond_envelope(frame) == {"room": "r", "list": [1, {"a": None}]}
        assert fields_beyond_envelope(codec.encode({"type": "x"})) == {}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ('{"type":"x","more":1e999}', "bad_number"),
        ('{"type":"x","more":' + "9" * 5_000 + "}", "bad_number"),
        (b"\x82\xa4type\xa1x\xa4more\x81\x01\x02", "bad_key"),
        (b"\x82\xa4type\xa1x\xa4more\xcb" + struct.pack(">d", math.nan), "bad_number"),
        (b"\x82\xa4type\xa1x\xa4more\xd4\x05\x00", "bad_value"),
    ],
)
def test_fields_that_decoding_a_message_passes_over_are_refused_here(frame: Frame, code: str) -> None:
    codec = JSON if isinstance(frame, str) else MSGPACK
    assert codec.decode(frame) == InboundMessage("x")
    with pytest.raises(InvalidMessage) as caught:
        fields_beyond_envelope(frame)
    assert caught.value.code == code


# --- what an application sends


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Chat(msgspec.Struct):
    text: str


class Receipt(pydantic.BaseModel):
    when: datetime.date


MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
SENDABLE = [
    (MOMENT, "2026-01-02T03:04:05Z"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Colour.RED, "red"),
    (decimal.Decimal("1.50"), "1.50"),
    (Point(1, 2), {"x": 1, "y": 2}),
    (Chat("hi"), {"text": "hi"}),
    (Receipt(when=datetime.date(2026, 1, 2)), {"when": "2026-01-02"}),
    ([Receipt(when=datetime.date(2026, 1, 2))], [{"when": "2026-01-02"}]),
    (b"\x00\xff", "AP8="),
    ("\x00 ü \u2028 \U0001f600", "\x00 ü \u2028 \U0001f600"),
    ((1, 2), [1, 2]),
    (frozenset({1}), [1]),
    (2**80, 2**80),
    (math.nan, None),
]


@pytest.mark.parametrize(("value", "expected"), SENDABLE)
def test_what_applications_send_is_json(value: Any, expected: Any) -> None:
    assert msgspec.json.decode(JSON.encode({"type": "x", "data": value}))["data"] == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [pair for pair in SENDABLE if pair[0] is not math.nan and pair[0] not in (MOMENT, b"\x00\xff", 2**80)]
    + [
        (b"\x00\xff", b"\x00\xff"),
        (MOMENT, MOMENT),
        (2**80, str(2**80)),
        ({"a": [-(2**70), 1]}, {"a": [str(-(2**70)), 1]}),
    ],
)
def test_what_applications_send_is_messagepack(value: Any, expected: Any) -> None:
    assert msgspec.msgpack.decode(MSGPACK.encode({"type": "x", "data": value}))["data"] == expected


class Failing:
    def model_dump(self, mode: str) -> Any:
        raise KeyError("a part of the message failed")


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "a object cannot be sent"),
        (CIRCLE, "holds itself"),
        ("\ud800", "lone surrogate"),
        ({"a": "\ud800"}, "lone surrogate"),
        (Failing(), "cannot be encoded"),
        ({object(): 1}, "cannot be encoded|cannot be sent"),
        (1j, "a complex cannot be sent"),
    ],
)
def test_what_no_frame_can_carry_is_an_error_at_the_application(codec: Codec, value: Any, text: str) -> None:
    with pytest.raises(EncodeError, match=text):
        codec.encode({"type": "x", "data": value})


def test_a_huge_number_beside_what_cannot_be_sent_is_an_error_too() -> None:
    with pytest.raises(EncodeError):
        MSGPACK.encode({"type": "x", "data": [2**80, object()]})
