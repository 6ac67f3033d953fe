"""Which pages may open a socket: the defence against cross-site WebSocket hijacking."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ConfigurationError, OriginRefused

__all__ = ["OriginPolicy"]

_HOST = r"(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
_AUTHORITY = re.compile(_HOST)
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://" + _HOST)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_LENGTH = 512


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None


class OriginPolicy:
    """Compares the Origin header as a whole: scheme, host and port (RFC 6454, section 4).

    `allowed` lists origins such as ``https://app.example.com``; ``*`` allows any, ``null`` the opaque
    one of sandboxed pages. An empty list allows pages of the host that the socket is opened to.

    Raises `ConfigurationError` for an entry that is no origin (no scheme, a path, user information).
    """

    __slots__ = ("_any", "_null", "_origins")

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._any = "*" in allowed
        self._null = "null" in allowed
        self._origins = frozenset(_configured(entry) for entry in allowed if entry not in {"*", "null"})

    def check(self, origin: str | None, host: str | None, *, by_cookie: bool, secure: bool = False) -> None:
        """Return when a page of `origin` may open a socket to `host` (the Host header).

        A missing Origin (no browser) is refused only when the credentials came `by_cookie`. `secure`
        says that the socket itself came over TLS: the same host without TLS is then another origin.

        Raises `OriginRefused`.
        """
        if self._any or (origin is None and not by_cookie):
            return
        if origin is None or not self._allows(origin, host, secure=secure):
            raise OriginRefused("This origin may not open a socket here.")

    def _allows(self, origin: str, host: str | None, *, secure: bool) -> bool:
        if origin == "null":
            return self._null
        parsed = _parse(origin)
        if parsed is None:
            return False
        if self._origins or self._null:
            return parsed in self._origins
        return _is_same_host(parsed, host, secure=secure)


def _configured(entry: str) -> _Origin:
    origin = _parse(entry)
    if origin is None:
        raise ConfigurationError(
            f"allowed_origins: {entry!r} is no origin; allowed are scheme://host[:port], 'null' and '*'"
        )
    return origin


def _parse(text: str) -> _Origin | None:
    match = _ORIGIN.fullmatch(text.lower()) if len(text) <= _MAX_LENGTH else None
    return match and _Origin(match["scheme"], match["host"], _port(match["port"], match["scheme"]))


def _port(text: str | None, scheme: str) -> int | None:
    return int(text) if text else _DEFAULT_PORTS.get(scheme)


def _is_same_host(origin: _Origin, host: str | None, *, secure: bool) -> bool:
    if origin.scheme not in _DEFAULT_PORTS or (secure and origin.scheme != "https"):
        return False
    match = _AUTHORITY.fullmatch(host.lower()) if host and len(host) <= _MAX_LENGTH else None
    if match is None:
        return False
    return (match["host"], _port(match["port"], origin.scheme)) == (origin.host, origin.port)
