"""The one place that changes what PyJWT does: an HMAC secret is checked once, and not for each token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import jwt
from jwt.algorithms import HMACAlgorithm

from ..errors import ConfigurationError

__all__ = ["HASHES", "make_verifier"]

HASHES: Final = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}

# Of no use to anybody: they sign what the self-test makes up.
_ONE_KEY: Final = b"for the self-test alone " * 4
_OTHER_KEY: Final = b"another for the self-test " * 4
_PAYLOAD: Final = b'{"self":"test"}'


class _CheckedHMAC(HMACAlgorithm):
    """Takes a secret as it is: `prepare_key` of PyJWT's own checks it again for each token."""

    def prepare_key(self, key: Any) -> bytes:
        return bytes(key)


def make_verifier(algorithms: Sequence[str]) -> jwt.PyJWS:
    """Return what checks signatures of `algorithms`; HMAC secrets must have been checked before.

    Raises `ConfigurationError` when this PyJWT makes something else of it.
    """
    try:
        jws = jwt.PyJWS(algorithms, {"enforce_minimum_key_length": True})
        for name in algorithms:
            if name in HASHES:
                jws.unregister_algorithm(name)
                jws.register_algorithm(name, _CheckedHMAC(HASHES[name]))
                _try_out(jws, name)
    except Exception as error:
        raise ConfigurationError(
            f"JWTAuth cannot check tokens with PyJWT {_version()}, which is built otherwise than expected "
            f"({type(error).__name__}: {error}): install pyjwt>=2.15,<2.16, which is known to work"
        ) from error
    return jws


def _try_out(jws: jwt.PyJWS, name: str) -> None:
    """Compare with PyJWT's own: a token of one key must be taken with that key, and with no other.

    Else every token would be refused as malformed, or a forged one taken.
    """
    token = jwt.PyJWS().encode(_PAYLOAD, _ONE_KEY, name)
    if jws.decode(token, _ONE_KEY, [name]) != _PAYLOAD:
        raise ValueError("a token is read otherwise than it was written")
    try:
        jws.decode(token, _OTHER_KEY, [name])
    except jwt.InvalidSignatureError:
        return
    raise ValueError("a token with a wrong signature is taken")


def _version() -> str:
    return getattr(jwt, "__version__", "(unknown)")
