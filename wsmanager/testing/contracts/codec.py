"""What every `Codec` must do."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from ...errors import EncodeError, InvalidMessage
from ...messages import Frame, InboundMessage
from ...protocols import Codec
from .obligations import require, require_code, require_type

__all__ = ["check_codec"]

_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), 0.5, -0.25, 1.0, 1e300, 1e-300),
    *(
        "",
        "plain",
        'quote " and \\',
        "\x00\x1f\x7f",
        "äß中文",
        "\U0001f600 e\u0301 \u2028 \u202e",
        "x" * 70_000,
    ),
    *([], [1, [2, [3, []]]], {}, {"a": {"b": [None, True, 1, 1.5, "x"]}}, {"": 0, "ключ": [{}]}),
)
_IDS: Final = (None, "request-1", "", 0, 7, -1)


class _Circle(list[Any]):
    def __init__(self) -> None:
        super().__init__()
        self.append(self)


_UNENCODABLE: Final[tuple[Any, ...]] = (object(), {"deep": [object()]}, lambda: None, 1j, "\ud800", _Circle())

_HOSTILE_TEXTS: Final = (
    *("", " ", "null", "[]", "1", '"x"', "{}", "{", "}", "[[", '{"type"', '{"type":1}', '{"type":null}'),
    *(
        '{"data":1}',
        '{"type":["a"]}',
        '{"type":"a","id":{}}',
        '{"type":"a","id":1.5}',
        '{"type":"a","id":true}',
    ),
    *('{"type":"a","data":NaN}', '{"type":"a","data":-Infinity}', '{"type":"a","data":1e999}'),
    *(
        '{"type":"a","data":"\\ud800"}',
        '{"type":"\\udc00"}',
        '{"type":"a","data":"\ud800"}',
        '\ufeff{"type":"a"}',
    ),
    *('{"type":"a","type":2}', '{"type":"a"} x', "{'type':'a'}", '{"type":"a",}', "\x00", "true"),
    '{"type":"a","data":' + "1" * 5_000 + "}",
    '{"type":"a","data":' + "[" * 100_000,
    '{"type":"a","data":' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"type":"a","data":' + '{"a":' * 100_000,
)
_HOSTILE_BYTES: Final = (
    *(bytes([byte]) for byte in range(256)),
    b"\xff\xfe{}",
    b'{"type":"\xff"}',
    b"\x91" * 100_000,
    b"\x81\xa1a" * 100_000,
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff\xa1",
    b"\xc6\xff\xff\xff\xff",
)

_SHAPES: Final = {(InboundMessage, str, id_type) for id_type in (type(None), str, int)}


def check_codec(factory: Callable[[], Codec]) -> None:
    """Hold a `Codec` against its obligations."""
    codec = factory()
    token = re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", codec.subprotocol)
    require(token is not None, "subprotocol must be a token that a handshake can carry (RFC 9110, 5.6.2)")
    require_type(codec.transparent, bool, "transparent must be true or false")
    _check_round_trips(codec)
    _check_unencodable(codec)
    for frame in _hostile_frames(_encode(codec, {"type": "chat.message", "data": {"text": "hi"}, "id": 1})):
        _check_hostile(codec, frame)
    _check_round_trips(codec)  # a codec is stateless: no failure may have changed it


def _check_round_trips(codec: Codec) -> None:
    for value in _VALUES:
        _check_round_trip(codec, InboundMessage("chat.message", value, 1))
    for id_ in _IDS:
        _check_round_trip(codec, InboundMessage("chat.message", None, id_))
    for type_ in ("a", "session.join", "ä 中 \U0001f600"):
        _check_round_trip(codec, InboundMessage(type_))
    frame = _encode(codec, {"type": "reply", "re": 5, "seq": 1, "data": 2, "unheard of": [3]})
    unknown = codec.decode(frame) == InboundMessage("reply", 2)
    require(unknown, "decode must ignore fields that a message does not have")


def _check_round_trip(codec: Codec, message: InboundMessage) -> None:
    for outbound in (message, {"type": message.type, "data": message.data, "id": message.id}):
        frame = _encode(codec, outbound)
        decoded = codec.decode(frame)
        # By repr, since 1 == True == 1.0
        same = repr(decoded) == repr(message)
        require(same, f"what was encoded must be decoded unchanged: {str(message)[:80]} was not")
        _check_transparent(codec, frame, decoded)


def _encode(codec: Codec, message: Any) -> Frame:
    frame = codec.encode(message)
    require_type(frame, (str, bytes), "encode must answer a text or binary frame")
    return frame


def _check_transparent(codec: Codec, frame: Frame, message: InboundMessage) -> None:
    if codec.transparent:
        plain = any(
            _read(decode, frame) == repr(message) for decode in (msgspec.json.decode, msgspec.msgpack.decode)
        )
        shown = f"{frame[:40]!r} of length {len(frame)}"
        require(
            plain, f"what a transparent codec reads must stand in the frame as JSON or MessagePack: {shown}"
        )


def _read(decode: Callable[..., InboundMessage], frame: Frame) -> str | None:
    try:
        return repr(decode(frame, type=InboundMessage))
    except Exception:  # whatever the decoder raises for a frame in another encoding
        return None


def _check_unencodable(codec: Codec) -> None:
    for value in _UNENCODABLE:
        shown = "a list that holds itself" if isinstance(value, list) else repr(value)
        try:
            codec.encode({"type": "chat.message", "data": value})
        except EncodeError:
            continue
        except Exception as error:
            name = type(error).__name__
            raise AssertionError(f"encode must raise EncodeError, not {name}, for {shown}") from error
        raise AssertionError(f"encode must raise EncodeError for what it cannot express, such as {shown}")


def _hostile_frames(example: Frame) -> Iterator[Frame]:
    for text in _HOSTILE_TEXTS:
        yield text
        yield text.encode("utf-8", "surrogatepass")
    yield from _HOSTILE_BYTES
    yield from (example[:length] for length in range(len(example)))
    yield example.encode() if isinstance(example, str) else example.decode("latin-1")
    dice = random.Random(1)  # noqa: S311 - reproducible, not secret
    data = example.encode() if isinstance(example, str) else example
    for _ in range(1_000):
        changed = bytearray(data)
        changed[dice.randrange(len(data))] = dice.randrange(256)
        yield changed.decode("latin-1") if isinstance(example, str) else bytes(changed)
        yield dice.randbytes(dice.randint(1, 40))


def _check_hostile(codec: Codec, frame: Frame) -> None:
    shown = f"{frame[:40]!r} of length {len(frame)}"
    try:
        message = codec.decode(frame)
    except InvalidMessage as refusal:
        require_code(refusal.code, "decode")
        return
    except Exception as error:
        name = type(error).__name__
        raise AssertionError(
            f"decode must raise nothing but InvalidMessage, not {name}, for {shown}"
        ) from error
    shape = (type(message), type(message.type), type(message.id))
    require(shape in _SHAPES, f"decode must refuse what is no message: {shown}")
    try:
        codec.encode({"type": message.type, "data": message.data})
    except Exception as error:
        raise AssertionError(f"what decode accepts, encode must be able to send on: {shown}") from error
    _check_transparent(codec, frame, message)
