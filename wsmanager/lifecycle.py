"""The states of a connection and the moves between them, as a table.

CONNECTING counts against every limit, but nothing is delivered to it. OPEN is reachable. DRAINING has
left every index and flushes what it was given before. CLOSED is the end; there is no way back.
"""

from __future__ import annotations

from .errors import InvalidMove
from .messages import ConnectionStatus

__all__ = ["MOVES", "move"]

MOVES: dict[ConnectionStatus, frozenset[ConnectionStatus]] = {
    ConnectionStatus.CONNECTING: frozenset({ConnectionStatus.OPEN, ConnectionStatus.CLOSED}),
    ConnectionStatus.OPEN: frozenset({ConnectionStatus.DRAINING, ConnectionStatus.CLOSED}),
    ConnectionStatus.DRAINING: frozenset({ConnectionStatus.CLOSED}),
    ConnectionStatus.CLOSED: frozenset(),
}


def move(current: ConnectionStatus, target: ConnectionStatus) -> ConnectionStatus:
    """`target`, when the table allows the move; else `InvalidMove`."""
    if target not in MOVES[current]:
        raise InvalidMove(f"a connection cannot go from {current} to {target}")
    return target
