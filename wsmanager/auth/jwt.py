"""JSON Web Tokens: PyJWT checks the signature, this module everything that the claims must be."""

from __future__ import annotations

import base64
import functools
import importlib.util
import time
from collections.abc import Sequence
from typing import Any, Final, NoReturn, cast, get_args

import jwt
import msgspec
from jwt.algorithms import requires_cryptography

from ..errors import AuthenticationError, ConfigurationError, MissingDependency
from ..names import is_name
from ..protocols import Claims, Clock, Handshake, Identity
from .checked_hmac import HASHES, make_verifier
from .jwks import KeySet, prepare_key
from .tokens import TokenSource, find_token

__all__ = ["JWTAuth"]

_MESSAGES: Final = {
    "token_missing": "No token was presented.",
    "token_too_long": "The token is too long.",
    "token_malformed": "The token is malformed.",
    "token_expired": "The token has expired.",
    "token_not_yet_valid": "The token is not valid yet.",
    "token_wrong_audience": "The token is meant for another audience.",
    "token_wrong_issuer": "The token is of another issuer.",
    "token_bad_signature": "The signature of the token is wrong.",
    "token_bad_algorithm": "The token is signed with an algorithm that is not allowed.",
    "token_missing_claim": "The token lacks a claim: ",
    "token_lifetime": "The token is valid for too long.",
    "token_bad_claim": "The token holds an unusable claim: ",
}


class JWTAuth:
    """Authenticates by a JSON Web Token, signed with `key` or with one of the keys at `jwks_url`.

    `algorithms` pins one family: HMAC with a secret, or public-key algorithms with a PEM text or key
    object (``jwt.PyJWK.from_dict(...).key``). ``sub`` and ``exp`` are always required and kept;
    `audience` and `issuer`, one or several, are enforced when given, and a token that names an audience
    is refused when none is given. Tokens that live longer than `max_lifetime` are refused.

    `sources` are searched in order. With ``"message"`` among them a client may open the socket without
    a token and send ``{"type": "auth", "data": {"token": "..."}}`` first.

    Of the claims only `claims` are kept. The user, tenant, tier and scopes (a list, or separated by
    spaces) of the identity are read from the claims that are named for them, kept or not.

    A published key set is fetched in a worker thread when it is needed; see `KeySet` for when. `clock`
    tells its age; `exp`, `nbf` and `iat` are compared with the wall clock, give or take `leeway`.

    Raises `ConfigurationError` for what would not be secure: no algorithm or ``none``, mixed families,
    a public key as HMAC secret, a short key, a key set over plain HTTP, a PyJWT that is built otherwise;
    `MissingDependency` when public-key algorithms lack the ``cryptography`` package.
    """

    def __init__(
        self,
        key: Any = None,
        *,
        algorithms: Sequence[str],
        audience: str | Sequence[str] | None = None,
        issuer: str | Sequence[str] | None = None,
        jwks_url: str | None = None,
        jwks_timeout: float = 5.0,
        leeway: float = 10.0,
        sources: Sequence[TokenSource] = ("header", "subprotocol", "query", "cookie"),
        query_parameter: str = "token",
        cookie: str = "access_token",
        claims: Sequence[str] = ("sub", "exp", "jti", "tenant", "scope", "tier"),
        user_claim: str = "sub",
        tenant_claim: str = "tenant",
        scope_claim: str = "scope",
        tier_claim: str = "tier",
        max_lifetime: float = 366 * 86_400.0,
        max_token_size: int = 8_192,
        clock: Clock = time.monotonic,
    ) -> None:
        self._algorithms = _require_one_family(algorithms)
        if (key is None) == (jwks_url is None):
            raise ConfigurationError("give either key or jwks_url")
        if jwks_url is None:
            self._key, self._keys = _prepare_for_all(key, self._algorithms), None
        elif self._algorithms[0] in HASHES:
            raise ConfigurationError("jwks_url: an HMAC secret is never published; algorithms must not be HS")
        else:
            timeout = _require_between("jwks_timeout", jwks_timeout, 0.1, 60)
            self._keys = KeySet(jwks_url, self._algorithms, timeout=timeout, clock=clock)
        self._jws = make_verifier(self._algorithms)
        self._audience = _require_texts("audience", audience)
        self._issuer = _require_texts("issuer", issuer)
        self._leeway = _require_between("leeway", leeway, 0, 300)
        self._max_lifetime = _require_between("max_lifetime", max_lifetime, 1, 10 * 366 * 86_400)
        self._max_token_size = max_token_size
        self._user_claim, self._tenant_claim = user_claim, tenant_claim
        self._scope_claim, self._tier_claim = scope_claim, tier_claim
        self._kept = _define_claims(claims)
        self.sources: Final = _require_sources(sources)
        self.query_parameter: Final = query_parameter
        """What `redact_query` must be told."""
        self.cookie: Final = cookie

    async def authenticate(self, handshake: Handshake) -> Identity | None:
        """Who holds the token of `handshake`; None asks for a first message.

        Raises `AuthenticationError` with a code that says what is wrong with the token, and
        `KeyUnavailable` when it cannot be checked now. No text holds anything of the token.
        """
        found = find_token(handshake, self.sources, query_parameter=self.query_parameter, cookie=self.cookie)
        if found is None:
            if "message" in self.sources and handshake.message is None:
                return None
            _refuse("token_missing")
        token, source = found
        if self._keys is not None:
            header = self._read_header(token)
            await self._keys.refresh(header.kid, header.alg)
        return self._identify(self._read_payload(token), by_cookie=source == "cookie")

    def verify(self, token: str) -> Claims:
        """The claims kept of a token that `authenticate` would take.

        Performs no I/O: of a published key set it knows what was fetched for a handshake. Raises like
        `authenticate`.
        """
        return self._identify(self._read_payload(token)).claims

    def _read_payload(self, token: str) -> dict[str, Any]:
        """The payload of a token whose signature, times, audience and issuer are good."""
        payload = _parse_payload(self._check_signature(token))
        self._check_times(payload)
        self._check_audience(payload)
        self._check_issuer(payload)
        return payload

    def _check_signature(self, token: str) -> bytes:
        self._require_size(token)
        key = self._key if self._keys is None else self._find_key(self._keys, token)
        try:
            payload: bytes = self._jws.decode(token, key, self._algorithms)
        except jwt.InvalidAlgorithmError:
            _refuse("token_bad_algorithm")
        except jwt.InvalidSignatureError:
            _refuse("token_bad_signature")
        except Exception:  # whatever else a hostile token makes PyJWT raise, RecursionError included
            _refuse("token_malformed")
        return payload

    def _require_size(self, token: str) -> None:
        if len(token) > self._max_token_size:
            _refuse("token_too_long")

    def _find_key(self, keys: KeySet, token: str) -> Any:
        header = self._read_header(token)
        return keys.get(header.kid, header.alg)

    def _read_header(self, token: str) -> _Header:
        """What selects a key among those of the issuer. Not to be trusted: nothing is checked yet."""
        self._require_size(token)
        segment = token.partition(".")[0]
        try:
            raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
            header = msgspec.json.decode(raw, type=_Header)
        except Exception:  # whatever the decoders raise: a header that cannot be read is no header
            _refuse("token_malformed")
        if header.alg not in self._algorithms:
            _refuse("token_bad_algorithm")
        return header

    def _check_times(self, payload: dict[str, Any]) -> None:
        now = time.time()
        expires = _number(payload, "exp")
        if expires <= now - self._leeway:
            _refuse("token_expired")
        if expires > now + self._max_lifetime + self._leeway:
            _refuse("token_lifetime")
        for claim in ("nbf", "iat"):
            if claim in payload and _number(payload, claim) > now + self._leeway:
                _refuse("token_not_yet_valid")

    def _check_audience(self, payload: dict[str, Any]) -> None:
        named = payload.get("aud")
        if self._audience is None:
            if named:
                _refuse("token_wrong_audience")
            return
        if not named:
            _refuse("token_missing_claim", "aud")
        audiences = [named] if isinstance(named, str) else named
        if not _is_list_of_texts(audiences) or self._audience.isdisjoint(audiences):
            _refuse("token_wrong_audience")

    def _check_issuer(self, payload: dict[str, Any]) -> None:
        if self._issuer is None:
            return
        issuer = payload.get("iss")
        if issuer is None:
            _refuse("token_missing_claim", "iss")
        if not isinstance(issuer, str) or issuer not in self._issuer:
            _refuse("token_wrong_issuer")

    def _identify(self, payload: dict[str, Any], *, by_cookie: bool = False) -> Identity:
        subject = _require_name(payload, "sub")
        if not isinstance(payload.get("jti", ""), str):
            _refuse("token_bad_claim", "jti")
        return Identity(
            user_id=subject if self._user_claim == "sub" else _require_name(payload, self._user_claim),
            tenant=_optional_name(payload, self._tenant_claim),
            scopes=_read_scopes(payload, self._scope_claim),
            tier=_optional_name(payload, self._tier_claim),
            # After those above: they have made equal texts one object.
            claims=self._kept(**{name: payload.get(name) for name in self._kept.__struct_fields__}),
            by_cookie=by_cookie,
        )


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None


def _refuse(code: str, claim: str = "") -> NoReturn:
    # Raised from None: what PyJWT said about the token must not reach a log by the chain.
    raise AuthenticationError(_MESSAGES[code] + claim, code=code) from None


# --- reading claims


def _parse_payload(raw: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except Exception:  # whatever the decoder raises: a payload that cannot be read is no payload
        _refuse("token_malformed")


def _number(payload: dict[str, Any], claim: str) -> int | float:
    value = payload.get(claim)
    if type(value) is int or type(value) is float:
        return value
    _refuse("token_missing_claim" if claim not in payload else "token_bad_claim", claim)


def _require_name(payload: dict[str, Any], claim: str) -> str:
    value = payload.get(claim)
    if value is None:
        _refuse("token_missing_claim", claim)
    if claim != "sub" and type(value) is int:
        value = str(value)
    if not is_name(value):
        _refuse("token_bad_claim", claim)
    return value


def _optional_name(payload: dict[str, Any], claim: str) -> str | None:
    value = payload.get(claim)
    if value is None:
        return None
    if not is_name(value):
        _refuse("token_bad_claim", claim)
    payload[claim] = value = _share(value)
    return value


_NO_SCOPES: Final[frozenset[str]] = frozenset()


def _read_scopes(payload: dict[str, Any], claim: str) -> frozenset[str]:
    value = payload.get(claim)
    if value is None:
        return _NO_SCOPES
    if isinstance(value, str):
        payload[claim] = value = _share(value)
        return _split(value)
    if not _is_list_of_texts(value):
        _refuse("token_bad_claim", claim)
    return _split(" ".join(value))


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


@functools.lru_cache(maxsize=1024)
def _share(text: str) -> str:
    """Equal texts of many connections become one object."""
    return text


@functools.lru_cache(maxsize=1024)
def _split(scopes: str) -> frozenset[str]:
    return frozenset(scopes.split())


# --- checking options


def _require_one_family(algorithms: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(algorithms))
    known = HASHES.keys() | requires_cryptography
    if not names or not known.issuperset(names):
        raise ConfigurationError(f"algorithms must be some of {', '.join(sorted(known))}")
    symmetric = HASHES.keys() & set(names)
    if symmetric and len(symmetric) < len(names):
        raise ConfigurationError("algorithms mixes HMAC with public-key algorithms")
    if not symmetric and importlib.util.find_spec("cryptography") is None:
        raise MissingDependency("public-key algorithms need: pip install wsmanager[crypto]")
    return names


def _prepare_for_all(key: Any, algorithms: Sequence[str]) -> Any:
    """The same key fits every algorithm of the list, or the list is wrong."""
    prepared, *_ = [prepare_key(algorithm, key) for algorithm in algorithms]
    return prepared


def _require_texts(name: str, value: str | Sequence[str] | None) -> frozenset[str] | None:
    if value is None:
        return None
    texts = frozenset([value] if isinstance(value, str) else value)
    if not texts or "" in texts:
        raise ConfigurationError(f"{name} must not be empty; leave it out not to check it")
    return texts


def _require_between(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ConfigurationError(f"{name} must be {low} to {high} seconds")
    return value


def _require_sources(sources: Sequence[TokenSource]) -> tuple[TokenSource, ...]:
    allowed = get_args(TokenSource)
    if not sources or not set(sources).issubset(allowed):
        raise ConfigurationError(f"sources must be some of {', '.join(allowed)}")
    return tuple(sources)


def _define_claims(names: Sequence[str]) -> type[Claims]:
    for name in names:
        if not name.isidentifier() or hasattr(Claims, name):
            raise ConfigurationError(f"claims: {name!r} cannot be an attribute")
    fields = [(name, Any, None) for name in dict.fromkeys((*names, "sub", "exp"))]
    kept = msgspec.defstruct("KeptClaims", fields, bases=(Claims,), frozen=True, gc=False)
    return cast("type[Claims]", kept)
