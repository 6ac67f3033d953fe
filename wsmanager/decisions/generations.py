"""Bounded memory for state that fades by itself: two generations, and nothing is ever scanned."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Generations"]

S = TypeVar("S")


class Generations(Generic[S]):
    """State per key in two dicts, young and old: what is touched is young, what stayed old is dropped.

    Time is in a unit of the caller's. `live` says how long the state of a key means something after
    it was touched, `keep` (at least `live`) how long it is nice to have. Nothing is scanned.

    Guaranteed: never more than `max_keys` keys; a key is forgotten no earlier than `live` after its
    last touch, and no earlier than `keep` while less than half of `max_keys` is in use; no key is
    turned away while fewer than half of `max_keys` keys are touched within any `live`.

    The caller must call `rotate` before a look-up when `due` has come, look into `young` first and
    `recall` what is missing there; or just look, with `find`.
    """

    def __init__(self, max_keys: int, *, live: float, keep: float) -> None:
        self._max_keys = max_keys
        self._live = live
        self._keep = keep
        self.young: dict[Hashable, S] = {}
        self.old: dict[Hashable, S] = {}
        self.due = -math.inf
        """When `rotate` must be called."""
        self.room_at = -math.inf
        """When the old generation may be dropped, and a key that was turned away finds room."""
        self.overflowed = 0
        """Keys turned away for want of room."""

    def __len__(self) -> int:
        return len(self.young) + len(self.old)

    def rotate(self, now: float) -> None:
        """Forget what nobody touched for `keep`."""
        self._turn(self.due)
        if now >= self.due:
            self._turn(now)

    def find(self, key: Hashable, now: float) -> S | None:
        """The state of a key that `rotate` would not forget; nothing changes."""
        if now >= self.due + self._keep:
            return None
        state = self.young.get(key)
        return self.old.get(key) if state is None and now < self.due else state

    def recall(self, key: Hashable, now: float) -> S | None:
        """The state of a key that is not young, which makes it young; None for an unknown key."""
        if 2 * len(self) >= self._max_keys and (now >= self.room_at or not self.old):
            self._turn(now)
        state = self.old.pop(key, None)
        if state is not None:
            self.young[key] = state
        return state

    def admit(self, key: Hashable, state: S) -> bool:
        """Take in a key that `recall` does not know, or answer false: there is room at `room_at`."""
        if len(self) >= self._max_keys:
            self.overflowed += 1
            return False
        self.young[key] = state
        return True

    def _turn(self, since: float) -> None:
        """The young generation, last touched before `since`, becomes the old one."""
        self.old, self.young = self.young, {}
        self.room_at = since + self._live
        self.due = since + self._keep
