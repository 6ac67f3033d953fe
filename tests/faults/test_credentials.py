"""Forged tokens, foreign pages, clocks that are set: who comes in, and who does not."""

from __future__ import annotations

import ast
import asyncio
import base64
import json
import time
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

import wsmanager
from tests.engine.auth.test_gate import Keys, answer, bearer
from tests.engine.conftest import ByQuery, MakeManager, ask
from tests.faults.doors import EVERY_DOOR, Door
from tests.processes import ROOT
from wsmanager import ConnectionManager, JWTAuth, WebSocketConfig
from wsmanager.protocols import Handshake, Identity
from wsmanager.testing import HandshakeRefused, VirtualTimeLoop, connect

pytestmark = pytest.mark.anyio

SECRET = "a secret of at least 32 characters"
OURS, THEIRS = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
LARGE = rsa.generate_private_key(65_537, 2_048)
PEM = OURS.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
JWK: dict[str, Any] = {**ECAlgorithm.to_jwk(OURS.public_key(), as_dict=True), "kid": "ours"}


def payload() -> dict[str, Any]:
    return {"sub": "ann", "exp": int(time.time()) + 600}


def segment(data: Any) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(header: dict[str, Any], sign: Callable[[bytes], bytes] = lambda _: b"") -> str:
    """A token that no library would make."""
    signed = f"{segment(header)}.{segment(payload())}"
    return f"{signed}.{segment(sign(signed.encode()))}"


def hmac(key: bytes) -> Callable[[bytes], bytes]:
    return lambda signed: jwt.get_algorithm_by_name("HS256").sign(signed, key)


def good(algorithm: str, **header: Any) -> str:
    key: Any = {"HS256": SECRET, "ES256": OURS, "RS256": LARGE}[algorithm]
    return jwt.encode(payload(), key, algorithm=algorithm, headers=header)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are fetched in threads, and that may take its time on a busy machine."""
    monkeypatch.setattr(VirtualTimeLoop, "patience", 10.0)


@pytest.fixture
def published() -> Iterator[Keys]:
    """A key set with our key, and with keys of other kinds that nobody should get in by."""
    keys = Keys(
        JWK,
        {**RSAAlgorithm.to_jwk(LARGE.public_key(), as_dict=True), "kid": "large"},
        {"kty": "oct", "k": segment(SECRET.encode()), "kid": "shared"},
        {"kty": "oct", "k": segment(SECRET.encode()), "kid": "pretended", "alg": "ES256"},
    )
    yield keys
    keys.stop()


# --- f16: the algorithm is ours to choose

FORGED: dict[str, Callable[[], str]] = {
    **{
        f"alg {alg}": partial(forge, {"alg": alg, "kid": "ours"})
        for alg in ("none", "None", "NONE", "nOnE", "", None, 0, ["HS256"])
    },
    "no alg": lambda: forge({"kid": "ours"}),
    "none, with a signature": lambda: forge({"alg": "none", "kid": "ours"}, hmac(SECRET.encode())),
    "the public key as a secret": lambda: forge({"alg": "HS256"}, hmac(PEM)),
    "the published key as a secret": lambda: forge(
        {"alg": "HS256", "kid": "ours"}, hmac(json.dumps(JWK).encode())
    ),
    "a secret among the published keys": lambda: forge(
        {"alg": "HS256", "kid": "shared"}, hmac(SECRET.encode() * 2)
    ),
    "a secret that pretends to be public": lambda: forge(
        {"alg": "ES256", "kid": "pretended"}, hmac(b"x" * 32)
    ),
    "a published key of another algorithm": lambda: good("RS256", kid="large"),
    "the same, called ours": lambda: good("RS256", kid="ours"),
    "a key that the token brings": lambda: jwt.encode(
        payload(),
        THEIRS,
        algorithm="ES256",
        headers={"jwk": ECAlgorithm.to_jwk(THEIRS.public_key(), as_dict=True)},
    ),
}
CRITICAL = [
    {"crit": ["invented"], "invented": 1},
    {"crit": ["exp"], "exp": 1},
    {"crit": ["b64"], "b64": False},
    {"crit": []},
    {"crit": "invented"},
    {"crit": {"invented": 1}},
]
SERVERS = ("secret", "public key", "published keys")


def authenticator(server: str, published: Keys) -> tuple[JWTAuth, str]:
    """One that takes a single algorithm, and its name."""
    if server == "secret":
        return JWTAuth(SECRET, algorithms=["HS256"]), "HS256"
    if server == "public key":
        return JWTAuth(PEM, algorithms=["ES256"]), "ES256"
    return JWTAuth(jwks_url=published.url, algorithms=["ES256"]), "ES256"


@pytest.mark.parametrize("server", SERVERS)
async def test_f16_no_forged_token_comes_in(make_manager: MakeManager, published: Keys, server: str) -> None:
    auth, algorithm = authenticator(server, published)
    manager = make_manager(auth=auth)
    async with connect(manager.endpoint, **bearer(good(algorithm, kid="ours"))):
        pass
    for name, make in FORGED.items():
        refused = await answer(manager.endpoint, **bearer(make()))
        assert refused.status == 401, name
        known = {"token_bad_algorithm", "token_bad_signature", "token_malformed"}
        assert refused.error["code"] in known, name


@pytest.mark.parametrize("declared", [{}, {"alg": "RS256"}, {"alg": "PS256"}], ids=str)
@pytest.mark.parametrize("server", SERVERS)
async def test_f16_the_right_key_excuses_no_other_algorithm(
    make_manager: MakeManager, server: str, declared: dict[str, str]
) -> None:
    jwk = {**RSAAlgorithm.to_jwk(LARGE.public_key(), as_dict=True), "kid": "large", **declared}
    keys = Keys(jwk, {**jwk, "kid": "ours", "alg": "RS256"})
    try:
        if server == "published keys":
            auth = JWTAuth(jwks_url=keys.url, algorithms=["RS256"])
        elif server == "public key":
            auth = JWTAuth(LARGE.public_key(), algorithms=["RS256"])
        else:
            auth = JWTAuth(SECRET * 2, algorithms=["HS256"])
        key, algorithm = (SECRET * 2, "HS512") if server == "secret" else (LARGE, "PS256")
        token = jwt.encode(payload(), key, algorithm=algorithm, headers={"kid": "large"})
        refused = await answer(make_manager(auth=auth).endpoint, **bearer(token))
        assert (refused.status, refused.error["code"]) == (401, "token_bad_algorithm")
    finally:
        keys.stop()


@pytest.mark.parametrize("header", CRITICAL, ids=str)
@pytest.mark.parametrize("server", SERVERS)
async def test_f16_a_good_signature_excuses_no_critical_header(
    make_manager: MakeManager, published: Keys, server: str, header: dict[str, Any]
) -> None:
    auth, algorithm = authenticator(server, published)
    key: Any = SECRET.encode() if algorithm == "HS256" else OURS
    handler = jwt.get_algorithm_by_name(algorithm)
    token = forge({"alg": algorithm, "kid": "ours", **header}, lambda signed: handler.sign(signed, key))
    refused = await answer(make_manager(auth=auth).endpoint, **bearer(token))
    assert (refused.status, refused.error["code"]) == (401, "token_malformed")


def test_f16_no_pyjwt_with_known_holes_can_be_installed() -> None:
    # Before 2.12 it knew no `crit` (CVE-2026-32597), before 2.13 a PyJWK got round the allow-list
    # (CVE-2026-48523), before 2.15 a nested header ended in a RecursionError.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["crypto"]]
    floors = [text for text in required if text.startswith("pyjwt")]
    assert len(floors) == 2
    assert all(">=2.15" in text for text in floors)


# --- f17, f18: keys


async def test_f17_not_one_request_goes_where_an_unverified_token_points(
    make_manager: MakeManager, published: Keys
) -> None:
    theirs = Keys({**ECAlgorithm.to_jwk(THEIRS.public_key(), as_dict=True), "kid": "theirs"})
    try:
        manager = make_manager(auth=JWTAuth(jwks_url=published.url, algorithms=["ES256"], issuer="us"))
        for kid in ("ours", "theirs", theirs.url, f"../../{theirs.url}"):
            header = {"kid": kid, "jku": theirs.url, "x5u": theirs.url}
            claims = {**payload(), "iss": theirs.url, "jwks_uri": theirs.url}
            token = jwt.encode(claims, THEIRS, algorithm="ES256", headers=header)
            assert (await answer(manager.endpoint, **bearer(token))).status == 401
        assert theirs.requests == 0
        assert published.requests == 1
    finally:
        theirs.stop()


async def test_f18_keys_of_one_id_are_kept_apart_by_issuer_in_any_order(
    make_manager: MakeManager, published: Keys
) -> None:
    theirs = Keys({**ECAlgorithm.to_jwk(THEIRS.public_key(), as_dict=True), "kid": "ours"})
    try:
        managers = [
            make_manager(auth=JWTAuth(jwks_url=keys.url, algorithms=["ES256"]))
            for keys in (published, theirs)
        ]
        tokens = [
            jwt.encode(payload(), key, algorithm="ES256", headers={"kid": "ours"}) for key in (OURS, THEIRS)
        ]
        for _ in range(2):  # with cold caches, and with warm ones
            for one, other in ((0, 1), (1, 0)):
                async with connect(managers[one].endpoint, **bearer(tokens[one])):
                    pass
                refused = await answer(managers[one].endpoint, **bearer(tokens[other]))
                assert (refused.status, refused.error["code"]) == (401, "token_bad_signature")
    finally:
        theirs.stop()


# --- f19: pages of other sites

APP = "https://app.example.com"
FOREIGN = [
    "https://evil.example",
    "null",
    f"{APP}.evil.example",
    "https://evil-app.example.com",
    f"{APP}@evil.example",
    f"{APP}:8443",
    f"{APP}/",
    f"{APP} https://evil.example",
    "http://app.example.com",
    "https://app.example.com.",
    "https://APP.example.com\u0130",
    "",
]


@EVERY_DOOR
@pytest.mark.parametrize("origin", [*FOREIGN, None])
async def test_f19_no_foreign_page_comes_in_with_a_cookie(
    make_manager: MakeManager, door: Door, origin: str | None
) -> None:
    accepted = await tried(make_manager, door, origin, cookie=True)
    assert accepted is False
    assert await tried(make_manager, door, APP, cookie=True)
    assert await tried(make_manager, door, origin, cookie=False) is (origin is None)


async def tried(make_manager: MakeManager, door: Door, origin: str | None, *, cookie: bool) -> bool:
    """Whether a socket was opened; who is kept out is told so before the acceptance."""
    manager = make_manager(
        WebSocketConfig(allowed_origins=(APP,)), auth=JWTAuth(SECRET, algorithms=["HS256"])
    )
    token = good("HS256")
    headers: list[tuple[str | bytes, str | bytes]] = [
        ("cookie", f"access_token={token}") if cookie else ("authorization", f"Bearer {token}")
    ]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    if origin == APP or (origin is None and not cookie):
        async with connect(door(manager), headers=headers):
            return True
    refused = await answer(door(manager), headers=headers)
    assert (refused.status, refused.error["code"]) == (403, "origin_refused")
    return False


@EVERY_DOOR
@pytest.mark.parametrize("origin", FOREIGN)
async def test_f19_a_foreign_page_is_refused_before_anybody_asks_who_it_is(
    make_manager: MakeManager, door: Door, origin: str
) -> None:
    class Curious:
        asked = 0

        async def authenticate(self, handshake: Handshake) -> Identity:
            self.asked += 1
            return Identity("ann")

    auth = Curious()
    manager = make_manager(WebSocketConfig(allowed_origins=(APP,)), auth=auth)
    refused = await answer(door(manager), headers=[(b"origin", origin.encode())])
    assert (refused.status, auth.asked) == (403, 0)


# --- f21: who never authenticates


async def test_f21_a_crowd_that_never_authenticates_is_gone_after_ten_seconds(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=JWTAuth(SECRET, algorithms=["HS256"], sources=["message"]))
    before = len(asyncio.all_tasks())

    async def loiter() -> int:
        async with connect(manager.endpoint) as peer:
            return (await peer.wait_closed(60))[0]

    started = asyncio.get_running_loop().time()
    crowd = [asyncio.create_task(loiter()) for _ in range(100)]
    await asyncio.sleep(5)
    assert manager.get_analytics().indexes["arrived"] == 100
    assert manager.connections() == []
    assert set(await asyncio.gather(*crowd)) == {4502}
    assert asyncio.get_running_loop().time() - started <= 10.1
    assert set(manager.get_analytics().indexes.values()) == {0}
    assert len(asyncio.all_tasks()) == before


# --- f46: the wall clock


def test_f46_the_wall_clock_is_read_for_tokens_and_for_nothing_else() -> None:
    package = Path(wsmanager.__file__).parent
    readers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if _reads_wall_clock(node)
    }
    assert {reader for reader in readers if not reader.startswith("testing/")} == {"auth/jwt.py"}


def _reads_wall_clock(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "datetime" or (
            node.module == "time" and any(name.name in {"time", "time_ns"} for name in node.names)
        )
    if isinstance(node, ast.Import):
        return any(name.name == "datetime" for name in node.names)
    return (
        isinstance(node, ast.Attribute)
        and node.attr in {"time", "time_ns"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
    )


@pytest.mark.parametrize("hours", [1, -1])
async def test_f46_windows_and_lifetimes_do_not_move_with_the_wall_clock(
    make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    config = WebSocketConfig(rate_limit_max=2, handshake_burst=3, handshake_rate=0.001, offline_ttl=1_800)
    manager, real = make_manager(config, auth=ByQuery()), time.time
    manager.on("x")(nothing)
    await manager.send_personal_message("bob", {"type": "kept"})
    async with connect(manager.endpoint, subprotocols=["wsmanager.v1.json"]) as peer:
        await peer.receive_json()
        for id in (1, 2):
            assert (await ask(peer, "x", id=id))["type"] == "reply"
        monkeypatch.setattr(time, "time", lambda: real() + hours * 3_600.0)
        assert (await ask(peer, "x", id=3))["data"]["code"] == "rate_limited"
        async with connect(manager.endpoint, query="user=bob") as bob:
            assert await bob.receive_json() == {"type": "kept"}
        async with connect(manager.endpoint):
            pass
        assert (await answer(manager.endpoint)).error["code"] == "too_many_handshakes"
        await asyncio.sleep(25)
        assert not peer.closed
        assert manager.get_analytics().loop_stalls == 0
        await asyncio.sleep(40)
        assert peer.close_code == 4012  # 40 to 45 seconds after its last word, neither at once nor never


async def nothing(conn: wsmanager.Connection) -> None: ...


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": -9}, None),
        ({"exp": -11}, "token_expired"),
        ({"nbf": 9}, None),
        ({"nbf": 11}, "token_not_yet_valid"),
        ({"iat": 9}, None),
        ({"iat": 11}, "token_not_yet_valid"),
    ],
)
async def test_f46_clocks_that_differ_by_seconds_keep_nobody_out(
    make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch, claims: dict[str, int], code: str | None
) -> None:
    manager, stopped = make_manager(auth=JWTAuth(SECRET, algorithms=["HS256"])), time.time()
    monkeypatch.setattr(time, "time", lambda: stopped)
    token = jwt.encode(
        {**payload(), **{claim: int(stopped) + seconds for claim, seconds in claims.items()}}, SECRET
    )
    assert await refusal_of(manager, token) == code


async def refusal_of(manager: ConnectionManager, token: str) -> str | None:
    """None when it comes in."""
    try:
        async with connect(manager.endpoint, **bearer(token)):
            return None
    except HandshakeRefused as refused:
        code: str = json.loads(refused.body)["error"]["code"]
        return code
