"""What a connection needs around it: its manager, and what stands before a loop of the application's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..config import WebSocketConfig
from ..errors import FailureKind
from ..messages import ConnectionStatus, Frame, InboundMessage
from ..protocols import MessageQueue
from ..wire.asgi import Event
from ..wire.outgoing import Prepared

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Host", "SocketGuard"]


class Host(Protocol):
    """What a connection needs of its manager. Every method is synchronous and returns at once."""

    @property
    def config(self) -> WebSocketConfig: ...

    @property
    def typed(self) -> bool:
        """Whether every message of the application must have a type."""
        ...

    def now(self) -> float: ...

    def new_queue(self) -> MessageQueue[Prepared]: ...

    def congested(self, conn: Connection) -> None:
        """`conn` waits for its peer from now on."""

    def drained(self, conn: Connection) -> None:
        """Nothing waits for `conn` any more."""

    def dropped(self, reason: str) -> None:
        """A message was not taken in; the caller of the push is told."""

    def handed_over(self, conn: Connection, prepared: Prepared) -> None:
        """The server took a message of `send`, or one that `push` had answered with QUEUED."""

    def failed(self, kind: FailureKind) -> None:
        """Something of this kind went wrong."""

    def given_up(self, conn: Connection, messages: Sequence[Prepared], reason: str) -> None:
        """Messages that had been taken in will not be sent on `conn`."""

    def leave_indexes(self, conn: Connection, status: ConnectionStatus) -> None:
        """Make `conn` unreachable and give it `status`."""

    def cannot_abort(self, conn: Connection) -> None:
        """`conn` takes no close, and nothing here can end it."""

    def run_errand(self, errand: Any, name: str) -> asyncio.Task[Any] | None:
        """Run `errand` in a task of its own; None when too many run already."""


class SocketGuard(Protocol):
    """Checks what a loop of the application's own receives."""

    is_direct: bool
    """Whether application and server talk without the manager."""

    @property
    def speaks(self) -> bool:
        """Whether the manager may write messages of its own."""
        ...

    def admit(self, event: Event) -> tuple[Any, int] | None:
        """What is left of `event` for the application, and its size."""

    def take_passed(self, frame: Frame) -> InboundMessage | None:
        """The message of `frame`, if it was checked and handed over last."""

    def heard_end(self, event: Event) -> None:
        """The server said to somebody else than the application how the peer left."""

    def read_on(self) -> None:
        """Read in the application's stead, for it does not."""
