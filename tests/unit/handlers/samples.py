"""Payloads and handlers that the tests of this folder share."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pydantic
import pytest

from wsmanager.errors import ConfigurationError
from wsmanager.handlers.router import Route, Router

Handler = Callable[..., Any]


def shown(value: object) -> str:
    """A test id that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class Peer:
    """Stands for the connection."""


class Chat(msgspec.Struct, forbid_unknown_fields=True):
    room: str
    n: int = 0


@dataclass
class Point:
    x: int
    y: int = 0

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError(f"inner thoughts about {self.x}")


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    item: str = pydantic.Field(min_length=2)
    count: int = 1
    prices: dict[str, int] = {}
    colour: Literal["red", "blue"] = "red"

    @pydantic.field_validator("count")
    @classmethod
    def _is_even_or_one(cls, value: int) -> int:
        if value % 2 and value != 1:
            raise ValueError(f"inner thoughts about {value}")
        return value


async def only_conn(conn: Any) -> None: ...


async def typed(conn: Peer, data: Chat) -> Point: ...  # type: ignore[empty-body]  # never run


def plan(handler: Handler, **options: Any) -> Route:
    return Router(Peer).add("x", handler, **options)


def refused(handler: Handler, type: str = "x") -> str:
    router = Router(Peer)
    with pytest.raises(ConfigurationError) as caught:
        router.add(type, handler)
    assert router.routes == ()
    return str(caught.value)
