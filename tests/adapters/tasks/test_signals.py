"""SIGTERM: what is drained before the handler that was there acts on it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

from wsmanager.tasks.signals import drain_first

Diary = list[str]


class Drained:
    """Takes as long as it is let."""

    def __init__(self, diary: Diary, name: str = "drained") -> None:
        self.may = asyncio.Event()
        self._diary = diary
        self._name = name

    async def drain(self) -> None:
        await self.may.wait()
        self._diary.append(self._name)


class Broken:
    async def drain(self) -> None:
        raise OSError("broken")


@contextlib.contextmanager
def by_signal(diary: Diary) -> Generator[None]:
    """As uvicorn and daphne do."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: diary.append(f"ended {number}"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def by_loop(diary: Diary) -> Generator[None]:
    """As hypercorn and granian do."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda number: diary.append(f"ended {number}"), 15)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


WAYS = pytest.mark.parametrize("way", [by_signal, by_loop])
ENDED = f"ended {int(signal.SIGTERM)}"


def on_a_real_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Signals come in real time."""

    def run(way: Any) -> None:
        asyncio.run(asyncio.wait_for(test(way, []), 10))

    run.__name__ = test.__name__
    marked: Callable[..., None] = WAYS(run)
    return marked


async def told() -> None:
    """Let the loop see a signal that was raised."""
    for _ in range(3):
        await asyncio.sleep(0.001)


async def until(diary: Diary, length: int) -> None:
    while len(diary) < length:  # noqa: ASYNC110 - signals come in real time
        await asyncio.sleep(0.001)


@on_a_real_loop
async def test_the_server_acts_once_all_is_drained(way: Any, diary: Diary) -> None:
    with way(diary):
        one, other = Drained(diary), Drained(diary)
        assert drain_first(one)
        assert drain_first(other)
        signal.raise_signal(signal.SIGTERM)
        one.may.set()
        await told()
        assert diary == ["drained"]
        other.may.set()
        await until(diary, 3)
        assert diary == ["drained", "drained", ENDED]


@on_a_real_loop
async def test_a_second_signal_goes_to_the_server_at_once(way: Any, diary: Diary) -> None:
    with way(diary):
        one = Drained(diary)
        assert drain_first(one)
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            await told()
        await until(diary, 1)
        one.may.set()
        await until(diary, 3)
        assert diary == [ENDED, "drained", ENDED]


@on_a_real_loop
async def test_a_drain_that_fails_does_not_keep_the_server(way: Any, diary: Diary) -> None:
    with way(diary):
        broken = Broken()
        assert drain_first(broken)
        signal.raise_signal(signal.SIGTERM)
        await until(diary, 1)
        assert diary == [ENDED]


@on_a_real_loop
async def test_what_was_taken_back_or_is_no_more_is_not_drained(way: Any, diary: Diary) -> None:
    with way(diary):
        one, lost = Drained(diary), Drained(diary)
        take_back = drain_first(one)
        assert take_back
        assert drain_first(lost)
        take_back()
        del lost
        gc.collect()
        signal.raise_signal(signal.SIGTERM)
        await until(diary, 1)
        assert diary == [ENDED]


def test_without_a_handler_of_a_server_nothing_is_touched() -> None:
    async def find() -> Any:
        return drain_first(Drained([]))

    before = signal.getsignal(signal.SIGTERM)
    assert asyncio.run(find()) is None
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_are_the_main_threads() -> None:
    found: list[Any] = []

    async def find() -> None:
        found.append(drain_first(Drained([])))

    diary: Diary = []
    with by_signal(diary):
        thread = threading.Thread(target=lambda: asyncio.run(find()))
        thread.start()
        thread.join(10)
    assert found == [None]


def test_a_loop_that_is_closed_keeps_no_server_from_its_end() -> None:
    diary: Diary = []
    one = Drained(diary)

    async def find() -> None:
        assert drain_first(one)

    with by_signal(diary):
        asyncio.run(find())
        signal.raise_signal(signal.SIGTERM)
    assert diary == [ENDED]


async def drained_by_a_signal(diary: Diary) -> None:
    one = Drained(diary)
    one.may.set()
    assert drain_first(one)
    signal.raise_signal(signal.SIGTERM)
    await until(diary, 2)


def test_the_next_loop_drains_as_the_first_did() -> None:
    diary: Diary = []
    with by_signal(diary):
        for _ in range(3):
            asyncio.run(asyncio.wait_for(drained_by_a_signal(diary), 10))
            assert diary == ["drained", ENDED]
            diary.clear()


def test_a_loop_that_is_only_stopped_keeps_no_process_from_its_end() -> None:
    diary: Diary = []
    one = Drained(diary)

    async def find() -> None:
        assert drain_first(one)

    with by_signal(diary), contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(find())
        signal.raise_signal(signal.SIGTERM)
        assert diary == [ENDED]
