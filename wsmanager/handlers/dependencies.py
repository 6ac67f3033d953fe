"""Runs a handler with what it depends on, which is made for one message and closed with it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.to_thread

from ..logs import log_event
from ..messages import InboundMessage
from .router import Route
from .signatures import Call, CallKind

__all__ = ["call"]

T = TypeVar("T")
_GENERATORS: Final = (CallKind.GENERATOR, CallKind.ASYNC_GENERATOR)


async def call(
    route: Route,
    conn: Any,
    message: InboundMessage,
    data: Any,
    limiter: anyio.CapacityLimiter,
    *,
    close_timeout: float = 5.0,
) -> Any:
    """Run the handler of `route` with converted `data`, and return its reply.

    Synchronous functions run in worker threads, as many as `limiter` lets; one that is cancelled runs on,
    and counts until it is done. Dependencies are closed in
    reverse order when the handler has ended, failed or was cancelled. What it raised is thrown into them;
    they cannot keep it from the caller, but may raise another error instead, though not of a
    cancellation. Closing is cancelled after `close_timeout`, not before, and raises `TimeoutError` then.
    """
    values = [conn, data, message]
    if not any(dependency.kind in _GENERATORS for dependency in route.dependencies):
        run = functools.partial(_run, limiter=limiter, turn=threading.Lock())
        return await _run_all(route, values, run)
    with anyio.CancelScope() as scope:
        async with _Lifetime(scope, limiter, close_timeout) as lifetime:
            return await _run_all(route, values, lifetime.run)
    raise TimeoutError(f"the dependencies of {route.type!r} did not close within {close_timeout} s")


async def _run_all(
    route: Route, values: list[Any], run: Callable[[Call, Sequence[Any]], Awaitable[Any]]
) -> Any:
    for dependency in route.dependencies:
        values.append(await run(dependency, values))
    return await run(route.call, values)


class _Lifetime:
    """What one message holds open."""

    __slots__ = ("_cancellations", "_limiter", "_scope", "_stack", "_timeout", "_turn")

    def __init__(self, scope: anyio.CancelScope, limiter: anyio.CapacityLimiter, timeout: float) -> None:
        self._scope = scope
        self._limiter = limiter
        self._timeout = timeout
        self._stack = contextlib.AsyncExitStack()
        self._turn = threading.Lock()
        """What runs in threads for this message takes turns: a thread that was abandoned by a cancellation
        still uses what would be closed."""
        self._cancellations = _cancellations()

    async def run(self, call: Call, values: Sequence[Any]) -> Any:
        """What `call` gives; a generator stays open."""
        if call.kind is CallKind.ASYNC_GENERATOR:
            return await self._enter(_bound(call, values)())
        if call.kind is CallKind.GENERATOR:
            return await self._enter_in_thread(_bound(call, values)())
        return await _run(call, values, self._limiter, self._turn)

    async def _enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        async def leave(*error: Any) -> None:
            await manager.__aexit__(*error)

        value = await manager.__aenter__()
        self._stack.push_async_exit(leave)
        return value

    async def _enter_in_thread(self, manager: AbstractContextManager[T]) -> T:
        """Enter, and be sure to leave: a thread abandoned while it enters has still entered."""

        async def leave(*error: Any) -> None:
            def run() -> None:
                with self._turn:
                    manager.__exit__(*error)

            # In a task of its own, because a cancellation may come before the thread has started; with a
            # limiter of its own, because all threads may be waiting for what is given back here.
            leaving = asyncio.create_task(anyio.to_thread.run_sync(run, limiter=anyio.CapacityLimiter(1)))
            try:
                await asyncio.wait([leaving])
            except asyncio.CancelledError:
                await asyncio.wait([leaving])  # still before the next one is closed
                raise
            await leaving

        self._stack.push_async_exit(leave)
        return await _in_thread(manager.__enter__, self._limiter, self._turn)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._scope.shield = True
        self._scope.deadline = anyio.current_time() + self._timeout
        try:
            await self._stack.__aexit__(kind, error, traceback)
        except Exception as failure:
            if not (isinstance(error, asyncio.CancelledError) and _cancellations() > self._cancellations):
                raise
            log_event(logging.ERROR, "dependency.close_failed", error=failure)
        finally:
            self._scope.shield = False


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0


async def _run(
    call: Call, values: Sequence[Any], limiter: anyio.CapacityLimiter, turn: threading.Lock
) -> Any:
    function = _bound(call, values)
    if call.kind is CallKind.COROUTINE:
        return await function()
    result = await _in_thread(function, limiter, turn)
    return await result if inspect.iscoroutine(result) else result


def _bound(call: Call, values: Sequence[Any]) -> Callable[[], Any]:
    arguments = [values[slot] for slot in call.positional]
    return functools.partial(
        call.function, *arguments, **{name: values[slot] for name, slot in call.keywords}
    )


async def _in_thread(function: Callable[[], T], limiter: anyio.CapacityLimiter, turn: threading.Lock) -> T:
    """Run `function` in a thread, which a cancellation leaves behind: it keeps its place in `limiter` until
    it is done. A function that has not started yet never does."""
    started = threading.Event()

    def run() -> T:
        started.set()
        with turn:
            return function()

    job = asyncio.create_task(anyio.to_thread.run_sync(run, limiter=limiter))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        if not started.is_set():
            job.cancel()
        raise
