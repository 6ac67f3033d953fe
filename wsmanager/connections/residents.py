"""Who watches the connections of a manager come and go, and takes part: the seam of every tower."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from ..messages import RoomKey, UserKey
from ..wire.outgoing import Outgoing
from .connection import Connection
from .seams import Waiting

__all__ = ["Resident", "Residents"]


class Resident:
    """Base of what lives in a manager beside its connections. Override what you need; the rest costs nothing.

    Every method but `entering` is synchronous and runs in the middle of what happens: it must neither block,
    nor wait, nor raise. `name` is where its `figures` stand; without one they are not shown.
    """

    name: str = ""

    async def entering(self, conn: Connection) -> None:
        """Await what must be there before the accept is answered; `gone` undoes it.

        `conn` is registered and not open. Raises `Refused` to turn the client away.
        """

    def opened(self, conn: Connection) -> None:
        """Note that `conn` is open; what it is sent here comes before anything new."""

    def welcome(self, conn: Connection) -> Mapping[str, Any]:
        """Return fields for the `welcome` of a client that negotiated."""
        del conn
        return {}

    def joined(self, conn: Connection, room: str) -> None:
        """Note that `conn` is in a room."""

    def left(self, conn: Connection, room: str) -> None:
        """Note that `conn` is in a room no more, by its own wish or because it ended."""

    def interest(self, key: UserKey | RoomKey, *, wanted: bool) -> None:
        """Note that a user or room got its first connection here, or lost its last.

        It must end no connection and change no room: that is still being told of.
        """

    def given_up(self, conn: Connection, messages: Sequence[Outgoing], reason: str) -> Sequence[Outgoing]:
        """Take care of messages that will not be sent on `conn`; return those that are lost for good."""
        del conn, reason
        return messages

    def handed_over(self, conn: Connection, item: Waiting) -> None:
        """Note that the server took a message for `conn`, by `Connection.send` or out of its queue."""

    def leaving(self, conn: Connection) -> None:
        """Note that `conn` is open no more while messages still wait for it; `drained` follows."""

    def drained(self, conn: Connection) -> None:
        """Note that nothing waits for `conn` any more."""

    def gone(self, conn: Connection) -> None:
        """Note that `conn` has ended, or never opened. Called once; what waited for it is told of afterwards,
        by `given_up` and `drained`."""

    def sweep(self, now: float) -> None:
        """Drop what has expired; called every ``queue_cleanup_interval`` while anybody is connected."""

    def figures(self) -> Mapping[str, Any]:
        """Return what it counts."""
        return {}


_TOLD: Final = [name for name, value in vars(Resident).items() if callable(value) and name != "figures"]


class Residents:
    """The residents of one manager: of each method, those that override it."""

    all: tuple[Resident, ...]
    entering: tuple[Callable[[Connection], Any], ...]
    opened: tuple[Callable[[Connection], None], ...]
    welcome: tuple[Callable[[Connection], Mapping[str, Any]], ...]
    joined: tuple[Callable[[Connection, str], None], ...]
    left: tuple[Callable[[Connection, str], None], ...]
    interest: tuple[Callable[..., None], ...]
    given_up: tuple[Callable[[Connection, Sequence[Outgoing], str], Sequence[Outgoing]], ...]
    handed_over: tuple[Callable[[Connection, Waiting], None], ...]
    leaving: tuple[Callable[[Connection], None], ...]
    drained: tuple[Callable[[Connection], None], ...]
    gone: tuple[Callable[[Connection], None], ...]
    sweep: tuple[Callable[[float], None], ...]

    def __init__(self, residents: Iterable[Resident] = ()) -> None:
        self.all = tuple(residents)
        for name in _TOLD:
            own = [one for one in self.all if getattr(type(one), name) is not getattr(Resident, name)]
            setattr(self, name, tuple(getattr(one, name) for one in own))
