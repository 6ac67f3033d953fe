"""The published keys of an issuer: when they are fetched, how long they serve, what they survive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from wsmanager.auth.jwks import KeySet, KeyUnavailable, prepare_key
from wsmanager.errors import AuthenticationError, ConfigurationError

PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY = PRIVATE.public_key()
EDWARDS = ed25519.Ed25519PrivateKey.generate().public_key()


def jwk(kid: Any = "k1", key: Any = KEY, **members: Any) -> dict[str, Any]:
    algorithm = OKPAlgorithm if key is EDWARDS else ECAlgorithm
    described = {**algorithm.to_jwk(key, as_dict=True), "kid": kid, **members}
    return {name: value for name, value in described.items() if value is not None}


def document(*keys: Any) -> bytes:
    return msgspec.json.encode({"keys": keys})


class Issuer:
    """What a real HTTP server answers; the answer can be changed and held back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.body = document(jwk())
        self.status = 200
        self.drip = b""
        """What is sent, again and again, while the answer is held back."""
        self.drips = False
        self.requests = 0
        self.asked = Event()
        self.gate = Event()
        self.gate.set()
        self.left = Event()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        self.asked.set()
        while not self.gate.wait(0.005):
            handler.wfile.write(self.drip)
        handler.send_response(self.status)
        if self.status == 302:
            self.status = 200
            handler.send_header("location", "/elsewhere")
        handler.end_headers()
        handler.wfile.write(self.body)
        while self.drips:
            handler.wfile.write(b" ")
            self.left.wait(0.005)


class Server(ThreadingHTTPServer):
    issuer: Issuer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        issuer = self.server.issuer
        try:
            issuer.answer(self)
        except ConnectionError:
            issuer.left.set()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def issuer(server: Server) -> Iterator[Issuer]:
    server.issuer = Issuer(f"http://127.0.0.1:{server.server_port}/jwks.json")
    yield server.issuer
    server.issuer.gate.set()


Make = Callable[..., KeySet]


@pytest.fixture
def make(issuer: Issuer, clock: Clock) -> Make:
    def build(*algorithms: str, **options: Any) -> KeySet:
        return KeySet(issuer.url, algorithms or ("ES256",), clock=clock, **options)

    return build


def look_up(keys: KeySet, kid: str | None = "k1", algorithm: str = "ES256") -> Any:
    """What a handshake does."""
    asyncio.run(keys.refresh(kid, algorithm))
    return keys.get(kid, algorithm)


def refusal_of(keys: KeySet, kid: str | None = "k1", algorithm: str = "ES256") -> AuthenticationError:
    with pytest.raises(AuthenticationError) as refusal:
        look_up(keys, kid, algorithm)
    return refusal.value


class TestFetching:
    def test_nothing_is_fetched_before_a_key_is_asked_for(self, issuer: Issuer, make: Make) -> None:
        keys = make()

        with pytest.raises(KeyUnavailable):
            keys.get("k1", "ES256")
        assert issuer.requests == 0

    def test_a_published_key_is_found(self, make: Make) -> None:
        assert look_up(make()) == KEY

    def test_a_fresh_set_is_not_fetched_again(self, issuer: Issuer, make: Make, clock: Clock) -> None:
        keys = make()

        for _ in range(3):
            look_up(keys)
            clock.now += 99
        assert issuer.requests == 1

    def test_handshakes_that_arrive_together_share_one_fetch(self, issuer: Issuer, make: Make) -> None:
        keys = make()

        async def arrive() -> None:
            await asyncio.gather(*(keys.refresh("k1", "ES256") for _ in range(20)))

        asyncio.run(arrive())

        assert keys.get("k1", "ES256") == KEY
        assert issuer.requests == 1

    def test_one_that_leaves_does_not_spoil_the_fetch_for_the_others(
        self, issuer: Issuer, make: Make
    ) -> None:
        keys = make()
        issuer.gate.clear()

        async def arrive() -> None:
            first, second = (asyncio.ensure_future(keys.refresh("k1", "ES256")) for _ in range(2))
            await asyncio.to_thread(issuer.asked.wait, 5)
            first.cancel()
            issuer.gate.set()
            await second
            assert first.cancelled()

        asyncio.run(arrive())

        assert keys.get("k1", "ES256") == KEY
        assert issuer.requests == 1

    def test_a_fetch_left_behind_on_another_loop_is_not_waited_for(
        self, issuer: Issuer, make: Make, clock: Clock
    ) -> None:
        keys = make()
        loop = asyncio.new_event_loop()
        left = loop.create_task(keys.refresh("k1", "ES256"))
        issuer.gate.clear()
        loop.run_until_complete(asyncio.to_thread(issuer.asked.wait, 5))
        issuer.gate.set()
        clock.now += 30

        assert look_up(keys) == KEY
        assert issuer.requests == 2
        loop.run_until_complete(left)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class TestRotation:
    def test_an_unknown_key_makes_the_set_be_fetched_again(
        self, issuer: Issuer, make: Make, clock: Clock
    ) -> None:
        keys = make()
        look_up(keys)
        issuer.body = document(jwk("k2"))
        clock.now += 30

        assert look_up(keys, "k2") == KEY
        assert refusal_of(keys, "k1").code == "token_bad_signature"

    def test_unknown_keys_cause_no_more_than_one_fetch_in_the_cooldown(
        self, issuer: Issuer, make: Make, clock: Clock
    ) -> None:
        keys = make()
        look_up(keys)

        for number in range(60):
            clock.now += 1
            refusal_of(keys, f"unknown-{number}")
        assert issuer.requests == 3

    def test_an_unknown_key_is_refused_for_good_once_the_issuer_was_asked(
        self, make: Make, clock: Clock
    ) -> None:
        keys = make()
        look_up(keys)
        clock.now += 30

        assert refusal_of(keys, "unknown").code == "token_bad_signature"

    def test_an_unknown_key_is_refused_for_now_while_the_issuer_cannot_be_asked(
        self, issuer: Issuer, make: Make, clock: Clock
    ) -> None:
        keys = make()
        look_up(keys)
        issuer.status = 500
        clock.now += 40

        refusal = refusal_of(keys, "unknown")

        assert refusal.code == "key_unavailable"
        assert refusal.retry_after_ms == 30_000
        clock.now += 30
        issuer.status = 200
        assert refusal_of(keys, "unknown").code == "token_bad_signature"

    def test_a_withdrawn_key_serves_no_longer_than_the_lifespan(
        self, issuer: Issuer, make: Make, clock: Clock
    ) -> None:
        keys = make()
        look_up(keys)
        issuer.body = document(jwk("k2"))
        clock.now += 300

        assert refusal_of(keys, "k1").code == "token_bad_signature"

    def test_without_a_key_id_the_only_key_for_the_algorithm_is_meant(
        self, issuer: Issuer, make: Make
    ) -> None:
        issuer.body = document(jwk("k1"), jwk("k2", EDWARDS), jwk("k3", EDWARDS))
        keys = make("ES256", "EdDSA")

        assert look_up(keys, None) == KEY
        assert refusal_of(keys, None, "EdDSA").code == "token_bad_signature"


class TestOutage:
    def test_without_any_set_the_refusal_is_temporary_and_says_when_to_come_back(
        self, issuer: Issuer, make: Make, clock: Clock
    ) -> None:
        keys = make()
        issuer.status = 500

        refusal = refusal_of(keys)

        assert (refusal.code, refusal.status, refusal.retry_after_ms) == ("key_unavailable", 503, 5_000)
        issuer.status = 200
        clock.now += 4
        assert refusal_of(keys).retry_after_ms == 1_000
        clock.now += 1
        assert look_up(keys) == KEY

    def test_a_known_key_serves_on_for_an_hour(self, issuer: Issuer, make: Make, clock: Clock) -> None:
        keys = make()
        look_up(keys)
        issuer.status = 500

        clock.now += 3_599
        assert look_up(keys) == KEY
        clock.now += 1
        assert refusal_of(keys).code == "key_unavailable"

    def test_an_issuer_that_is_down_is_asked_once_in_the_cooldown(
        self, issuer: Issuer, make: Make, clock: Clock
    ) -> None:
        keys = make()
        look_up(keys)
        issuer.status = 500
        clock.now += 300

        for _ in range(60):
            look_up(keys)
            clock.now += 1
        assert issuer.requests == 3

    def test_a_slow_issuer_is_waited_for_no_longer_than_the_timeout(self, issuer: Issuer, make: Make) -> None:
        issuer.gate.clear()

        assert refusal_of(make(timeout=0.02)).code == "key_unavailable"

    def test_not_even_an_issuer_that_answers_without_end_holds_up_a_handshake(
        self, issuer: Issuer, make: Make
    ) -> None:
        issuer.gate.clear()
        issuer.drip = b"HTTP/1.1 100 Continue\r\n\r\n"

        assert refusal_of(make(timeout=0.02)).code == "key_unavailable"
        assert not issuer.left.is_set()

    def test_a_document_that_drips_is_cut_off(self, issuer: Issuer, make: Make) -> None:
        issuer.drips = True

        assert refusal_of(make(timeout=0.02)).code == "key_unavailable"
        assert issuer.left.wait(5)

    def test_a_failed_fetch_is_logged_without_its_address(
        self, issuer: Issuer, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        issuer.status = 500
        keys = KeySet(issuer.url + "?secret=1", ["ES256"], clock=clock)

        refusal_of(keys)

        assert "jwks.fetch_failed" in caplog.text
        assert "status 500" in caplog.text
        assert "secret" not in caplog.text


class TestDocument:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\xff",
            b"<html>",
            b"[" * 100_000,
            b"[]",
            b"null",
            b"{}",
            b'{"keys": 5}',
            b'{"keys": {}}',
            document(),
            document(7, None, [], "key", {}),
            document(jwk(use="enc")),
            document(jwk(alg="ES384")),
            document(jwk(x="!")),
            document(jwk(x=7)),
            document(jwk(kid=7)),
            document(jwk(kid=["k1"])),
            document({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "k1"}),
            document({**ECAlgorithm.to_jwk(PRIVATE, as_dict=True), "kid": "k1"}),
            document(jwk("k1", EDWARDS)),
        ],
        ids=range(20),
    )
    def test_without_a_usable_key_it_counts_as_an_outage(
        self, issuer: Issuer, make: Make, body: bytes
    ) -> None:
        issuer.body = body

        assert refusal_of(make()).code == "key_unavailable"

    def test_keys_that_cannot_be_used_are_passed_over(self, issuer: Issuer, make: Make) -> None:
        issuer.body = document(7, {}, jwk("k1", x="!"), jwk("k2", use="sig", alg="ES256"))
        keys = make()

        assert look_up(keys, "k2") == KEY
        assert refusal_of(keys, "k1").code == "token_bad_signature"

    def test_a_key_serves_only_the_algorithm_it_is_declared_for(self, issuer: Issuer, make: Make) -> None:
        issuer.body = document(jwk("k1", alg="ES256"), jwk("k2", EDWARDS))
        keys = make("ES256", "EdDSA")

        assert look_up(keys, "k2", "EdDSA") == EDWARDS
        assert refusal_of(keys, "k2", "ES256").code == "token_bad_signature"

    def test_of_two_keys_with_one_id_the_first_counts(self, issuer: Issuer, make: Make) -> None:
        other = ec.generate_private_key(ec.SECP256R1()).public_key()
        issuer.body = document(jwk("k1"), jwk("k1", other))

        assert look_up(make()) == KEY

    def test_a_document_that_is_too_large_is_not_read_to_its_end(self, issuer: Issuer, make: Make) -> None:
        issuer.body = document(jwk(), {"padding": "x" * 262_144})

        assert refusal_of(make()).code == "key_unavailable"

    def test_a_redirect_is_not_followed(self, issuer: Issuer, make: Make) -> None:
        issuer.status = 302

        assert refusal_of(make()).code == "key_unavailable"
        assert issuer.requests == 1


class TestAddress:
    @pytest.mark.parametrize(
        "url",
        [
            "https://issuer.example/.well-known/jwks.json",
            "http://localhost:8000/jwks",
            "http://127.0.0.1/jwks",
            "http://127.9.9.9/jwks",
            "http://[::1]:8000/jwks",
        ],
    )
    def test_https_and_loopback_are_safe(self, url: str) -> None:
        with pytest.raises(KeyUnavailable):
            KeySet(url, ["ES256"]).get("k1", "ES256")

    @pytest.mark.parametrize(
        "url",
        [
            "http://issuer.example/jwks",
            "http://127.0.0.1.evil.example/jwks",
            "http://localhost.evil.example/jwks",
            "http://10.0.0.1/jwks",
            "file:///etc/passwd",
            "ftp://127.0.0.1/jwks",
            "data:application/json,{}",
            "issuer.example/jwks",
            "https:///jwks",
            "https://user:password@issuer.example/jwks",
            "https://issuer.example:port/jwks",
            "https://[::1/jwks",
            "",
        ],
    )
    def test_everything_else_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match="jwks_url"):
            KeySet(url, ["ES256"])


class TestPrepareKey:
    def test_a_prepared_key_is_taken_by_pyjwt(self) -> None:
        token = jwt.encode({"sub": "alice"}, PRIVATE, "ES256")

        assert jwt.decode(token, prepare_key("ES256", KEY), ["ES256"]) == {"sub": "alice"}

    @pytest.mark.parametrize(
        ("algorithm", "key", "problem"),
        [
            ("ES256", "no PEM", "does not fit ES256"),
            ("ES256", EDWARDS, "does not fit ES256"),
            ("ES384", KEY, "does not fit ES384"),
            ("ES256", PRIVATE, "must be the public one"),
            ("HS256", "short", "key: "),
        ],
        ids=range(5),
    )
    def test_a_key_that_does_not_fit_is_refused(self, algorithm: str, key: Any, problem: str) -> None:
        with pytest.raises(ConfigurationError, match=problem):
            prepare_key(algorithm, key)
