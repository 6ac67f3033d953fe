"""Messages on their way out: encoded once per codec, measured, and accounted for."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.errors import ConfigurationError, EncodeError
from wsmanager.messages import Delivery, MessagePriority
from wsmanager.protocols import Codec
from wsmanager.wire.codecs import OPAQUE, JSONCodec, MessagePackCodec
from wsmanager.wire.encodings import AS_GIVEN
from wsmanager.wire.framing import wire_frame
from wsmanager.wire.outgoing import OWN, Outgoing, prepare_event, prepare_own

JSON, MSGPACK = JSONCodec(), MessagePackCodec()


class Counting(JSONCodec):
    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0

    def encode(self, message: Any) -> str:
        self.encoded += 1
        return super().encode(message)


class Note(msgspec.Struct):
    type: str


@dataclass
class Plain:
    type: str


class Model(pydantic.BaseModel):
    type: str


@pytest.mark.parametrize(
    "message",
    [{"type": "note"}, MappingProxyType({"type": "note"}), Note("note"), Plain("note"), Model(type="note")],
)
def test_the_type_of_a_message_is_found_in_a_mapping_or_an_object(message: Any) -> None:
    assert Outgoing(message).type == "note"


@pytest.mark.parametrize(
    "message", [{}, {"type": None}, {"type": 1}, {"type": b"note"}, object(), "note", None]
)
def test_a_message_without_a_text_type_is_refused(message: Any) -> None:
    with pytest.raises(EncodeError, match="type"):
        Outgoing(message).for_codec(JSON)


def test_a_message_of_another_protocol_needs_no_type() -> None:
    outgoing = Outgoing({"event": "note"})
    assert outgoing.for_codec(AS_GIVEN).event["text"] == '{"event":"note"}'
    assert outgoing.for_codec(AS_GIVEN).counted_as == "untyped"
    assert outgoing.for_codec(OPAQUE).size == 0  # which never goes out


def test_a_given_type_stands_for_the_messages_own() -> None:
    outgoing = Outgoing(msgspec.Raw(b'{"type":"note"}'), type="note")
    assert outgoing.type == "note"
    assert outgoing.for_codec(JSON).event["text"] == '{"type":"note"}'


def test_a_message_is_encoded_once_per_codec_and_as_it_was_then() -> None:
    codec, message = Counting(), {"type": "note", "data": 1}
    outgoing = Outgoing(message)
    first = outgoing.for_codec(codec)
    message["data"] = 2
    assert outgoing.for_codec(codec) is first
    assert codec.encoded == 1
    assert first.event == {"type": "websocket.send", "text": '{"type":"note","data":1}'}
    assert first.outgoing is outgoing


def test_each_codec_has_a_frame_of_its_own() -> None:
    outgoing = Outgoing({"type": "note"})
    assert "text" in outgoing.for_codec(JSON).event
    assert "bytes" in outgoing.for_codec(MSGPACK).event


def test_a_message_that_cannot_be_encoded_says_so_each_time() -> None:
    outgoing = Outgoing({"type": "note", "data": object()})
    for codec in (JSON, MSGPACK, JSON):
        with pytest.raises(EncodeError):
            outgoing.for_codec(codec)


@given(text=st.text())
def test_the_size_of_a_frame_is_its_bytes_on_the_wire(text: str) -> None:
    message = {"type": "note", "data": text}
    for codec in (JSON, MSGPACK):
        frame = codec.encode(message)
        size = len(frame.encode()) if isinstance(frame, str) else len(frame)
        assert Outgoing(message).for_codec(codec).size == size
        assert prepare_own(message, codec).size == size


def test_what_is_not_said_is_left_to_the_connection() -> None:
    outgoing = Outgoing({"type": "note"})
    assert (outgoing.priority, outgoing.delivery, outgoing.expires_at, outgoing.key, outgoing.sequence) == (
        None,
        Delivery.VOLATILE,
        None,
        None,
        0,
    )
    asked = Outgoing({"type": "note"}, priority=MessagePriority.HIGH, key="k", expires_at=5.0, sequence=3)
    assert (asked.priority, asked.key, asked.expires_at, asked.sequence) == (
        MessagePriority.HIGH,
        "k",
        5.0,
        3,
    )


@pytest.mark.parametrize("priority", [*MessagePriority, *(priority.value for priority in MessagePriority)])
def test_a_priority_may_be_given_by_its_value(priority: Any) -> None:
    assert Outgoing({"type": "note"}, priority=priority).priority is MessagePriority(priority)


def test_what_is_no_priority_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="priority must be a MessagePriority, not 'urgent'"):
        Outgoing({"type": "note"}, priority="urgent")  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_a_message_is_packed_as_one_frame_and_kept(codec: Codec) -> None:
    prepared = Outgoing({"type": "note", "data": "ü"}).for_codec(codec)
    packed = prepared.pack()
    assert packed.plain == wire_frame(codec.encode({"type": "note", "data": "ü"})).plain
    assert prepared.packed is packed


def test_what_a_server_took_out_of_one_of_two_queues_waits_in_the_other() -> None:
    outgoing = Outgoing({"type": "note"})
    prepared = outgoing.for_codec(JSON)
    prepared.queued()
    prepared.queued()
    prepared.taken()
    assert (outgoing.waiting, outgoing.handed_over, prepared.is_wanted) == (1, True, True)
    assert (prepared.priority, prepared.expires_at, prepared.key) == (None, None, None)
    assert prepared.frame() is prepared.frame()
    assert prepared.left() is outgoing
    assert outgoing.waiting == 0
    assert not prepared.failed(OSError())


def test_a_message_of_the_managers_own_is_counted_as_nothing() -> None:
    prepared = prepare_own({"type": "pong"}, MSGPACK)
    assert prepared.outgoing is OWN
    assert not OWN.type
    assert prepared.event == {"type": "websocket.send", "bytes": MSGPACK.encode({"type": "pong"})}
    with pytest.raises(EncodeError):
        prepare_own({"type": "reply", "data": object()}, JSON)


@pytest.mark.parametrize(("frame", "key"), [("", "text"), ("a", "text"), (b"", "bytes"), (b"a", "bytes")])
def test_an_event_carries_text_or_bytes(frame: str | bytes, key: str) -> None:
    assert prepare_event(frame) == {"type": "websocket.send", key: frame}
