"""Whatever a client sends, it gets a stable code, and nobody else notices."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager import Connection, ConnectionManager, InboundMessage, WebSocketConfig
from wsmanager.protocols import Principal
from wsmanager.testing import Peer, connect

from ...profiles import examples
from ..conftest import ByQuery, MakeManager

pytestmark = pytest.mark.anyio

MIB = 1_048_576
JSON, MSGPACK = "wsmanager.v1.json", "wsmanager.v1.msgpack"


class Order(msgspec.Struct):
    number: int


class Everybody:
    def may_join(self, who: Principal, room: str) -> bool:
        return True

    may_publish = may_join


def small_shop(make_manager: MakeManager, config: WebSocketConfig | None = None) -> ConnectionManager:
    """A manager with one handler that takes anything, and one that is particular."""
    manager = make_manager(config, auth=ByQuery(), authorizer=Everybody())

    @manager.on("any")
    async def anything(conn: Connection, data: Any) -> None: ...

    @manager.on("order")
    async def order(conn: Connection, data: Order) -> int:
        return data.number

    return manager


class Two:
    """The client that misbehaves, and another user's that must not notice."""

    def __init__(self, peer: Peer, other: Peer) -> None:
        self.peer = peer
        self.other = other
        self.codec: Any = msgspec.json

    async def greet(self) -> None:
        for one in (self.peer, self.other):
            if one.accepted_subprotocol is not None:
                await one.receive()
        if self.peer.accepted_subprotocol == MSGPACK:
            self.codec = msgspec.msgpack

    async def answer(self, frame: str | bytes) -> Any:
        if isinstance(frame, str):
            await self.peer.send_text(frame)
        else:
            await self.peer.send_bytes(frame)
        return self.codec.decode(await self.peer.receive())

    async def refusal(self, frame: str | bytes) -> str:
        """The code of the error that answers `frame`; both connections live on."""
        answer = await self.answer(frame)
        assert answer["type"] == "error", answer
        assert answer["data"]["message"].isprintable()
        assert answer["data"]["temporary"] is False
        await self.both_live()
        code: str = answer["data"]["code"]
        return code

    async def both_live(self) -> None:
        good = self.codec.encode({"type": "order", "data": {"number": 7}, "id": "good"})
        reply = await self.answer(good.decode() if self.codec is msgspec.json else good)
        assert reply == {"type": "reply", "re": "good", "data": 7}
        assert self.other.frames == []
        await self.other.send_json({"type": "order", "data": {"number": 8}, "id": "other"})
        assert await self.other.receive_json() == {"type": "reply", "re": "other", "data": 8}


# --- JSON


def deep(levels: int) -> str:
    return '{"type":"any","data":' + "[" * levels + "]" * levels + "}"


BAD_JSON: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "not_json"),
    "words": ("hello", "not_json"),
    "half": ('{"type":"any"', "not_json"),
    "two": ('{"type":"any"}{"type":"any"}', "not_json"),
    "comment": ('{"type":"any"} // why not', "not_json"),
    "single quotes": ("{'type':'any'}", "not_json"),
    "null byte": ('{"type":"any"}\x00', "not_json"),
    "control character": ('{"type":"any","data":"\x01"}', "not_json"),
    "array": ("[]", "not_object"),
    "number": ("1", "not_object"),
    "null": ("null", "not_object"),
    "text": ('"any"', "not_object"),
    "no type": ("{}", "missing_type"),
    "data only": ('{"data":{"type":"any"}}', "missing_type"),
    "type is a number": ('{"type":1}', "invalid_type"),
    "type is null": ('{"type":null}', "invalid_type"),
    "type is an object": ('{"type":{"type":"any"}}', "invalid_type"),
    "type is empty": ('{"type":""}', "invalid_type"),
    "type is long": (json.dumps({"type": "t" * 256}), "invalid_type"),
    "type forges a line": ('{"type":"any\\n2026 INFO"}', "invalid_type"),
    "type paints": ('{"type":"\\u001b[31m"}', "invalid_type"),
    "type is unknown": ('{"type":"unheard.of"}', "unknown_type"),
    "type is the server's": ('{"type":"welcome"}', "unknown_type"),
    "type is an error": ('{"type":"error","data":{"code":"x"}}', "unknown_type"),
    "id is an object": ('{"type":"any","id":{}}', "invalid_id"),
    "id is a float": ('{"type":"any","id":1.5}', "invalid_id"),
    "id is true": ('{"type":"any","id":true}', "invalid_id"),
    "binary": (b'{"type":"any"}', "unexpected_binary"),
    "no bytes at all": (b"", "unexpected_binary"),
    "depth 10,000": (deep(10_000), "too_deep"),
    "depth 100,000": (deep(100_000), "too_deep"),
    "objects, depth 10,000": ('{"type":' * 10_000 + '"any"' + "}" * 10_000, "too_deep"),
    "never closed, depth 10,000": ("[" * 10_000, "too_deep"),
    "one level too deep": (deep(32), "too_deep"),
    "an array too wide": (json.dumps({"type": "any", "data": [0] * 10_001}), "too_many_items"),
    "an object too wide": (
        json.dumps({"type": "any", "data": dict.fromkeys(map(str, range(10_001)))}),
        "too_many_items",
    ),
    "5,000 digits": ('{"type":"any","data":' + "9" * 5_000 + "}", "bad_number"),
    "-5,000 digits": ('{"type":"any","data":[-' + "9" * 5_000 + "]}", "bad_number"),
    "5,000 digits as id": ('{"type":"any","id":' + "9" * 5_000 + "}", "bad_number"),
    "65 bits": ('{"type":"any","data":18446744073709551616}', "bad_number"),
    "1e999": ('{"type":"any","data":{"x":[1e999]}}', "bad_number"),
    "-1e999": ('{"type":"any","data":-1e999}', "bad_number"),
    "NaN": ('{"type":"any","data":NaN}', "bad_number"),
    "Infinity": ('{"type":"any","data":{"x":Infinity}}', "bad_number"),
    "-Infinity": ('{"type":"any","data":[-Infinity]}', "bad_number"),
    "lone high surrogate": ('{"type":"any","data":"\\ud800"}', "bad_unicode"),
    "lone low surrogate": ('{"type":"any","data":"\\udc00"}', "bad_unicode"),
    "lone surrogate in a key": ('{"type":"any","data":{"\\uD83D":1}}', "bad_unicode"),
    "lone surrogate in the type": ('{"type":"\\ud800"}', "bad_unicode"),
    "lone surrogate in the id": ('{"type":"any","id":"\\ud800"}', "bad_unicode"),
    "reversed surrogates": ('{"type":"any","data":"\\udc00\\ud800"}', "bad_unicode"),
    "raw surrogate": ('{"type":"any","data":"\ud800"}', "bad_unicode"),
    "payload of another type": ('{"type":"order","data":{"number":"seven"}}', "invalid_payload"),
    "payload without a field": ('{"type":"order","data":{}}', "invalid_payload"),
    "no payload": ('{"type":"order"}', "invalid_payload"),
    "room of 300 characters": (
        json.dumps({"type": "session.join", "data": {"room": "r" * 300}}),
        "invalid_name",
    ),
    "room that forges a line": ('{"type":"session.join","data":{"room":"a\\nb"}}', "invalid_name"),
    "room that ends a text": ('{"type":"session.join","data":{"room":"a\\u0000"}}', "invalid_name"),
    "room that is none": ('{"type":"session.join","data":{"room":[]}}', "invalid_name"),
    "no room": ('{"type":"session.leave","data":null}', "invalid_payload"),
}


@pytest.mark.parametrize(("frame", "code"), BAD_JSON.values(), ids=BAD_JSON)
@pytest.mark.parametrize("subprotocols", [(), (JSON,)], ids=["plain", "negotiated"])
async def test_f07_f15_a_bad_frame_gets_its_code_and_nobody_else_notices(
    make_manager: MakeManager, frame: str | bytes, code: str, subprotocols: tuple[str, ...]
) -> None:
    shop = small_shop(make_manager).endpoint
    async with connect(shop, subprotocols=subprotocols) as peer, connect(shop, query="user=bob") as other:
        two = Two(peer, other)
        await two.greet()
        assert await two.refusal(frame) == code


SCRIPTS = [
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil>",
    "< script >",
    "<\tscript\n>",
    "\\u003cscript\\u003e",
    "\\u003CSCRIPT\\u003E",
    "\\u003c\\u0073\\u0063\\u0072\\u0069\\u0070\\u0074>",
    "&lt;script&gt;",
    "&#60;script&#62;",
    "&#x3c;script&#x3E;",
    "&amp;lt;script&amp;gt;",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\\nscript:alert(1)",
    "java script : alert(1)",
    "jav&#x09;ascript:alert(1)",
    "&#106;avascript:alert(1)",
    "<iframe src=x>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("place", ['"%s"', '["x",{"y":["%s"]}]', '{"%s":1}', '"%s" ,"id":1,"x":"y"'])
async def test_scripts_are_found_however_they_are_written(
    make_manager: MakeManager, script: str, place: str
) -> None:
    text = script.replace("\n", "\\n").replace("\t", "\\t")
    shop = small_shop(make_manager).endpoint
    async with connect(shop) as peer, connect(shop, query="user=bob") as other:
        frame = '{"type":"any","data":' + place % text + "}"
        assert await Two(peer, other).refusal(frame) == "forbidden_pattern"


async def test_a_frame_that_only_talks_of_scripts_passes(make_manager: MakeManager) -> None:
    shop = small_shop(make_manager).endpoint
    async with connect(shop) as peer, connect(shop, query="user=bob") as other:
        two = Two(peer, other)
        for text in (
            "a script of java: coffee",
            "1 < 2 and 3 > 2",
            "on error resume next",
            "🙂 \ud83d\ude42",
        ):
            frame = json.dumps({"type": "any", "data": text, "id": 1})
            assert (await two.answer(frame))["type"] == "reply"


async def test_the_last_of_equal_keys_counts(make_manager: MakeManager) -> None:
    shop = small_shop(make_manager).endpoint
    async with connect(shop) as peer, connect(shop, query="user=bob") as other:
        two = Two(peer, other)
        frame = '{"type":"unheard.of","data":1,"type":"order","data":{"number":1,"number":2},"id":1,"id":2}'
        assert await two.answer(frame) == {"type": "reply", "re": 2, "data": 2}


@pytest.mark.parametrize("type", ["welcome", "reply", "error", "disconnect", "ack", "auth"])
async def test_no_client_speaks_in_the_managers_name_to_a_handler_that_takes_everything(
    make_manager: MakeManager, type: str
) -> None:
    manager = small_shop(make_manager)

    @manager.on("*")
    async def relay(conn: Connection, message: InboundMessage) -> None:
        await manager.broadcast({"type": message.type, "data": message.data})

    async with connect(manager.endpoint) as peer, connect(manager.endpoint, query="user=bob") as other:
        assert await Two(peer, other).refusal(json.dumps({"type": type})) == "unknown_type"


# --- MessagePack


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def any_with(raw: bytes) -> bytes:
    """A message of type ``any`` whose data is `raw`, as it is."""
    return b"\x82" + packed("type") + packed("any") + packed("data") + raw


BAD_MSGPACK: dict[str, tuple[str | bytes, str]] = {
    "text": ('{"type":"any"}', "unexpected_text"),
    "empty": (b"", "not_msgpack"),
    "half": (packed({"type": "any"})[:-1], "not_msgpack"),
    "two": (packed({"type": "any"}) * 2, "not_msgpack"),
    "never used byte": (b"\xc1", "not_msgpack"),
    "announces 4 GiB": (any_with(b"\xdb\xff\xff\xff\xff"), "not_msgpack"),
    "announces 4 Gi items": (any_with(b"\xdd\xff\xff\xff\xff"), "not_msgpack"),
    "array": (b"\x90", "not_object"),
    "nil": (b"\xc0", "not_object"),
    "no type": (b"\x80", "missing_type"),
    "type is a number": (packed({"type": 1}), "invalid_type"),
    "type is binary": (packed({"type": b"any"}), "invalid_type"),
    "type is empty": (packed({"type": ""}), "invalid_type"),
    "type is unknown": (packed({"type": "unheard.of"}), "unknown_type"),
    "id is binary": (packed({"type": "any", "id": b"x"}), "invalid_id"),
    "depth 10,000": (any_with(b"\x91" * 10_000 + b"\x90"), "too_deep"),
    "maps, depth 10,000": (any_with(b"\x81\xa1x" * 10_000 + b"\xc0"), "too_deep"),
    "one level too deep": (any_with(b"\x91" * 31 + b"\x90"), "too_deep"),
    "an array too wide": (packed({"type": "any", "data": [0] * 10_001}), "too_many_items"),
    "NaN": (any_with(b"\xcb" + struct.pack(">d", float("nan"))), "bad_number"),
    "infinity": (any_with(b"\x91\xca" + struct.pack(">f", float("inf"))), "bad_number"),
    "surrogate": (any_with(b"\xa3\xed\xa0\x80"), "bad_unicode"),
    "not UTF-8": (any_with(b"\xa2\xff\xfe"), "bad_unicode"),
    "extension": (any_with(b"\xd4\x05\x00"), "bad_value"),
    "script": (packed({"type": "any", "data": {"x": "<script>"}}), "forbidden_pattern"),
    "script as entities": (packed({"type": "any", "data": "&lt;SCRIPT&gt;"}), "forbidden_pattern"),
    "payload of another type": (packed({"type": "order", "data": {"number": "x"}}), "invalid_payload"),
    "room of 300 characters": (
        packed({"type": "session.join", "data": {"room": "r" * 300}}),
        "invalid_name",
    ),
}


@pytest.mark.parametrize(("frame", "code"), BAD_MSGPACK.values(), ids=BAD_MSGPACK)
async def test_f07_f15_a_bad_messagepack_frame_gets_its_code_and_nobody_else_notices(
    make_manager: MakeManager, frame: str | bytes, code: str
) -> None:
    shop = small_shop(make_manager).endpoint
    async with connect(shop, subprotocols=[MSGPACK]) as peer, connect(shop, query="user=bob") as other:
        two = Two(peer, other)
        await two.greet()
        assert await two.refusal(frame) == code


# --- size


def sized(size: int, character: str = "x") -> str:
    head = '{"type":"any","id":1,"data":"'
    room, width = size - len(head) - 2, len(character.encode())
    return head + character * (room // width) + "x" * (room % width) + '"}'


@pytest.mark.parametrize("character", ["x", "ü", "€", "🙂"])
async def test_a_mebibyte_passes_and_one_byte_more_does_not(
    make_manager: MakeManager, character: str
) -> None:
    shop = small_shop(make_manager).endpoint
    async with connect(shop) as peer, connect(shop, query="user=bob") as other:
        two = Two(peer, other)
        assert len(sized(MIB, character).encode()) == MIB
        assert (await two.answer(sized(MIB, character)))["type"] == "reply"
        assert await two.refusal(sized(MIB + 1, character)) == "too_large"


async def test_a_mebibyte_of_messagepack_passes_and_one_byte_more_does_not(make_manager: MakeManager) -> None:
    shop = small_shop(make_manager).endpoint
    async with connect(shop, subprotocols=[MSGPACK]) as peer, connect(shop, query="user=bob") as other:
        two = Two(peer, other)
        await two.greet()
        empty = packed({"type": "any", "id": 1, "data": b"x" * 70_000})
        for size, outcome in [(MIB, "reply"), (MIB + 1, "error")]:
            data = b"x" * (70_000 + size - len(empty))
            answer = await two.answer(packed({"type": "any", "id": 1, "data": data}))
            assert answer["type"] == outcome
        assert answer["data"]["code"] == "too_large"
        await two.both_live()


async def test_the_size_is_looked_at_before_anything_is_decoded(make_manager: MakeManager) -> None:
    shop = small_shop(make_manager, WebSocketConfig(max_message_size=200)).endpoint
    async with connect(shop) as peer, connect(shop, query="user=bob") as other:
        assert await Two(peer, other).refusal("[" * 201) == "too_large"


BOMBS = {
    "brackets": "<" * (MIB - 100),
    "almost scripts": "<scrip " * (MIB // 8),
    "spread out": "< s c r i p " * (MIB // 13),
    "almost handlers": "<a on" * (MIB // 6),
    "entities": "&amp;" * (MIB // 6),
    "nested entities": "&" + "amp;" * (MIB // 5),
    "almost javascript": "javascrip\u200bt" * (MIB // 16),
    "spaces": " " * (MIB - 100),
    "quotes": "' or " * (MIB // 6),
    "full width": "\uff1c\uff53" * (MIB // 8),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_f14_a_pattern_bomb_of_a_mebibyte_is_answered_like_any_message(
    make_manager: MakeManager, bomb: str
) -> None:
    # Where time grew with the square of the size, it would be hours and not milliseconds.
    shop = small_shop(make_manager).endpoint
    async with connect(shop) as peer, connect(shop, query="user=bob") as other:
        two = Two(peer, other)
        frame = json.dumps({"type": "any", "data": bomb, "id": 1}, ensure_ascii=False)
        assert len(frame.encode()) > MIB // 2
        assert (await two.answer(frame))["type"] in {"reply", "error"}
        await two.both_live()


# --- anything at all


SHAPES = st.one_of(
    st.text(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=15,
    ).map(json.dumps),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["any", "order", "ping", "session.join"]) | st.text(max_size=5)},
        optional={"data": st.dictionaries(st.text(max_size=5), st.integers() | st.text()), "id": st.text()},
    ).map(json.dumps),
    st.binary(max_size=200),
)


@given(frames=st.lists(SHAPES, min_size=1, max_size=15), negotiated=st.sampled_from([(), (MSGPACK,)]))
@examples(150)
async def test_f07_no_frame_whatsoever_ends_the_connection(
    frames: list[str | bytes], negotiated: tuple[str, ...]
) -> None:
    def make(config: WebSocketConfig | None = None, **parts: Any) -> ConnectionManager:
        return ConnectionManager(config, **parts)

    manager = small_shop(make, WebSocketConfig(rate_limit_max=100_000, max_errors=1_000))
    async with (
        connect(manager.endpoint, subprotocols=negotiated) as peer,
        connect(manager.endpoint, query="user=bob") as other,
    ):
        two = Two(peer, other)
        await two.greet()
        for frame in frames:
            await (peer.send_text(frame) if isinstance(frame, str) else peer.send_bytes(frame))
        for answer in map(two.codec.decode, peer.frames):
            assert answer["type"] in {"error", "reply", "pong"}
            assert answer["type"] != "error" or answer["data"]["code"] != "internal_error"
            await peer.receive()
        await two.both_live()
