"""What `JWTAuth` says to a PyJWT that makes something else of an algorithm of ours."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from jwt.algorithms import HMACAlgorithm

from wsmanager import ConfigurationError, JWTAuth

SECRET = "a secret of at least 64 characters, which is what HS512 wants to have"
HMAC = ["HS256", "HS384", "HS512"]
Change = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("name", HMAC)
def test_the_pyjwt_that_is_installed_is_as_expected(name: str) -> None:
    JWTAuth(SECRET, algorithms=[name])


def test_secrets_are_checked_once_and_not_for_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[object] = []
    before = HMACAlgorithm.prepare_key

    def counted(self: HMACAlgorithm, key: Any) -> bytes:
        checks.append(key)
        return before(self, key)

    token = jwt.encode({"sub": "ann", "exp": int(time.time()) + 600}, SECRET, algorithm="HS256")
    auth = JWTAuth(SECRET, algorithms=["HS256"])
    monkeypatch.setattr(HMACAlgorithm, "prepare_key", counted)
    assert auth.verify(token).sub == "ann"
    assert checks == []


def made_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """An algorithm is made of a name."""

    def made(self: Any, *, name: str) -> None: ...

    monkeypatch.setattr(HMACAlgorithm, "__init__", made)


def keys_are_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `prepare_key` returns is an object now, and `verify` wants that."""
    monkeypatch.setattr(HMACAlgorithm, "verify", lambda self, msg, key, sig: key.verify(msg, sig))


def verify_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` returns nothing, and raises where it returned False."""
    monkeypatch.setattr(HMACAlgorithm, "verify", lambda self, msg, key, sig: None)


def verify_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong signature is no longer found where it was."""
    monkeypatch.setattr(HMACAlgorithm, "verify", lambda self, msg, key, sig: True)


def payload_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt.PyJWS, "decode", lambda *arguments, **options: {"self": "test"})


def names_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(jwt.PyJWS, "unregister_algorithm")


@pytest.mark.parametrize("name", HMAC)
@pytest.mark.parametrize(
    "change",
    [made_otherwise, keys_are_objects, verify_raises, verify_is_elsewhere, payload_is_parsed, names_are_gone],
)
def test_a_pyjwt_that_is_built_otherwise_is_an_error_at_the_start(
    name: str, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A key is checked by PyJWT's own before, which must not be what fails.
    monkeypatch.setattr("wsmanager.auth.jwt.prepare_key", lambda algorithm, key: key.encode())
    change(monkeypatch)
    with pytest.raises(ConfigurationError, match=re.escape(f"PyJWT {jwt.__version__}")):
        JWTAuth(SECRET, algorithms=[name])
