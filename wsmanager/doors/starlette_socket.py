"""The one place that knows the insides of Starlette's ``WebSocket``, which is FastAPI's, too.

Starlette is looked up and not imported: a socket of its kind brought it along, and others of the same shape
need none.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from ..errors import ConfigurationError
from ..wire.asgi import Receive, Send

__all__ = ["StarletteSocket", "WebSocketLike", "handled_exception"]

_KNOWN: Final = "Starlette 0.50 to 1.10"
_NAMES: Final = ("_receive", "_send", "application_state", "client_state", "scope")
_ENDS: Final = {"receive": "_receive", "send": "_send"}
"""Methods of Starlette's class, and what each of them calls: that is what is put in their place."""


class WebSocketLike(Protocol):
    """What is needed of a Starlette or FastAPI ``WebSocket``."""

    scope: Any
    client_state: Any
    application_state: Any
    _receive: Any
    _send: Any

    def receive(self) -> Awaitable[Any]: ...
    def accept(self, subprotocol: str | None = None) -> Awaitable[None]: ...


class StarletteSocket:
    """A ``WebSocket`` whose two ends can be put elsewhere.

    Raises `ConfigurationError` for a socket of another framework, and for one that lacks what is needed.
    """

    __slots__ = ("socket",)

    def __init__(self, socket: WebSocketLike) -> None:
        missing = _missing_in(socket)
        if "application_state" in missing and not _is_starlettes(type(socket)):
            raise ConfigurationError(
                f"connect() adopts a Starlette or FastAPI WebSocket, not {type(socket).__qualname__}: use "
                "WebSocketMiddleware around the application, or manager.endpoint"
            )
        if missing:
            raise ConfigurationError(
                f"connect() needs {', '.join(missing)} of {type(socket).__qualname__}, which Starlette "
                f"{_version()} keeps otherwise; known to work is {_KNOWN}: install one of these, or use "
                "WebSocketMiddleware or manager.endpoint, which need none of it"
            )
        self.socket = socket

    @property
    def is_accepted(self) -> bool:
        """True once the application accepted the socket, refused or closed it."""
        return not _is_connecting(self.socket.application_state)

    async def hear_connect(self) -> None:
        """Receive the connect event, unless the application did."""
        if _is_connecting(self.socket.client_state):
            await self.socket.receive()

    def ends(self) -> tuple[Receive, Send]:
        """Return the callables that its methods receive and send with."""
        return self.socket._receive, self.socket._send

    def put_ends(self, receive: Receive, send: Send) -> None:
        """Let its methods receive and send with these from now on."""
        self.socket._receive, self.socket._send = receive, send

    def put_send(self, send: Send) -> None:
        """Let its methods send with this from now on."""
        self.socket._send = send


def handled_exception() -> type[Exception] | None:
    """Return the exception that Starlette turns into a close; None where there is no Starlette."""
    handled: type[Exception] | None = getattr(
        sys.modules.get("starlette.exceptions"), "WebSocketException", None
    )
    return handled


def _is_connecting(state: Any) -> bool:
    connecting: bool = state == type(state).CONNECTING
    return connecting


def _missing_in(socket: Any) -> list[str]:
    """Return the names that `socket` lacks, or that mean something else there."""
    missing = [name for name in _NAMES if not hasattr(socket, name)]
    for name in ("application_state", "client_state"):
        if name not in missing and not hasattr(type(getattr(socket, name)), "CONNECTING"):
            missing.append(f"{name}.CONNECTING")
    if "starlette.exceptions" in sys.modules and handled_exception() is None:
        missing.append("WebSocketException")
    kind: Any = type(socket)
    return missing + _bypassed_by(kind)


@functools.lru_cache(maxsize=64)
def _bypassed_by(kind: type) -> list[str]:
    """Return the ends that Starlette's own methods of this class do not use any more."""
    return [
        f"{end} in {method}()"
        for method, end in _ENDS.items()
        for base in kind.__mro__
        if _is_starlettes_own(base.__module__) and not _uses(vars(base).get(method), end)
    ]


def _uses(method: Any, end: str) -> bool:
    """False when Starlette's own code does not name `end`; code of others is taken to use it."""
    if not inspect.isfunction(method) or not _is_starlettes_own(method.__globals__["__name__"]):
        return True
    return end in method.__code__.co_names


def _is_starlettes(kind: type) -> bool:
    return any(_is_starlettes_own(base.__module__) for base in kind.__mro__)


def _is_starlettes_own(module: str) -> bool:
    return module.partition(".")[0] in {"starlette", "fastapi"}


def _version() -> str:
    return getattr(sys.modules.get("starlette"), "__version__", "(not imported)")
