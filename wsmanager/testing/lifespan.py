"""Runs the lifespan of an ASGI application around a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from .sockets import App, Event

__all__ = ["lifespan"]


@asynccontextmanager
async def lifespan(app: App, *, timeout: float = 60.0) -> AsyncGenerator[dict[str, Any]]:
    """Start `app`, give the state it set (pass it to `connect`), shut it down.

    Raises what the application raised; `RuntimeError` with its message when it reports a failure;
    `TimeoutError` when it does not answer; `AssertionError` when it answers what ASGI does not allow,
    ends without an answer, or does not end.
    """
    run = _Lifespan(app, timeout)
    try:
        await run.ask("startup")
        try:
            yield run.state
        finally:
            await run.ask("shutdown")
        await run.end()
    finally:
        await run.cancel()


class _Lifespan:
    def __init__(self, app: App, timeout: float) -> None:
        self.state: dict[str, Any] = {}
        self._timeout = timeout
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._answers: asyncio.Queue[Event] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(app), name="lifespan")

    async def _run(self, app: App) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        await app(scope, self._events.get, self._answers.put)

    async def ask(self, stage: str) -> None:
        self._events.put_nowait({"type": f"lifespan.{stage}"})
        kind, message = await self._answer(stage)
        if kind == f"lifespan.{stage}.failed":
            raise RuntimeError(message)
        if kind != f"lifespan.{stage}.complete":
            raise AssertionError(f"{kind} is no answer to lifespan.{stage}")

    async def _answer(self, stage: str) -> tuple[str, str]:
        answer = asyncio.ensure_future(self._answers.get())
        try:
            await asyncio.wait(
                {answer, self._task}, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not answer.done():
                self._explain(stage)
            return answer.result()["type"], answer.result().get("message", "")
        finally:
            answer.cancel()

    def _explain(self, stage: str) -> None:
        if not self._task.done():
            raise TimeoutError(f"the app did not answer lifespan.{stage} within {self._timeout} s")
        self._task.result()
        raise AssertionError(f"the app ended without answering lifespan.{stage}")

    async def end(self) -> None:
        await asyncio.wait({self._task}, timeout=self._timeout)
        if not self._task.done():
            raise AssertionError(f"the app did not end within {self._timeout} s of its shutdown")
        self._task.result()

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
