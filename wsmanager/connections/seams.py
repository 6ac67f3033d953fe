"""What the parts round a connection need of each other: its owner, the line itself, the guard before a loop
of the application's own, and what waits in its queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, MutableMapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from ..config import Tier, WebSocketConfig
from ..decisions.trouble import Trouble
from ..errors import FailureKind
from ..messages import ConnectionStatus, Frame, InboundMessage, MessagePriority
from ..protocols import Codec, MessageQueue
from ..wire.asgi import Event
from ..wire.below import Direct
from ..wire.framing import WireFrame
from ..wire.outgoing import Outgoing

__all__ = ["GREETED", "NEGOTIATED", "WATCHED", "Ahead", "Guard", "Line", "Owner", "Waiting", "priority_of"]

NEGOTIATED: Final = 1
"""The client asked for a wsmanager subprotocol."""
WATCHED: Final = 2
"""Silence closes it: it negotiated, or it has exchanged ping and pong."""
GREETED: Final = 4
"""Its ``on_connect`` hooks ran, and its ``on_disconnect`` hooks did not yet."""

L = TypeVar("L", contravariant=True)


class Waiting(Protocol):
    """What waits for a congested peer: a message, or an event of the application's own."""

    event: MutableMapping[str, Any]
    size: int
    """Bytes that it takes in the queue."""

    @property
    def priority(self) -> MessagePriority | None: ...
    @property
    def expires_at(self) -> float | None: ...
    @property
    def key(self) -> str | None:
        """The conflation key."""
        ...

    @property
    def counted_as(self) -> str:
        """The message type in the figures; empty for what is not counted."""
        ...

    @property
    def is_wanted(self) -> bool:
        """True while somebody still wants it sent."""
        ...

    def frame(self) -> WireFrame | None:
        """Return it as it is written past ASGI; None where it must go by ASGI."""

    def queued(self) -> None:
        """Note that one more connection holds it."""

    def taken(self) -> None:
        """Note that a server took it from a connection that held it."""

    def left(self) -> Outgoing | None:
        """Note that a queue lets it go unsent; return the message that its owner is told of. None: it
        cannot give way and is sent in spite of that."""

    def failed(self, error: BaseException) -> bool:
        """Tell whoever waits that the server refused it; False when nobody does."""
        ...


class Ahead(Protocol):
    """A second reader of a connection; see `wsmanager.connections.read_ahead`."""

    due: bool
    """True if what was read is due though the connection has ended."""

    def keep(self) -> None:
        """Read no further; what was read is due, however this ends."""

    def stop(self) -> None:
        """Read no further. What was read stays."""

    async def stopped(self) -> None:
        """Read no further, and return when nobody does."""


class Line(Protocol):
    """A connection, as the parts know it that it is made of."""

    @property
    def id(self) -> str: ...
    @property
    def owner(self) -> Owner[Any]: ...
    @property
    def status(self) -> ConnectionStatus: ...
    @property
    def waiting(self) -> int: ...
    @property
    def is_spoken_to(self) -> bool: ...

    @property
    def codec(self) -> Codec: ...
    @property
    def guard(self) -> Guard | None: ...
    @property
    def direct(self) -> Direct | None: ...

    @property
    def tier(self) -> Tier | None: ...
    @property
    def trouble(self) -> Trouble | None: ...

    def write(self, item: Waiting) -> Awaitable[None] | None:
        """Start sending an item of the queue; see `Transport.write`."""

    def caught_up(self, congestion: Any) -> None:
        """Nothing waits any more."""

    def peer_failed(self, error: BaseException) -> None:
        """End the connection: the server refused a frame, so the peer is gone."""

    def close_soon(self, code: int, reason: str, *, flush: bool = True) -> None:
        """Decide to close it now, and carry that out in the background."""


def priority_of(line: Line, item: Waiting | Outgoing) -> MessagePriority:
    """Return the priority that an item has on `line`."""
    if item.priority is not None:
        return item.priority
    return MessagePriority.MEDIUM if line.tier is None else line.tier.priority


class Owner(Protocol[L]):
    """What a connection asks of its manager. Every method is synchronous and returns at once."""

    @property
    def config(self) -> WebSocketConfig: ...

    def now(self) -> float: ...

    def new_queue(self) -> MessageQueue[Any]: ...

    def note(self, level: int, event: str, /, *, error: BaseException | None = None, **fields: Any) -> None:
        """Log an event, and show it to the observer."""

    def congested(self, conn: L) -> None:
        """Note that `conn` waits for its peer from now on."""

    def drained(self, conn: L) -> None:
        """Note that nothing waits for `conn` any more."""

    def dropped(self, reason: str) -> None:
        """Count a message that was not taken in; the caller of the push is told."""

    def handed_over(self, conn: L, item: Waiting) -> None:
        """Note that the server took a message of `send`, or one that `push` had answered with QUEUED."""

    def failed(self, kind: FailureKind) -> None:
        """Count a failure."""

    def given_up(self, conn: L, messages: Sequence[Outgoing], reason: str) -> None:
        """Take back messages that had been taken in and will not be sent on `conn`."""

    def leave(self, conn: L, status: ConnectionStatus) -> None:
        """Make `conn` unreachable and give it `status`."""

    def cannot_abort(self, conn: L) -> None:
        """Warn that `conn` takes no close, and nothing here can end it."""

    def run_errand(self, errand: Any, name: str) -> asyncio.Task[Any] | None:
        """Run `errand` in a task of its own; None when too many run already."""


class Guard(Protocol):
    """Checks what a loop of the application's own receives."""

    is_direct: bool
    """True while application and server talk without the manager."""

    @property
    def speaks(self) -> bool:
        """True where the manager may write messages of its own."""
        ...

    def admit(self, event: Event) -> tuple[Any, int] | None:
        """Check `event`: return what is left of it for the application, and its size."""

    def take_passed(self, frame: Frame) -> InboundMessage | None:
        """Return the message of `frame`, if it was checked and handed over last."""

    def heard_end(self, event: Event) -> None:
        """Note how the peer left, when the server said so to somebody else than the application."""

    def read_on(self) -> None:
        """Read in the application's stead, for it does not."""
