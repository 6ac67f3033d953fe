"""How a connection ended, as the tests write it."""

from __future__ import annotations

from wsmanager import Connection

__all__ = ["closing_of"]


def closing_of(conn: Connection) -> tuple[int, str] | None:
    """Code and reason of its end, from whichever side that came first; None before."""
    return None if conn.ending is None else (conn.ending.code, conn.ending.reason)
