"""Where tokens are found, and how they are kept out of logs."""

from __future__ import annotations

from typing import Any, get_args
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsmanager.auth.tokens import (
    BEARER_SUBPROTOCOL,
    TokenSource,
    find_token,
    read_handshake,
    redact_query,
)
from wsmanager.messages import InboundMessage
from wsmanager.protocols import Handshake

from ...profiles import examples

ALL_SOURCES: tuple[TokenSource, ...] = get_args(TokenSource)


def handshake(
    *headers: tuple[str, str],
    query: bytes = b"",
    subprotocols: tuple[str, ...] = (),
    message: InboundMessage | None = None,
) -> Handshake:
    scope = {
        "type": "websocket",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "query_string": query,
        "subprotocols": list(subprotocols),
    }
    return msgspec.structs.replace(read_handshake(scope), message=message)


def auth_message(data: Any, type: str = "auth") -> InboundMessage:
    return InboundMessage(type, data)


EVERYWHERE = handshake(
    ("authorization", "Bearer in-header"),
    ("cookie", "access_token=in-cookie"),
    query=b"token=in-query",
    subprotocols=("wsmanager.v1.json", BEARER_SUBPROTOCOL + "in-subprotocol"),
)


class TestReadHandshake:
    def test_header_names_are_lower_case_and_the_first_of_repeated_ones_counts(self) -> None:
        shown = handshake(("Host", "a.example"), ("X-Id", "1"), ("x-id", "2"), ("x-name", "caf\xe9"))

        assert shown.headers == {"host": "a.example", "x-id": "1", "x-name": "caf\xe9"}

    def test_the_scope_itself_is_shown(self) -> None:
        scope: dict[str, Any] = {"type": "websocket"}

        assert read_handshake(scope).scope is scope

    def test_a_scope_without_optional_keys_is_read(self) -> None:
        shown = read_handshake({"type": "websocket"})

        assert (shown.headers, shown.query, shown.cookies, shown.subprotocols) == ({}, {}, {}, ())
        assert shown.message is None

    def test_query_parameters_are_unquoted_and_the_first_of_repeated_ones_counts(self) -> None:
        shown = handshake(query=b"a=1&b=x+y%2Fz&a=2&c&%C3%A9=%E2%82%AC&raw=\xc3\xa9")

        assert shown.query == {"a": "1", "b": "x y/z", "c": "", "\xe9": "\u20ac", "raw": "\xe9"}

    @pytest.mark.parametrize("query", [b"a=%", b"a=%zz", b"a=%ff", b"a=\xff", b"&&&", b"==", b"%=%"])
    def test_a_broken_query_is_read_as_well_as_it_can_be(self, query: bytes) -> None:
        assert isinstance(handshake(query=query).query, dict)

    def test_parameters_beyond_the_hundredth_are_not_read(self) -> None:
        query = b"&".join(b"p%d=x" % number for number in range(1_000))

        assert len(handshake(query=query).query) == 100

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ("a=1; b=2", {"a": "1", "b": "2"}),
            ("a=1;b=2;", {"a": "1", "b": "2"}),
            ('a="quoted"; b = spaced ', {"a": "quoted", "b": "spaced"}),
            ("a=1; a=2", {"a": "1"}),
            ("a=b=c", {"a": "b=c"}),
            ("nonsense; =nameless; a=1", {"a": "1"}),
            ("", {}),
        ],
    )
    def test_cookies_are_read_leniently(self, header: str, expected: dict[str, str]) -> None:
        assert handshake(("cookie", header)).cookies == expected

    def test_cookies_split_over_several_headers_are_joined(self) -> None:
        assert handshake(("cookie", "a=1"), ("cookie", "b=2")).cookies == {"a": "1", "b": "2"}

    def test_cookies_beyond_the_hundredth_are_not_read(self) -> None:
        header = "; ".join(f"c{number}=x" for number in range(1_000))

        assert len(handshake(("cookie", header)).cookies) == 100

    @examples(40)
    @given(
        st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=6),
        st.binary(max_size=60),
        st.lists(st.text(max_size=20), max_size=4),
        st.binary(max_size=60),
    )
    def test_nothing_that_a_client_sends_makes_reading_or_finding_fail(
        self,
        headers: list[tuple[bytes, bytes]],
        query: bytes,
        subprotocols: list[str],
        cookies: bytes,
    ) -> None:
        scope = {
            "headers": [*headers, (b"cookie", cookies), (b"authorization", cookies)],
            "query_string": query,
            "subprotocols": subprotocols,
        }

        found = find_token(read_handshake(scope), ALL_SOURCES)

        assert found is None or found[0]


class TestFindToken:
    @pytest.mark.parametrize("source", ["header", "subprotocol", "query", "cookie"])
    def test_each_source_is_read(self, source: TokenSource) -> None:
        assert find_token(EVERYWHERE, [source]) == (f"in-{source}", source)

    def test_the_order_of_the_sources_decides(self) -> None:
        assert find_token(EVERYWHERE, ["cookie", "header"]) == ("in-cookie", "cookie")
        assert find_token(EVERYWHERE, ["header", "cookie"]) == ("in-header", "header")

    def test_only_the_sources_named_are_read(self) -> None:
        assert find_token(handshake(query=b"token=t"), ["header", "subprotocol", "cookie"]) is None

    def test_a_source_without_a_token_leaves_it_to_the_next(self) -> None:
        shown = handshake(("authorization", "Basic dXNlcjpw"), query=b"token=", subprotocols=("chat",))

        assert find_token(shown, ["header", "subprotocol", "query", "cookie", "message"]) is None

    @pytest.mark.parametrize("value", ["Bearer t", "bearer t", "BEARER  t ", " Bearer t"])
    def test_the_scheme_may_be_in_any_case(self, value: str) -> None:
        assert find_token(handshake(("authorization", value)), ["header"]) == ("t", "header")

    @pytest.mark.parametrize("value", ["t", "Bearer", "Bearer ", "Bearert", "Token t", ""])
    def test_another_scheme_holds_no_token(self, value: str) -> None:
        assert find_token(handshake(("authorization", value)), ["header"]) is None

    def test_the_names_of_parameter_and_cookie_can_be_chosen(self) -> None:
        shown = handshake(("cookie", "sid=c"), query=b"jid=q")

        assert find_token(shown, ["query"], query_parameter="jid") == ("q", "query")
        assert find_token(shown, ["cookie"], cookie="sid") == ("c", "cookie")

    def test_a_subprotocol_that_is_not_ascii_does_no_harm(self) -> None:
        shown = handshake(subprotocols=("caf\xe9", "\ud800", BEARER_SUBPROTOCOL + "t\xf6ken"))

        assert find_token(shown, ["subprotocol"]) == ("t\xf6ken", "subprotocol")

    def test_a_first_message_is_the_only_place_looked_at(self) -> None:
        shown = msgspec.structs.replace(EVERYWHERE, message=auth_message({"token": "in-message"}))

        assert find_token(shown, ["header"]) == ("in-message", "message")

    @pytest.mark.parametrize(
        "message",
        [
            auth_message({"token": "t"}, type="chat"),
            auth_message("t"),
            auth_message({}),
            auth_message({"token": ""}),
            auth_message({"token": 7}),
        ],
    )
    def test_a_first_message_that_is_no_authentication_holds_no_token(self, message: InboundMessage) -> None:
        assert find_token(msgspec.structs.replace(EVERYWHERE, message=message), ALL_SOURCES) is None


names = st.sampled_from([b"token", b"%74oken", b"to%6Ben", b"Token", b"tok", b"a", b"", b"%", b"token%00"])
values = st.binary(max_size=8).filter(lambda value: b"&" not in value)
pairs = st.tuples(names, st.sampled_from([b"=", b""]), values).map(b"".join)
queries = st.lists(pairs, max_size=6).map(b"&".join)


class TestRedactQuery:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            (b"token=secret", b"token=REDACTED"),
            (b"a=1&token=secret&b=%2F", b"a=1&token=REDACTED&b=%2F"),
            (b"token=one&token=two", b"token=REDACTED&token=REDACTED"),
            (b"%74ok%65n=secret", b"%74ok%65n=REDACTED"),
            (b"token=", b"token=REDACTED"),
            (b"token", b"token"),
            (b"Token=kept&mytoken=kept", b"Token=kept&mytoken=kept"),
            (b"", b""),
        ],
    )
    def test_the_value_goes_and_the_rest_stays(self, query: bytes, expected: bytes) -> None:
        assert redact_query(query) == expected

    def test_a_parameter_of_another_name_is_redacted_when_told_so(self) -> None:
        assert redact_query(b"my+ticket=secret&token=kept", "my ticket") == b"my+ticket=REDACTED&token=kept"

    @examples(50)
    @given(queries)
    @example(b"token=x&&token=y=z")
    def test_no_value_that_is_read_as_the_token_survives(self, query: bytes) -> None:
        before, after = handshake(query=query).query, handshake(query=redact_query(query)).query

        assert after == {
            name: "REDACTED" if name == "token" and value else after[name] for name, value in before.items()
        }

    @examples(50)
    @given(queries)
    def test_every_other_pair_is_untouched(self, query: bytes) -> None:
        redacted = redact_query(query).split(b"&")

        assert len(redacted) == len(query.split(b"&"))
        assert all(
            new == old or new.endswith(b"=REDACTED")
            for old, new in zip(query.split(b"&"), redacted, strict=True)
        )

    @examples(50)
    @given(queries)
    def test_redacting_twice_changes_nothing_more(self, query: bytes) -> None:
        assert redact_query(redact_query(query)) == redact_query(query)

    @examples(40)
    @given(st.text(min_size=1, max_size=10).filter(str.isprintable), st.text(max_size=10))
    def test_any_parameter_name_is_found_however_it_is_encoded(self, name: str, secret: str) -> None:
        query = f"{quote(name)}={quote(secret)}&b=2".encode()

        assert redact_query(query, name) == f"{quote(name)}=REDACTED&b=2".encode()
