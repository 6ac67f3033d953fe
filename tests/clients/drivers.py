"""WebSocket clients that others wrote, each behind the same few methods."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import pytest
import websocket
from anyio.from_thread import BlockingPortal, start_blocking_portal
from playwright.sync_api import Browser
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.chromium import MISSING, chromium, is_wanted
from tests.clients.programs import TIMEOUT, Program, Script, require_node

__all__ = [
    "Actor",
    "Closed",
    "Message",
    "Open",
    "Refused",
    "Socket",
    "WebSocketsSocket",
    "command_line",
    "end_of",
    "in_browser",
    "on_node",
    "websocket_client",
    "websockets",
    "with_aiohttp",
]

Message: TypeAlias = str | bytes


class Refused(Exception):
    """The handshake failed. What the client does not show is 0, or empty."""

    def __init__(self, status: int = 0, body: bytes | str = b"") -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body.encode() if isinstance(body, str) else body


class Closed(Exception):
    """The socket has ended, and how."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Impossible(Exception):
    """The client has no way to do this."""


class Socket(Protocol):
    """One open socket."""

    subprotocol: str | None

    def send(self, message: Message) -> None: ...

    def receive(self) -> Message:
        """The next message. Raises `Closed`."""
        ...

    def ping(self) -> None:
        """Send a ping of the protocol's own, and wait for its pong, which is the next thing to come."""
        ...

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket if it is open, and wait for the end."""
        ...


Open: TypeAlias = Callable[[str, Mapping[str, str], Sequence[str]], Socket]
"""Opens a socket at a URL, with headers and offered subprotocols. Raises `Refused`."""


def end_of(socket: Socket) -> tuple[int, str]:
    """How the socket ends, whatever comes before."""
    while True:
        try:
            socket.receive()
        except Closed as end:
            return end.code, end.reason


# --- websockets


class WebSocketsSocket:
    def __init__(self, url: str, headers: Mapping[str, str], subprotocols: Sequence[str]) -> None:
        offered = [Subprotocol(name) for name in subprotocols] or None
        try:
            opening = connect(url, additional_headers=headers, subprotocols=offered, proxy=None)
            self._socket = opening.__enter__()
        except InvalidStatus as refusal:
            raise Refused(refusal.response.status_code, bytes(refusal.response.body or b"")) from None
        self.subprotocol: str | None = self._socket.subprotocol

    def send(self, message: Message) -> None:
        self._socket.send(message)

    def receive(self) -> Message:
        try:
            return self._socket.recv(TIMEOUT)
        except ConnectionClosed:
            raise Closed(self._socket.close_code or 0, self._socket.close_reason or "") from None

    def ping(self) -> None:
        assert self._socket.ping().wait(TIMEOUT)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._socket.close(code, reason)


@contextmanager
def websockets() -> Generator[Open]:
    yield WebSocketsSocket


# --- the command line of websockets


class CommandLineSocket:
    """Prints messages between codes that move the cursor of a terminal."""

    def __init__(self, url: str, headers: Mapping[str, str], subprotocols: Sequence[str]) -> None:
        if headers or subprotocols:
            raise Impossible
        self._program = Program(sys.executable, "-m", "websockets", url, PYTHONUTF8="1", no_proxy="*")
        self.subprotocol: str | None = None
        refusal = self._find(r"Connected to|Failed to connect.*?(HTTP (?P<status>\d+))?\.$")
        if refusal[0] != "Connected to":
            self._program.end()
            raise Refused(int(refusal["status"] or 0))

    def _find(self, pattern: str) -> re.Match[str]:
        """What fits, in the first line where something does."""
        while True:
            if found := re.search(pattern, self._program.read()):
                return found

    def send(self, message: Message) -> None:
        if isinstance(message, bytes):
            raise Impossible
        self._program.write(message)

    def receive(self) -> Message:
        found = self._find(r"\[L< (?P<text>.*)|Connection closed: (?P<code>\d+) \(.*?\) ?(?P<reason>.*)\.$")
        if found["code"] is None:
            return found["text"]
        raise Closed(int(found["code"]), found["reason"])

    def ping(self) -> None:
        raise Impossible

    def close(self, code: int = 1000, reason: str = "") -> None:
        if (code, reason) != (1000, ""):
            raise Impossible
        try:
            self._program.write_end()
            with suppress(Closed, EOFError):  # whoever heard of the end has read the last line
                while True:
                    self.receive()
        finally:
            self._program.end()


@contextmanager
def command_line() -> Generator[Open]:
    yield CommandLineSocket


# --- aiohttp


class AiohttpSocket:
    def __init__(
        self,
        portal: BlockingPortal,
        session: aiohttp.ClientSession,
        url: str,
        headers: Mapping[str, str],
        subprotocols: Sequence[str],
    ) -> None:
        self._portal = portal
        # By itself it answers pings and hides pongs: `_next` does the one, and `ping` must see the other.
        options = {"headers": headers, "protocols": subprotocols, "autoping": False}
        self._socket = portal.call(partial(self._connect, session, url, **options))
        self.subprotocol = self._socket.protocol

    async def _connect(
        self, session: aiohttp.ClientSession, url: str, **options: Any
    ) -> aiohttp.ClientWebSocketResponse:
        try:
            socket: aiohttp.ClientWebSocketResponse = await session.ws_connect(url, **options)
            return socket
        except aiohttp.WSServerHandshakeError as refusal:
            raise Refused(refusal.status) from None

    async def _next(self) -> aiohttp.WSMessage:
        message = await self._socket.receive(TIMEOUT)
        while message.type is aiohttp.WSMsgType.PING:
            await self._socket.pong(message.data)
            message = await self._socket.receive(TIMEOUT)
        return message

    def send(self, message: Message) -> None:
        if isinstance(message, str):
            self._portal.call(self._socket.send_str, message)
        else:
            self._portal.call(self._socket.send_bytes, message)

    def receive(self) -> Message:
        message = self._portal.call(self._next)
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            data: Message = message.data
            return data
        raise Closed(self._socket.close_code or 0, message.extra or "")

    def ping(self) -> None:
        self._portal.call(self._socket.ping)
        assert self._portal.call(self._next).type is aiohttp.WSMsgType.PONG

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._portal.call(partial(self._socket.close, code=code, message=reason.encode()))


@contextmanager
def with_aiohttp() -> Generator[Open]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(portal.call(aiohttp.ClientSession)) as session,
    ):
        yield partial(AiohttpSocket, portal, session)


# --- websocket-client


class WebSocketClientSocket:
    def __init__(self, url: str, headers: Mapping[str, str], subprotocols: Sequence[str]) -> None:
        try:
            self._socket = websocket.create_connection(
                url,
                TIMEOUT,
                header=dict(headers),
                suppress_origin="Origin" in headers,
                subprotocols=list(subprotocols) or None,
            )
        except websocket.WebSocketBadStatusException as refusal:
            raise Refused(refusal.status_code, refusal.resp_body or b"") from None
        self.subprotocol: str | None = self._socket.subprotocol

    def send(self, message: Message) -> None:
        if isinstance(message, str):
            self._socket.send(message)
        else:
            self._socket.send_binary(message)

    def receive(self) -> Message:
        data: bytes
        opcode, data = self._socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            raise Closed(int.from_bytes(data[:2]), data[2:].decode())
        return data.decode() if opcode == websocket.ABNF.OPCODE_TEXT else data

    def ping(self) -> None:
        self._socket.ping()
        while self._socket.recv_data(control_frame=True)[0] != websocket.ABNF.OPCODE_PONG:
            pass

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._socket.close(code, reason.encode())
        # It forgets to, where the server closed first.
        self._socket.shutdown()  # type: ignore[no-untyped-call]  # the one method without annotations


@contextmanager
def websocket_client() -> Generator[Open]:
    yield WebSocketClientSocket


# --- JavaScript


class Actor(Protocol):
    """A client that obeys commands and tells events: mostly a script."""

    def do(self, *command: Any) -> None: ...

    def next(self) -> list[Any]: ...

    def end(self) -> None: ...


class ScriptedSocket:
    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._closed = False
        event, *values = actor.next()
        if event != "open":
            actor.end()
            raise Refused(*values) if event == "refused" else Refused
        self.subprotocol: str | None = values[0] or None

    def send(self, message: Message) -> None:
        self._actor.do("send", message)

    def receive(self) -> Message:
        event, *values = self._actor.next()
        if event == "closed":
            self._closed = True
            raise Closed(*values)
        message: Message = values[0]
        return message

    def ping(self) -> None:
        self._actor.do("ping")
        assert self._actor.next() == ["pong"]

    def close(self, code: int = 1000, reason: str = "") -> None:
        try:
            if not self._closed:
                self._actor.do("close", code, reason)
            with suppress(Closed):
                while not self._closed:
                    self.receive()
        finally:
            self._actor.end()


class Page:
    """A page of the server's own origin, whose script opens a socket."""

    def __init__(
        self, browser: Browser, url: str, headers: Mapping[str, str], subprotocols: Sequence[str]
    ) -> None:
        origin = f"http://{urlsplit(url).netloc}"
        if headers.keys() - {"Cookie", "Origin"} or headers.get("Origin", origin) != origin:
            raise Impossible
        self._context = browser.new_context()
        if "Cookie" in headers:
            name, _, value = headers["Cookie"].partition("=")
            self._context.add_cookies([{"name": name, "value": value, "url": origin, "httpOnly": True}])
        page = self._context.new_page()
        page.goto(origin)
        script = Path(__file__).with_name("page.js").read_text()
        self._socket = page.evaluate_handle(script, [url, list(subprotocols), TIMEOUT * 1000])

    def do(self, *command: Any) -> None:
        name, *values = [list(value) if isinstance(value, bytes) else value for value in command]
        self._socket.evaluate("(socket, [name, values]) => socket[name](...values)", [name, values])

    def next(self) -> list[Any]:
        event = self._socket.evaluate("(socket) => socket.next()")
        return [bytes(value) if isinstance(value, list) else value for value in event]

    def end(self) -> None:
        self._context.close()


@contextmanager
def in_browser() -> Generator[Open]:
    if not is_wanted():
        pytest.skip(MISSING)
    with chromium() as browser:
        yield lambda *target: ScriptedSocket(Page(browser, *target))


@contextmanager
def on_node() -> Generator[Open]:
    require_node()
    yield lambda *target: ScriptedSocket(Script("ws.mjs", *target))
