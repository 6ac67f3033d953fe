"""Which codec a connection gets, and which writes what nobody is there for."""

from __future__ import annotations

import pytest

from wsmanager.wire.codecs import JSONCodec, MessagePackCodec
from wsmanager.wire.encodings import AS_GIVEN, Encodings

JSON, MSGPACK = JSONCodec(), MessagePackCodec()


@pytest.mark.parametrize(
    ("offered", "codec"),
    [
        ([], None),
        (["chat"], None),
        (["chat", MSGPACK.subprotocol, JSON.subprotocol], MSGPACK),
        ([JSON.subprotocol], JSON),
    ],
)
def test_the_first_subprotocol_that_is_known_selects_the_codec(offered: list[str], codec: object) -> None:
    assert Encodings([JSON, MSGPACK]).offered(offered) is codec


def test_what_the_application_accepts_selects_it_too() -> None:
    encodings = Encodings([MSGPACK, JSON])
    assert encodings.default is MSGPACK
    assert encodings.chosen(JSON.subprotocol) is JSON
    assert encodings.chosen("chat") is None
    assert encodings.chosen(None) is None


def test_messages_are_kept_as_the_connections_get_them_where_that_is_json() -> None:
    assert Encodings([MSGPACK, JSON]).kept is JSON
    assert type(Encodings([MSGPACK]).kept) is JSONCodec


def test_a_message_without_a_type_is_for_nobody_until_a_guarded_socket_may_take_it() -> None:
    encodings = Encodings([JSON])
    assert encodings.for_nobody(typed=True) is encodings.for_nobody(typed=False) is JSON
    encodings.has_given = True
    assert encodings.for_nobody(typed=True) is JSON
    assert encodings.for_nobody(typed=False) is AS_GIVEN
