"""The manager as an ASGI application: the second door."""

from __future__ import annotations

import asyncio
from typing import Any

from ..connections.connection import Connection
from ..connections.ending import By, Ending, end, peer_left, woken
from ..engine.engine import Engine
from ..errors import Refused
from ..messages import ConnectionStatus
from ..wire.asgi import Receive, Scope, Send, frame_of
from .guard import guarded

__all__ = ["Endpoint"]


class Endpoint:
    """Serves sockets with the manager's handlers. Mount it, or run it alone.

    An object and not a function, so that Starlette takes it as an ASGI application.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dispatch = engine.dispatch

    # Any: each framework has its own types for these, which fit no other's.
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        conn = await self._enter(scope, receive, send)
        if conn is None:
            return
        task = asyncio.current_task()
        try:
            greeted = await self._engine.hooks.greet(conn)
            # In this frame and no other, and keeping nothing: every idle socket waits here.
            while greeted and (conn.status is ConnectionStatus.OPEN or conn.ahead is not None):
                if conn.ahead is not None:
                    await self._catch_up(conn)
                    continue
                conn.reader = task
                try:
                    event = await receive()
                except asyncio.CancelledError:
                    event = woken(conn)
                finally:
                    conn.reader = None
                if event["type"] == "websocket.disconnect":
                    peer_left(conn, event.get("code") or 1005, event.get("reason") or "")
                    break
                rest = self._dispatch.handle(conn, frame_of(event))
                if rest is not None:
                    await rest
                del event, rest
            if conn.ending is not None:
                await self._see_end(conn, conn.ending, receive, greeted=greeted)
        except BaseException:
            self._engine.hooks.farewell_soon(conn)
            raise
        finally:
            end(conn)
        if self._engine.hooks.on_disconnect:
            await self._engine.hooks.farewell(conn)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> Connection | None:
        if scope["type"] != "websocket":
            await self._answer_other(scope, receive, send)
            return None
        if (await receive())["type"] != "websocket.connect":
            return None
        try:
            socket = guarded(scope, self._engine)
            if socket is None:
                return await self._engine.admission.enter(scope, receive, send)
            return await self._engine.admission.let_in(*socket.give_up())
        except Refused:
            return None  # and told so

    async def _catch_up(self, conn: Connection) -> None:
        """Work on what was read ahead; when there is no more, the loop reads again."""
        item = None if conn.ahead is None else await conn.ahead.next()
        if item is None:
            conn.ahead = None
            return
        rest = self._dispatch.start(conn, item[0])
        if rest is not None:
            await rest

    async def _see_end(self, conn: Connection, ending: Ending, receive: Receive, *, greeted: bool) -> None:
        """Wait for a close that is under way. Where a send found the peer gone, work on what it had said
        before: the server has that already."""
        await ending.finished(conn)
        if not greeted or ending.by is not By.FAILED_SEND:
            return
        config = self._engine.config
        deadline = asyncio.get_running_loop().time() + config.close_timeout
        for _ in range(config.inbound_max_messages):
            try:
                async with asyncio.timeout_at(deadline):
                    event = await receive()
            except TimeoutError:
                return
            if event["type"] == "websocket.disconnect":
                return
            rest = self._dispatch.handle(conn, frame_of(event))
            if rest is not None:
                await rest

    async def _answer_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await _ask_to_upgrade(send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                self._engine.life.start()
                await send({"type": "lifespan.startup.complete"})
            elif event["type"] == "lifespan.shutdown":
                await self._engine.life.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _ask_to_upgrade(send: Send) -> None:
    body = b"This is a WebSocket endpoint."
    headers = [(b"upgrade", b"websocket"), (b"content-type", b"text/plain"), (b"content-length", b"29")]
    await send({"type": "http.response.start", "status": 426, "headers": headers})
    await send({"type": "http.response.body", "body": body})
