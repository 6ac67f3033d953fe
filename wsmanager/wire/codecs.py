"""Messages to frames and back: JSON text, and MessagePack for clients that negotiate it."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from ..errors import EncodeError, InvalidMessage
from ..messages import Frame, InboundMessage
from .unreadable import bad_key, fault_of_json, fault_of_msgpack

__all__ = ["OPAQUE", "JSONCodec", "MessagePackCodec", "decode_json", "fields_beyond_envelope"]

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
        except Exception:  # whatever it is: the frame shows what is wrong with it
            raise _fault_of(frame) from None


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
        except Exception:  # whatever it is: the frame shows what is wrong with it
            raise _fault_of(frame) from None
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
    except Exception:  # whatever it is: the frame shows what is wrong with it
        raise fault_of_json(frame) from None


def _refuse_extension(code: int, data: memoryview) -> Any:
    del data
    raise ValueError(f"an extension, {code}")


_read_msgpack: Final = msgspec.msgpack.Decoder(ext_hook=_refuse_extension).decode


def _refuse_what_json_lacks(data: Any) -> None:
    """What one client says is sent on to others, whose codec may be another."""
    level = [data]
    while level:
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if not all(isinstance(key, str) for key in value):
                    raise bad_key()
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise InvalidMessage("NaN and infinity are no numbers of a message.", code="bad_number")
        level = below


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
    fields = _read(frame)
    beyond = {name: value for name, value in fields.items() if name not in _ENVELOPE}
    if isinstance(frame, bytes):
        _refuse_what_json_lacks(beyond)
    return beyond


def _read(frame: Frame) -> Any:
    """Decode text as JSON and bytes as MessagePack, into whatever they hold."""
    if isinstance(frame, str):
        return decode_json(frame)
    try:
        return _read_msgpack(frame)
    except Exception:  # whatever it is: the frame shows what is wrong with it
        raise fault_of_msgpack(frame) from None


def _fault_of(frame: Frame) -> InvalidMessage:
    """Return the error for a frame that is no message. Only frames that failed come here."""
    try:
        value = _read(frame)
    except InvalidMessage as fault:
        return fault
    if not isinstance(value, dict):
        return InvalidMessage("A message is a JSON object.", code="not_object")
    if "type" not in value:
        return InvalidMessage("A message has a type.", code="missing_type")
    if not isinstance(value["type"], str):
        return InvalidMessage("The type of a message is a text.", code="invalid_type")
    if not all(isinstance(key, str) for key in value):
        return bad_key()
    return InvalidMessage("The id of a message is a text or an integer.", code="invalid_id")
