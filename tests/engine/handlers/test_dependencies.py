"""What handlers depend on: made for one message, closed with it, whatever happens."""

import asyncio
import contextlib
import functools
import itertools
import logging
import threading
import types
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Annotated, Any

import anyio
import anyio.from_thread
import anyio.to_thread
import fastapi
import pytest

from wsmanager.handlers.dependencies import call
from wsmanager.handlers.router import Route, Router
from wsmanager.handlers.signatures import Provide
from wsmanager.messages import InboundMessage

pytestmark = pytest.mark.anyio


class Peer:
    """Stands for the connection."""


MESSAGE = InboundMessage("x", {"n": 1}, 7)
CONN = Peer()


def plan(handler: Callable[..., Any]) -> Route:
    return Router(Peer).add("x", handler)


async def let_threads_work() -> None:
    """Let jobs that were given to threads before this come to an end, if they can."""
    for _ in range(3):
        await anyio.to_thread.run_sync(int)


async def run(
    handler: Callable[..., Any], data: Any = None, *, threads: int = 4, close_timeout: float = 5.0
) -> Any:
    limiter = anyio.CapacityLimiter(threads)
    return await call(plan(handler), CONN, MESSAGE, data, limiter, close_timeout=close_timeout)


class Journal(list[str]):
    """What happened, and dependencies that write it down."""

    def asynchronous(self, name: str) -> Callable[[], AsyncIterator[str]]:
        async def dependency() -> AsyncIterator[str]:
            with self._life_of(name):
                yield name

        return dependency

    def synchronous(self, name: str) -> Callable[[], Iterator[str]]:
        def dependency() -> Iterator[str]:
            with self._life_of(name):
                yield name

        return dependency

    @contextlib.contextmanager
    def _life_of(self, name: str) -> Generator[None]:
        self.append(f"open {name}")
        try:
            yield
        except BaseException as error:
            self.append(f"{type(error).__name__} in {name}")
            raise
        finally:
            self.append(f"close {name}")

    def made_by(self, kind: str, name: str) -> Callable[[], Any]:
        return self.asynchronous(name) if kind == "async" else self.synchronous(name)


@pytest.fixture
def journal() -> Journal:
    return Journal()


both_kinds = pytest.mark.parametrize("kind", ["async", "sync"])


# --- handlers


async def test_an_asynchronous_handler_gets_what_it_asks_for() -> None:
    async def handler(data: dict[str, int], message: InboundMessage, conn: Peer) -> Any:
        return data, message, conn

    assert await run(handler, {"n": 1}) == ({"n": 1}, MESSAGE, CONN)


async def test_a_synchronous_handler_runs_in_a_worker_thread() -> None:
    def handler(conn: Peer, data: int, /) -> Any:
        return conn, data, threading.current_thread()

    conn, data, thread = await run(handler, 5)
    assert (conn, data) == (CONN, 5)
    assert thread is not threading.main_thread()


async def test_no_more_synchronous_handlers_run_than_the_limiter_lets() -> None:
    limiter = anyio.CapacityLimiter(1)
    route = plan(lambda conn: limiter.borrowed_tokens)
    answers = [call(route, CONN, MESSAGE, None, limiter) for _ in range(3)]
    assert await asyncio.gather(*answers) == [1, 1, 1]


async def test_a_coroutine_from_a_synchronous_wrapper_is_awaited_on_the_loop() -> None:
    async def handler(conn: Peer) -> Any:
        return threading.current_thread()

    assert await run(lambda conn: handler(conn)) is threading.main_thread()


async def test_a_synchronous_handler_that_hangs_can_be_cancelled() -> None:
    started, released = asyncio.Event(), threading.Event()

    def handler(conn: Peer) -> None:
        anyio.from_thread.run_sync(started.set)
        assert released.wait(5), "nobody waited for the handler"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, handler)
        await started.wait()
        tasks.cancel_scope.cancel()
    released.set()


async def test_a_cancelled_synchronous_handler_counts_until_it_is_done() -> None:
    started, released = asyncio.Event(), threading.Event()
    limiter = anyio.CapacityLimiter(1)

    def handler(conn: Peer) -> None:
        anyio.from_thread.run_sync(started.set)
        released.wait()

    task = asyncio.create_task(call(plan(handler), CONN, MESSAGE, None, limiter))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limiter.borrowed_tokens == 1
    released.set()
    async with limiter:
        assert limiter.borrowed_tokens == 1


async def test_a_synchronous_handler_that_is_cancelled_before_it_starts_never_does() -> None:
    limiter = anyio.CapacityLimiter(1)
    ran: list[object] = []
    async with limiter:
        task = asyncio.create_task(call(plan(ran.append), CONN, MESSAGE, None, limiter))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await let_threads_work()
    assert ran == []
    assert limiter.borrowed_tokens == 0


# --- what dependencies give


class Database:
    def __init__(self, conn: Peer) -> None:
        self.conn = conn


class Url:
    async def __call__(self, message: InboundMessage) -> str:
        return f"db/{message.id}"


def get_name(conn: Peer, message: InboundMessage) -> str:
    assert threading.current_thread() is not threading.main_thread()
    return f"{type(conn).__name__} {message.type}"


async def get_pair(
    name: Annotated[str, Provide(get_name)], url: Annotated[str, Provide(Url())]
) -> tuple[str, str]:
    return name, url


async def test_functions_classes_and_objects_are_called_for_the_handler() -> None:
    async def handler(
        conn: Peer,
        data: int,
        pair: Annotated[tuple[str, str], Provide(get_pair)],
        database: Annotated[Database, Provide(Database)],
        prefix: Annotated[str, Provide(functools.partial(get_name, message=MESSAGE))],
    ) -> Any:
        return data, pair, database.conn, prefix

    assert await run(handler, 5) == (5, ("Peer x", "db/7"), CONN, "Peer x")


async def test_a_synchronous_handler_has_dependencies_too(journal: Journal) -> None:
    one, two = journal.synchronous("one"), journal.asynchronous("two")

    def handler(conn: Peer, one: Annotated[str, Provide(one)], two: Annotated[str, Provide(two)]) -> str:
        return one + two

    assert await run(handler) == "onetwo"
    assert journal == ["open one", "open two", "close two", "close one"]


@both_kinds
async def test_the_depends_of_fastapi_is_resolved(kind: str, journal: Journal) -> None:
    session = journal.made_by(kind, "session")

    async def handler(
        conn: Peer, one: Annotated[str, fastapi.Depends(session)], two: str = fastapi.Depends(session)
    ) -> Any:
        return one, two

    assert await run(handler) == ("session", "session")
    assert journal == ["open session", "close session"]


@pytest.mark.parametrize(("use_cache", "runs"), [(True, 1), (False, 2)])
async def test_a_dependency_runs_once_for_a_message_unless_told_otherwise(use_cache: bool, runs: int) -> None:
    made: list[object] = []

    async def make() -> object:
        made.append(object())
        return made[-1]

    def also(value: Annotated[object, Provide(make, use_cache=use_cache)]) -> object:
        return value

    async def handler(
        conn: Peer,
        one: Annotated[object, Provide(make, use_cache=use_cache)],
        two: Annotated[object, Provide(also)],
    ) -> bool:
        return one is two

    assert await run(handler) is use_cache
    assert len(made) == runs
    await run(handler)
    assert len(made) == 2 * runs


# --- closing


@both_kinds
async def test_generators_are_closed_in_reverse_after_the_handler(kind: str, journal: Journal) -> None:
    outer, inner = journal.made_by(kind, "outer"), journal.made_by(kind, "inner")

    async def handler(
        conn: Peer, one: Annotated[str, Provide(outer)], two: Annotated[str, Provide(inner)]
    ) -> None:
        journal.append("handler")

    await run(handler)
    assert journal == ["open outer", "open inner", "handler", "close inner", "close outer"]


async def test_a_synchronous_generator_runs_in_worker_threads() -> None:
    threads: list[threading.Thread] = []

    def session() -> Iterator[None]:
        threads.append(threading.current_thread())
        yield
        threads.append(threading.current_thread())

    async def handler(conn: Peer, session: Annotated[None, Provide(session)]) -> None: ...

    await run(handler)
    assert len(threads) == 2
    assert threading.main_thread() not in threads


async def test_a_generator_can_be_closed_while_all_threads_are_taken(journal: Journal) -> None:
    limiter = anyio.CapacityLimiter(1)

    async def handler(conn: Peer, session: Annotated[str, Provide(journal.synchronous("session"))]) -> None:
        await limiter.acquire_on_behalf_of("somebody else")

    await call(plan(handler), CONN, MESSAGE, None, limiter)
    assert journal[-1] == "close session"


@both_kinds
async def test_what_the_handler_raises_is_thrown_into_all_generators_and_at_the_caller(
    kind: str, journal: Journal
) -> None:
    outer, inner = journal.made_by(kind, "outer"), journal.made_by(kind, "inner")

    async def handler(
        conn: Peer, one: Annotated[str, Provide(outer)], two: Annotated[str, Provide(inner)]
    ) -> None:
        raise KeyError("of the handler")

    with pytest.raises(KeyError, match="of the handler"):
        await run(handler)
    assert journal[2:] == ["KeyError in inner", "close inner", "KeyError in outer", "close outer"]


async def swallow_asynchronously() -> AsyncIterator[None]:
    with contextlib.suppress(KeyError):
        yield


def swallow_synchronously() -> Iterator[None]:
    with contextlib.suppress(KeyError):
        yield


@pytest.mark.parametrize("swallow", [swallow_asynchronously, swallow_synchronously])
async def test_a_generator_cannot_keep_an_error_from_the_others_and_the_caller(
    swallow: Callable[[], Any], journal: Journal
) -> None:
    outer = journal.asynchronous("outer")

    async def handler(
        conn: Peer, one: Annotated[str, Provide(outer)], two: Annotated[None, Provide(swallow)]
    ) -> None:
        raise KeyError("of the handler")

    with pytest.raises(KeyError, match="of the handler"):
        await run(handler)
    assert "KeyError in outer" in journal


async def test_a_generator_may_raise_another_error_instead() -> None:
    async def translate() -> AsyncIterator[None]:
        try:
            yield
        except KeyError as error:
            raise PermissionError("of the dependency") from error

    async def handler(conn: Peer, _: Annotated[None, Provide(translate)]) -> None:
        raise KeyError("of the handler")

    with pytest.raises(PermissionError, match="of the dependency"):
        await run(handler)


@both_kinds
async def test_a_dependency_that_fails_closes_those_before_it(kind: str, journal: Journal) -> None:
    outer = journal.made_by(kind, "outer")

    def fail() -> None:
        raise KeyError("of the dependency")

    async def handler(
        conn: Peer, one: Annotated[str, Provide(outer)], two: Annotated[None, Provide(fail)]
    ) -> None:
        journal.append("handler")

    with pytest.raises(KeyError, match="of the dependency"):
        await run(handler)
    assert journal == ["open outer", "KeyError in outer", "close outer"]


@pytest.mark.parametrize("fail", ["before", "after"])
async def test_a_synchronous_generator_that_fails_is_reported(fail: str) -> None:
    def session() -> Iterator[None]:
        if fail == "before":
            raise KeyError("of the dependency")
        yield
        raise KeyError("of the dependency")

    async def handler(conn: Peer, one: Annotated[None, Provide(session)]) -> None: ...

    with pytest.raises(KeyError, match="of the dependency"):
        await run(handler)


# --- cancellation


@types.coroutine
def cancelled_at(step: int, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, bool]:
    """Run `coroutine`, and cancel the task when it suspends for the given time. False: it never did."""
    resume = functools.partial(coroutine.send, None)
    for suspension in itertools.count():
        try:
            waits_for = resume()
        except StopIteration:
            return False
        task = asyncio.current_task()
        if suspension == step and task is not None:
            task.cancel()
        try:
            yield waits_for
            resume = functools.partial(coroutine.send, None)
        except BaseException as error:
            resume = functools.partial(coroutine.throw, error)
    raise AssertionError("unreachable")


async def interrupt(step: int, coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Whether the coroutine was cancelled; what it left to run in the background has ended, too."""
    others = asyncio.all_tasks()

    async def message() -> bool:
        return await cancelled_at(step, coroutine)

    (outcome,) = await asyncio.gather(asyncio.create_task(message()), return_exceptions=True)
    await asyncio.gather(*asyncio.all_tasks() - others)
    assert outcome is False or isinstance(outcome, asyncio.CancelledError)
    return outcome is not False


async def test_at_whichever_await_a_message_is_cancelled_all_that_was_opened_is_closed(
    journal: Journal,
) -> None:
    one, two, three = journal.asynchronous("one"), journal.synchronous("two"), journal.asynchronous("three")

    async def slow(two: Annotated[str, Provide(two)]) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        journal.append("open slow")
        try:
            yield two
            await asyncio.sleep(0)
        finally:
            journal.append("close slow")

    async def handler(
        conn: Peer,
        one: Annotated[str, Provide(one)],
        slow: Annotated[str, Provide(slow)],
        three: Annotated[str, Provide(three)],
    ) -> None:
        await asyncio.sleep(0)

    steps = 0
    while await interrupt(steps, run(handler)):
        opened = [line.split()[1] for line in journal if line.startswith("open")]
        closed = [line.split()[1] for line in journal if line.startswith("close")]
        assert closed == opened[::-1]
        journal.clear()
        steps += 1
    assert steps > 4, "a thread to enter and to leave, and three sleeps"


@both_kinds
async def test_a_cancelled_handler_has_its_generators_closed(kind: str, journal: Journal) -> None:
    session = journal.made_by(kind, "session")
    running = asyncio.Event()

    async def handler(conn: Peer, session: Annotated[str, Provide(session)]) -> None:
        running.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run(handler))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journal == ["open session", "CancelledError in session", "close session"]


async def test_closing_may_await_although_a_scope_around_the_message_is_cancelled() -> None:
    closed = False

    async def session() -> AsyncIterator[None]:
        nonlocal closed
        try:
            yield
        finally:
            await anyio.sleep(1)
            closed = True

    async def handler(conn: Peer, session: Annotated[None, Provide(session)]) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(1) as scope:
        await run(handler)
    assert scope.cancelled_caught
    assert closed


async def test_closing_that_hangs_is_cut_off() -> None:
    async def session() -> AsyncIterator[None]:
        yield
        await anyio.sleep_forever()

    async def handler(conn: Peer, session: Annotated[None, Provide(session)]) -> None: ...

    before = anyio.current_time()
    with pytest.raises(TimeoutError, match="'x' did not close within 3 s"):
        await run(handler, close_timeout=3)
    assert anyio.current_time() - before == pytest.approx(3)


async def test_a_cancellation_outlives_closing_that_hangs() -> None:
    async def session() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await anyio.sleep_forever()

    async def handler(conn: Peer, session: Annotated[None, Provide(session)]) -> None:
        await anyio.sleep_forever()

    before = anyio.current_time()
    with anyio.move_on_after(1) as scope:
        await run(handler, close_timeout=3)
    assert scope.cancelled_caught
    assert anyio.current_time() - before == pytest.approx(4)


async def test_a_cancellation_outlives_a_dependency_that_fails_to_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def session() -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise OSError("the database is gone")

    async def handler(conn: Peer, session: Annotated[None, Provide(session)]) -> None:
        await anyio.sleep_forever()

    task = asyncio.create_task(run(handler))
    await asyncio.sleep(0)
    task.cancel()
    with caplog.at_level(logging.ERROR, "wsmanager"), pytest.raises(asyncio.CancelledError):
        await task
    assert "dependency.close_failed" in caplog.text
    assert "the database is gone" in caplog.text


async def test_a_dependency_may_limit_the_time_of_the_handler() -> None:
    async def deadline() -> AsyncIterator[None]:
        with anyio.fail_after(2):
            yield

    async def handler(conn: Peer, deadline: Annotated[None, Provide(deadline)]) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        await run(handler)


async def test_a_dependency_may_run_tasks_beside_the_handler() -> None:
    async def crew() -> AsyncIterator[anyio.abc.TaskGroup]:
        async with anyio.create_task_group() as tasks:
            yield tasks

    done: list[str] = []

    async def work() -> None:
        await anyio.sleep(1)
        done.append("work")

    async def handler(conn: Peer, crew: Annotated[anyio.abc.TaskGroup, Provide(crew)]) -> None:
        crew.start_soon(work)

    await run(handler)
    assert done == ["work"]


async def test_a_session_that_is_opened_while_the_message_is_cancelled_is_closed(journal: Journal) -> None:
    opening, released = asyncio.Event(), threading.Event()

    def session() -> Iterator[str]:
        anyio.from_thread.run_sync(opening.set)
        released.wait()
        yield from journal.synchronous("session")()

    async def handler(conn: Peer, session: Annotated[str, Provide(session)]) -> None:
        journal.append("handler")

    task = asyncio.create_task(run(handler))
    await opening.wait()
    task.cancel()
    await asyncio.sleep(0)
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journal == ["open session", "CancelledError in session", "close session"]


async def test_nothing_is_closed_under_a_cancelled_handler_that_still_runs(journal: Journal) -> None:
    running, released = asyncio.Event(), threading.Event()

    def handler(conn: Peer, session: Annotated[str, Provide(journal.synchronous("session"))]) -> None:
        anyio.from_thread.run_sync(running.set)
        released.wait()
        journal.append("handler is done")

    task = asyncio.create_task(run(handler))
    await running.wait()
    task.cancel()
    await let_threads_work()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journal == ["open session", "handler is done", "CancelledError in session", "close session"]


# --- between messages


class Session:
    pass


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_is_held_between_messages(fails: bool) -> None:
    sessions: list[weakref.ref[Session]] = []

    async def open_session() -> AsyncIterator[Session]:
        session = Session()
        sessions.append(weakref.ref(session))
        yield session

    def borrow(session: Annotated[Session, Provide(open_session)]) -> Iterator[Session]:
        yield session

    async def handler(conn: Peer, session: Annotated[Session, Provide(borrow)]) -> None:
        if fails:
            raise KeyError("of the handler")

    with contextlib.suppress(KeyError):
        await run(handler)
    await let_threads_work()
    assert [session() for session in sessions] == [None]
