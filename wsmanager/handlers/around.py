"""What stands round every handler: a stored reply, a span, a mark that a connection is busy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from ..connections.connection import Connection
from ..messages import InboundMessage
from .router import Route

__all__ = ["Around", "Stored", "Work", "ask", "tell"]


class Work(msgspec.Struct, frozen=True, gc=False):
    """A message that passed every check, with the handler that takes it."""

    route: Route
    message: InboundMessage
    data: Any
    size: int
    """Of the frame."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A reply that is given in the handler's stead."""

    reply: Any


class Around(Protocol):
    """Stands round every handler. Both methods run at once: they must neither block nor wait."""

    def before(self, conn: Connection, work: Work) -> Stored | None:
        """Let the handler run, or return the reply to give in its stead.

        What it raises is answered like an error of the handler.
        """
        ...

    def after(self, conn: Connection, work: Work, reply: Any, error: BaseException | None) -> None:
        """Take note of the reply or of the error. Called once for each `before` that returned None, also
        when the task that ran the handler was cancelled. What it raises is logged, and harms nobody."""
        ...


def ask(
    around: Sequence[Around], conn: Connection, work: Work
) -> tuple[Stored | Exception | None, Sequence[Around]]:
    """Ask each in turn, the outermost first, until one answers or fails; return that, and who let it pass."""
    for place, one in enumerate(around):
        try:
            stored = one.before(conn, work)
        except Exception as error:
            return error, around[:place]
        if stored is not None:
            return stored, around[:place]
    return None, around


def tell(
    around: Sequence[Around],
    conn: Connection,
    work: Work,
    *,
    reply: Any = None,
    error: BaseException | None = None,
    broken: Callable[[Exception], None],
) -> None:
    """Tell each what came of it, the innermost first; `broken` is told of one that raises."""
    for one in reversed(around):
        try:
            one.after(conn, work, reply, error)
        except Exception as fault:
            broken(fault)
