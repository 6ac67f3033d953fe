"""SIGTERM: what is drained before the handler that was there acts on it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVarTuple

import pytest

from wsmanager.tasks.signals import _warn_of_unseen, drain_first

Ts = TypeVarTuple("Ts")
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


# --- loops that keep their handlers otherwise


@pytest.fixture
def unseen(caplog: pytest.LogCaptureFixture) -> Generator[Callable[[], list[str]]]:
    """The warnings that a handler is not to be seen."""
    _warn_of_unseen.cache_clear()
    yield lambda: [
        record.getMessage()
        for record in caplog.records
        if getattr(record, "event", "") == "sigterm.unseen" and record.levelno == logging.WARNING
    ]
    _warn_of_unseen.cache_clear()


class OtherHandle:
    """A handle of asyncio whose parts have other names."""

    def __init__(self, handle: Any) -> None:
        self.callback, self.args = handle._callback, handle._args

    def cancel(self) -> None: ...


class OtherLoop(asyncio.SelectorEventLoop):
    """asyncio's own, but for the name of its handlers and for what it tells the process."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = self.__dict__.pop("_signal_handlers")

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        self.kept[sig] = asyncio.Handle(callback, args, self, None)
        signal.signal(sig, self.on_signal)

    def on_signal(self, number: int, frame: object) -> None: ...

    def remove_signal_handler(self, sig: int) -> bool:
        signal.signal(sig, signal.SIG_DFL)
        return self.kept.pop(sig, None) is not None

    def close(self) -> None:
        self._signal_handlers = self.kept
        super().close()


def uvloops() -> asyncio.AbstractEventLoop:
    return pytest.importorskip("uvloop").new_event_loop()  # type: ignore[no-any-return]


def with_other_handles() -> asyncio.AbstractEventLoop:
    loop: Any = asyncio.SelectorEventLoop()
    before = loop.add_signal_handler

    def add(*arguments: Any) -> None:
        before(*arguments)
        loop._signal_handlers[signal.SIGTERM] = OtherHandle(loop._signal_handlers[signal.SIGTERM])

    loop.add_signal_handler = add
    return loop  # type: ignore[no-any-return]


@pytest.mark.parametrize("make_loop", [OtherLoop, uvloops, with_other_handles])
def test_a_handler_that_a_loop_keeps_otherwise_is_left_alone_and_one_warning_says_what_to_do(
    make_loop: Callable[[], asyncio.AbstractEventLoop], unseen: Callable[[], list[str]]
) -> None:
    async def find() -> None:
        with by_loop([]):
            before = signal.getsignal(signal.SIGTERM)
            assert [drain_first(Drained([])) for _ in range(3)] == [None] * 3
            assert signal.getsignal(signal.SIGTERM) == before

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(find())
    (warning,) = unseen()
    assert "await manager.drain()" in warning


@pytest.mark.parametrize("make_loop", [OtherLoop, uvloops, asyncio.SelectorEventLoop])
def test_where_no_server_handles_a_sigterm_nothing_is_said(
    make_loop: Callable[[], asyncio.AbstractEventLoop], unseen: Callable[[], list[str]]
) -> None:
    async def find() -> None:
        assert drain_first(Drained([])) is None

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(find())
    assert unseen() == []


def test_what_another_loop_left_is_no_handler_of_this_one(unseen: Callable[[], list[str]]) -> None:
    async def find() -> None:
        assert drain_first(Drained([])) is None

    with contextlib.closing(asyncio.SelectorEventLoop()) as stopped:
        stopped.add_signal_handler(signal.SIGTERM, print)
        asyncio.run(find())
    assert unseen() == []


def test_a_handle_that_is_cancelled_is_none(unseen: Callable[[], list[str]]) -> None:
    async def find() -> None:
        with by_loop([]):
            loop: Any = asyncio.get_running_loop()
            loop._signal_handlers[signal.SIGTERM].cancel()
            assert drain_first(Drained([])) is None

    asyncio.run(find())
    assert unseen() == []
