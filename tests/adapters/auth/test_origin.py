"""Which origins may open a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.auth.origin import OriginPolicy
from wsmanager.errors import ConfigurationError, OriginRefused

HOST = "app.example.com"
LISTED = OriginPolicy(["https://example.com", "http://localhost:3000", "chrome-extension://abcdef"])
SAME_HOST = OriginPolicy()


def allows(
    policy: OriginPolicy,
    origin: str | None,
    host: str | None = HOST,
    *,
    by_cookie: bool = True,
    secure: bool = False,
) -> bool:
    try:
        policy.check(origin, host, by_cookie=by_cookie, secure=secure)
    except OriginRefused:
        return False
    return True


class TestAllowList:
    @pytest.mark.parametrize(
        "origin",
        [
            "https://example.com",
            "HTTPS://Example.COM",
            "https://example.com:443",
            "http://localhost:3000",
            "chrome-extension://abcdef",
        ],
    )
    def test_a_listed_origin_may_connect(self, origin: str) -> None:
        assert allows(LISTED, origin)

    @pytest.mark.parametrize(
        "origin",
        [
            "https://example.com.evil.com",
            "https://evilexample.com",
            "https://evil.com/https://example.com",
            "https://example.com@evil.com",
            "https://user:pw@example.com",
            "https://example.com.",
            "https://example.com/",
            "https://example.com/path",
            "https://example.com?x",
            "https://example.com#x",
            "https://example.com\\@evil.com",
            "https://example.com:",
            "https://example.com:8443",
            "https://example.com:0443",
            "https://example.com\n",
            " https://example.com",
            "https://sub.example.com",
            "http://example.com",
            "wss://example.com",
            "https:example.com",
            "//example.com",
            "example.com",
            "https://",
            "https://\u0435xample.com",
            "https://*",
            "*",
            "null",
            "",
            "https://example.com https://example.com",
            "https://" + "a" * 10_000,
        ],
    )
    def test_nothing_else_may(self, origin: str) -> None:
        assert not allows(LISTED, origin)

    def test_the_host_itself_may_not_unless_it_is_listed(self) -> None:
        assert not allows(LISTED, f"https://{HOST}", HOST)

    def test_a_default_port_in_the_list_is_no_difference(self) -> None:
        assert allows(OriginPolicy(["https://example.com:443"]), "https://example.com")

    def test_the_refusal_has_a_stable_code_and_does_not_repeat_the_origin(self) -> None:
        with pytest.raises(OriginRefused) as refusal:
            LISTED.check("https://evil.example", HOST, by_cookie=False)

        assert (refusal.value.code, refusal.value.status) == ("origin_refused", 403)
        assert "evil" not in str(refusal.value)

    @given(st.text("example.com:/@0123456789 \\#?h", max_size=30))
    def test_whatever_surrounds_a_listed_origin_makes_it_another(self, noise: str) -> None:
        for origin in (
            f"https://example.com{noise}",
            f"https://{noise}example.com",
            f"{noise}https://example.com",
        ):
            assert allows(LISTED, origin) == (origin in {"https://example.com", "https://example.com:443"})


class TestAny:
    @pytest.mark.parametrize("origin", ["https://anything.example", "null", "garbage", None])
    def test_a_star_allows_any(self, origin: str | None) -> None:
        assert allows(OriginPolicy(["*"]), origin)


class TestNull:
    def test_null_is_refused_by_default(self) -> None:
        assert not allows(SAME_HOST, "null", "null")

    def test_null_may_connect_when_it_is_listed_and_then_nobody_else(self) -> None:
        policy = OriginPolicy(["null"])

        assert allows(policy, "null")
        assert not allows(policy, f"https://{HOST}", HOST)


class TestSameHost:
    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("https://app.example.com", "app.example.com"),
            ("https://app.example.com", "APP.example.com:443"),
            ("https://app.example.com:443", "app.example.com"),
            ("http://app.example.com", "app.example.com:80"),
            ("http://localhost:8000", "localhost:8000"),
            ("http://[::1]:8000", "[::1]:8000"),
        ],
    )
    def test_a_page_of_the_same_host_may_connect(self, origin: str, host: str) -> None:
        assert allows(SAME_HOST, origin, host)

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("https://app.example.com", "example.com"),
            ("https://app.example.com", "app.example.com:80"),
            ("https://app.example.com:8443", "app.example.com"),
            ("http://localhost:3000", "localhost:8000"),
            ("chrome-extension://app.example.com", "app.example.com"),
            ("https://app.example.com", "app.example.com@evil.com"),
            ("https://app.example.com", "a" * 10_000),
            ("https://app.example.com", ""),
            ("https://app.example.com", None),
        ],
    )
    def test_a_page_of_another_host_or_port_may_not(self, origin: str, host: str | None) -> None:
        assert not allows(SAME_HOST, origin, host)

    def test_a_page_without_tls_may_not_open_a_socket_with_tls(self) -> None:
        assert not allows(SAME_HOST, f"http://{HOST}", secure=True)
        assert allows(SAME_HOST, f"https://{HOST}", secure=True)

    @given(st.from_regex(r"[a-z][a-z0-9-]{0,8}(\.[a-z]{2,5}){0,2}", fullmatch=True), st.integers(1, 65_535))
    def test_a_host_is_always_the_same_as_itself_and_never_as_a_longer_one(
        self, host: str, port: int
    ) -> None:
        assert allows(SAME_HOST, f"https://{host}:{port}", f"{host}:{port}")
        assert not allows(SAME_HOST, f"https://{host}.evil.com:{port}", f"{host}:{port}")
        assert not allows(SAME_HOST, f"https://evil{host}:{port}", f"{host}:{port}")


class TestMissing:
    @pytest.mark.parametrize("policy", [SAME_HOST, LISTED])
    def test_no_origin_is_refused_only_when_a_cookie_authenticates(self, policy: OriginPolicy) -> None:
        assert allows(policy, None, by_cookie=False)
        assert not allows(policy, None, by_cookie=True)


class TestConfiguration:
    @pytest.mark.parametrize(
        "entry",
        [
            "example.com",
            "https://example.com/",
            "https://example.com/path",
            "https://user@example.com",
            "https://*.example.com",
            "https://example.com:port",
            "https://",
            "",
        ],
    )
    def test_an_entry_that_is_no_origin_is_refused(self, entry: str) -> None:
        with pytest.raises(ConfigurationError, match="allowed_origins"):
            OriginPolicy(["https://good.example", entry])
