"""Who comes in, and how those who may not are told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

from tests.engine.conftest import ByQuery, MakeManager, assert_empty
from wsmanager import (
    AuthenticationError,
    ConfigurationError,
    Connection,
    ConnectionManager,
    JWTAuth,
    Tier,
    WebSocketConfig,
)
from wsmanager.connections.seams import NEGOTIATED
from wsmanager.protocols import Handshake, Identity
from wsmanager.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    UVICORN,
    FakeSocket,
    HandshakeRefused,
    PeerClosed,
    Server,
    connect,
    websocket_scope,
)

pytestmark = pytest.mark.anyio

JSON, MSGPACK = "wsmanager.v1.json", "wsmanager.v1.msgpack"
SECRET = "a secret of at least 32 characters"
OURS = {"aud": "chat", "iss": "us"}
SIGNER = ed25519.Ed25519PrivateKey.generate()
PAGE = ("origin", "http://testserver")


def sign(
    key: Any = SECRET, algorithm: str = "HS256", header: dict[str, Any] | None = None, **claims: Any
) -> str:
    payload = {"sub": "ann", "exp": int(time.time()) + 600, **OURS, **claims}
    kept = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=header)


def unsigned() -> str:
    parts = {"alg": "none"}, {"sub": "ann", "exp": int(time.time()) + 600, **OURS}
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*texts, ""])


def jwt_auth(**options: Any) -> JWTAuth:
    return JWTAuth(SECRET, algorithms=["HS256"], audience="chat", issuer="us", **options)


def bearer(token: str) -> dict[str, Any]:
    return {"headers": [("authorization", f"Bearer {token}")]}


class Answer:
    """The HTTP response to a handshake."""

    def __init__(self, refused: HandshakeRefused) -> None:
        self.status = refused.status
        self.headers = dict(refused.headers)
        self.body = refused.body
        self.error: dict[str, Any] = json.loads(refused.body)["error"] if refused.body else {}


async def answer(app: Any, **options: Any) -> Answer:
    """How a plain client is refused."""
    with pytest.raises(HandshakeRefused) as caught:
        async with connect(app, **options):
            pass
    return Answer(caught.value)


async def farewell(app: Any, **options: Any) -> dict[str, Any]:
    """How a client is refused that offers our subprotocol: what it is told before the close."""
    async with connect(app, subprotocols=[JSON], **options) as peer:
        assert peer.accepted_subprotocol == JSON
        message = await peer.receive_json()
        assert message["type"] == "disconnect"
        data: dict[str, Any] = message["data"]
        assert await peer.wait_closed(5) == (data["code"], data["reason"])
        assert data["reconnect"] is (data["code"] < 4500)
        return data


# --- tokens

BAD_TOKENS: list[tuple[str, Callable[[], str]]] = [
    ("token_missing", str),
    ("token_expired", lambda: sign(exp=int(time.time()) - 60)),
    ("token_not_yet_valid", lambda: sign(nbf=int(time.time()) + 60)),
    ("token_wrong_audience", lambda: sign(aud="other")),
    ("token_wrong_issuer", lambda: sign(iss="other")),
    ("token_missing_claim", lambda: sign(aud=None)),
    ("token_missing_claim", lambda: sign(exp=None)),
    ("token_missing_claim", lambda: sign(sub=None)),
    ("token_bad_claim", lambda: sign(tenant="a\nb")),
    ("token_bad_algorithm", unsigned),
    ("token_bad_signature", lambda: sign("another secret of 32 characters, yes")),
    ("token_bad_algorithm", lambda: sign(SIGNER, "EdDSA")),
    ("token_bad_algorithm", lambda: sign(SECRET * 2, "HS512")),
    ("token_too_long", lambda: sign(filler="x" * 9_216)),
    ("token_lifetime", lambda: sign(exp=10**30)),
    ("token_malformed", lambda: sign(header={"crit": ["invented"], "invented": 1})),
    ("token_malformed", lambda: "not.a.token"),
]


class TestTokens:
    @pytest.mark.parametrize(("code", "make"), BAD_TOKENS)
    async def test_f16_each_fault_has_its_code_in_the_response_and_in_the_close(
        self, make_manager: MakeManager, code: str, make: Callable[[], str]
    ) -> None:
        manager, token = make_manager(auth=jwt_auth()), make()
        refused = await answer(manager.endpoint, **bearer(token))
        assert (refused.status, refused.error["code"]) == (401, code)
        assert refused.headers[b"www-authenticate"] == b"Bearer"
        assert refused.headers[b"content-type"] == b"application/json"
        assert int(refused.headers[b"content-length"]) == len(refused.body)
        told = await farewell(manager.endpoint, **bearer(token))
        assert (told["code"], told["reason"]) == (4500, code)
        assert manager.get_analytics().refused == {code: 2}

    @pytest.mark.parametrize("secret", ["", "ey"])
    async def test_a_refusal_repeats_nothing_of_the_token(
        self, make_manager: MakeManager, secret: str
    ) -> None:
        manager = make_manager(auth=jwt_auth())
        refused = await answer(manager.endpoint, **bearer(sign(jti="private-4711", aud="private-4711")))
        assert b"private-4711" not in refused.body

    @pytest.mark.parametrize(
        "options",
        [
            {"headers": [("authorization", "Bearer {token}")]},
            {"headers": [("authorization", "bearer  {token}")]},
            {"query": "a=1&token={token}"},
            {"subprotocols": [JSON, "wsmanager.bearer.{token}"]},
            {"headers": [("cookie", "a=1; access_token={token}"), PAGE]},
        ],
        ids=["header", "header in lower case", "query", "subprotocol", "cookie"],
    )
    async def test_a_token_may_be_in_many_places(
        self, make_manager: MakeManager, options: dict[str, Any]
    ) -> None:
        manager = make_manager(auth=jwt_auth())
        filled = json.loads(json.dumps(options).replace("{token}", sign(tenant="acme", scope="read write")))
        async with connect(manager.endpoint, **filled) as peer:
            (conn,) = manager.connections(user_id="ann", tenant="acme")
            assert conn.scopes == {"read", "write"}
            assert conn.claims.sub == "ann"
            assert peer.accepted_subprotocol in (None, JSON)

    async def test_a_place_that_is_not_configured_is_not_looked_at(self, make_manager: MakeManager) -> None:
        manager = make_manager(auth=jwt_auth(sources=["header"]))
        refused = await answer(manager.endpoint, query=f"token={sign()}")
        assert refused.error["code"] == "token_missing"

    async def test_the_first_place_in_order_decides(self, make_manager: MakeManager) -> None:
        good, bad = sign(), sign("another secret of 32 characters, yes")
        for order, taken in [(("query", "header"), True), (("header", "query"), False)]:
            manager = make_manager(auth=jwt_auth(sources=order))
            options: dict[str, Any] = {"query": f"token={good}", **bearer(bad)}
            if taken:
                async with connect(manager.endpoint, **options):
                    pass
            else:
                assert (await answer(manager.endpoint, **options)).error["code"] == "token_bad_signature"

    async def test_f46_a_wall_clock_that_jumps_changes_nothing_for_who_is_in(
        self, make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manager, real = make_manager(auth=jwt_auth()), time.time
        token = sign()
        async with connect(manager.endpoint, subprotocols=[JSON], **bearer(token)) as peer:
            await peer.receive_json()
            for hours in (1, -1):
                monkeypatch.setattr(time, "time", lambda hours=hours: real() + hours * 3600.0)
                await asyncio.sleep(20)
                await peer.send_json({"type": "ping", "id": hours})
                while (message := await peer.receive_json())["type"] != "pong":
                    assert message["type"] == "ping"
            monkeypatch.setattr(time, "time", lambda: real() + 3600.0)
            assert (await answer(manager.endpoint, **bearer(token))).error["code"] == "token_expired"


class Keys:
    """A published key set, on a real server."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": keys}).encode()
        self.requests = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(issuer.body)

            def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002  # the name in the base

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/keys"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def public(key: ed25519.Ed25519PrivateKey, kid: str) -> dict[str, Any]:
    return {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid}


class TestPublishedKeys:
    @pytest.fixture
    def issuers(self) -> Iterator[list[Keys]]:
        other = ed25519.Ed25519PrivateKey.generate()
        made = [Keys(public(SIGNER, "k1")), Keys(public(other, "k1"))]
        yield made
        for keys in made:
            keys.stop()

    async def test_f18_a_key_of_one_issuer_is_never_used_for_another(
        self, make_manager: MakeManager, issuers: list[Keys]
    ) -> None:
        token = sign(SIGNER, "EdDSA", {"kid": "k1"})
        ours, theirs = (
            make_manager(auth=JWTAuth(jwks_url=keys.url, algorithms=["EdDSA"], audience="chat", issuer="us"))
            for keys in issuers
        )
        async with connect(ours.endpoint, **bearer(token)):
            pass
        assert (await answer(theirs.endpoint, **bearer(token))).error["code"] == "token_bad_signature"

    async def test_f17_no_claim_of_a_token_says_where_keys_are_fetched(
        self, make_manager: MakeManager, issuers: list[Keys]
    ) -> None:
        ours, theirs = issuers
        manager = make_manager(auth=JWTAuth(jwks_url=ours.url, algorithms=["EdDSA"], audience="chat"))
        forged = sign(
            ed25519.Ed25519PrivateKey.generate(),
            "EdDSA",
            {"kid": "k1", "jku": theirs.url, "x5u": theirs.url, "jwk": public(SIGNER, "k1")},
            iss=theirs.url,
        )
        assert (await answer(manager.endpoint, **bearer(forged))).error["code"] == "token_bad_signature"
        assert theirs.requests == 0

    async def test_keys_that_cannot_be_had_are_no_fault_of_the_client(
        self, make_manager: MakeManager, issuers: list[Keys]
    ) -> None:
        issuers[0].body = b"down for maintenance"
        manager = make_manager(auth=JWTAuth(jwks_url=issuers[0].url, algorithms=["EdDSA"], audience="chat"))
        token = sign(SIGNER, "EdDSA", {"kid": "k1"})
        refused = await answer(manager.endpoint, **bearer(token))
        assert refused.status == 503
        assert refused.error["retry_after_ms"] > 0
        told = await farewell(manager.endpoint, **bearer(token))
        assert told["reconnect"] is True


# --- the first message


class TestFirstMessage:
    @pytest.fixture
    async def manager(self, make_manager: MakeManager) -> ConnectionManager:
        return make_manager(auth=jwt_auth(sources=["header", "message"]))

    async def test_a_token_may_follow_within_ten_seconds(self, manager: ConnectionManager) -> None:
        async with connect(manager.endpoint, subprotocols=[JSON]) as peer:
            await asyncio.sleep(9.9)
            assert manager.connections() == []
            await peer.send_json({"type": "auth", "data": {"token": sign()}})
            assert (await peer.receive_json())["type"] == "welcome"
            assert [conn.user_id for conn in manager.connections()] == ["ann"]

    async def test_a_token_in_the_handshake_spares_the_message(self, manager: ConnectionManager) -> None:
        async with connect(manager.endpoint, **bearer(sign())):
            assert len(manager.connections()) == 1

    @pytest.mark.parametrize("subprotocols", [[], [JSON]])
    async def test_f21_who_never_authenticates_is_closed_after_ten_seconds_and_leaves_nothing(
        self, manager: ConnectionManager, subprotocols: list[str]
    ) -> None:
        loop = asyncio.get_running_loop()
        async with connect(manager.endpoint, subprotocols=subprotocols) as peer:
            started = loop.time()
            assert manager.get_analytics().indexes["arrived"] == 1
            assert (await peer.wait_closed(60))[0] == 4502
            assert loop.time() - started <= 10.0
            await asyncio.sleep(0)
            assert set(manager.get_analytics().indexes.values()) == {0}

    @pytest.mark.parametrize(
        ("text", "code", "reason"),
        [
            ("not json", 4502, "never_authenticated"),
            ('{"type": "auth", "data": {"token": "' + "x" * 20_000 + '"}}', 4502, "never_authenticated"),
            ('{"type": "chat", "data": {"token": "x"}}', 4500, "token_missing"),
            ('{"type": "auth", "data": "x"}', 4500, "token_missing"),
            ('{"type": "auth", "data": {"token": "x"}}', 4500, "token_malformed"),
        ],
    )
    async def test_what_is_no_token_ends_it(
        self, manager: ConnectionManager, text: str, code: int, reason: str
    ) -> None:
        async with connect(manager.endpoint) as peer:
            await peer.send_text(text)
            assert await peer.wait_closed(1) == (code, reason)

    async def test_an_expired_one_is_told_as_in_a_header(self, manager: ConnectionManager) -> None:
        async with connect(manager.endpoint, subprotocols=[JSON]) as peer:
            await peer.send_json({"type": "auth", "data": {"token": sign(exp=int(time.time()) - 60)}})
            assert (await peer.receive_json())["data"]["reason"] == "token_expired"
            assert await peer.wait_closed(1) == (4500, "token_expired")

    async def test_an_authenticator_without_an_answer_is_never_authenticated(
        self, make_manager: MakeManager
    ) -> None:
        class Undecided:
            async def authenticate(self, handshake: Handshake) -> Identity | None:
                return None

        manager = make_manager(auth=Undecided())
        async with connect(manager.endpoint) as peer:
            await peer.send_json({"type": "hello"})
            assert (await peer.wait_closed(1))[0] == 4502

    @pytest.mark.parametrize("server", [UVICORN, HYPERCORN, GRANIAN, DAPHNE])
    async def test_who_leaves_instead_is_no_error(self, manager: ConnectionManager, server: Server) -> None:
        async with connect(manager.endpoint, server=server) as peer:
            await peer.close()
            await asyncio.sleep(0.1)
            assert peer.app_error is None
            assert manager.get_analytics().refused == {"left": 1}
            assert set(manager.get_analytics().indexes.values()) == {0}

    async def test_what_follows_the_token_is_a_message_like_any_other(
        self, manager: ConnectionManager
    ) -> None:
        async with connect(manager.endpoint) as peer:
            await peer.send_json({"type": "auth", "data": {"token": sign()}})
            await peer.send_json({"type": "ping", "id": 1})
            assert await peer.receive_json() == {"type": "pong", "data": None, "re": 1}

    async def test_messagepack_clients_send_it_as_messagepack(self, manager: ConnectionManager) -> None:
        async with connect(manager.endpoint, subprotocols=[MSGPACK]) as peer:
            await peer.send_bytes(msgspec.msgpack.encode({"type": "auth", "data": {"token": sign()}}))
            frame = await peer.receive()
            assert isinstance(frame, bytes)
            assert msgspec.msgpack.decode(frame)["type"] == "welcome"


# --- nothing of a token is logged


def as_servers_log(app: Any, lines: list[str]) -> Any:
    """`app` on a server that writes an access line, with the query, when the handshake is answered."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        async def logged(event: Any) -> None:
            if event["type"] in ("websocket.accept", "websocket.close", "websocket.http.response.start"):
                lines.append(f"{scope['path']}?{scope['query_string'].decode()}")
            await asyncio.sleep(0.01)
            await send(event)

        await app(scope, receive, logged)

    return served


class TestRedaction:
    @pytest.mark.parametrize("server", [UVICORN, DAPHNE])
    @pytest.mark.parametrize("subprotocols", [[], [JSON]])
    @pytest.mark.parametrize("good", [True, False])
    async def test_f20_no_access_line_holds_the_token_and_the_application_sees_its_query(
        self, make_manager: MakeManager, server: Server, subprotocols: list[str], good: bool
    ) -> None:
        manager, lines = make_manager(auth=jwt_auth()), list[str]()
        token = sign() if good else sign("another secret of 32 characters, yes")
        query = f"room=1&token={token}&%74oken={token}"
        scopes: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scopes.append(scope)
            await manager.endpoint(scope, receive, send)

        options: dict[str, Any] = {"query": query, "server": server, "subprotocols": subprotocols}
        if good or subprotocols:
            async with connect(as_servers_log(app, lines), **options):
                pass
        else:
            await answer(as_servers_log(app, lines), **options)
        assert lines[0] == "/?room=1&token=REDACTED&%74oken=REDACTED"
        assert not good or scopes[0]["query_string"].decode() == query

    async def test_f20_another_name_of_the_parameter_is_hidden_too(self, make_manager: MakeManager) -> None:
        manager, lines = make_manager(auth=jwt_auth(query_parameter="ticket")), list[str]()
        async with connect(as_servers_log(manager.endpoint, lines), query=f"ticket={sign()}&token=mine"):
            pass
        assert lines[0] == "/?ticket=REDACTED&token=mine"

    async def test_f20_no_log_record_holds_a_token(
        self, make_manager: MakeManager, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        bad = sign("another secret of 32 characters, yes")
        for token in (sign(), bad, sign(exp=1), "short-and-bad"):
            places: list[dict[str, Any]] = [
                bearer(token),
                {"query": f"token={token}"},
                {"subprotocols": [JSON, f"wsmanager.bearer.{token}"]},
            ]
            for place in places:
                with contextlib.suppress(HandshakeRefused, PeerClosed):
                    async with connect(make_manager(auth=jwt_auth()).endpoint, **place) as peer:
                        await peer.send_text("nonsense")
                        await asyncio.sleep(1)
            assert token not in caplog.text
            assert all(token not in repr(vars(record)) for record in caplog.records)


# --- origins


class TestOrigins:
    @pytest.mark.parametrize(
        ("origin", "allowed", "comes_in"),
        [
            (None, (), True),
            ("http://testserver", (), True),
            ("http://testserver:80", (), True),
            ("http://evil.example", (), False),
            ("null", (), False),
            ("http://testserver.evil.example", (), False),
            ("http://eviltestserver", (), False),
            ("http://testserver@evil.example", (), False),
            ("http://testserver:81", (), False),
            ("file://", (), False),
            ("http://testserver/", (), False),
            ("https://app.example.com", ("https://app.example.com",), True),
            ("http://app.example.com", ("https://app.example.com",), False),
            ("https://app.example.com.evil.example", ("https://app.example.com",), False),
            ("https://evil-app.example.com", ("https://app.example.com",), False),
            ("http://testserver", ("https://app.example.com",), False),
            ("http://anything.example", ("*",), True),
        ],
    )
    async def test_f19_a_page_comes_in_by_exact_match_alone(
        self, make_manager: MakeManager, origin: str | None, allowed: tuple[str, ...], comes_in: bool
    ) -> None:
        manager = make_manager(WebSocketConfig(allowed_origins=allowed))
        headers = [] if origin is None else [("origin", origin)]
        if comes_in:
            async with connect(manager.endpoint, headers=headers):
                pass
        else:
            refused = await answer(manager.endpoint, headers=headers)
            assert (refused.status, refused.error["code"]) == (403, "origin_refused")
            assert (await farewell(manager.endpoint, headers=headers))["code"] == 4507

    async def test_f19_a_cookie_without_an_origin_is_refused(self, make_manager: MakeManager) -> None:
        manager = make_manager(auth=jwt_auth())
        cookie = ("cookie", f"access_token={sign()}")
        refused = await answer(manager.endpoint, headers=[cookie])
        assert (refused.status, refused.error["code"]) == (403, "origin_refused")
        async with connect(manager.endpoint, headers=[cookie, PAGE]):
            pass

    async def test_f19_an_origin_is_looked_at_before_any_credentials(self, make_manager: MakeManager) -> None:
        asked: list[Handshake] = []

        class Curious(ByQuery):
            async def authenticate(self, handshake: Handshake) -> Identity:
                asked.append(handshake)
                return await super().authenticate(handshake)

        manager = make_manager(auth=Curious())
        assert (await answer(manager.endpoint, headers=[("origin", "http://evil.example")])).status == 403
        assert asked == []


# --- an authenticator that fails


class Broken:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def authenticate(self, handshake: Handshake) -> Identity | None:
        raise self.error


class TestFaultyAuthenticators:
    @pytest.mark.parametrize(
        "error",
        [KeyError("database at db7:5432"), TimeoutError("db7"), asyncio.CancelledError("db7")],
        ids=lambda error: type(error).__name__,
    )
    async def test_an_unexpected_exception_is_a_503_and_nothing_leaks(
        self, make_manager: MakeManager, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        manager = make_manager(auth=Broken(error))
        refused = await answer(manager.endpoint)
        assert (refused.status, refused.error["code"]) == (503, "server_error")
        assert refused.headers[b"retry-after"] == b"1"
        assert b"db7" not in refused.body
        told = await farewell(manager.endpoint)
        assert (told["code"], told["after_ms"]) == (4004, 1_000)
        assert caplog.text.count("auth.failed") == 2

    async def test_what_an_authenticator_says_of_a_token_is_not_logged(
        self, make_manager: MakeManager, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Talkative:
            async def authenticate(self, handshake: Handshake) -> Identity | None:
                try:
                    raise ValueError(handshake.query["token"])
                except ValueError as error:
                    raise LookupError(f"no user for {handshake.query['token']}") from error

        manager = make_manager(auth=Talkative())
        assert (await answer(manager.endpoint, query="token=s3cr3t-token")).status == 503
        assert "s3cr3t-token" not in caplog.text
        assert "in authenticate" in caplog.text
        assert "LookupError" in caplog.text

    async def test_one_that_hangs_is_given_up(self, make_manager: MakeManager) -> None:
        class Hanging:
            async def authenticate(self, handshake: Handshake) -> Identity | None:
                await asyncio.sleep(3600)
                return None

        manager, loop = make_manager(auth=Hanging()), asyncio.get_running_loop()
        started = loop.time()
        assert (await answer(manager.endpoint)).status == 503
        assert loop.time() - started <= 10

    async def test_a_refusal_of_ones_own_is_told_as_it_is(self, make_manager: MakeManager) -> None:
        manager = make_manager(
            auth=Broken(AuthenticationError("Pay first.", code="unpaid", retry_after_ms=1500))
        )
        refused = await answer(manager.endpoint)
        assert refused.status == 401
        assert refused.error == {"code": "unpaid", "message": "Pay first.", "retry_after_ms": 1500}
        assert refused.headers[b"retry-after"] == b"2"

    @pytest.mark.parametrize("user", ["", "x" * 256, "a\nb", "\ud800"])
    async def test_a_name_that_no_log_could_show_is_refused(
        self, make_manager: MakeManager, user: str
    ) -> None:
        class Careless:
            async def authenticate(self, handshake: Handshake) -> Identity | None:
                return Identity("ann", tenant=user) if handshake.query else Identity(user)

        manager = make_manager(auth=Careless())
        assert (await answer(manager.endpoint)).error["code"] == "bad_name"
        assert (await answer(manager.endpoint, query="tenant=1")).error["code"] == "bad_name"


# --- anonymous users


class TestAnonymousUsers:
    async def test_each_is_of_one_connection(self, make_manager: MakeManager) -> None:
        manager = make_manager()
        async with connect(manager.endpoint), connect(manager.endpoint):
            conns = manager.connections()
            assert [conn.user_id for conn in conns] == [f"anon:{conn.id}" for conn in conns]
            assert len({conn.id for conn in conns}) == 2

    async def test_nothing_is_kept_for_them(self, make_manager: MakeManager) -> None:
        manager = make_manager()
        report = await manager.send_personal_message("anon:anything", {"type": "x"})
        assert (report.kept, report.offline) == (0, 1)
        assert manager.get_analytics().offline_users == 0

    async def test_where_users_are_known_a_name_like_theirs_is_a_user_like_any_other(
        self, make_manager: MakeManager
    ) -> None:
        manager = make_manager(auth=ByQuery())
        assert (await manager.send_personal_message("anon:5", {"type": "x"})).kept == 1
        async with connect(manager.endpoint, query="user=anon:5") as peer:
            assert await peer.receive_json() == {"type": "x"}

    async def test_a_server_without_authentication_says_so_once(
        self, make_manager: MakeManager, caplog: pytest.LogCaptureFixture
    ) -> None:
        manager = make_manager()
        assert caplog.text == ""
        for _ in range(3):
            async with connect(manager.endpoint):
                pass
        assert caplog.text.count("auth.none") == 1


# --- limits


class TestLimits:
    async def test_f28_connections_of_a_user(self, make_manager: MakeManager) -> None:
        manager = make_manager(WebSocketConfig(max_connections_per_user=2), auth=ByQuery())
        async with connect(manager.endpoint, query="user=a"), connect(manager.endpoint, query="user=a"):
            refused = await answer(manager.endpoint, query="user=a")
            assert (refused.status, refused.error["code"]) == (429, "user_limit")
            assert (await farewell(manager.endpoint, query="user=a"))["code"] == 4504
            async with (
                connect(manager.endpoint, query="user=b"),
                connect(manager.endpoint, query="user=a&tenant=t"),
            ):
                pass
        async with connect(manager.endpoint, query="user=a"):
            pass

    async def test_f28_connections_of_an_address_are_refused_before_any_work_on_credentials(
        self, make_manager: MakeManager
    ) -> None:
        manager = make_manager(WebSocketConfig(max_connections_per_ip=2), auth=jwt_auth())
        good, here = bearer(sign()), ("10.0.0.1", 1)
        async with (
            connect(manager.endpoint, client=here, **good),
            connect(manager.endpoint, client=here, **good),
        ):
            refused = await answer(manager.endpoint, client=here, **bearer("rubbish"))
            assert (refused.status, refused.error["code"]) == (429, "address_limit")
            async with connect(manager.endpoint, client=("10.0.0.2", 1), **good):
                pass

    async def test_f28_connections_of_a_tenant(self, make_manager: MakeManager) -> None:
        manager = make_manager(WebSocketConfig(max_connections_per_tenant=1), auth=ByQuery())
        async with connect(manager.endpoint, query="user=a&tenant=t"):
            refused = await answer(manager.endpoint, query="user=b&tenant=t")
            assert (refused.status, refused.error["code"]) == (429, "tenant_limit")
            async with connect(manager.endpoint, query="user=b&tenant=u"):
                pass

    async def test_f28_connections_of_the_process(self, make_manager: MakeManager) -> None:
        manager = make_manager(WebSocketConfig(max_connections=1), auth=jwt_auth())
        async with connect(manager.endpoint, **bearer(sign())):
            refused = await answer(manager.endpoint, **bearer("rubbish"))
            assert (refused.status, refused.error["code"]) == (503, "node_full")
            assert (await farewell(manager.endpoint))["reconnect"] is True

    async def test_f28_a_server_without_the_denial_extension_answers_403(
        self, make_manager: MakeManager
    ) -> None:
        manager = make_manager(WebSocketConfig(max_connections=1), auth=ByQuery())
        async with connect(manager.endpoint, server=DAPHNE):
            refused = await answer(manager.endpoint, server=DAPHNE)
            assert (refused.status, refused.body) == (403, b"")
            assert (await farewell(manager.endpoint, server=HYPERCORN))["reason"] == "node_full"

    async def test_sockets_that_have_not_authenticated_yet_count(self, make_manager: MakeManager) -> None:
        config = WebSocketConfig(max_connections_per_ip=1)
        manager = make_manager(config, auth=jwt_auth(sources=["message"]))
        async with connect(manager.endpoint):
            assert (await answer(manager.endpoint)).error["code"] == "address_limit"

    async def test_the_oldest_may_give_way(self, make_manager: MakeManager) -> None:
        config = WebSocketConfig(max_connections_per_user=2, over_limit="replace_oldest")
        manager = make_manager(config, auth=ByQuery())
        app = manager.endpoint
        async with connect(app) as first, connect(app) as second, connect(app) as third:
            assert await first.wait_closed(1) == (4503, "replaced")
            assert not second.closed
            assert not third.closed
            assert len(manager.connections(user_id="alice")) == 2

    async def test_the_oldest_does_not_give_way_to_one_that_is_refused_for_its_id(
        self, make_manager: MakeManager
    ) -> None:
        config = WebSocketConfig(max_connections_per_user=1, over_limit="replace_oldest")
        manager = make_manager(config)
        socket = FakeSocket()
        engine = manager.engine
        conn = await engine.admission.enter(
            socket.scope, socket.receive, socket.send, user_id="a", connection_id="c"
        )
        with pytest.raises(ValueError, match="in use"):
            await engine.admission.enter(
                socket.scope, socket.receive, socket.send, user_id="a", connection_id="c"
            )
        assert manager.connections() == [conn]
        await conn.close()

    async def test_one_that_is_replaced_while_it_is_accepted_never_opens(
        self, make_manager: MakeManager
    ) -> None:
        config = WebSocketConfig(max_connections_per_user=1, over_limit="replace_oldest")
        manager, opened = make_manager(config, auth=ByQuery()), []
        may_accept = asyncio.Event()

        @manager.on_connect
        async def greet(conn: Connection) -> None:
            opened.append(conn)

        async def slowly_accepted(scope: Any, receive: Any, send: Any) -> None:
            async def slow(event: Any) -> None:
                if event["type"] == "websocket.accept":
                    await may_accept.wait()
                await send(event)

            await manager.endpoint(scope, receive, slow)

        async def be_first() -> tuple[int, str]:
            async with connect(slowly_accepted, subprotocols=[JSON]) as peer:
                return await peer.wait_closed(5)

        first = asyncio.create_task(be_first())
        await asyncio.sleep(1)
        async with connect(manager.endpoint) as second:
            may_accept.set()
            assert await first == (4503, "replaced")
            assert len(opened) == len(manager.connections()) == 1
            assert manager.get_analytics().indexes["arrived"] == 1
            assert not second.closed

    async def test_a_tier_has_a_limit_of_its_own(self, make_manager: MakeManager) -> None:
        tiers = {"free": Tier(max_connections=1), "pro": Tier(max_connections=3)}
        config = WebSocketConfig(tiers=tiers, max_connections_per_user=2)
        manager = make_manager(config, auth=ByQuery())
        async with connect(manager.endpoint, query="user=a&tier=free"):
            assert (await answer(manager.endpoint, query="user=a&tier=free")).error["code"] == "user_limit"
        app, pro = manager.endpoint, "user=b&tier=pro"
        async with connect(app, query=pro), connect(app, query=pro), connect(app, query=pro):
            assert (await answer(app, query=pro)).error["code"] == "user_limit"


class TestHandshakeRate:
    async def comes_in(self, manager: ConnectionManager, address: str) -> bool:
        try:
            async with connect(manager.endpoint, client=(address, 1)):
                return True
        except HandshakeRefused as refused:
            code = Answer(refused).error["code"]
        return bool(code != "too_many_handshakes")

    async def test_f28_an_address_has_a_hundred_at_once_and_three_hundred_a_minute(
        self, make_manager: MakeManager
    ) -> None:
        manager = make_manager()
        assert [await self.comes_in(manager, "10.0.0.1") for _ in range(101)] == [True] * 100 + [False]
        assert await self.comes_in(manager, "10.0.0.2")
        await asyncio.sleep(1)
        assert [await self.comes_in(manager, "10.0.0.1") for _ in range(6)] == [True] * 5 + [False]
        refused = await answer(manager.endpoint, client=("10.0.0.1", 1))
        assert refused.status == 429
        assert 0 < refused.error["retry_after_ms"] <= 201
        assert refused.headers[b"retry-after"] == b"1"
        assert (await farewell(manager.endpoint, client=("10.0.0.1", 1)))["code"] == 4029

    async def test_a_refused_handshake_counts_too(self, make_manager: MakeManager) -> None:
        manager = make_manager(WebSocketConfig(handshake_burst=2), auth=jwt_auth())
        codes = [(await answer(manager.endpoint)).error["code"] for _ in range(3)]
        assert codes == ["token_missing", "token_missing", "too_many_handshakes"]

    async def test_some_networks_are_exempt(self, make_manager: MakeManager) -> None:
        config = WebSocketConfig(handshake_burst=1, handshake_exempt=("10.0.0.0/8", "fd00::/8"))
        manager = make_manager(config)
        for address in ("10.1.2.3", "fd00::1", "::ffff:10.1.2.3"):
            assert [await self.comes_in(manager, address) for _ in range(3)] == [True] * 3
        for address in ("11.1.2.3", "::ffff:11.1.2.4", "2001:db8::1", "a socket file"):
            assert [await self.comes_in(manager, address) for _ in range(3)] == [True, False, False]

    @pytest.mark.parametrize("client", [None, ("", 0)])
    async def test_without_an_address_there_is_no_limit(
        self, make_manager: MakeManager, client: tuple[str, int] | None
    ) -> None:
        manager = make_manager(WebSocketConfig(handshake_burst=1, max_connections_per_ip=1))
        async with connect(manager.endpoint, client=client), connect(manager.endpoint, client=client):
            assert manager.get_analytics().indexes["addresses"] == 0

    def test_a_network_that_is_none_is_named(self) -> None:
        with pytest.raises(ConfigurationError, match="handshake_exempt: 'office'"):
            ConnectionManager(WebSocketConfig(handshake_exempt=("office",)))


# --- subprotocols


class TestSubprotocols:
    @pytest.mark.parametrize(
        ("offered", "chosen"),
        [
            ([], None),
            (["chat"], None),
            ([JSON], JSON),
            ([MSGPACK, JSON], MSGPACK),
            (["chat", JSON], JSON),
            (["wsmanager.v2.json"], None),
            ([JSON.upper()], None),
            (["wsmanager.bearer.abc"], None),
            (["chät", "\udc80", "", "a b"], None),
        ],
    )
    async def test_f15_only_one_that_was_offered_is_chosen(
        self, make_manager: MakeManager, offered: list[str], chosen: str | None
    ) -> None:
        manager = make_manager()
        scope = websocket_scope()
        scope["subprotocols"] = offered  # as granian hands it over, whatever the bytes were
        async with connect(replaced(manager.endpoint, scope)) as peer:
            assert peer.accepted_subprotocol == chosen
            (conn,) = manager.connections()
            assert bool(conn.flags & NEGOTIATED) is (chosen is not None)

    async def test_who_negotiates_is_welcomed_first(self, make_manager: MakeManager) -> None:
        manager = make_manager(auth=ByQuery())
        await manager.send_personal_message("alice", {"type": "kept"})
        async with connect(manager.endpoint, subprotocols=[JSON]) as peer:
            welcome = await peer.receive_json()
            (conn,) = manager.connections()
            assert welcome["type"] == "welcome"
            assert welcome["data"] == {
                "connection_id": conn.id,
                "heartbeat_ms": 30_000,
                "max_message_size": 1_048_576,
            }
            assert await peer.receive_json() == {"type": "kept"}

    async def test_who_does_not_hears_nothing_unasked(self, make_manager: MakeManager) -> None:
        manager = make_manager()
        async with connect(manager.endpoint) as peer:
            await asyncio.sleep(100)
            assert peer.frames == []

    async def test_the_first_codec_serves_who_names_none(self, make_manager: MakeManager) -> None:
        from wsmanager.wire.codecs import MessagePackCodec

        manager = make_manager(codecs=[MessagePackCodec()])
        async with connect(manager.endpoint) as peer:
            await peer.send_text('{"type": "ping"}')
            assert isinstance(await peer.receive(), bytes)
        with pytest.raises(ConfigurationError, match="codecs="):
            ConnectionManager(codecs=[])


def replaced(app: Any, scope: dict[str, Any]) -> Any:
    async def served(original: dict[str, Any], receive: Any, send: Any) -> None:
        original["subprotocols"] = scope["subprotocols"]
        await app(original, receive, send)

    return served


# --- no ghosts


class Slow(ByQuery):
    """Suspends several times on its way to an answer."""

    async def authenticate(self, handshake: Handshake) -> Identity:
        for _ in range(3):
            await asyncio.sleep(0)
        return await super().authenticate(handshake)


class TestNoGhosts:
    @pytest.mark.parametrize(
        "auth", [None, Slow(), jwt_auth(sources=["message"])], ids=["none", "slow", "message"]
    )
    @pytest.mark.parametrize("offers", [[], [JSON]])
    async def test_f47_a_cancellation_at_any_await_of_the_handshake_leaves_nothing(
        self, make_manager: MakeManager, auth: Any, offers: list[str]
    ) -> None:
        manager = make_manager(auth=auth)
        manager.on_connect(wait_a_turn)
        manager.on_disconnect(wait_a_turn)
        for steps in range(25):
            socket = FakeSocket(websocket_scope(subprotocols=offers))

            async def slow_send(event: Any, socket: FakeSocket = socket) -> None:
                await asyncio.sleep(0)
                await socket.send(event)

            socket.feed_text(json.dumps({"type": "auth", "data": {"token": sign()}}))
            task = asyncio.create_task(manager.endpoint(socket.scope, socket.receive, slow_send))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(5)
            assert_empty(manager)

    @pytest.mark.parametrize("sends", [0, 1, 2, 100])
    @pytest.mark.parametrize("offers", [[], [JSON]])
    @pytest.mark.parametrize("auth", [Slow(), Broken(AuthenticationError("no"))], ids=["good", "bad"])
    async def test_a_client_that_is_gone_before_the_answer_is_no_error(
        self, make_manager: MakeManager, sends: int, offers: list[str], auth: Any
    ) -> None:
        manager, socket = make_manager(auth=auth), FakeSocket(websocket_scope(subprotocols=offers))

        async def send(event: Any) -> None:
            await socket.send(event)
            if socket.sent > sends:
                raise ConnectionResetError("the client is gone")

        socket.disconnect(1006)
        await manager.endpoint(socket.scope, socket.receive, send)
        assert not manager.engine.encodings.in_use

    async def test_a_client_that_does_not_read_its_refusal_is_not_waited_for(
        self, make_manager: MakeManager
    ) -> None:
        manager = make_manager(auth=jwt_auth())
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def stuck(scope: Any, receive: Any, send: Any) -> None:
            async def blocked(event: Any) -> None:
                if event["type"] == "websocket.send":
                    await asyncio.sleep(3600)
                await send(event)

            await manager.endpoint(scope, receive, blocked)

        async with connect(stuck, subprotocols=[JSON]) as peer:
            await peer.wait_closed(60)
        assert loop.time() - started <= 5.0

    async def test_f49_a_connection_id_that_is_in_use_is_an_error_and_harms_nobody(
        self, make_manager: MakeManager
    ) -> None:
        manager = make_manager()
        first, second = FakeSocket(), FakeSocket()
        enter = manager.engine.admission.enter
        conn = await enter(first.scope, first.receive, first.send, user_id="a", connection_id="same")
        with pytest.raises(ValueError, match="'same' is in use"):
            await enter(second.scope, second.receive, second.send, user_id="b", connection_id="same")
        assert manager.connections() == [conn]
        assert second.sent == 0
        await conn.close()

    async def test_ids_of_the_server_are_never_the_same(self, make_manager: MakeManager) -> None:
        manager = make_manager()
        seen: set[str] = set()
        for _ in range(50):
            async with connect(manager.endpoint):
                seen.update(conn.id for conn in manager.connections())
        assert len(seen) == 50


async def wait_a_turn(conn: Connection) -> None:
    await asyncio.sleep(0)


# --- rooms a client may not see, and other rows of the catalogue


async def test_f26_a_room_that_is_absent_and_one_that_is_forbidden_answer_alike(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint, query="user=a") as peer, connect(manager.endpoint, query="user=b"):
        (other,) = manager.connections(user_id="b")
        await manager.join_session(other, "secret")
        errors = []
        for room in ("secret", "absent"):
            await peer.send_json({"type": "session.join", "data": {"room": room}, "id": 1})
            errors.append(await peer.receive_json())
        assert errors[0] == errors[1]
        assert errors[0]["data"]["code"] == "forbidden"


async def test_f24_a_connection_id_is_no_credential(make_manager: MakeManager) -> None:
    manager = make_manager(auth=jwt_auth())
    async with connect(manager.endpoint, subprotocols=[JSON], **bearer(sign())) as peer:
        welcome = await peer.receive_json()
        known = welcome["data"]["connection_id"]
        for options in ({"query": f"token={known}"}, {"query": f"connection_id={known}"}, bearer(known)):
            assert (await answer(manager.endpoint, **options)).status == 401


async def test_what_is_no_websocket_is_told_to_upgrade(make_manager: MakeManager) -> None:
    manager, events = make_manager(), []

    async def send(event: Any) -> None:
        events.append(event)

    async def receive() -> Any:
        return {"type": "http.request"}

    await manager.endpoint({"type": "http"}, receive, send)
    assert events[0]["status"] == 426


async def test_a_handshake_that_ends_before_it_began_is_nothing(make_manager: MakeManager) -> None:
    manager = make_manager()
    socket = FakeSocket()

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1006}

    await manager.endpoint(socket.scope, receive, socket.send)
    assert socket.sent == 0
