"""uvicorn's own sans-I/O protocol with a transport that the manager can use directly."""

from __future__ import annotations

import asyncio
from asyncio.transports import BaseTransport, Transport
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame

from ..wire.below import EXTENSION
from ..wire.framing import BINARY, TEXT, wire_frame
from .pipe import Pipe

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
    from uvicorn.config import Config
    from uvicorn.server import ServerState

__all__ = ["SansIOProtocol"]

_HEAD: Final = 6
"""Bytes before the payload of a short frame, the mask included."""
_MASKED: Final = 0x80
_LONGER: Final = 126

# As uvicorn's, but each message by itself: so a broadcast is compressed once for everybody, and no connection
# keeps the 32 KiB of a compressor.
_EXTENSIONS: Final = [
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        server_max_window_bits=12,
        client_max_window_bits=12,
        compress_settings={"memLevel": 5},
    )
]


# The parser and those it waits in, while it waits for the first byte of a message.
_BETWEEN_FRAMES: Final = ("parse", "parse", "at_eof")


def _names_of(parser: Any) -> tuple[str, ...]:
    """A suspended generator and those that it delegates to."""
    names: list[str] = []
    while parser is not None:
        names.append(getattr(parser, "__name__", ""))
        parser = getattr(parser, "gi_yieldfrom", None)
    return tuple(names)


def _message_in(data: bytes, limit: int) -> bytes | None:
    """The payload where `data` is one whole message: a masked frame of less than 64 KiB, not compressed."""
    if len(data) < _HEAD or (data[0] != TEXT and data[0] != BINARY):
        return None
    size, start = data[1] - _MASKED, _HEAD
    if size == _LONGER:
        size, start = (data[2] << 8) + data[3], _HEAD + 2
        is_whole = size >= _LONGER
    else:
        is_whole = size < _LONGER  # beyond that, the length is still to come
    if not is_whole or len(data) != start + size or size > limit:
        return None
    return apply_mask(data[start:], data[start - 4 : start])


def _always() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


# Senders wait for the pipe instead.
_WRITABLE: Final = _always()


class _Inbox:
    """The events that the application has not received yet: an `asyncio.Queue` in a tenth of its memory."""

    __slots__ = ("events", "waiters")

    def __init__(self) -> None:
        self.events: list[ASGIReceiveEvent] = []
        self.waiters: list[asyncio.Future[None]] = []

    def put_nowait(self, event: ASGIReceiveEvent) -> None:
        self.events.append(event)
        self.wake()

    def empty(self) -> bool:
        return not self.events

    def wake(self) -> None:
        """Somebody who waits shall look for an event."""
        while self.waiters:
            waiter = self.waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Who waited is cancelled: an event that he was woken for is another's."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
        elif self.events and not waiter.cancelled():
            self.wake()


class SansIOProtocol(WebSocketsSansIOProtocol):
    """Announces the extension `wsmanager.wire.below.EXTENSION`, and writes once per turn of the loop.

    To any other application it is uvicorn's own."""

    pipe: type[Pipe] = Pipe
    """Another has other water marks."""
    transport: Pipe  # type: ignore[assignment]  # which has all of a transport that uvicorn uses

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.queue = cast("asyncio.Queue[ASGIReceiveEvent]", _Inbox())
        self.writable = _WRITABLE
        # Known until the parser gets something; None for not known.
        self._is_between_frames: bool | None = None
        if self.conn.available_extensions:
            self.conn.available_extensions = _EXTENSIONS

    # --- the transport

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast("Transport", self.pipe(cast("Transport", transport), self.loop)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.lose()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        payload = _message_in(data, self.config.ws_max_size)
        try:
            if payload is None or not self._may_pass_by_parser():
                self._is_between_frames = None
                super().data_received(data)
            else:
                self.curr_msg_data_type = "text" if data[0] == TEXT else "bytes"
                self.frames = [payload]
                self.send_receive_event_to_app()
        except BaseException:
            # The loop aborts its own transport next, and knows of no pipe.
            self.transport.flush()
            self.transport.shut()
            raise

    def _may_pass_by_parser(self) -> bool:
        """Whether the parser would make of a whole message nothing but that."""
        if self._is_between_frames is None:
            conn = self.conn
            waits = _names_of(conn.parser) == _BETWEEN_FRAMES and conn.current_size is None
            self._is_between_frames = waits and self.handshake_complete and not conn.debug
        return self._is_between_frames and not self.close_sent

    def eof_received(self) -> None:
        # The loop closes its own transport next, which takes nothing any more.
        self.transport.flush()
        super().eof_received()

    def pause_writing(self) -> None:
        self.transport.fill()

    def resume_writing(self) -> None:
        self.transport.drain(is_open=self._is_open)

    @property
    def _is_open(self) -> bool:
        """Whether a message may be sent."""
        is_over = self.close_sent or self.disconnected or self.transport.is_closing()
        return self.handshake_complete and not is_over

    def handle_pong(self, event: Frame) -> None:
        expected = self.pending_ping_payload
        super().handle_pong(event)
        if expected is not None and self.pending_ping_payload is None:
            self.transport.latency = self.last_ping_rtt
            self.transport.heard_at = self.loop.time()

    # --- the application

    # Any: type checkers disagree on what a coroutine function returns.
    def run_asgi(self) -> Any:
        # No coroutine of its own: every idle connection would have to keep it.
        self.scope.setdefault("extensions", {})[EXTENSION] = {"transport": self.transport, "send": self.send}
        return super().run_asgi()

    async def send(self, message: ASGISendEvent) -> None:
        pipe = self.transport
        while pipe.is_full:
            await pipe.room()
        if message["type"] == "websocket.send" and pipe.takes and not self.conn.debug:
            data, text = message.get("bytes"), message.get("text")
            if data is None and isinstance(text, str):
                pipe.write_prepared(wire_frame(text))
                return
            if data is not None and not isinstance(data, str):
                pipe.write_prepared(wire_frame(data))
                return
        await super().send(message)
        if self._is_open:
            self._opened()
        else:
            pipe.shut()

    def _opened(self) -> None:
        agreed = [each for each in self.conn.extensions if isinstance(each, PerMessageDeflate)]
        self.transport.window = agreed[0].local_max_window_bits if agreed else 0
        self.transport.open()

    def send_receive_event_to_app(self) -> None:
        # Whoever waits already takes it at once: the socket need not be paused until then.
        is_awaited = bool(cast("_Inbox", self.queue).waiters) and not self.read_paused
        if is_awaited:
            self.read_paused = True
        super().send_receive_event_to_app()
        if is_awaited:
            self.read_paused = False

    async def receive(self) -> ASGIReceiveEvent:
        # In this frame and no other: every idle connection waits here.
        inbox = cast("_Inbox", self.queue)
        while not inbox.events:
            waiter = self.loop.create_future()
            inbox.waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                inbox.leave(waiter)
                raise
        event = inbox.events.pop(0)
        if self.read_paused and not inbox.events:
            self.read_paused = False
            self.transport.resume_reading()
        return event
