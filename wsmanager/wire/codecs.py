"""Messages to frames and back: JSON text, and MessagePack for clients that negotiate it."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import msgspec

from ..errors import EncodeError, InvalidMessage
from ..messages import Frame, InboundMessage

__all__ = ["OPAQUE", "JSONCodec", "MessagePackCodec", "decode_json", "fields_beyond_envelope"]

# What msgspec raises besides its own errors: deep nesting, lone surrogates, bad UTF-8.
_UNREADABLE: Final = (msgspec.MsgspecError, RecursionError, UnicodeError)

_HIGH_SURROGATE_ALONE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_POSITION = re.compile(r"\(byte (\d+)\)")
_UNNUMBERS: Final = (b"NaN", b"Infinity")
_ENVELOPE: Final = frozenset(InboundMessage.__struct_fields__)


def _plain(value: Any) -> Any:
    """What neither encoder knows by itself: pydantic models, by shape, so that it is never imported."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise EncodeError(f"a {type(value).__qualname__} cannot be sent: convert it to something JSON has")


class JSONCodec:
    """JSON in text frames. Duplicate keys: the last one wins; NaN and infinity of the application
    become null."""

    subprotocol = "wsmanager.v1.json"
    transparent = True

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder(enc_hook=_plain).encode
        self._decode = msgspec.json.Decoder(InboundMessage).decode

    def encode(self, message: Any) -> str:
        """A text frame. Raises `EncodeError` for what JSON cannot express."""
        try:
            return self._encode(message).decode()
        except EncodeError:
            raise
        except Exception as error:  # of the message's own parts too
            raise _unwritable(error) from None

    def decode(self, frame: Frame) -> InboundMessage:
        """A message. Raises `InvalidMessage` with a stable code for anything else."""
        if not isinstance(frame, str):
            raise InvalidMessage("Send text frames; this one is binary.", code="unexpected_binary")
        try:
            return self._decode(frame)
        except msgspec.ValidationError:
            raise _misshapen(frame, msgspec.json.decode) from None
        except _UNREADABLE as error:
            raise _malformed(frame, error) from None


class MessagePackCodec:
    """MessagePack in binary frames."""

    subprotocol = "wsmanager.v1.msgpack"
    transparent = True

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
        self._decode = msgspec.msgpack.Decoder(InboundMessage, ext_hook=_refuse_extension).decode

    def encode(self, message: Any) -> bytes:
        """A binary frame. Integers beyond 64 bits, which MessagePack lacks, go out as text."""
        try:
            return self._encode(message)
        except OverflowError:
            return self.encode(_without_huge_integers(message))
        except EncodeError:
            raise
        except Exception as error:  # of the message's own parts too
            raise _unwritable(error) from None

    def decode(self, frame: Frame) -> InboundMessage:
        """A message. Raises `InvalidMessage` with a stable code for anything else."""
        if isinstance(frame, str):
            raise InvalidMessage("Send binary frames; this one is text.", code="unexpected_text")
        try:
            message = self._decode(frame)
        except InvalidMessage:
            raise
        except msgspec.ValidationError:
            raise _misshapen(frame, msgspec.msgpack.decode) from None
        except _UNREADABLE as error:
            raise _unpackable(error) from None
        _refuse_what_json_lacks(message.data)
        return message


class OpaqueCodec:
    """Of a connection whose frames mean nothing to the manager. What it encodes is never sent."""

    subprotocol = ""
    transparent = False
    typed = False

    def encode(self, message: Any) -> str:
        del message
        return ""

    def decode(self, frame: Frame) -> InboundMessage:
        del frame
        raise InvalidMessage("The frames of this connection are opaque.", code="opaque")


OPAQUE: Final = OpaqueCodec()


def decode_json(frame: Frame) -> Any:
    """Any JSON value, of a text or binary frame. Raises `InvalidMessage` as `JSONCodec.decode` does."""
    try:
        return msgspec.json.decode(frame)
    except msgspec.ValidationError:  # without a type to decode to: a number beyond any range
        raise InvalidMessage("A number is out of range.", code="bad_number") from None
    except _UNREADABLE as error:
        text = frame if isinstance(frame, str) else frame.decode("utf-8", "surrogateescape")
        raise _malformed(text, error) from None


def _refuse_extension(code: int, data: memoryview) -> Any:
    del data
    raise InvalidMessage(f"MessagePack extension {code} is not understood.", code="bad_value")


def _refuse_what_json_lacks(data: Any) -> None:
    """What one client says is sent on to others, whose codec may be another."""
    level = [data]
    while level:
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if not all(isinstance(key, str) for key in value):
                    raise _bad_key()
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise InvalidMessage("NaN and infinity are no numbers of a message.", code="bad_number")
        level = below


def _bad_key() -> InvalidMessage:
    return InvalidMessage("The keys of a message are texts.", code="bad_key")


def _without_huge_integers(message: Any) -> Any:
    """JSON has numbers of any length: through it, and what does not fit 64 bits becomes text."""

    def shrink(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shrink(item) for key, item in value.items()}
        if isinstance(value, list):
            return [shrink(item) for item in value]
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            return str(value)
        return value

    return shrink(msgspec.json.decode(JSONCodec().encode(message)))


def _unwritable(error: Exception) -> EncodeError:
    if isinstance(error, RecursionError):
        return EncodeError("the message holds itself or is nested too deep")
    if isinstance(error, UnicodeError):
        return EncodeError("the message holds a lone surrogate, which no frame can carry")
    return EncodeError(f"the message cannot be encoded: {error}")


def fields_beyond_envelope(frame: Frame) -> dict[str, Any]:
    """The fields that `InboundMessage` does not name, of a frame that one of these codecs has decoded.

    Decoding a message passes over them; this does not. Raises `InvalidMessage` as `decode` does.
    """
    decode: Any = msgspec.json.decode if isinstance(frame, str) else msgspec.msgpack.decode
    try:
        fields = decode(frame)
    except msgspec.ValidationError:
        raise InvalidMessage("A number is out of range.", code="bad_number") from None
    beyond = {name: value for name, value in fields.items() if name not in _ENVELOPE}
    if isinstance(frame, bytes):
        _refuse_what_json_lacks(beyond)
    return beyond


def _misshapen(frame: Frame, decode: Any) -> InvalidMessage:
    """Which part of a readable frame is wrong. Only frames that failed come here."""
    try:
        value = decode(frame)
    except msgspec.ValidationError:
        return InvalidMessage("A number is out of range.", code="bad_number")
    except _UNREADABLE as unreadable:
        return _unpackable(unreadable) if isinstance(frame, bytes) else _malformed(frame, unreadable)
    if not isinstance(value, dict):
        return InvalidMessage("A message is a JSON object.", code="not_object")
    if "type" not in value:
        return InvalidMessage("A message has a type.", code="missing_type")
    if not isinstance(value["type"], str):
        return InvalidMessage("The type of a message is a text.", code="invalid_type")
    if not all(isinstance(key, str) for key in value):
        return _bad_key()
    return InvalidMessage("The id of a message is a text or an integer.", code="invalid_id")


def _malformed(text: str, error: Exception) -> InvalidMessage:
    if isinstance(error, RecursionError):
        return InvalidMessage("The message is nested too deep.", code="too_deep")
    if isinstance(error, UnicodeError) or "surrogate" in str(error) or _HIGH_SURROGATE_ALONE.search(text):
        return InvalidMessage("The message holds a lone surrogate.", code="bad_unicode")
    place = _POSITION.search(str(error))
    if place and text.encode("utf-8", "surrogateescape")[int(place[1]) :].startswith(_UNNUMBERS):
        return InvalidMessage("NaN and Infinity are no JSON numbers.", code="bad_number")
    return InvalidMessage("The message is not JSON.", code="not_json")


def _unpackable(error: Exception) -> InvalidMessage:
    if isinstance(error, RecursionError):
        return InvalidMessage("The message is nested too deep.", code="too_deep")
    if isinstance(error, UnicodeError):
        return InvalidMessage("A text of the message is not UTF-8.", code="bad_unicode")
    return InvalidMessage("The message is not MessagePack.", code="not_msgpack")
