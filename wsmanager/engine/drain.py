"""The end of a manager: everyone is sent away in good order, and by a deadline."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..connections.connection import Connection
from ..connections.ending import cut_off
from ..logs import log_event
from ..messages import ConnectionStatus
from ..tasks.calls import Running

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["Drain"]

_SHORTEST_SPREAD: Final = 1.0
_AT_ONCE: Final = 100


class Drain:
    """Sends away everyone who is there when it begins.

    Each client is told its own moment to come back, so that they do not all come at once. One that the
    manager does not speak to cannot be told, and is closed at that moment instead, if there is the time.
    Then what the application still does for them may end; what has not by the deadline is stopped.
    """

    def __init__(self, engine: Engine, *, paced: bool) -> None:
        self._engine = engine
        self._paced = paced
        config = engine.config
        # Who drains in a handler is not waited for: it waits for the drain.
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._deadline = self._began + config.drain_timeout
        # Handlers are cancelled a little earlier, so that those that mind can still end by themselves.
        self._patience = self._deadline - min(config.close_timeout, config.drain_timeout / 4)

    async def run(self) -> None:
        """Raises nothing; what did not end in time is cut off."""
        engine = self._engine
        everyone = list(engine.everyone())
        log_event(logging.INFO, "drain.begun", connections=len(everyone), paced=self._paced)
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._dismiss(everyone)
                await self._finish(everyone)
        except TimeoutError:
            log_event(logging.WARNING, "shutdown.timeout", left=engine.registry.arrived)
        finally:
            self._end()
        log_event(logging.INFO, "drain.done", seconds=round(self._loop.time() - self._began, 3))

    async def _dismiss(self, everyone: Sequence[Connection]) -> None:
        spread = max(_SHORTEST_SPREAD, len(everyone) / self._engine.config.reconnect_rate)
        # Stratified: evenly spread, in no order that a client could know.
        step = spread / max(1, len(everyone))
        moments = [(place + random.random()) * step for place in range(len(everyone))]  # noqa: S311 - no secret
        random.shuffle(moments)
        silent: list[tuple[float, Connection]] = []
        for place, (conn, moment) in enumerate(zip(everyone, moments, strict=True)):
            if self._paced and conn.status is ConnectionStatus.OPEN and not conn.is_spoken_to:
                silent.append((moment, conn))
            else:
                conn.send_away(round(moment * 1000))
            if conn.beside is not None and self._task is not None:
                conn.beside.discard(self._task)
            if place % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        silent.sort(key=lambda one: one[0])
        room = min(1.0, (self._patience - self._began) / 2 / spread)
        for moment, conn in silent:
            await asyncio.sleep(self._began + moment * room - self._loop.time())
            conn.send_away(round(moment * 1000))

    async def _finish(self, everyone: Sequence[Connection]) -> None:
        """Wait for what is under way, for handlers as long as there is patience, and for the farewells."""
        engine, patience = self._engine, self._loop.call_at(self._patience, self._stop_handlers)
        try:
            while True:
                if handlers := self._handlers():
                    await asyncio.wait({running.done for running in handlers})
                await engine.supervisor.finish_errands()
                if self._handlers():
                    continue
                farewells = [engine.hooks.farewell_soon(conn) for conn in everyone]
                if not any(farewells):
                    return
        finally:
            patience.cancel()

    def _handlers(self) -> set[Running]:
        return self._engine.runs.others(self._task)

    def _stop_handlers(self) -> None:
        for running in self._handlers():
            running.stop()

    def _end(self) -> None:
        for conn in self._engine.everyone():
            if conn.status is ConnectionStatus.DRAINING:
                cut_off(conn)
            conn.ended()
        for running in self._handlers():
            running.kill()
