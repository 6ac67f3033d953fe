"""The encodings of one manager: which a client may choose, which are in use, and which keeps messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from ..protocols import Codec
from .codecs import JSONCodec

__all__ = ["AS_GIVEN", "Encodings"]


class _AsGiven(JSONCodec):
    """JSON of the application's own, which needs no type."""

    typed = False


AS_GIVEN: Final = _AsGiven()
"""Of a guarded connection in json mode: what the application sends to it is written as given."""


class Encodings:
    """All codecs of a manager. `codecs` must not be empty; the first serves clients that name none."""

    def __init__(self, codecs: Sequence[Codec]) -> None:
        self.default = codecs[0]
        self.kept = next((codec for codec in codecs if isinstance(codec, JSONCodec)), None) or JSONCodec()
        """Writes messages in the form in which they are kept: that of the connections, where it is JSON."""
        self.in_use: Counter[Codec] = Counter()
        """Open connections by codec."""
        self.has_given = False
        """True once sockets may be guarded that speak JSON of the application's own, which needs no type."""
        self._by_subprotocol = {codec.subprotocol: codec for codec in codecs}

    def for_nobody(self, *, typed: bool) -> Codec:
        """Return the codec of a message that no connection is there for: it must be sendable to somebody."""
        return self.kept if typed or not self.has_given else AS_GIVEN

    def offered(self, subprotocols: Sequence[str]) -> Codec | None:
        """Return the codec of the first subprotocol that selects one."""
        known = self._by_subprotocol
        return next((known[name] for name in subprotocols if name in known), None)

    def chosen(self, subprotocol: str | None) -> Codec | None:
        """Return the codec that a subprotocol selects; None for one that is not the manager's."""
        return None if subprotocol is None else self._by_subprotocol.get(subprotocol)
