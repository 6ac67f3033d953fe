"""Adopting a socket inside an endpoint that keeps its own loop: the third door."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Generator
from types import TracebackType
from typing import Any

from ..auth.visitors import VisitorLeft
from ..connections.connection import Connection
from ..connections.ending import end
from ..engine.engine import Engine
from ..errors import CloseCode, ConfigurationError, Disconnect, Refused, to_client
from ..messages import ConnectionStatus
from ..wire.asgi import Event
from .guard import GuardedSocket, SocketGuard, guarded
from .modes import EnvelopeMode
from .starlette_socket import StarletteSocket, WebSocketLike, handled_exception

__all__ = ["Adoption", "WebSocketLike"]


class Adoption:
    """What `ConnectionManager.connect` returns: await it, or use it as ``async with``."""

    _conn: Connection

    def __init__(
        self,
        engine: Engine,
        websocket: WebSocketLike,
        *,
        user_id: str | None,
        tenant: str | None,
        connection_id: str | None,
        metadata: dict[str, Any] | None,
    ) -> None:
        self._engine = engine
        self._websocket = websocket
        self._user_id = user_id
        self._tenant = tenant
        self._connection_id = connection_id
        self._metadata = metadata

    def __await__(self) -> Generator[Any, Any, Connection]:
        return self._adopt().__await__()

    async def __aenter__(self) -> Connection:
        self._conn = await self._adopt()
        return self._conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Close with the code that the end of the block stands for. A `Disconnect` is carried out here;
        every other exception goes on."""
        if error is None or isinstance(error, Exception):
            await self._engine.disconnect(self._conn, *_close_for(error))
        else:
            self._engine.abandon(self._conn)
        return isinstance(error, Disconnect)

    async def _adopt(self) -> Connection:
        websocket, engine = self._websocket, self._engine
        adopted = StarletteSocket(websocket)
        if adopted.is_accepted:
            raise ConfigurationError(
                "connect() accepts the socket itself: call it before, or instead of, websocket.accept()"
            )
        receive, send = adopted.ends()
        await adopted.hear_connect()
        socket = guarded(websocket.scope, engine)
        if socket is not None:
            return await self._take_over(adopted, socket)
        try:
            conn = await engine.admission.enter(
                websocket.scope,
                receive,
                send,
                user_id=self._user_id,
                tenant=self._tenant,
                connection_id=self._connection_id,
                metadata=self._metadata,
                accept=websocket.accept,
            )
        except Refused as refusal:
            adopted.put_send(_swallow)
            raise _for_framework(refusal) from None
        except BaseException:
            # The endpoint may try again, or answer by itself, which servers log.
            adopted.put_send(engine.gate.usher.redacting(websocket.scope, send))
            raise
        self._guard(adopted, conn)
        try:
            greeted = await engine.hooks.greet(conn)
        except BaseException:
            engine.abandon(conn)
            raise
        if not greeted:
            await engine.hooks.farewell(conn)
            raise _closed_at_once()
        return conn

    async def _take_over(self, adopted: StarletteSocket, socket: GuardedSocket) -> Connection:
        """Adopt the connection that the middleware made of this very socket."""
        conn = socket.conn
        try:
            self._engine.admission.refuse_if_closed(conn)
            self._engine.admission.rename(
                conn,
                user_id=self._user_id,
                tenant=self._tenant,
                connection_id=self._connection_id,
                metadata=self._metadata,
            )
            # What a socket speaks that is adopted, whatever guards it.
            socket.mode = EnvelopeMode(self._engine.inspection, self._engine.encodings.default)
            await self._websocket.accept(socket.subprotocol)
        except OSError:
            end(conn)
            raise _for_framework(VisitorLeft("The client left before it was accepted.")) from None
        except Refused as refusal:
            await socket.refuse(refusal)
            adopted.put_send(_swallow)
            raise _for_framework(refusal) from None
        if conn.status is not ConnectionStatus.OPEN:
            raise _closed_at_once()
        return conn

    def _guard(self, adopted: StarletteSocket, conn: Connection) -> None:
        engine, loop = self._engine, asyncio.get_running_loop()
        guard = SocketGuard(conn, EnvelopeMode(self._engine.inspection, conn.codec))

        def dropped(_: object) -> None:
            try:  # in whatever thread the garbage was collected
                loop.call_soon_threadsafe(engine.abandon, conn)
            except RuntimeError:  # that loop is closed
                end(conn)

        conn.guard = guard
        adopted.put_ends(guard.receive, guard.send)
        guard.socket = weakref.ref(self._websocket, dropped)


async def _swallow(event: Event) -> None:
    """The refusal was sent; what the framework says to it goes nowhere."""


def _close_for(error: Exception | None) -> tuple[int, str]:
    """The close code and reason for the end of an ``async with`` block."""
    if error is None:
        return CloseCode.NORMAL, ""
    answer = to_client(error)
    if isinstance(answer, Disconnect):
        return answer.code, answer.reason
    thrown: Any = error
    handled: Any = handled_exception()
    if handled is not None and isinstance(thrown, handled):
        return thrown.code, thrown.reason
    return CloseCode.SERVER_ERROR, "server error"


def _closed_at_once() -> Refused:
    return _for_framework(Refused("The connection was closed as soon as it was open.", code="closed"))


def _for_framework(refusal: Refused) -> Refused:
    """Return the refusal as an exception that Starlette handles, so that a bad token logs no traceback."""
    parent: Any = handled_exception()
    if parent is None:
        return refusal
    original: Any = type(refusal)
    kind = _handled(original, parent)
    handled: Refused = kind.__new__(kind, *refusal.args)
    handled.__dict__.update(refusal.__dict__, reason=refusal.code)
    return handled


@functools.cache
def _handled(kind: type[Refused], handled: type[Exception]) -> type[Refused]:
    return type(kind.__name__, (kind, handled), {})
