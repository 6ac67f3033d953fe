"""Between the socket and a loop of the application's own: what it receives is checked, what it sends keeps
its order with what the manager sends."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import MutableMapping
from typing import Any, Final

from ..auth.visitors import Visitor
from ..connections.connection import Connection
from ..connections.ending import By, close_for_application, end, peer_left, woken
from ..connections.read_ahead import Item, ReadAhead
from ..connections.seams import NEGOTIATED, WATCHED
from ..engine.engine import Engine
from ..errors import CloseCode, ConfigurationError, ConnectionClosed, Refused
from ..messages import ConnectionStatus, Frame, InboundMessage
from ..tasks.supervision import cancellations
from ..wire.asgi import Event, frame_of
from ..wire.outgoing import size_of
from .modes import Mode

__all__ = ["GuardedSocket", "SocketGuard", "guarded"]

_KEY: Final = "wsmanager.sockets"
_OPEN = ConnectionStatus.OPEN
_REFUSALS: Final = ("websocket.close", "websocket.http.response.start")
_NOTHING: Final = InboundMessage("")
_CLOSED: Final = "the WebSocket is closed"


class SocketGuard:
    """Stands in the socket's own ``receive`` and ``send``: whatever the endpoint calls is checked."""

    __slots__ = ("_passed", "conn", "end", "is_direct", "mode", "socket")

    def __init__(self, conn: Connection, mode: Mode) -> None:
        self.conn: Final = conn
        self.mode = mode
        self.end: Event | None = None
        self._passed: tuple[Frame, InboundMessage] | None = None
        self.is_direct = False
        """Whether application and server talk without a third: during the handshake, and after an end which
        is not the manager's."""
        self.socket: weakref.ref[Any] | None = None
        """Tells when the endpoint has dropped the socket without a word."""

    @property
    def speaks(self) -> bool:
        return self.mode.speaks

    async def receive(self) -> Event:
        """The next event that is the application's to see."""
        conn, self._passed = self.conn, None
        while True:
            if conn.ahead is not None:
                item = await self._read_ahead(conn.ahead)
            else:
                event = self._at_hand()
                if event is None:
                    # In this frame and no other: every idle socket waits here.
                    task, since = asyncio.current_task(), cancellations()
                    if not self.is_ending:
                        conn.reader = task
                    try:
                        event = await conn.receive()
                    except asyncio.CancelledError:
                        event = woken(conn, since)
                    finally:
                        if conn.reader is task:  # and no other receive has begun
                            conn.reader = None
                else:
                    # Who reads on and on after the end must not keep the loop from all others.
                    await asyncio.sleep(0)
                if self.is_direct:
                    await self._settled()
                if event["type"] == "websocket.disconnect":
                    return event if self.is_direct else await self._left(event)
                item = self.admit(event)
            if item is not None:
                return self._hand_over(*item[0])

    async def _read_ahead(self, ahead: ReadAhead) -> Item | None:
        item = await ahead.next()
        if item is None:
            self.conn.ahead = None
        return item

    def _at_hand(self) -> Event | None:
        """What the server need not be asked for."""
        ending = self.conn.ending
        if ending is None or not (ending.is_hushed or self.conn.status is ConnectionStatus.CLOSED):
            return None
        return ending.event()

    @property
    def is_ending(self) -> bool:
        """Whether only the server has a word to say now, and no close of the manager's wakes who waits."""
        return False

    @property
    def _is_lost(self) -> bool:
        """True if a send found the peer gone before the server said so."""
        ending = self.conn.ending
        return ending is not None and ending.by is By.FAILED_SEND

    async def _settled(self) -> None:
        """Wait for a handshake that is just being finished."""

    async def _left(self, event: Event) -> Event:
        """The socket has ended: by this very event, or before."""
        self.heard_end(event)
        peer_left(self.conn, event.get("code") or 1005, event.get("reason") or "")
        return self.end or event

    def heard_end(self, event: Event) -> None:
        """`event` tells of the peer's end, where that was not the manager's doing."""
        if self.conn.status is _OPEN:
            self.end = event

    def _hand_over(self, event: Event, message: InboundMessage) -> Event:
        self._passed = None if message is _NOTHING else (frame_of(event), message)
        return event

    def admit(self, event: Event) -> Item | None:
        """`event` with its message, checked; None when it was answered."""
        if event["type"] != "websocket.receive":  # an application may accept before it hears the connect
            return (event, _NOTHING), 0
        frame = frame_of(event)
        message = self.mode.inspect(self.conn, frame)
        return None if message is None else ((event, message), size_of(frame))

    def take_passed(self, frame: Frame) -> InboundMessage | None:
        """The message of `frame`, if it is the very object that was handed over last: its checks are
        done and paid for."""
        passed, self._passed = self._passed, None
        known = passed is not None and passed[0] is frame and self.mode.speaks
        return passed[1] if passed is not None and known else None

    def read_on(self) -> None:
        """Read in the endpoint's stead, so that a disconnect is seen."""
        if self.conn.ahead is None:
            self.conn.ahead = ReadAhead(self.conn, self.admit)
        self.conn.ahead.start()

    async def send(self, event: Event) -> None:
        """The endpoint's own send, in the connection's one order. A peer that is gone is an `OSError`,
        which Starlette turns into `WebSocketDisconnect`."""
        if event["type"] == "websocket.close":
            await self.conn.close(event.get("code", CloseCode.NORMAL), event.get("reason") or "")
            return
        await self._send_in_order(event)

    async def _send_in_order(self, event: Event) -> None:
        try:
            await self.conn.send_event(event)
        except ConnectionClosed:
            raise ConnectionResetError(_CLOSED) from None


class GuardedSocket(SocketGuard):
    """The same around an application that knows nothing of it: it accepts, refuses, closes and fails by
    itself, and hears from the server whatever it would have heard without."""

    __slots__ = ("_engine", "_opening", "_visitor")

    def __init__(self, engine: Engine, visitor: Visitor, conn: Connection, mode: Mode) -> None:
        super().__init__(conn, mode)
        self.is_direct = True
        self._engine = engine
        # Until the handshake is through.
        self._visitor: Visitor | None = visitor
        # Done when the application's accept is through: until then nobody knows how its frames are guarded.
        self._opening: asyncio.Future[None] | None = None
        conn.guard = self
        visitor.scope[_KEY] = (*visitor.scope.get(_KEY, ()), self)

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol of the manager's that the client would like."""
        visitor = self._visitor
        return None if visitor is None or visitor.codec is None else visitor.codec.subprotocol

    def give_up(self) -> tuple[Visitor, Connection]:
        """The visitor and its connecting connection, for an endpoint of the manager's own further in."""
        visitor, self._visitor = self._visitor, None
        if visitor is None:
            raise ConfigurationError("this WebSocket was accepted before it came to the manager's endpoint")
        self.conn.guard = None
        return visitor, self.conn

    async def refuse(self, refusal: Refused) -> None:
        """Refuse the client, where the application found no reason to."""
        visitor, self._visitor, self.is_direct = self._visitor, None, False
        end(self.conn)
        if visitor is not None:
            await self._engine.admission.turn_away(visitor, refusal)

    async def finish(self) -> None:
        """The application has ended: so shall a close of the manager's that is under way, and a handshake
        that was left open because the manager had ended it."""
        if not self.is_direct and self.conn.status is ConnectionStatus.DRAINING:
            await self.conn.close()
        elif self._visitor is not None:
            try:
                self._engine.admission.refuse_if_closed(self.conn)
            except Refused as refusal:
                await self.refuse(refusal)

    # --- in

    def _at_hand(self) -> Event | None:
        if not self.is_direct:
            return super()._at_hand()
        end, self.end = self.end, None
        return end

    async def _left(self, event: Event) -> Event:
        end = await super()._left(event)
        if self.end is not None:
            self.end, self.is_direct = None, True
        elif self._is_lost:
            return await self._hear_out(end)
        return end

    @property
    def is_ending(self) -> bool:
        return self.is_direct and self._visitor is None

    async def _settled(self) -> None:
        if self._opening is not None:
            await asyncio.wait({self._opening})

    def heard_end(self, event: Event) -> None:
        if self.is_direct:  # the application's own doing
            self.end = event
        else:
            super().heard_end(event)

    async def _hear_out(self, end: Event) -> Event:
        """A send found the peer gone: the server may still hold what it had said before, and how it left."""
        try:
            async with asyncio.timeout(self._engine.config.close_timeout):
                while True:
                    event: Event = await self.conn.receive()
                    if event["type"] == "websocket.disconnect":
                        self.is_direct = True
                        return event
                    if self.admit(event) is not None:
                        return event
        except TimeoutError:
            return end

    # --- out

    async def send(self, event: Event) -> None:
        kind, conn = event.get("type"), self.conn
        if self.is_direct:
            await self._send_direct(event)
        elif kind == "websocket.send":
            await self._send_in_order(event)
        elif kind != "websocket.close":
            await self.conn.send_raw(event)  # which knows what to say to it
        elif conn.status is _OPEN:
            self.is_direct = True
            await close_for_application(conn, event)
        elif self.end is not None or self._is_lost:
            await self.conn.send_raw(event)
        else:
            await conn.close()  # by the manager, already

    async def _send_in_order(self, event: Event) -> None:
        try:
            await self.conn.send_event(event)
        except ConnectionClosed:
            if self.end is not None or self._is_lost:
                await self.conn.send_raw(event)  # most servers say what is wrong; others take it in silence
            raise ConnectionResetError(_CLOSED) from None

    async def _send_direct(self, event: Event) -> None:
        visitor = self._visitor
        if visitor is None:
            if self.conn.ending is not None:  # by a close of its own, which waits for what came before it
                await self.conn.ending.finished(self.conn)
            await self.conn.send_raw(event)
        elif event.get("type") == "websocket.accept":
            await self._accept(visitor, event)
        else:
            with self._engine.gate.usher.redacted(visitor.scope):
                await self.conn.send_raw(event)
            if event.get("type") in _REFUSALS:
                self._visitor = None
                self._engine.admission.count_refusal("application")

    async def _accept(self, visitor: Visitor, event: Event) -> None:
        """The application lets the client in: from here on it is a connection like any other."""
        engine, conn = self._engine, self.conn
        try:
            engine.admission.refuse_if_closed(conn)
        except Refused as refusal:
            await self.refuse(refusal)
            return
        event = self._with_subprotocol(visitor, event)
        self._opening = opening = asyncio.get_running_loop().create_future()
        try:
            with engine.gate.usher.redacted(visitor.scope):
                await conn.send_raw(event)
            self._visitor, self.is_direct = None, False
            await self._open(event)
        finally:
            self._opening = None
            opening.set_result(None)
        if conn.status is _OPEN:
            await engine.hooks.greet(conn)

    async def _open(self, event: Event) -> None:
        engine, conn = self._engine, self.conn
        chosen = engine.encodings.chosen(event.get("subprotocol"))
        conn.codec = self.mode.codec_for(chosen)
        if self.mode.speaks and chosen is not None:
            conn.flags |= NEGOTIATED | WATCHED
        else:
            conn.flags &= ~(NEGOTIATED | WATCHED)
        try:
            engine.admission.refuse_if_closed(conn)
        except Refused as refusal:  # while the server accepted it
            code, reason = int(refusal.close_code), refusal.code
            await conn.send_raw({"type": "websocket.close", "code": code, "reason": reason})
            return
        engine.admission.open(conn)

    def _with_subprotocol(self, visitor: Visitor, event: Event) -> Event:
        """A client that offered the manager's own form must be told that it gets it: browsers insist."""
        wanted = self.mode.codec_for(None).subprotocol
        chosen = event.get("subprotocol")
        if not self.mode.speaks or chosen is not None or wanted not in visitor.handshake.subprotocols:
            return event
        return {**event, "subprotocol": wanted}


def guarded(scope: MutableMapping[str, Any], engine: Engine) -> GuardedSocket | None:
    """The guard around the socket of this scope, if this engine has put one there."""
    return next((socket for socket in scope.get(_KEY, ()) if socket.conn.owner is engine), None)
