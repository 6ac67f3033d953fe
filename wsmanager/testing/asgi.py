"""A WebSocket client for ASGI applications in memory, with real backpressure and with faults on demand."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import msgspec

from .servers import UVICORN, Headers, Server, websocket_scope
from .sockets import App, Close, ServerSocket

__all__ = ["Peer", "PeerClosed", "connect"]

T = TypeVar("T")

default_server = UVICORN
"""Set it to have all tests run on another."""


class PeerClosed(Exception):
    """The socket is closed: nothing more will come, and nothing can be sent."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Peer:
    """The client's end of one socket; `connect` makes it.

    It reads at once whatever the server writes, until `stall`: from then on frames stay in the
    server's buffer, and once that holds more than the window, the application's ``send`` suspends.
    What the peer itself sends is never held back.
    """

    __slots__ = ("_close", "_frames", "_news", "_reading", "_seen", "_socket")

    def __init__(self, scope: dict[str, Any], server: Server, window: int, *, stalled: bool) -> None:
        self._socket = ServerSocket(scope, server, window, self._written)
        self._frames: deque[str | bytes] = deque()
        self._close: Close | None = None
        self._news = asyncio.Event()
        self._reading = not stalled
        self._seen = False

    # --- the handshake

    @property
    def scope(self) -> dict[str, Any]:
        """The very scope that the application was given."""
        return self._socket.scope

    @property
    def accepted_subprotocol(self) -> str | None:
        """The subprotocol that the application chose."""
        return self._socket.subprotocol

    @property
    def accept_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that came with the acceptance."""
        return self._socket.headers

    # --- talking

    async def send_text(self, text: str) -> None:
        """Send a text frame. Raises `PeerClosed` on a closed socket."""
        await self._say("text", text)

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary frame. Raises `PeerClosed` on a closed socket."""
        await self._say("bytes", data)

    async def send_json(self, value: Any) -> None:
        """Send `value` as JSON text. Raises `PeerClosed` on a closed socket."""
        await self._say("text", json.dumps(value))

    async def receive(self, timeout: float | None = 5.0) -> str | bytes:
        """The next frame. A stalled peer reads this one, and no more.

        Raises `PeerClosed` when the socket is closed and all was received; `TimeoutError`.
        """
        return await _within(timeout, self._next_frame(), "no frame came")

    def receive_nowait(self) -> str | bytes:
        """As `receive`, but raises `anyio.WouldBlock` when there is nothing yet."""
        if self._socket.buffer and not self._frames:
            self._read_one()
        if self._frames:
            return self._frames.popleft()
        self._check_open()
        raise anyio.WouldBlock

    async def receive_json(self, timeout: float | None = 5.0) -> Any:
        """The next frame, decoded. Raises as `receive` does."""
        return msgspec.json.decode(await self.receive(timeout))

    @property
    def frames(self) -> list[str | bytes]:
        """What was sent to the peer and not received yet, oldest first."""
        return [*self._frames, *(item for item in self._socket.buffer if not isinstance(item, Close))]

    # --- the end

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket and go; what the server still holds is never read."""
        self._lose(Close(code, reason))
        await asyncio.sleep(0)

    def reset(self) -> None:
        """Lose the connection without a word."""
        self._lose(Close(1006, ""))

    @property
    def closed(self) -> bool:
        """Whether the peer knows that the socket is closed."""
        return self._close is not None

    @property
    def close_code(self) -> int | None:
        """The code of the close that ended the socket, from whichever side; None while it is open."""
        return self._close and self._close.code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with it; None while the socket is open."""
        return self._close and self._close.reason

    async def wait_closed(self, timeout: float | None = None) -> tuple[int, str]:
        """Code and reason of the close. While the peer is stalled it does not learn of one.

        Raises `TimeoutError`.
        """
        return await _within(timeout, self._until_closed(), "the socket was not closed")

    # --- faults and measures

    def stall(self) -> None:
        """Stop reading."""
        self._reading = False

    def resume(self) -> None:
        """Read what waits, and go on reading."""
        self._reading = True
        self._written()

    @property
    def server_sends(self) -> int:
        """How often the application called ``send``."""
        return self._socket.sends

    @property
    def buffered(self) -> int:
        """Bytes that the server holds because the peer does not read."""
        return self._socket.buffered

    @property
    def suspended(self) -> bool:
        """Whether a ``send`` of the application waits for the peer to read."""
        return self._socket.suspended > 0

    @property
    def app_error(self) -> Exception | None:
        """What the application raised. Who looked at it does not have it raised at the end."""
        self._seen = True
        return self._socket.app_error

    # --- inside

    async def _say(self, key: str, value: str | bytes) -> None:
        self._check_open()
        self._socket.deliver(key, value)
        await asyncio.sleep(0)

    def _check_open(self) -> None:
        if self._close is not None:
            raise PeerClosed(*self._close)

    async def _next_frame(self) -> str | bytes:
        while not (self._frames or self._socket.buffer or self._close):
            await self._change()
        return self.receive_nowait()

    async def _until_closed(self) -> tuple[int, str]:
        while self._close is None:
            await self._change()
        return self._close.code, self._close.reason

    async def _change(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _written(self) -> None:
        while self._reading and self._socket.buffer:
            self._read_one()
        self._news.set()

    def _read_one(self) -> None:
        item = self._socket.read()
        if isinstance(item, Close):
            self._close = item
        else:
            self._frames.append(item)

    def _lose(self, close: Close) -> None:
        if self._close is None:
            self._socket.lose(close.code, close.reason)
            self._close = close
            self._news.set()

    async def _see_out(self, task: asyncio.Task[None], timeout: float) -> Exception | None:
        """Hang up, wait for the application to end, and say what was wrong with it."""
        self._lose(Close(1000, ""))
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=timeout)
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=timeout)
                return AssertionError(f"the app did not end within {timeout} s of the disconnect")
        return self._socket.breach or (None if self._seen else self._socket.app_error)


@asynccontextmanager
async def connect(
    app: App,
    path: str = "/",
    *,
    headers: Headers = (),
    query: str | bytes = "",
    subprotocols: Sequence[str] = (),
    client: tuple[str, int] | None = ("127.0.0.1", 50000),
    scheme: str = "ws",
    root_path: str = "",
    extensions: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    window: int = 65_536,
    stalled: bool = False,
    timeout: float = 60.0,
    server: Server | None = None,
    **manners: Any,
) -> AsyncGenerator[Peer]:
    """Open a WebSocket to `app`, which runs in a task of its own; inside the block it is accepted.

    `server` is whom the in-memory server behaves like, `default_server` of this module if None; `manners`
    are single fields of `Server` that differ. `window` is how many bytes it holds before ``send`` suspends;
    a `stalled` peer does not read from the beginning.

    Raises `HandshakeRefused`, or what the application raised, instead of entering. On leaving, the
    peer closes and the application must end within `timeout` seconds. Then this raises, where the
    block itself did not: `AssertionError` when the application did not end, or ever sent what ASGI does
    not allow; else what it raised, unless `Peer.app_error` was read. Of a block that raised, the
    exception carries the application's as a note.
    """
    server = msgspec.structs.replace(server or default_server, **manners)
    scope = websocket_scope(
        path,
        headers=headers,
        query=query,
        subprotocols=subprotocols,
        client=client,
        scheme=scheme,
        root_path=root_path,
        extensions=extensions,
        state=state,
        server=server,
    )
    peer = Peer(scope, server, window, stalled=stalled)
    task = asyncio.create_task(peer._socket.run(app), name=f"app on {path}")
    try:
        await _within(timeout, peer._socket.answered, "the app did not answer the handshake")
        yield peer
    except BaseException as error:
        complaint = await peer._see_out(task, timeout)
        if complaint not in (None, error):
            error.add_note("The app: " + "".join(traceback.format_exception(complaint)))
        raise
    complaint = await peer._see_out(task, timeout)
    if complaint is not None:
        raise complaint


async def _within(timeout: float | None, awaitable: Awaitable[T], complaint: str) -> T:
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"{complaint} within {timeout} s") from None
        raise
