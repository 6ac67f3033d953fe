"""Finds the handler of a message by its type."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from ..messages import SystemType
from ..names import is_name
from .payloads import Converter
from .signatures import Call, CallKind, kind_of_call, name_of, read_signature

__all__ = ["Route", "Router"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """A handler, its options, and what its signature says."""

    type: str
    handler: Callable[..., Any]
    is_async: bool
    """True when the handler is awaited; a synchronous one runs in a worker thread."""
    takes_data: bool
    convert: Converter | None
    """Converts the message's data; None when the handler takes it as it came, or not at all."""
    payload_type: Any
    """The annotation of the data; Any when there is none."""
    reply_type: Any
    """The return annotation; Any when there is none."""
    scopes: frozenset[str]
    allow: Callable[..., bool] | None
    features: frozenset[str]
    cost: int
    """Units of the rate limit that one message costs in all."""
    concurrent: bool
    dependencies: tuple[Call, ...]
    """In the order they run; the first fills the slot after `MESSAGE`, and so on."""
    call: Call
    direct: bool
    """True when ``await handler(conn, data)`` runs it, or ``await handler(conn)`` if it takes no data."""
    restricted: bool
    """True when scopes, features or `allow` decide who may send it."""


class Router:
    """Finds the handler of a message type: the exact one, else the longest ``prefix.*``, else ``*``.

    System messages, which the manager answers, have no handler.
    """

    def __init__(self, connection_type: type[Any], reserved: Container[str] = frozenset(SystemType)) -> None:
        """Make a router whose handlers get the connection where they annotate `connection_type`.

        `reserved` are the types that the manager answers itself.
        """
        self._connection_type = connection_type
        self._reserved = reserved
        self._exact: dict[str, Route] = {}
        self._wildcards: list[tuple[str, Route]] = []
        """By prefix, the longest first; that of the asterisk alone is empty."""

    @property
    def routes(self) -> tuple[Route, ...]:
        """Return all routes in the order they are tried."""
        return (*self._exact.values(), *(route for _, route in self._wildcards))

    def find(self, type: str) -> Route | None:
        """Return the route of a message type; None when no handler takes it."""
        return self._exact.get(type) or self._find_wildcard(type)

    def _find_wildcard(self, type: str) -> Route | None:
        if type in self._reserved:  # else "*" would take messages that only the manager may send
            return None
        for prefix, route in self._wildcards:
            if type.startswith(prefix):
                return route
        return None

    def add(
        self,
        type: str,
        handler: Callable[..., Any],
        *,
        scopes: Iterable[str] = (),
        allow: Callable[..., bool] | None = None,
        features: Iterable[str] = (),
        cost: int = 1,
        concurrent: bool = False,
    ) -> Route:
        """Register `handler` for `type`, which may be ``prefix.*`` or ``*``.

        Of the parameters that are not filled by their type, the first gets the connection and the second
        the data. Raises `ConfigurationError` for a type that is taken or reserved, and for a handler that
        could not be called; nothing is registered then.
        """
        self._require_free(type)
        where = f"handler {name_of(handler)} of {type!r}"
        if allow is not None and kind_of_call(allow) is not CallKind.THREAD:
            raise ConfigurationError(f"{where}: allow= must answer at once, not asynchronously")
        needed, paid = _as_set(scopes), _as_set(features)
        route = Route(
            type=type,
            handler=handler,
            scopes=needed,
            allow=allow,
            features=paid,
            restricted=bool(needed or paid or allow),
            cost=cost,
            concurrent=concurrent,
            **read_signature(handler, where, self._connection_type),
        )
        if type.endswith("*"):
            self._wildcards.append((type[:-1], route))
            self._wildcards.sort(key=lambda entry: len(entry[0]), reverse=True)
        else:
            self._exact[type] = route
        return route

    def _require_free(self, type: str) -> None:
        if not is_name(type):
            raise ConfigurationError(f"type {type!r} must be 1 to 255 characters without control characters")
        if type != "*" and "*" in type.removesuffix(".*"):
            raise ConfigurationError(f"type {type!r}: an asterisk stands alone, or last after a dot")
        if type in self._reserved:
            raise ConfigurationError(f"type {type!r} is answered by the manager itself")
        if any(route.type == type for route in self.routes):
            raise ConfigurationError(f"type {type!r} has a handler already")


def _as_set(names: str | Iterable[str]) -> frozenset[str]:
    return frozenset((names,) if isinstance(names, str) else names)
