"""What the application wants done when a connection opens and when it has ended."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from ..connections.connection import Connection
from ..connections.seams import GREETED
from ..errors import CloseCode, ConnectionClosed, Disconnect, to_client
from ..logs import Journal
from ..messages import ConnectionStatus
from ..tasks.supervision import is_being_cancelled
from .dispatch import Dispatch

__all__ = ["Hook", "Hooks"]

Hook = Callable[[Connection], Any]
"""Asynchronous, or synchronous and then run in a thread."""


class Hooks:
    """Runs them in the order in which they were registered."""

    def __init__(self, dispatch: Dispatch, journal: Journal) -> None:
        self._dispatch = dispatch
        self._journal = journal
        self.on_connect: list[Hook] = []
        self.on_disconnect: list[Hook] = []

    async def greet(self, conn: Connection) -> bool:
        """Run the ``on_connect`` hooks. False when the connection has ended; a hook that fails ends it."""
        conn.flags |= GREETED
        for hook in self.on_connect:
            if conn.status is not ConnectionStatus.OPEN:
                return False
            try:
                await self._dispatch.watch(conn, self._dispatch.runs.run(self._call(hook, conn)))
            except Exception as error:
                answer = to_client(error)
                if isinstance(answer, Disconnect):
                    await conn.close(answer.code, answer.reason)
                elif conn.status is ConnectionStatus.OPEN or not isinstance(error, ConnectionClosed):
                    self._journal.note(logging.ERROR, "on_connect.failed", error=error, connection=conn.id)
                    await conn.close(CloseCode.SERVER_ERROR, "server error")
                return False
        return conn.status is ConnectionStatus.OPEN

    async def _call(self, hook: Hook, conn: Connection) -> None:
        try:
            if inspect.iscoroutinefunction(hook):
                await hook(conn)
                return
            run, threads = functools.partial(hook, conn), self._dispatch.threads()
            result = await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=threads)
            if inspect.isawaitable(result):  # of an object with an async ``__call__``
                await result
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            raise RuntimeError("the hook awaited something that was cancelled") from error

    async def farewell(self, conn: Connection) -> None:
        """Run the ``on_disconnect`` hooks, once, if the ``on_connect`` hooks ran. Who waits for that may be
        cancelled; the hooks are not."""
        hooks = self.farewell_soon(conn)
        if hooks is not None:
            await asyncio.wait({hooks})

    def farewell_soon(self, conn: Connection) -> asyncio.Task[None] | None:
        """`farewell` where the caller cannot wait; None when there is nothing to do."""
        greeted = conn.flags & GREETED
        conn.flags &= ~GREETED
        if not greeted or not self.on_disconnect:
            return None
        return conn.owner.run_errand(self._say_farewell(conn), "farewell")

    async def _say_farewell(self, conn: Connection) -> None:
        if beside := self._dispatch.beside.get(conn):
            await asyncio.wait(beside)
        for hook in self.on_disconnect:
            try:
                await self._dispatch.runs.run(self._call(hook, conn))
            except Exception as error:
                self._journal.note(logging.ERROR, "on_disconnect.failed", error=error, connection=conn.id)
