"""What the manager says, as it stands on the wire."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from wsmanager.errors import ConnectionLimitReached, RateLimited, ReplyError
from wsmanager.messages import InboundMessage
from wsmanager.wire import words
from wsmanager.wire.codecs import JSONCodec, MessagePackCodec

HELLO = words.WelcomeData("c1", 30_000, 1_024)
LIMITED = RateLimited("Slow down.", retry_after_ms=200)
FULL = ConnectionLimitReached("Too many.", code="user_limit", retry_after_ms=1_000)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (words.PING, '{"type":"ping","data":{}}'),
        (words.pong(InboundMessage("ping", [1])), '{"type":"pong","data":[1]}'),
        (words.pong(InboundMessage("ping", None, "a")), '{"type":"pong","data":null,"re":"a"}'),
        (words.Reply(7, {"ok": True}), '{"type":"reply","re":7,"data":{"ok":true}}'),
        (words.Reply("a", words.RoomData("hall")), '{"type":"reply","re":"a","data":{"room":"hall"}}'),
        (
            words.error(ReplyError("No.", code="no"), None),
            '{"type":"error","data":{"code":"no","message":"No.","temporary":false}}',
        ),
        (
            words.error(LIMITED, InboundMessage("x", None, 3)),
            (
                '{"type":"error","re":3,"data":{"code":"rate_limited","message":"Slow down.",'
                '"temporary":true,"retry_after_ms":200,"re":3}}'
            ),
        ),
        (
            words.disconnect(4001, "shutdown", after_ms=250),
            '{"type":"disconnect","data":{"code":4001,"reason":"shutdown","reconnect":true,"after_ms":250}}',
        ),
        (
            words.disconnect(4500, "no"),
            '{"type":"disconnect","data":{"code":4500,"reason":"no","reconnect":false}}',
        ),
        (
            words.refusal(FULL),
            (
                '{"type":"disconnect","data":{"code":4504,"reason":"user_limit","message":"Too many.",'
                '"reconnect":false,"after_ms":1000}}'
            ),
        ),
        (
            words.welcome(HELLO, {}),
            '{"type":"welcome","data":{"connection_id":"c1","heartbeat_ms":30000,"max_message_size":1024}}',
        ),
        (
            words.welcome(HELLO, {"motd": "hi"}),
            (
                '{"type":"welcome","data":{"connection_id":"c1","heartbeat_ms":30000,"max_message_size":1024,'
                '"motd":"hi"}}'
            ),
        ),
    ],
)
def test_each_word_has_its_fields(word: words.Word, text: str) -> None:
    assert JSONCodec().encode(word) == text
    plain: Any = msgspec.json.decode(text)
    assert msgspec.msgpack.decode(MessagePackCodec().encode(word)) == plain
    assert word.type == plain["type"]
