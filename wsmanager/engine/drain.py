"""The end of a manager: everyone is sent away in good order, and by a deadline."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ..config import WebSocketConfig
from ..connections.connection import Connection
from ..connections.ending import close_soon, cut_off, end
from ..errors import CloseCode
from ..handlers.dispatch import Dispatch
from ..handlers.hooks import Hooks
from ..logs import Journal
from ..messages import ConnectionStatus
from ..tasks.calls import Running
from ..tasks.supervision import Supervisor

__all__ = ["Drain"]

_SHORTEST_SPREAD: Final = 1.0
_AT_ONCE: Final = 100


class Drain:
    """Sends away everyone who is there when it begins.

    Each client is told its own moment to come back, so that they do not all come at once. One that the
    manager does not speak to cannot be told, and is closed at that moment instead, if there is the time.
    Then what the application still does for them may end; what has not by the deadline is stopped.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        journal: Journal,
        supervisor: Supervisor,
        dispatch: Dispatch,
        hooks: Hooks,
        *,
        everyone: Callable[[], Iterable[Connection]],
        arrived: Callable[[], int],
        paced: bool,
    ) -> None:
        self._reconnect_rate = config.reconnect_rate
        self._journal = journal
        self._supervisor = supervisor
        self._dispatch = dispatch
        self._hooks = hooks
        self._everyone = everyone
        self._arrived = arrived
        self._paced = paced
        # Who drains in a handler is not waited for: it waits for the drain.
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._deadline = self._began + config.drain_timeout
        # Handlers are cancelled a little earlier, so that those that mind can still end by themselves.
        self._patience = self._deadline - min(config.close_timeout, config.drain_timeout / 4)

    async def run(self) -> None:
        """Raises nothing; what did not end in time is cut off."""
        everyone = list(self._everyone())
        self._dispatch.wait_not_for(self._task)
        self._journal.note(logging.INFO, "drain.begun", connections=len(everyone), paced=self._paced)
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._dismiss(everyone)
                await self._finish(everyone)
        except TimeoutError:
            self._journal.note(logging.WARNING, "shutdown.timeout", left=self._arrived())
        finally:
            self._end()
        self._journal.note(logging.INFO, "drain.done", seconds=round(self._loop.time() - self._began, 3))

    async def _dismiss(self, everyone: Sequence[Connection]) -> None:
        spread = max(_SHORTEST_SPREAD, len(everyone) / self._reconnect_rate)
        # Stratified: evenly spread, in no order that a client could know.
        step = spread / max(1, len(everyone))
        moments = [(place + random.random()) * step for place in range(len(everyone))]  # noqa: S311 - no secret
        random.shuffle(moments)
        silent: list[tuple[float, Connection]] = []
        for place, (conn, moment) in enumerate(zip(everyone, moments, strict=True)):
            if self._paced and conn.status is ConnectionStatus.OPEN and not conn.is_spoken_to:
                silent.append((moment, conn))
            else:
                _send_away(conn, moment)
            if place % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        silent.sort(key=lambda one: one[0])
        room = min(1.0, (self._patience - self._began) / 2 / spread)
        for moment, conn in silent:
            await asyncio.sleep(self._began + moment * room - self._loop.time())
            _send_away(conn, moment)

    async def _finish(self, everyone: Sequence[Connection]) -> None:
        """Wait for what is under way, for handlers as long as there is patience, and for the farewells."""
        patience = self._loop.call_at(self._patience, self._stop_handlers)
        try:
            while True:
                if handlers := self._handlers():
                    await asyncio.wait({running.done for running in handlers})
                await self._supervisor.finish_errands()
                if self._handlers():
                    continue
                farewells = [self._hooks.farewell_soon(conn) for conn in everyone]
                if not any(farewells):
                    return
        finally:
            patience.cancel()

    def _handlers(self) -> set[Running]:
        return self._dispatch.runs.others(self._task)

    def _stop_handlers(self) -> None:
        for running in self._handlers():
            running.stop()

    def _end(self) -> None:
        for conn in self._everyone():
            if conn.status is ConnectionStatus.DRAINING:
                cut_off(conn)
            end(conn)
        for running in self._handlers():
            running.kill()


def _send_away(conn: Connection, moment: float) -> None:
    """Close for a restart of the server, and tell a client that is spoken to when to come back."""
    close_soon(conn, CloseCode.RESTART, "shutdown", told=CloseCode.SHUTDOWN, after_ms=round(moment * 1000))
