"""Every message that the manager itself says, with its fields; each is built here and nowhere else.

They are Structs, so that clients, recorded exchanges and schemas can be made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from ..errors import RECONNECT_CODES, Refused, ReplyError
from ..messages import InboundMessage

__all__ = [
    "PING",
    "Disconnect",
    "DisconnectData",
    "ErrorData",
    "ErrorMessage",
    "Ping",
    "Pong",
    "Reply",
    "RoomData",
    "Welcome",
    "WelcomeData",
    "Word",
    "disconnect",
    "error",
    "pong",
    "refusal",
    "welcome",
]

RequestId = str | int


class Word(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    """A message of the manager's own; its class stands for its type."""

    @property
    def type(self) -> str:
        """The ``type`` on the wire."""
        return str(self.__struct_config__.tag)


class WelcomeData(msgspec.Struct, frozen=True, gc=False):
    """What a client is told that negotiated; residents of the manager add fields to it."""

    connection_id: str
    heartbeat_ms: int
    """How often it is pinged."""
    max_message_size: int
    """Bytes that one of its frames may have."""


class Welcome(Word, frozen=True, tag="welcome"):
    """The first message to a client that negotiated a wsmanager subprotocol."""

    data: WelcomeData | dict[str, Any]


class Ping(Word, frozen=True, tag="ping"):
    """Asks a client for a sign of life."""

    data: dict[str, Any]


class Pong(Word, frozen=True, tag="pong"):
    """Answers a client's ping with the data that it sent."""

    data: Any
    re: RequestId | UnsetType = UNSET


class Reply(Word, frozen=True, tag="reply"):
    """Answers a client's message that has an id."""

    re: RequestId
    """The id of the message that is answered."""
    data: Any


class RoomData(msgspec.Struct, frozen=True, gc=False):
    """Confirms that a client has joined or left a room."""

    room: str


class ErrorData(msgspec.Struct, frozen=True, gc=False):
    """Says what is wrong with a client's message."""

    code: str
    message: str
    temporary: bool
    """True if the same message may pass later."""
    retry_after_ms: int | UnsetType = UNSET
    re: RequestId | UnsetType = UNSET


class ErrorMessage(Word, frozen=True, tag="error", kw_only=True):
    """Answers a client's message that failed; the connection lives."""

    re: RequestId | UnsetType = UNSET
    data: ErrorData


class DisconnectData(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Says why a connection is closed, and whether to come back."""

    code: int
    reason: str
    message: str | UnsetType = UNSET
    """The reason in words; only where a handshake is refused."""
    reconnect: bool
    after_ms: int | UnsetType = UNSET
    """When to come back."""


class Disconnect(Word, frozen=True, tag="disconnect"):
    """The last message before a close frame."""

    data: DisconnectData


PING: Final = Ping({})


def welcome(data: WelcomeData, more: Mapping[str, Any]) -> Welcome:
    """Greet a client; `more` are the fields that residents add."""
    return Welcome({**msgspec.structs.asdict(data), **more} if more else data)


def pong(ping: InboundMessage) -> Pong:
    """Answer a ping."""
    return Pong(ping.data) if ping.id is None else Pong(ping.data, ping.id)


def error(failure: ReplyError, message: InboundMessage | None) -> ErrorMessage:
    """Tell a client what is wrong with `message`; None where it could not be read."""
    re = UNSET if message is None or message.id is None else message.id
    wait = UNSET if failure.retry_after_ms is None else failure.retry_after_ms
    return ErrorMessage(re=re, data=ErrorData(failure.code, failure.message, failure.temporary, wait, re))


def disconnect(code: int, reason: str, *, after_ms: int | None = None) -> Disconnect:
    """Tell a client why its connection is closed."""
    wait = UNSET if after_ms is None else after_ms
    return Disconnect(
        DisconnectData(code=int(code), reason=reason, reconnect=code in RECONNECT_CODES, after_ms=wait)
    )


def refusal(refused: Refused) -> Disconnect:
    """Tell a client why its handshake is refused."""
    data = disconnect(refused.close_code, refused.code, after_ms=refused.retry_after_ms).data
    return Disconnect(msgspec.structs.replace(data, message=refused.message))
