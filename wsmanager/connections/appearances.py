"""Waiting for an absent user to connect."""

from __future__ import annotations

import asyncio

from ..messages import UserKey

__all__ = ["Appearances"]


class Appearances:
    """Sends that wait for their user, at most `max_waiting` of them."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiters: dict[UserKey, dict[asyncio.Future[None], None]] = {}
        self.waiting = 0
        """How many wait now."""

    async def wait_for(self, key: UserKey, timeout: float) -> bool:
        """Wait until a user connects, `timeout` at most; False, at once, when too many wait already."""
        if self.waiting >= self._max_waiting:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(key, {})[waiter] = None
        self.waiting += 1
        try:
            await asyncio.wait({waiter}, timeout=timeout)
        finally:
            self.waiting -= 1
            waiters = self._waiters[key]
            del waiters[waiter]
            if not waiters:
                del self._waiters[key]
        return True

    def appeared(self, key: UserKey) -> None:
        """Wake those that wait for a user who has just connected."""
        for waiter in self._waiters.get(key, ()):
            if not waiter.done():
                waiter.set_result(None)
