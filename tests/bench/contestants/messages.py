"""What the clients say and hear: the same for every contestant.

A client sends ``chat.message`` and gets its data back as a ``reply``. Everything else is a command:

=============  =========================================================================================
``fan`` K      K broadcasts of `FRAME` to everybody, the event loop given one turn after each
``burst`` K    K times `BURST` broadcasts, the event loop given one turn after each `BURST`
``join``       puts the client into the room
``room``       sends `ROOM` to the room
``personal``   sends `PERSONAL` to the user that it names
=============  =========================================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec

__all__ = ["BURST", "FRAME", "MESSAGE", "PERSONAL", "ROOM", "Crowd", "reply_to", "rounds", "user_of"]

T = TypeVar("T")

FRAME = (
    '{"type":"chat.message","data":{"room":"general","text":"hello, everyone!","n":12345,"ok":true},"id":17}'
)
BURST = 10
MESSAGE: dict[str, Any] = msgspec.json.decode(FRAME)
PERSONAL = FRAME.replace("chat.message", "personal")
ROOM = FRAME.replace("chat.message", "room")


async def rounds(count: int, at_once: int, broadcast: Callable[[], Awaitable[object]]) -> None:
    for _ in range(count):
        for _ in range(at_once):
            await broadcast()
        await asyncio.sleep(0)


def reply_to(message: dict[str, Any]) -> dict[str, Any]:
    return {"type": "reply", "re": message["id"], "data": message["data"]}


def user_of(target: str) -> str:
    """The user whom a request target such as ``/ws?user=ann`` names."""
    return parse_qs(urlsplit(target).query).get("user", [""])[0]


class Crowd(Generic[T]):
    """Who is connected to a server without rooms and users of its own, and what they may ask of it."""

    def __init__(
        self,
        tell: Callable[[T, str], Awaitable[object]],
        broadcast: Callable[[Iterable[T]], Awaitable[object]],
    ) -> None:
        self._tell = tell
        self._broadcast = broadcast
        self._everybody: set[T] = set()
        self._room: list[T] = []
        self._users: dict[str, T] = {}

    def enter(self, user: str, peer: T) -> None:
        self._everybody.add(peer)
        self._users[user] = peer

    def leave(self, user: str, peer: T) -> None:
        self._everybody.discard(peer)
        self._users.pop(user, None)
        if peer in self._room:
            self._room.remove(peer)

    async def obey(self, peer: T, command: str, data: Any) -> None:
        match command:
            case "fan":
                await rounds(data, 1, lambda: self._broadcast(self._everybody))
            case "burst":
                await rounds(data, BURST, lambda: self._broadcast(self._everybody))
            case "join":
                self._room.append(peer)
            case "room":
                for one in self._room:
                    await self._tell(one, ROOM)
            case "personal":
                await self._tell(self._users[data], PERSONAL)
            case _:
                raise ValueError(f"no such command: {command}")
