"""Reading on while a handler is busy, so that a slow one never delays a pong or the disconnect."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ..errors import CloseCode
from ..messages import ConnectionStatus
from ..wire.asgi import Event
from .ending import EndingLine, peer_left

__all__ = ["Item", "ReadAhead"]

Item = tuple[Any, int]
"""What was read and is for the application, and its size in bytes."""


class ReadAhead:
    """A second reader of one connection, while a handler is suspended or the application does not read.

    `admit` is given every event but the disconnect; it answers what is the manager's to answer, and
    returns what is left for the application. More than ``inbound_max_messages`` or
    ``inbound_max_bytes`` of that closes the connection with 4014.
    """

    __slots__ = ("_admit", "_bytes", "_items", "_line", "_start", "_task", "due")

    def __init__(self, line: EndingLine, admit: Callable[[Event], Item | None]) -> None:
        self._line: Final = line
        self._admit: Final = admit
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._start: asyncio.Handle | None = None
        self._task: asyncio.Task[None] | None = None
        self.due = False
        """Whether what was read is due though the connection has ended: by the peer, and not by us."""

    def start_soon(self) -> None:
        """Start reading if the handler is still suspended after this turn of the loop."""
        if self._start is None and self._task is None and not self.due:
            self._start = asyncio.get_running_loop().call_soon(self.start)

    def start(self) -> None:
        """Start reading now."""
        self._start = None
        line = self._line
        is_hushed = line.ending is not None and line.ending.is_hushed
        if self._task is None and not self.due and line.reader is None and not is_hushed:
            self._task = asyncio.create_task(self._read(), name="wsmanager.read_ahead")

    async def _read(self) -> None:
        line = self._line
        try:
            while True:
                event = await line.receive()
                if event["type"] == "websocket.disconnect":
                    if line.guard is not None:
                        line.guard.heard_end(event)
                    peer_left(line, event.get("code") or 1005, event.get("reason") or "")
                    return
                item = self._admit(event)
                if item is not None and not self._store(item):
                    return
                del event, item
        except Exception as error:  # whatever a server raises here, the socket is of no more use
            line.owner.note(logging.WARNING, "receive.failed", connection=line.id, error=error)
            peer_left(line, 1006, "")

    def _store(self, item: Item) -> bool:
        self._items.append(item)
        self._bytes += item[1]
        config = self._line.owner.config
        if len(self._items) <= config.inbound_max_messages and self._bytes <= config.inbound_max_bytes:
            return True
        self._line.close_soon(CloseCode.INBOX_OVERFLOW, "inbox overflow")
        return False

    async def next(self) -> Item | None:
        """The oldest item; None when there is none and nobody reads ahead any more.

        What the peer sent before it left is still due; what waits when we close is not.
        """
        if not self.due and self._line.status is not ConnectionStatus.OPEN:
            self._items.clear()
        while not self._items:
            self._cancel_start()
            task, self._task = self._task, None
            if task is None:
                return None
            # A cancelled receive loses nothing: what arrives now is read by whoever calls next.
            task.cancel()
            await asyncio.wait({task})
        item = self._items.popleft()
        self._bytes -= item[1]
        return item

    def keep(self) -> None:
        """Read no further; what was read is due, however this ends."""
        self.due = True
        self.stop()

    def forget(self) -> None:
        """Nothing that was read is due any more, whoever left first."""
        self.due = False
        self._items.clear()
        self._bytes = 0

    def stop(self) -> None:
        """Read no further. What was read stays."""
        self._cancel_start()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def stopped(self) -> None:
        """Read no further, and return when nobody does."""
        self.stop()
        if self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait({self._task})

    def _cancel_start(self) -> None:
        if self._start is not None:
            self._start.cancel()
            self._start = None
