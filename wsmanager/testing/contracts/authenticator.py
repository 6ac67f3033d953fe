"""What every `Authenticator` must do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from ...errors import AuthenticationError
from ...messages import InboundMessage
from ...protocols import Authenticator, Handshake, Identity
from .obligations import require, require_code, require_type

__all__ = ["check_authenticator"]

_FIRST_MESSAGES: Final[tuple[Any, ...]] = (
    None,
    "",
    "token",
    5,
    [],
    {},
    {"token": None},
    {"token": 5},
    {"token": ""},
    {"token": "\ud800"},
    {"token": {"token": []}},
    {"token": "." * 100_000},
)


async def check_authenticator(
    factory: Callable[[], Authenticator], good: Handshake, bad: Sequence[Handshake]
) -> None:
    """Hold an `Authenticator` against its obligations.

    `good` is a handshake that must be identified, each of `bad` one with missing or wrong credentials
    that must be refused. Handshakes that no client in its right mind sends are added.
    """
    await _check_good(factory, good)
    for handshake in bad:
        await _check_bad(factory, handshake)
    nothing = Handshake(scope=good.scope, headers={}, query={}, cookies={}, subprotocols=())
    await _answer(factory(), nothing)
    for data in _FIRST_MESSAGES:
        await _answer(factory(), _with_message(nothing, data))


async def _check_good(factory: Callable[[], Authenticator], good: Handshake) -> None:
    authenticator = factory()
    before = repr(good)
    identity = await _answer(authenticator, good)
    if not isinstance(identity, Identity):
        raise AssertionError("good credentials must be answered with an Identity")  # noqa: TRY004 - an obligation
    require_type(identity.user_id, str, "user_id must be a text")
    require(identity.user_id != "", "user_id must not be empty")
    require_type(identity.scopes, frozenset, "scopes must be a frozenset")
    again = await _answer(authenticator, good)
    same = isinstance(again, Identity) and (again.user_id, again.tenant) == (
        identity.user_id,
        identity.tenant,
    )
    require(same, "the same credentials must always name the same user")
    require(repr(good) == before, "a handshake must not be changed")


async def _check_bad(factory: Callable[[], Authenticator], bad: Handshake) -> None:
    answers = [await _answer(factory(), bad) for _ in range(2)]
    refused = all(isinstance(answer, str) for answer in answers)
    require(refused, "bad credentials must be refused with AuthenticationError")
    require(answers[0] == answers[1], "the code of a refusal must be stable")
    for data in _FIRST_MESSAGES:
        answer = await _answer(factory(), _with_message(bad, data))
        require(not isinstance(answer, Identity), "no first message may make bad credentials good")


def _with_message(handshake: Handshake, data: Any) -> Handshake:
    return msgspec.structs.replace(handshake, message=InboundMessage("auth", data))


async def _answer(authenticator: Authenticator, handshake: Handshake) -> Identity | str | None:
    """The identity, the code of a refusal, or None for "ask for a first message"."""
    try:
        identity = await authenticator.authenticate(handshake)
    except AuthenticationError as refusal:
        return require_code(refusal.code, "authenticate")
    except Exception as error:
        name = type(error).__name__
        raise AssertionError(
            f"authenticate must raise nothing but AuthenticationError, not {name}"
        ) from error
    later = identity is not None or handshake.message is None
    require(later, "None is no answer any more once there is a first message")
    return identity
