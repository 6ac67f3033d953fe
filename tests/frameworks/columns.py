"""The frameworks: each is a column of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.frameworks import apps, managed
from tests.frameworks.apps import App, Ends
from tests.frameworks.managed import Use
from tests.matrix import Matrix
from wsmanager import ConnectionManager

__all__ = ["MATRIX", "NO_SOCKETS", "Framework"]


class Framework(NamedTuple):
    """The applications of one framework."""

    name: str
    make: Callable[[Ends], Any]
    """The one that exists."""
    guard: Callable[..., App]
    """Puts the middleware around it."""
    managed: Callable[[ConnectionManager, Use], Any]
    """The one with the manager in it."""
    told: tuple[str, ...] = ("OSError",)
    """What it makes of a send to a client that is gone."""


FRAMEWORKS = (
    Framework("bare ASGI", apps.bare, apps.wrap, managed.bare),
    Framework("Starlette", apps.starlette, apps.add_middleware, managed.starlette, ("WebSocketDisconnect",)),
    Framework("FastAPI", apps.fastapi, apps.add_middleware, managed.fastapi, ("WebSocketDisconnect",)),
    Framework("Litestar", apps.litestar, apps.wrap, managed.litestar),
    # It cancels who serves the socket once it hears of the end, unless a send has failed before.
    Framework("Quart", apps.quart, apps.guard_quart, managed.quart, ("CancelledError", "OSError")),
    Framework("Falcon", apps.falcon, apps.wrap, managed.falcon),
    Framework("Channels", apps.channels, apps.wrap, managed.channels),
    Framework("Django", lambda _: apps.django(), apps.wrap, managed.django),
)

MATRIX = Matrix("frameworks", "door", "framework", {framework.name: framework for framework in FRAMEWORKS})

NO_SOCKETS = {"Django": "it has no sockets"}
