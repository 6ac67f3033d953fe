"""The keys that tokens are checked with: one that is given, or the published set of one issuer."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
import urllib.request
from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import jwt
import msgspec
from anyio import CapacityLimiter, to_thread

from ..errors import AuthenticationError, CloseCode, ConfigurationError
from ..logs import log_event
from ..protocols import Clock

__all__ = ["KeySet", "KeyUnavailable", "prepare_key"]

LIFESPAN = 300.0
"""Seconds after which a set is fetched again."""
COOLDOWN = 30.0
"""Seconds between two fetches, whatever tokens ask for."""
FIRST_COOLDOWN = 5.0
"""The same while there is no usable set at all."""
MAX_STALE = 3_600.0
"""Seconds that a set keeps serving while it cannot be fetched again."""
MAX_SIZE = 262_144
"""Bytes of the largest set that is read."""


class KeyUnavailable(AuthenticationError):
    """The token may be good, but the key to check it with cannot be had now: come back later."""

    status: ClassVar[int] = 503
    close_code: ClassVar[CloseCode] = CloseCode.SERVER_ERROR
    default_code: ClassVar[str] = "key_unavailable"


def prepare_key(algorithm: str, key: Any) -> Any:
    """`key` in the form that PyJWT's `algorithm` works with, so that it is parsed once.

    Raises `ConfigurationError` when the key is of another family or curve, private, or too short.
    """
    handler = jwt.get_algorithm_by_name(algorithm)
    try:
        prepared = handler.prepare_key(key)
    except Exception as error:  # PyJWT lets those of the cryptography package through
        raise ConfigurationError(f"key does not fit {algorithm}: {error}") from None
    if hasattr(prepared, "private_bytes"):
        raise ConfigurationError(f"key for {algorithm} must be the public one; no private key is needed here")
    if (problem := handler.check_key_length(prepared)) is not None:
        raise ConfigurationError(f"key: {problem}")
    return prepared


class KeySet:
    """The public keys of one issuer, fetched from its JWKS document.

    The URL is the application's own: nothing that a token says leads to another. The document is read
    in a worker thread. It serves for `LIFESPAN`, then it is fetched again; while that fails, it serves
    on until it is `MAX_STALE` old. A key it does not hold makes it be fetched too. Fetches are at least
    `COOLDOWN` apart, and handshakes that arrive together share one.

    Used on one event loop at a time. Raises `ConfigurationError` for a URL that is neither ``https`` nor
    a loopback address.
    """

    def __init__(
        self, url: str, algorithms: Sequence[str], *, timeout: float = 5.0, clock: Clock = time.monotonic
    ) -> None:
        _require_safe(url)
        self._url = url
        self._algorithms = tuple(algorithms)
        self._timeout = timeout
        self._clock = clock
        self._keys: dict[tuple[str | None, str], Any] = {}
        self._fetched_at = self._attempted_at = -math.inf
        self._fetching: asyncio.Task[None] | None = None

    def get(self, kid: str | None, algorithm: str) -> Any:
        """The key `kid` for `algorithm`, out of what was fetched; performs no I/O.

        A token without a `kid` gets the key for its algorithm when the set holds just one.

        Raises `AuthenticationError` when the issuer has no such key, and `KeyUnavailable` when that
        cannot be told now.
        """
        key = self._find(kid, algorithm)
        if key is not None:
            return key
        if self._age() < COOLDOWN:
            raise AuthenticationError("The token is signed with an unknown key.", code="token_bad_signature")
        wait = max(0.0, self._attempted_at + self._pause() - self._clock())
        raise KeyUnavailable("The token cannot be checked now.", retry_after_ms=math.ceil(wait * 1000))

    async def refresh(self, kid: str | None, algorithm: str) -> None:
        """Wait for a fetch if this key or a fresh set is missing and one may be made; never raises.

        The wait ends with the timeout. A caller that is cancelled leaves the fetch to the others.
        """
        if self._age() < LIFESPAN and self._find(kid, algorithm) is not None:
            return
        task = self._running()
        if task is None:
            if self._clock() - self._attempted_at < self._pause():
                return
            self._attempted_at = self._clock()
            task = self._fetching = asyncio.create_task(self._fetch(), name="wsmanager.jwks")
        await asyncio.wait([task], timeout=max(0.0, self._attempted_at + self._timeout - self._clock()))

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    def _pause(self) -> float:
        return COOLDOWN if self._age() < MAX_STALE else FIRST_COOLDOWN

    def _find(self, kid: str | None, algorithm: str) -> Any:
        if self._age() >= MAX_STALE:
            return None
        if kid is not None:
            return self._keys.get((kid, algorithm))
        fitting = [key for (_, known), key in self._keys.items() if known == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def _running(self) -> asyncio.Task[None] | None:
        """The fetch under way; one of a loop that ended in its midst will never finish."""
        task = self._fetching
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            return None
        return task

    async def _fetch(self) -> None:
        try:
            # A limiter of its own: handlers that fill the common threads must not hold up handshakes.
            keys = await to_thread.run_sync(self._download, limiter=CapacityLimiter(1))
        except Exception as error:  # whatever it was: what is known keeps serving
            reason = f"{type(error).__name__}: {error}"
            log_event(logging.WARNING, "jwks.fetch_failed", host=urlsplit(self._url).netloc, reason=reason)
            return
        self._keys, self._fetched_at = keys, self._clock()

    def _download(self) -> dict[tuple[str | None, str], Any]:
        """Runs in a worker thread, so it changes nothing."""
        deadline = time.monotonic() + self._timeout
        request = urllib.request.Request(self._url, headers={"Accept": "application/json"})  # noqa: S310  # the constructor checked the scheme
        body = bytearray()
        with urllib.request.build_opener(_AsItIs).open(request, timeout=self._timeout) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            while chunk := response.read1(65_536):
                body += chunk
                if len(body) > MAX_SIZE or time.monotonic() > deadline:
                    raise ValueError("too large or too slow")
        return _usable_keys(msgspec.json.decode(body), self._algorithms)


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Follows no redirect: the keys are those of the configured URL or none."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:  # noqa: ARG002  # urllib's signature
        return response

    https_response = http_response


def _require_safe(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # the port is checked when it is read
    except ValueError:
        raise ConfigurationError("jwks_url is no URL") from None
    if not host or parts.username is not None:
        raise ConfigurationError("jwks_url needs a host, and no user information")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise ConfigurationError("jwks_url must be https; http is allowed for loopback addresses only")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _usable_keys(document: Any, algorithms: Sequence[str]) -> dict[tuple[str | None, str], Any]:
    """The keys for signatures by id and algorithm; what cannot be used is passed over."""
    keys: dict[tuple[str | None, str], Any] = {}
    for jwk in document["keys"]:
        for algorithm in algorithms:
            if (key := _parse(jwk, algorithm)) is not None:
                keys.setdefault((jwk.get("kid"), algorithm), key)
    if not keys:
        raise ValueError("no usable key")
    return keys


def _parse(jwk: Any, algorithm: str) -> Any:
    try:
        meant = (jwk.get("use") or "sig") == "sig" and (jwk.get("alg") or algorithm) == algorithm
        if not meant or not isinstance(jwk.get("kid"), str | None):
            return None
        return prepare_key(algorithm, jwt.PyJWK(jwk, algorithm).key)
    except Exception:  # a malformed key can fail anywhere, and the next one may be good
        return None
