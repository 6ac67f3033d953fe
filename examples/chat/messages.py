"""The words of the chat: what its users may say to the server, and what they hear from it."""

from __future__ import annotations

import enum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from wsmanager import HealthStatus

# --- what is said

Room = Literal["general", "music", "garden"]
Text = Annotated[str, Meta(min_length=1, max_length=2000)]
Key = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
"""What the client calls its message, so that it knows it again when it comes back."""


class Emotion(enum.StrEnum):
    JOY = "joy"
    LOVE = "love"
    LAUGHTER = "laughter"
    SURPRISE = "surprise"
    SADNESS = "sadness"
    ANGER = "anger"


class Join(Struct):
    room: Room


class Say(Struct):
    room: Room
    text: Text
    key: Key


class Tell(Struct):
    to: str
    text: Text
    key: Key


class Feel(Struct):
    """How the sender feels about a message of a room, or of the conversation with `to`."""

    id: Annotated[str, Meta(max_length=64)]
    emotion: Emotion | None
    """None takes it back."""
    room: Room | None = None
    to: str | None = None


# --- what is heard


class Message(Struct, omit_defaults=True):
    id: str
    author: str
    text: str
    at: float
    room: Room | None = None
    to: str | None = None
    kept: bool = False
    """It waits for somebody who is not here."""
    emotions: dict[str, Emotion] = {}
    """By user."""


class Felt(Struct, omit_defaults=True):
    id: str
    author: str
    emotion: Emotion | None
    room: Room | None = None
    to: str | None = None


class Person(Struct):
    user: str
    rooms: list[str]


class Receipt(Struct):
    """What the author of a message may know of the `DeliveryReport`."""

    reached: int
    kept: int


class Vitals(Struct):
    score: float
    status: HealthStatus
    latency_ms: float | None
    remaining: int
    limit: int
    window: float
    tabs: int
