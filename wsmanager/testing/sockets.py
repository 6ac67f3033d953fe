"""The server's end of a WebSocket in memory: what an application is given as scope, receive and send."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..wire.below import EXTENSION
from ..wire.framing import TEXT, WireFrame
from .grammar import Phase, check
from .servers import Server, websocket_scope

__all__ = ["App", "Close", "ConnectionLost", "Event", "FakeSocket", "HandshakeRefused", "ServerSocket"]

Event: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]


_CONNECT: Event = {"type": "websocket.connect"}


class HandshakeRefused(Exception):
    """The application answered the handshake with an HTTP response instead of a socket."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(f"{status} {body[:200]!r}")
        self.status = status
        self.headers = headers
        self.body = body


class ConnectionLost(OSError):
    """What ``send`` raises once the client is gone (ASGI, "Disconnected Client")."""


class Close(NamedTuple):
    """A close frame."""

    code: int
    reason: str


def _size(item: str | bytes | Close) -> int:
    """Bytes on the wire. A text that UTF-8 cannot express raises here, as it does in servers."""
    if isinstance(item, str):
        return len(item.encode())
    return 0 if isinstance(item, Close) else len(item)


class ServerSocket:
    """One socket, as the server sees it.

    Frames of the application stand in a buffer until the client reads them. While it holds more than
    `window` bytes, ``send`` suspends; it goes on when a quarter of the window is left, as with
    asyncio's transports. `on_write` is called after every write.
    """

    __slots__ = (
        "_denial",
        "_events",
        "_listener",
        "_manners",
        "_on_write",
        "_phase",
        "_receiving",
        "_window",
        "_writable",
        "answered",
        "app_error",
        "breach",
        "buffer",
        "buffered",
        "headers",
        "heard_at",
        "latency",
        "scope",
        "sends",
        "subprotocol",
        "suspended",
    )

    def __init__(
        self, scope: dict[str, Any], manners: Server, window: int, on_write: Callable[[], None]
    ) -> None:
        self.scope = scope
        self.subprotocol: str | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.buffer: deque[str | bytes | Close] = deque()
        self.buffered = 0
        self.sends = 0
        self.suspended = 0
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.app_error: Exception | None = None
        self.breach: AssertionError | None = None
        """The first message of the application that breaks the specification."""
        self._manners = manners
        self._window = window
        self._on_write = on_write
        self._phase = Phase.CONNECTING
        self._denial: tuple[int, list[tuple[bytes, bytes]], bytes] = (403, [], b"")
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._events.put_nowait(dict(_CONNECT))
        self._receiving = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self.latency: float | None = None
        self.heard_at: float | None = None
        self._listener: Callable[[], None] | None = None
        if manners.direct:
            scope["extensions"][EXTENSION] = {"transport": self, "send": self.send}

    # --- what the client does

    def deliver(self, key: str, value: str | bytes) -> None:
        """Give the application a frame. What comes after its own close is discarded, as servers do."""
        if self._phase is Phase.OPEN:
            event: Event = {"type": "websocket.receive", key: value}
            if self._manners.both_keys:
                event["bytes" if key == "text" else "text"] = None
            self._events.put_nowait(event)

    def read(self) -> str | bytes | Close:
        """Take the oldest frame out of the buffer."""
        item = self.buffer.popleft()
        self.buffered -= _size(item)
        if self.buffered <= self._window // 4 and not self._writable.is_set():
            self._writable.set()
            self._tell_listener()
        return item

    def lose(self, code: int, reason: str) -> None:
        """The client went away: with a close frame, or with 1006 for none."""
        if self._phase in {Phase.CONNECTING, Phase.DENYING}:
            self._tell_disconnect(1006, "")
        elif self._phase is Phase.OPEN:
            self._tell_disconnect(code, reason)
        self._phase = Phase.LOST
        self.buffer.clear()
        self.buffered = 0
        self._writable.set()
        self._tell_listener()

    # --- what the application is given

    async def receive(self) -> Event:
        self._receiving += 1
        try:
            event = await self._events.get()
        finally:
            self._receiving -= 1
        if event["type"] == "websocket.disconnect" and self._manners.receive_after_disconnect == "repeat":
            self._events.put_nowait({"type": "websocket.disconnect", "code": 1005})
        return event

    async def send(self, event: Event) -> None:
        self.sends += 1
        try:
            check(event, self._phase, self.scope)
        except AssertionError as breach:
            self.breach = self.breach or breach
            raise
        if not self._writable.is_set():
            await self._until_writable()
        self._take(event)

    def send_at_call(self, event: Event) -> asyncio.Task[None]:
        """`send` for servers where it runs without being awaited."""
        return asyncio.ensure_future(self.send(event))

    # --- what it is offered, where the server is direct; see `wsmanager.wire.below.Direct`

    def write_prepared(self, frame: WireFrame) -> Awaitable[None] | None:
        data = frame.payload.decode() if frame.first == TEXT else frame.payload
        if not self._writable.is_set():
            return self._write_later(data)
        self._write_message(data)
        return None

    async def _write_later(self, data: str | bytes) -> None:
        while not self._writable.is_set():
            await self._until_writable()
        self._write_message(data)

    def _write_message(self, data: str | bytes) -> None:
        self.sends += 1
        if self._phase is not Phase.OPEN:
            raise ConnectionLost("the client is gone")
        self._write(data)

    @staticmethod
    def fan_out(sockets: Sequence[ServerSocket], frame: WireFrame) -> None:
        for socket in sockets:
            socket.write_prepared(frame)

    @property
    def takes(self) -> bool:
        return self._phase is Phase.OPEN and self._writable.is_set()

    def listen(self, listener: Callable[[], None] | None) -> None:
        self._listener = listener

    def _tell_listener(self) -> None:
        if self._listener is not None:
            self._listener()

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def abort(self) -> None:
        """End the connection without another word to the client."""
        if self._phase is not Phase.LOST:
            self.lose(1006, "")
            self.buffer.append(Close(1006, ""))
            self._on_write()

    # --- the application

    async def run(self, app: App) -> None:
        """Serve the application until it ends."""
        send = self.send_at_call if self._manners.send_starts_at_call else self.send
        code: int | None = self._manners.after_error
        try:
            await app(self.scope, self.receive, send)
            code = self._manners.after_return
        except ConnectionLost:
            pass  # the server's own word is no fault of the application
        except Exception as error:
            self.app_error = error
        finally:
            self._app_ended(code)

    async def _until_writable(self) -> None:
        self.suspended += 1
        try:
            await self._writable.wait()
        finally:
            self.suspended -= 1

    def _take(self, event: Event) -> None:
        if self._phase is Phase.LOST:
            _complain(self._manners.after_disconnect)
        elif self._phase is Phase.CLOSED:
            _complain(self._manners.after_close)
        else:
            _TAKE[event["type"]](self, event)

    def _take_accept(self, event: Event) -> None:
        self._phase = Phase.OPEN
        self._tell_listener()
        self.subprotocol = event.get("subprotocol")
        if self._manners.accept_headers:
            self.headers = list(event.get("headers") or ())
        self._answer(None)

    def _take_denial(self, event: Event) -> None:
        self._phase = Phase.DENYING
        self._denial = (event["status"], list(event.get("headers") or ()), b"")

    def _take_body(self, event: Event) -> None:
        status, headers, body = self._denial
        self._denial = (status, headers, body + event.get("body", b""))
        if not event.get("more_body", False):
            self._deny()

    def _take_frame(self, event: Event) -> None:
        text = event.get("text")
        self._write(event["bytes"] if text is None else text)

    def _take_close(self, event: Event) -> None:
        if self._phase is Phase.CONNECTING:
            self._deny()
            return
        if self._manners.close_lost_while_receiving and self._receiving:
            return
        code, reason = event.get("code", 1000), event.get("reason") or ""
        if self._manners.close_codes == "applications" and 1000 < code < 3000:
            raise Exception(f"invalid close code {code}")  # noqa: TRY002 - as daphne does
        self._phase = Phase.CLOSED
        self._tell_listener()
        self._write(Close(code, reason if self._manners.close_reason else ""))
        if self._manners.disconnect_after_close:
            self._tell_disconnect(code, reason)

    def _deny(self) -> None:
        self._phase = Phase.CLOSED
        self._tell_disconnect(1006, "")
        self._answer(HandshakeRefused(*self._denial))

    def _answer(self, refusal: Exception | None) -> None:
        if self.answered.done():  # nobody waits any more
            return
        if refusal is None:
            self.answered.set_result(None)
        else:
            self.answered.set_exception(refusal)

    def _write(self, item: str | bytes | Close) -> None:
        self.buffered += _size(item)
        self.buffer.append(item)
        self._on_write()
        if self.buffered > self._window and self._writable.is_set():
            self._writable.clear()
            self._tell_listener()

    def _tell_disconnect(self, code: int, reason: str) -> None:
        seen = self._manners.close_seen
        event: Event = {"type": "websocket.disconnect", "code": 1006 if seen == "never" else code}
        if seen == "code and reason":
            event["reason"] = reason
        self._events.put_nowait(event)

    def _app_ended(self, code: int | None) -> None:
        if self._phase in {Phase.CONNECTING, Phase.DENYING}:
            self._phase = Phase.LOST
            self._answer(self.app_error or AssertionError("the app ended without answering the handshake"))
        elif self._phase is Phase.OPEN and code is not None:
            self._phase = Phase.LOST
            self._tell_listener()
            self._write(Close(code, ""))
            self._tell_disconnect(code, "")


def _complain(how: str) -> None:
    if how == "oserror":
        raise ConnectionLost("the client is gone")
    if how == "runtimeerror":
        raise RuntimeError("a message was sent on a closed socket")


_TAKE: dict[str, Callable[[ServerSocket, Event], None]] = {
    "websocket.accept": ServerSocket._take_accept,
    "websocket.close": ServerSocket._take_close,
    "websocket.send": ServerSocket._take_frame,
    "websocket.http.response.start": ServerSocket._take_denial,
    "websocket.http.response.body": ServerSocket._take_body,
}


class FakeSocket:
    """The least that an application can be run on: for benchmarks, and for a hundred thousand at once.

    `send` counts, checks nothing and never suspends. `receive` answers ``websocket.connect``, then
    what `feed` brings; one `receive` at a time.
    """

    __slots__ = ("_events", "_waiter", "scope", "sent")

    def __init__(self, scope: dict[str, Any] | None = None) -> None:
        self.scope = websocket_scope() if scope is None else scope
        self.sent = 0
        self._events = [_CONNECT]
        self._waiter: asyncio.Future[None] | None = None

    async def send(self, event: Event) -> None:  # noqa: ARG002 - the shape of ASGI's send
        self.sent += 1

    async def receive(self) -> Event:
        if not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._events.pop(0)

    def feed(self, event: Event) -> None:
        """What the next `receive` answers."""
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def feed_text(self, text: str) -> None:
        """A text frame of the client."""
        self.feed({"type": "websocket.receive", "text": text})

    def disconnect(self, code: int = 1000) -> None:
        """The client goes."""
        self.feed({"type": "websocket.disconnect", "code": code, "reason": ""})
