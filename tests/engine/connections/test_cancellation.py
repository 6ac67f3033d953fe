"""A server may cancel the application's task at any await: whenever that is, nothing may stay behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Generator
from typing import Annotated, Any, Literal, get_args

import pytest

from wsmanager import Connection, Provide, WebSocketConfig
from wsmanager.protocols import Handshake, Identity
from wsmanager.testing import Peer, PeerClosed, connect

from ..conftest import MakeManager, assert_empty

pytestmark = pytest.mark.anyio


class CancelledAt:
    """Awaits `coroutine`, and cancels the running task at its n-th suspension.

    `late`: when what it waits for is there, but the task has not gone on yet.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None], n: int, *, late: bool) -> None:
        self._coroutine = coroutine
        self._n = n
        self._late = late
        self._suspensions = 0

    def __await__(self) -> Generator[Any, Any, None]:
        step, value, error = self._coroutine, None, None
        while True:
            try:
                waits_for = step.send(value) if error is None else step.throw(error)
            except StopIteration:
                return
            self._suspensions += 1
            if self._suspensions == self._n:
                self._cancel(waits_for)
            try:
                value, error = (yield waits_for), None
            except BaseException as thrown:
                value, error = None, thrown

    def _cancel(self, waits_for: asyncio.Future[Any] | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._late and waits_for is not None:
            waits_for.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()


class Service:
    """An application that suspends wherever it can, and what it noticed."""

    def __init__(self, make_manager: MakeManager) -> None:
        self.greeted = self.missed = self.opened = self.closed = 0
        self.manager = make_manager(WebSocketConfig(max_concurrent_handlers=3), auth=self)
        self.manager.on_connect(self.greet)
        self.manager.on_connect(self.enter)
        self.manager.on_disconnect(self.look)
        self.manager.on_disconnect(self.miss)
        self.manager.on("say")(self.say)
        self.manager.on("beside", concurrent=True)(self.beside)
        self.manager.on("leave")(self.leave)
        self.add_query()

    async def authenticate(self, handshake: Handshake) -> Identity:
        await asyncio.sleep(0.1)
        return Identity("alice")

    async def greet(self, conn: Connection) -> None:
        self.greeted += 1
        await asyncio.sleep(0.1)

    async def enter(self, conn: Connection) -> None:
        await self.manager.join_session(conn, "hall")
        await asyncio.sleep(0.1)

    async def look(self, conn: Connection) -> None:
        assert (str(conn.status), conn.rooms) == ("closed", frozenset())
        await asyncio.sleep(0.1)

    async def miss(self, conn: Connection) -> None:
        await asyncio.sleep(0.1)
        self.missed += 1

    async def say(self, conn: Connection) -> str:
        await asyncio.sleep(0.1)
        for _ in range(5):
            await self.manager.send_to_session("hall", {"type": "said", "data": "x" * 100})
        if conn.congestion is not None:
            await conn.congestion.room()
        return "said"

    async def beside(self, conn: Connection) -> None:
        await asyncio.sleep(0.3)

    async def leave(self, conn: Connection) -> None:
        await conn.close(4000, "left")

    def add_query(self) -> None:
        async def session() -> AsyncIterator[str]:
            self.opened += 1
            try:
                await asyncio.sleep(0.1)
                yield "session"
            finally:
                self.closed += 1
                await asyncio.sleep(0.1)

        @self.manager.on("query")
        async def query(conn: Connection, db: Annotated[str, Provide(session)]) -> str:
            await asyncio.sleep(0.1)
            return db

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        """The endpoint on a server that takes its time over what is no frame."""

        async def slow_send(event: Any) -> None:
            if event["type"] != "websocket.send":
                await asyncio.sleep(0.05)
            await send(event)

        await self.manager.endpoint(scope, receive, slow_send)


End = Literal["the peer closes", "we close", "a send finds the peer gone"]


async def talk(peer: Peer, end: End) -> None:
    """The life of one client, with every reason to suspend."""
    peer.stall()
    for type in ("say", "query", "beside", "beside", "beside", "query", "say"):
        await peer.send_json({"type": type, "id": 1})
        await asyncio.sleep(0.02)
    peer.resume()
    await asyncio.sleep(1)
    if end == "we close":
        await peer.send_json({"type": "leave"})
        await asyncio.sleep(1)
    if end == "a send finds the peer gone":

        async def leave() -> None:
            peer.reset()

        last_words = [peer.send_json({"type": type, "id": 1}) for type in ("unheard.of", "query", "say")]
        await asyncio.gather(*last_words, leave())


async def live(service: Service, n: int, end: End, *, late: bool) -> bool:
    """One client, whose server cancels at the n-th suspension, and whether that ended the application."""
    cancelled = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal cancelled
        try:
            await CancelledAt(service.serve(scope, receive, send), n, late=late)
        except asyncio.CancelledError:
            cancelled = True
            raise

    # Cancelled in the handshake, the application does not answer it; later, the peer is cut off.
    with contextlib.suppress(PeerClosed, AssertionError):
        async with connect(app, window=150) as peer:
            await talk(peer, end)
    return cancelled


@pytest.mark.parametrize("end", get_args(End))
@pytest.mark.parametrize("late", [False, True])
async def test_f47_nothing_stays_behind_wherever_the_server_cancels(
    make_manager: MakeManager, late: bool, end: End
) -> None:
    n, cancelled = 0, True
    while cancelled:
        n += 1
        service = Service(make_manager)
        cancelled = await live(service, n, end, late=late)
        await asyncio.sleep(20)
        assert_empty(service.manager)
        assert service.greeted == service.missed <= 1, f"cancelled at suspension {n}"
        assert service.opened == service.closed, f"cancelled at suspension {n}"
    assert n > 15
