"""Which tokens are taken, which are refused and with which code."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from wsmanager.auth import BEARER_SUBPROTOCOL, JWTAuth, KeyUnavailable, read_handshake
from wsmanager.errors import AuthenticationError, ConfigurationError, MissingDependency, should_reconnect
from wsmanager.messages import InboundMessage
from wsmanager.protocols import Authenticator, Handshake, Identity

from ...profiles import examples

SECRET = "a secret that is long enough for HS512, which asks for sixty-four bytes"
CURVE_KEY = ec.generate_private_key(ec.SECP256R1())
CURVE_PEM = CURVE_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
CURVE_PRIVATE_PEM = CURVE_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
EDWARDS_KEY = ed25519.Ed25519PrivateKey.generate()

AUTH = JWTAuth(SECRET, algorithms=["HS256"])
STRICT = JWTAuth(SECRET, algorithms=["HS256"], audience="chat", issuer="https://issuer.example")


def sign(
    key: Any = SECRET,
    algorithm: str = "HS256",
    headers: dict[str, Any] | None = None,
    claims: Mapping[str, Any] | None = None,
) -> str:
    """A good token of alice, but for `claims`; a claim that is ``...`` is left out."""
    payload = {"sub": "alice", "exp": int(time.time()) + 600, **(claims or {})}
    present = {name: value for name, value in payload.items() if value is not ...}
    return jwt.encode(present, key, algorithm, headers)


def make_token(**claims: Any) -> str:
    return sign(claims=claims)


def sign_raw(payload: bytes, key: str = SECRET) -> str:
    return jwt.PyJWS().encode(payload, key, "HS256")


def segment(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def compact(*segments: bytes) -> str:
    return ".".join(map(segment, segments))


def handshake(token: str = "", **scope: Any) -> Handshake:
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    return read_handshake({"type": "websocket", "headers": headers, **scope})


def authenticate(auth: Authenticator, shown: Handshake) -> Identity | None:
    return asyncio.run(auth.authenticate(shown))


def identify(token: str, auth: JWTAuth = AUTH) -> Identity:
    identity = authenticate(auth, handshake(token))
    assert identity is not None
    return identity


def takes(token: str, auth: JWTAuth = AUTH) -> bool:
    return bool(auth.verify(token).get("sub") == "alice")


def refusal_of(token: str, auth: JWTAuth = AUTH) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as refusal:
        auth.verify(token)
    return refusal.value


FAILURES = [RuntimeError(), TypeError(), msgspec.MsgspecError()]
"""What a decoder raises for bad input is a matter of its release."""


def failing(failure: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise failure

    return fail


class TestIdentity:
    def test_a_good_token_says_who_it_is(self) -> None:
        token = make_token(tenant="acme", scope="chat.read chat.write", tier="pro", jti="1", email="a@b.c")

        identity = identify(token)

        assert (identity.user_id, identity.tenant, identity.tier) == ("alice", "acme", "pro")
        assert identity.scopes == {"chat.read", "chat.write"}
        assert not identity.by_cookie
        assert identity.claims == AUTH.verify(token)

    def test_what_is_not_in_the_token_is_none(self) -> None:
        identity = identify(make_token())

        assert (identity.tenant, identity.tier, identity.scopes) == (None, None, frozenset())
        assert identity.claims.get("jti") is None

    def test_a_null_claim_counts_as_absent(self) -> None:
        identity = identify(make_token(tenant=None, tier=None, scope=None))

        assert (identity.tenant, identity.tier, identity.scopes) == (None, None, frozenset())

    def test_only_the_configured_claims_are_kept_and_always_sub_and_exp(self) -> None:
        auth = JWTAuth(SECRET, algorithms=["HS256"], claims=["email"])
        exp = int(time.time()) + 60

        claims = auth.verify(make_token(email="a@b.c", tenant="acme", exp=exp))

        assert msgspec.structs.asdict(claims) == {"email": "a@b.c", "sub": "alice", "exp": exp}

    def test_claims_are_attributes(self) -> None:
        claims: Any = AUTH.verify(make_token(jti="7"))

        assert (claims.sub, claims.jti, claims.tenant) == ("alice", "7", None)

    def test_the_claims_of_the_identity_can_be_named(self) -> None:
        auth = JWTAuth(
            SECRET,
            algorithms=["HS256"],
            user_claim="uid",
            tenant_claim="https://acme.example/org",
            scope_claim="roles",
            tier_claim="plan",
        )
        claims = {"uid": 42, "roles": ["admin", "a b"], "plan": "free", "https://acme.example/org": "acme"}

        identity = identify(sign(claims=claims), auth)

        assert (identity.user_id, identity.tenant, identity.tier) == ("42", "acme", "free")
        assert identity.scopes == {"admin", "a", "b"}

    def test_equal_texts_of_many_connections_are_one_object(self) -> None:
        one, two = (identify(make_token(tenant="acme", scope="read write", tier="pro")) for _ in range(2))

        assert one.scopes is two.scopes
        assert one.tenant is two.tenant is two.claims.get("tenant")
        assert one.claims.get("scope") is two.claims.get("scope")


class TestSources:
    def test_a_cookie_is_marked_because_browsers_send_it_by_themselves(self) -> None:
        shown = handshake(headers=[(b"cookie", b"access_token=" + make_token().encode())])
        identity = authenticate(AUTH, shown)

        assert identity is not None
        assert identity.by_cookie

    @pytest.mark.parametrize("where", ["subprotocol", "query"])
    def test_the_other_sources_are_not(self, where: str) -> None:
        token = make_token()
        shown = (
            handshake(query_string=f"token={token}".encode())
            if where == "query"
            else handshake(subprotocols=["wsmanager.v1.json", BEARER_SUBPROTOCOL + token])
        )
        identity = authenticate(AUTH, shown)

        assert identity is not None
        assert not identity.by_cookie

    def test_no_token_is_an_error(self) -> None:
        with pytest.raises(AuthenticationError) as refusal:
            authenticate(AUTH, handshake())

        assert refusal.value.code == "token_missing"

    def test_no_token_asks_for_a_first_message_where_that_is_a_source(self) -> None:
        auth = JWTAuth(SECRET, algorithms=["HS256"], sources=["header", "message"])
        empty = handshake()

        assert authenticate(auth, empty) is None
        first = msgspec.structs.replace(empty, message=InboundMessage("auth", {"token": make_token()}))
        identity = authenticate(auth, first)
        assert identity is not None
        assert identity.user_id == "alice"

    def test_a_first_message_without_a_token_is_an_error(self) -> None:
        auth = JWTAuth(SECRET, algorithms=["HS256"], sources=["message"])

        with pytest.raises(AuthenticationError) as refusal:
            authenticate(auth, msgspec.structs.replace(handshake(), message=InboundMessage("ping")))

        assert refusal.value.code == "token_missing"

    def test_a_bad_token_is_not_excused_by_a_good_one_elsewhere(self) -> None:
        shown = handshake("bad", query_string=f"token={make_token()}".encode())

        with pytest.raises(AuthenticationError) as refusal:
            authenticate(AUTH, shown)

        assert refusal.value.code == "token_malformed"


class TestAlgorithms:
    @pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
    def test_hmac_tokens_are_taken(self, algorithm: str) -> None:
        auth = JWTAuth(SECRET, algorithms=["HS256", "HS384", "HS512"])

        assert takes(sign(algorithm=algorithm), auth)

    @pytest.mark.parametrize(
        "key", [CURVE_PEM, CURVE_PEM.decode(), CURVE_KEY.public_key()], ids=["bytes", "text", "object"]
    )
    def test_a_public_key_may_be_a_text_or_an_object(self, key: Any) -> None:
        auth = JWTAuth(key, algorithms=["ES256"])

        assert takes(sign(CURVE_KEY, "ES256"), auth)

    def test_edwards_curves_are_taken(self) -> None:
        auth = JWTAuth(EDWARDS_KEY.public_key(), algorithms=["EdDSA"])

        assert takes(sign(EDWARDS_KEY, "EdDSA"), auth)

    def test_a_public_key_is_never_taken_for_a_secret(self) -> None:
        signing = compact(b'{"alg":"HS256"}', b'{"sub":"eve","exp":9999999999}')
        algorithm = jwt.get_algorithm_by_name("HS256")
        forged = f"{signing}.{segment(algorithm.sign(signing.encode(), CURVE_PEM))}"

        assert refusal_of(forged, JWTAuth(CURVE_PEM, algorithms=["ES256"])).code == "token_bad_algorithm"

    @pytest.mark.parametrize("alg", ["none", "None", "HS384", "ES256", "hs256", "", None, 7, ["HS256"]])
    def test_another_algorithm_is_refused(self, alg: Any) -> None:
        header, payload = msgspec.json.encode({"alg": alg}), b'{"sub":"eve","exp":9999999999}'

        for signature in (b"", b"x" * 32):
            assert refusal_of(compact(header, payload, signature)).code == "token_bad_algorithm"

    def test_a_critical_extension_is_refused(self) -> None:
        token = sign(headers={"crit": ["exp-2"], "exp-2": 1})

        assert refusal_of(token).code == "token_malformed"

    def test_an_unencoded_payload_is_refused(self) -> None:
        assert refusal_of(sign(headers={"b64": False})).code == "token_malformed"


class TestTimes:
    @pytest.mark.parametrize(
        ("claims", "code"),
        [
            ({"exp": -11}, "token_expired"),
            ({"exp": -(10**9)}, "token_expired"),
            ({"nbf": 15}, "token_not_yet_valid"),
            ({"iat": 15}, "token_not_yet_valid"),
            ({"exp": 367 * 86_400}, "token_lifetime"),
            ({"exp": 10**30}, "token_lifetime"),
            ({"exp": 1e300}, "token_lifetime"),
        ],
    )
    def test_a_token_out_of_its_time_is_refused(self, claims: dict[str, float], code: str) -> None:
        now = int(time.time())

        refusal = refusal_of(make_token(**{name: now + offset for name, offset in claims.items()}))

        assert refusal.code == code

    @pytest.mark.parametrize("claims", [{"exp": -5}, {"nbf": 5}, {"iat": 5}, {"exp": 1.5, "iat": -1.5}])
    def test_clocks_may_differ_by_the_leeway(self, claims: dict[str, float]) -> None:
        now = int(time.time())

        assert takes(make_token(**{name: now + offset for name, offset in claims.items()}))

    def test_the_longest_lifetime_can_be_chosen(self) -> None:
        auth = JWTAuth(SECRET, algorithms=["HS256"], max_lifetime=60)

        assert refusal_of(make_token(), auth).code == "token_lifetime"


class TestParties:
    def test_the_right_audience_and_issuer_are_taken(self) -> None:
        assert takes(make_token(aud="chat", iss="https://issuer.example"), STRICT)
        assert takes(make_token(aud=["other", "chat"], iss="https://issuer.example"), STRICT)

    def test_one_of_several_is_enough(self) -> None:
        auth = JWTAuth(SECRET, algorithms=["HS256"], audience=["chat", "live"], issuer=["a", "b"])

        assert takes(make_token(aud="live", iss="b"), auth)
        assert refusal_of(make_token(aud="live", iss="c"), auth).code == "token_wrong_issuer"

    @pytest.mark.parametrize(
        ("claims", "code"),
        [
            ({"aud": "other"}, "token_wrong_audience"),
            ({"aud": ["other"]}, "token_wrong_audience"),
            ({"aud": ["chat", 7]}, "token_wrong_audience"),
            ({"aud": {"chat": 1}}, "token_wrong_audience"),
            ({"aud": ...}, "token_missing_claim"),
            ({"aud": []}, "token_missing_claim"),
            ({"iss": "https://issuer.example.evil"}, "token_wrong_issuer"),
            ({"iss": "https://issuer"}, "token_wrong_issuer"),
            ({"iss": ""}, "token_wrong_issuer"),
            ({"iss": ...}, "token_missing_claim"),
        ],
    )
    def test_others_are_refused(self, claims: dict[str, Any], code: str) -> None:
        token = sign(claims={"aud": "chat", "iss": "https://issuer.example", **claims})

        assert refusal_of(token, STRICT).code == code

    def test_an_issuer_that_is_no_text_is_refused(self) -> None:
        payload = {"sub": "a", "exp": int(time.time()) + 60, "aud": "chat", "iss": ["https://issuer.example"]}

        assert refusal_of(sign_raw(msgspec.json.encode(payload)), STRICT).code == "token_wrong_issuer"

    def test_a_token_for_an_audience_is_not_for_a_server_without_one(self) -> None:
        assert refusal_of(make_token(aud="billing")).code == "token_wrong_audience"


class TestClaims:
    @pytest.mark.parametrize("claim", ["sub", "exp"])
    def test_sub_and_exp_are_required(self, claim: str) -> None:
        refusal = refusal_of(make_token(**{claim: ...}))

        assert refusal.code == "token_missing_claim"
        assert claim in refusal.message

    @pytest.mark.parametrize(
        ("claim", "value"),
        [
            ("sub", ""),
            ("sub", "a\nb"),
            ("sub", "a\x00"),
            ("sub", "a" * 256),
            ("sub", 7),
            ("sub", ["alice"]),
            ("exp", "9999999999"),
            ("exp", True),
            ("exp", None),
            ("exp", [1]),
            ("nbf", "soon"),
            ("nbf", None),
            ("iat", {}),
            ("jti", 7),
            ("tenant", 7),
            ("tenant", ""),
            ("tenant", "a\x1bb"),
            ("tenant", ["acme"]),
            ("tier", 1),
            ("scope", 7),
            ("scope", {"read": True}),
            ("scope", ["read", 7]),
        ],
    )
    def test_a_claim_of_the_wrong_kind_is_refused(self, claim: str, value: Any) -> None:
        refusal = refusal_of(make_token(**{claim: value}))

        assert refusal.code == "token_bad_claim"
        assert refusal.message.endswith(f": {claim}")

    @pytest.mark.parametrize("value", [True, 1.5, "", ["alice"]])
    def test_another_user_claim_must_be_a_name_or_a_whole_number(self, value: Any) -> None:
        auth = JWTAuth(SECRET, algorithms=["HS256"], user_claim="uid")

        assert refusal_of(make_token(uid=value), auth).code == "token_bad_claim"
        assert refusal_of(make_token(), auth).code == "token_missing_claim"


class TestHostileTokens:
    def test_a_long_token_is_refused_before_it_is_read(self) -> None:
        token = make_token(padding="x" * 8_192)

        assert refusal_of(token).code == "token_too_long"
        assert refusal_of("x" * 8_193).code == "token_too_long"
        assert refusal_of("x" * 8_192).code == "token_malformed"
        assert refusal_of(make_token(), JWTAuth(SECRET, algorithms=["HS256"], max_token_size=20)).code == (
            "token_too_long"
        )

    @pytest.mark.parametrize(
        "token",
        [
            "",
            ".",
            "..",
            "a.b.c",
            "....",
            "\ud800.\ud800.\ud800",
            "é.é.é",
            make_token() + ".x",
            make_token().replace(".", "!."),
            compact(b"[" * 6_000, b"{}", b"x"),
            compact(b'{"alg":"HS256","kid":7}', b"{}", b"x"),
            sign_raw(b'{"a":' + b"[" * 6_000),
            sign_raw(b"[]"),
            sign_raw(b""),
            sign_raw(b"\xff"),
            sign_raw(b'{"sub":"a","exp":NaN}'),
            sign_raw(b'{"sub":"a","exp":1e999}'),
            sign_raw(b'{"sub":"\\ud800","exp":9999999999}'),
            sign_raw(b'{"sub":"a","exp":' + b"9" * 5_000 + b"}"),
        ],
    )
    def test_what_is_no_token_is_malformed(self, token: str) -> None:
        assert refusal_of(token).code == "token_malformed"

    @pytest.mark.parametrize("failure", FAILURES, ids=repr)
    def test_a_payload_is_malformed_whatever_the_decoder_raises(
        self, failure: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(msgspec.json, "decode", failing(failure))
        assert refusal_of(make_token()).code == "token_malformed"

    @pytest.mark.parametrize("other", ["another secret of thirty-two bytes", SECRET + "!"])
    def test_a_token_of_another_secret_is_refused(self, other: str) -> None:
        assert refusal_of(sign(other)).code == "token_bad_signature"

    @examples(40)
    @given(st.data())
    def test_no_change_to_a_token_goes_unnoticed(self, data: st.DataObject) -> None:
        token = make_token()
        index = data.draw(st.integers(0, len(token) - 1))
        change = data.draw(st.sampled_from(["", "A", "_", ".", "=", "\x00", "é", token]))
        mutated = token[:index] + change + token[index + 1 :]

        if mutated != token:
            assert refusal_of(mutated).code.startswith("token_")

    @examples(40)
    @given(
        st.one_of(st.text(max_size=40), st.lists(st.binary(max_size=20)).map(lambda parts: compact(*parts)))
    )
    def test_whatever_is_sent_only_an_authentication_error_comes_of_it(self, token: str) -> None:
        with pytest.raises(AuthenticationError):
            AUTH.verify(token)

    @examples(40)
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "sub": st.sampled_from(["alice", "", 7, None]),
                "exp": st.sampled_from([600, -600, 10**12, "x", None, True]),
                "nbf": st.sampled_from([-600, 600, "x", None]),
                "iat": st.sampled_from([-600, 600, "x", None]),
                "aud": st.sampled_from(["chat", "other", ["chat", "x"], ["x"], [7], [], "", None]),
                "iss": st.sampled_from(["https://issuer.example", "x", ["https://issuer.example"], None]),
                "jti": st.sampled_from(["1", 1, None]),
                "tenant": st.sampled_from(["acme", 7, None, []]),
            },
        ),
        st.booleans(),
    )
    def test_it_is_never_more_lenient_than_pyjwt(self, claims: dict[str, Any], strict: bool) -> None:
        now = int(time.time())
        payload = {
            name: now + value if name in {"exp", "nbf", "iat"} and type(value) is int else value
            for name, value in claims.items()
        }
        token = sign_raw(msgspec.json.encode(payload))
        auth, expected = (
            (STRICT, {"audience": "chat", "issuer": "https://issuer.example"}) if strict else (AUTH, {})
        )

        try:
            auth.verify(token)
        except AuthenticationError:
            return
        options: Any = {"require": ["exp", "sub"], "enforce_minimum_key_length": True}
        jwt.decode(token, SECRET, ["HS256"], options, leeway=10, **expected)  # type: ignore[arg-type]  # two of its options

    @pytest.mark.parametrize(
        "token", [sign("another secret of thirty-two bytes"), "a.b.c", make_token(tenant=7)]
    )
    def test_the_text_of_a_refusal_holds_nothing_of_the_token_or_of_pyjwt(self, token: str) -> None:
        refusal = refusal_of(token)

        assert not any(part in str(refusal) for part in token.split(".") if len(part) > 1)
        assert refusal.__cause__ is None
        assert refusal.__suppress_context__


@pytest.fixture(scope="class")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Publishes keys by their ids on a local server, and gives the URL of the document."""
    folder = tmp_path_factory.mktemp("published")

    class Quiet(SimpleHTTPRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    def publish(name: str, **keys: Any) -> str:
        jwks = [
            {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid} for kid, key in keys.items()
        ]
        (folder / name).write_bytes(msgspec.json.encode({"keys": jwks}))
        return f"http://127.0.0.1:{server.server_port}/{name}"

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, args=(0.005,))
    thread.start()
    yield publish
    server.shutdown()
    thread.join()
    server.server_close()


class TestPublishedKeys:
    def test_a_token_of_a_published_key_is_taken_and_verify_knows_the_key_from_then_on(
        self, published: Callable[..., str]
    ) -> None:
        auth = JWTAuth(jwks_url=published("jwks.json", k1=CURVE_KEY), algorithms=["ES256"])
        token = sign(CURVE_KEY, "ES256", {"kid": "k1"})

        assert refusal_of(token, auth).code == "key_unavailable"
        assert identify(token, auth).user_id == "alice"
        assert takes(token, auth)

    def test_a_key_that_cannot_be_had_is_a_temporary_refusal(self) -> None:
        auth = JWTAuth(jwks_url="http://127.0.0.1:1/jwks.json", algorithms=["ES256"])

        with pytest.raises(KeyUnavailable) as refusal:
            identify(sign(CURVE_KEY, "ES256", {"kid": "k1"}), auth)

        assert (refusal.value.code, refusal.value.status) == ("key_unavailable", 503)
        assert should_reconnect(refusal.value.close_code)

    def test_a_token_cannot_say_where_its_key_is(self, published: Callable[..., str]) -> None:
        thief = ec.generate_private_key(ec.SECP256R1())
        auth = JWTAuth(jwks_url=published("jwks.json", k1=CURVE_KEY), algorithms=["ES256"])
        theirs = published("theirs.json", k1=thief)
        headers = {"kid": "k1", "jku": theirs, "jwk": ECAlgorithm.to_jwk(thief.public_key(), as_dict=True)}

        with pytest.raises(AuthenticationError) as refusal:
            identify(sign(thief, "ES256", headers, {"iss": theirs}), auth)

        assert refusal.value.code == "token_bad_signature"

    def test_a_key_id_of_one_issuer_means_nothing_to_another(self, published: Callable[..., str]) -> None:
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        auths = [
            JWTAuth(jwks_url=published(f"{number}.json", same=key), algorithms=["ES256"])
            for number, key in enumerate(keys)
        ]
        tokens = [sign(key, "ES256", {"kid": "same"}) for key in keys]

        for one, other in ((0, 1), (1, 0)):
            assert identify(tokens[one], auths[one]).user_id == "alice"
            with pytest.raises(AuthenticationError) as refusal:
                identify(tokens[other], auths[one])
            assert refusal.value.code == "token_bad_signature"

    @pytest.mark.parametrize(
        ("header", "code"),
        [
            (b'{"alg":"HS256"}', "token_bad_algorithm"),
            (b'{"alg":"none"}', "token_bad_algorithm"),
            (b'{"alg":"ES256","kid":7}', "token_malformed"),
            (b'{"kid":"k1"}', "token_malformed"),
            (b'{"a":' + b"[" * 6_000, "token_malformed"),
            (b"\xff", "token_malformed"),
            (b"x" * 8_192, "token_too_long"),
        ],
    )
    def test_a_token_that_no_key_could_save_asks_for_none(self, header: bytes, code: str) -> None:
        auth = JWTAuth(jwks_url="https://nowhere.invalid/jwks", algorithms=["ES256"])

        with pytest.raises(AuthenticationError) as refusal:
            identify(compact(header, b"{}", b"x"), auth)

        assert refusal.value.code == code

    def test_a_header_of_other_characters_is_malformed(self) -> None:
        auth = JWTAuth(jwks_url="https://nowhere.invalid/jwks", algorithms=["ES256"])

        assert refusal_of("é.e30.x", auth).code == "token_malformed"

    @pytest.mark.parametrize("failure", FAILURES, ids=repr)
    def test_a_header_is_malformed_whatever_the_decoder_raises(
        self, failure: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        auth = JWTAuth(jwks_url="https://nowhere.invalid/jwks", algorithms=["ES256"])

        monkeypatch.setattr(msgspec.json, "decode", failing(failure))
        assert refusal_of(compact(b'{"alg":"ES256"}', b"{}", b"x"), auth).code == "token_malformed"


class TestConfiguration:
    @pytest.mark.parametrize(
        ("key", "options", "problem"),
        [
            (SECRET, {"algorithms": []}, "algorithms"),
            (SECRET, {"algorithms": ["none"]}, "algorithms"),
            (SECRET, {"algorithms": "HS256"}, "algorithms"),
            (SECRET, {"algorithms": ["HS256", "HS1"]}, "algorithms"),
            (SECRET, {"algorithms": ["HS256", "RS256"]}, "mixes"),
            (CURVE_PEM, {"algorithms": ["HS256"]}, "key does not fit HS256"),
            (ECAlgorithm.to_jwk(CURVE_KEY.public_key()), {"algorithms": ["HS256"]}, "key does not fit HS256"),
            (CURVE_KEY.public_key(), {"algorithms": ["HS256"]}, "key does not fit HS256"),
            ("", {"algorithms": ["HS256"]}, "key does not fit HS256"),
            ("short", {"algorithms": ["HS256"]}, "key: "),
            (SECRET[:40], {"algorithms": ["HS256", "HS512"]}, "key: "),
            (SECRET, {"algorithms": ["ES256"]}, "key does not fit ES256"),
            (CURVE_PEM, {"algorithms": ["ES384"]}, "key does not fit ES384"),
            (CURVE_PEM, {"algorithms": ["ES256", "RS256"]}, "key does not fit RS256"),
            (CURVE_PRIVATE_PEM, {"algorithms": ["ES256"]}, "must be the public one"),
            (None, {}, "either key or jwks_url"),
            (SECRET, {"jwks_url": "https://issuer.example/jwks"}, "either key or jwks_url"),
            (None, {"jwks_url": "https://issuer.example/jwks"}, "never published"),
            (
                None,
                {"algorithms": ["ES256"], "jwks_url": "https://a.example", "jwks_timeout": 0},
                "jwks_timeout",
            ),
            (SECRET, {"leeway": -1}, "leeway"),
            (SECRET, {"leeway": 301}, "leeway"),
            (SECRET, {"leeway": float("nan")}, "leeway"),
            (SECRET, {"max_lifetime": 0}, "max_lifetime"),
            (SECRET, {"max_lifetime": float("inf")}, "max_lifetime"),
            (SECRET, {"audience": ""}, "audience"),
            (SECRET, {"issuer": []}, "issuer"),
            (SECRET, {"sources": []}, "sources"),
            (SECRET, {"sources": ["header", "body"]}, "sources"),
            (SECRET, {"claims": ["https://acme.example/org"]}, "claims"),
            (SECRET, {"claims": ["get"]}, "claims"),
        ],
    )
    def test_what_would_not_be_secure_is_refused(
        self, key: Any, options: dict[str, Any], problem: str
    ) -> None:
        arguments: dict[str, Any] = {"algorithms": ["HS256"], **options}

        with pytest.raises(ConfigurationError, match=problem) as refusal:
            JWTAuth(key, **arguments)

        assert SECRET not in str(refusal.value)

    def test_without_cryptography_public_key_algorithms_name_the_extra(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "cryptography", None)

        with pytest.raises(MissingDependency, match=r"wsmanager\[crypto\]"):
            JWTAuth(CURVE_PEM, algorithms=["ES256"])
        assert takes(make_token(), JWTAuth(SECRET, algorithms=["HS256"]))


def test_hmac_works_where_cryptography_is_not_installed() -> None:
    program = """
import sys
sys.modules["cryptography"] = None
from wsmanager.auth import JWTAuth
assert JWTAuth("k" * 32, algorithms=["HS256"]).verify(sys.argv[1]).sub == "alice"
assert "starlette" not in sys.modules
"""
    token = sign("k" * 32)

    subprocess.run([sys.executable, "-c", program, token], check=True, timeout=30)  # our own program
