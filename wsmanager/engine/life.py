"""When a manager takes connections, on which event loop, and how it comes to an end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from ..auth.visitors import ShuttingDown
from ..config import WebSocketConfig
from ..errors import WrongEventLoop
from ..tasks.signals import drain_first
from ..tasks.supervision import Supervisor
from .drain import Drain

__all__ = ["Life"]

_SHORTEST_WAIT: Final = 1_000


class Life:
    """Binds a manager to one event loop, starts it and ends it."""

    def __init__(
        self,
        config: WebSocketConfig,
        supervisor: Supervisor,
        *,
        holds_anything: Callable[[], bool],
        rebind: Callable[[], None],
        make_drain: Callable[..., Drain],
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._holds_anything = holds_anything
        self._rebind = rebind
        self._make_drain = make_drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ending = False
        self._forget_sigterm: Callable[[], None] | None = None

    def bind(self) -> None:
        """Live on the running loop; a manager moves to another only while it holds nothing.

        Raises `WrongEventLoop`.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._holds_anything():
            raise WrongEventLoop(
                "this manager holds connections of another event loop; use one manager per loop"
            )
        self._loop = loop
        self._is_ending = False
        self._supervisor.rebind()
        self._rebind()
        self._forget_sigterm = None

    def start(self) -> None:
        """Take connections, again if the manager was closed. A first connection does the same."""
        self.bind()
        self._is_ending = False
        self.mind_sigterm()

    def mind_sigterm(self) -> None:
        """Drain at a SIGTERM, before the server acts on it. It may set its handler late, or show no lifespan,
        so that this is tried again with a first connection."""
        if self._forget_sigterm is None and self._config.drain_on_sigterm:
            self._forget_sigterm = drain_first(self)

    def refuse_at_the_end(self) -> None:
        """Raise `Refused` once everyone is being sent away."""
        if self._is_ending:
            after_ms = _SHORTEST_WAIT + random.randrange(_SHORTEST_WAIT)  # noqa: S311 - no secret
            raise ShuttingDown("The server is shutting down.", retry_after_ms=after_ms)

    async def drain(self, *, paced: bool = True) -> None:
        """Send everyone away; whoever comes then is refused."""
        self.bind()
        self._is_ending = True
        await self._make_drain(paced=paced).run()

    async def aclose(self) -> None:
        """Send everyone away, and stop all background work."""
        self.bind()
        try:
            await self.drain(paced=False)
        finally:
            if self._forget_sigterm is not None:
                self._forget_sigterm()
                self._forget_sigterm = None
            await self._supervisor.stop()
