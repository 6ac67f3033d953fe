"""Real uvicorn servers in this process, one with its own protocol and one with ours: both play every scene.

A scene is a script of a client, which writes exact bytes in exact segments, and an application that is plain
ASGI. Its transcript is every byte that the server sent and all that the application saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import uvicorn

from .deflate import agreed_on, inflated
from .line import Line, until
from .wire import CLOSE, FIN, frames_of

__all__ = ["OURS", "THEIRS", "App", "Call", "Script", "Stage", "Transcript", "View", "disconnect"]

THEIRS = "websockets-sansio"
OURS = "wsmanager.servers.uvicorn:WebSocketProtocol"
PROTOCOLS = (THEIRS, OURS)

_PATIENCE = 10.0
_SETTINGS: Mapping[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "interface": "asgi3",
    "http": "h11",
    "lifespan": "off",
    "log_config": None,
    "proxy_headers": False,
    # An application that a failed scene has left behind is cancelled.
    "timeout_graceful_shutdown": 1,
}

Event: TypeAlias = Mapping[str, Any]


@dataclass
class Call:
    """One call of the application: what it is given, and what it saw."""

    app: App
    scope: Mapping[str, Any] = field(default_factory=dict)
    seen: list[Any] = field(default_factory=list)
    """Events that it received, errors that its sends met, and how it ended."""
    cue: asyncio.Event = field(default_factory=asyncio.Event)
    """By which the client tells it to go on."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _receive: Any = None
    _send: Any = None

    async def run(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        try:
            await self.app(self)
        except BaseException as error:
            self.seen.append(f"raised {type(error).__name__}")
            raise
        else:
            self.seen.append("returned")
        finally:
            self.ended.set()

    async def receive(self) -> Event:
        event: Event = await self._receive()
        self.seen.append(event)
        return event

    async def send(self, type: str, **more: Any) -> None:
        """Send an event, by what follows ``websocket.`` in its type."""
        try:
            await self._send({"type": f"websocket.{type}", **more})
        except Exception as error:
            self.seen.append(f"{type}: {error_kind(error)}")
            raise

    async def try_to_send(self, type: str, **more: Any) -> None:
        """Send an event, and go on whatever happens."""
        with contextlib.suppress(Exception):
            await self.send(type, **more)

    async def accept(self) -> None:
        await self.receive()
        await self.send("accept")

    async def see_it_out(self) -> None:
        """Receive until the disconnect."""
        while (await self.receive())["type"] != "websocket.disconnect":
            pass


App: TypeAlias = Callable[[Call], Awaitable[None]]
Script: TypeAlias = Callable[[Line], Awaitable[None]]


def error_kind(error: Exception) -> str:
    # An application cannot catch the server's own exceptions but as what they are derived from.
    return "OSError" if isinstance(error, OSError) else type(error).__name__


def disconnect(code: int, reason: str | None = None) -> Event:
    event = {"type": "websocket.disconnect", "code": code}
    return event if reason is None else {**event, "reason": reason}


@dataclass(frozen=True)
class Transcript:
    """How a scene was played."""

    head: str
    """The answer to the handshake, without its date."""
    wire: bytes
    """Every byte after it; inflated where permessage-deflate was agreed on."""
    end: str
    seen: tuple[Any, ...]
    extension: str = field(default="", compare=False)

    @property
    def status(self) -> int:
        return int(self.head.split(maxsplit=2)[1])

    @property
    def code(self) -> int | None:
        """Of the close frame that is the last; 1005 for one without, None where the last is another."""
        first, payload = [*frames_of(self.wire)][-1] if self.wire else (0, b"")
        return None if first != FIN | CLOSE else int.from_bytes(payload[:2], "big") or 1005

    @property
    def before_close(self) -> bytes:
        """What was sent before the last frame, which closes."""
        assert self.code is not None
        *_, (_, payload) = frames_of(self.wire)
        return self.wire[: -len(payload) - 2]


View: TypeAlias = Callable[[Transcript], Transcript]


def _as_it_is(played: Transcript) -> Transcript:
    return played


class _Server(uvicorn.Server):
    """Leaves the signals of this process alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _Player:
    """A server, and the applications of those who are connected to it."""

    def __init__(self, protocol: str, settings: Mapping[str, Any]) -> None:
        self.calls: dict[int, Call] = {}
        self.server = _Server(uvicorn.Config(self._app, ws=protocol, **{**_SETTINGS, **settings}))

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await self.calls[scope["client"][1]].run(scope, receive, send)

    @contextlib.asynccontextmanager
    async def playing(self) -> AsyncGenerator[_Player]:
        serving = asyncio.create_task(self.server.serve())
        await until(lambda: self.server.started)
        try:
            yield self
        finally:
            self.server.should_exit = True
            await serving

    async def play(self, script: Script, app: App) -> Transcript:
        call = Call(app)
        async with asyncio.timeout(_PATIENCE), Line.dialed(self.server, call.cue) as line:
            self.calls[line.port] = call
            await script(line)
            await line.hear_the_rest()
            call.cue.set()
            if call.scope:
                await call.ended.wait()
            del self.calls[line.port]
        return _transcript(line, call)


def _transcript(line: Line, call: Call) -> Transcript:
    head, gap, wire = bytes(line.heard).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        head, wire = head + gap + wire, b""
    extension = agreed_on(head)
    if extension:
        wire = inflated(wire, extension)
    text = re.sub(r"(?i)(\r\ndate: )[^\r]+", r"\1-", head.decode())
    # Which ours asks for on purpose.
    text = text.replace("; server_no_context_takeover", "")
    return Transcript(text, wire, line.end, tuple(call.seen), extension)


async def _play_alone(protocol: str, script: Script, app: App) -> Transcript:
    async with _Player(protocol, {}).playing() as player:
        return await player.play(script, app)


class Stage:
    """Plays scenes on one event loop, with servers that are started once for each of their settings."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._players: dict[str, _Player] = {}
        self._running = contextlib.AsyncExitStack()

    def close(self) -> None:
        for player in self._players.values():
            player.server.should_exit = True
        self._runner.run(self._running.aclose())

    def play(self, script: Script, app: App, *, view: View = _as_it_is, **settings: Any) -> Transcript:
        """The transcript of both, which is the same in that `view`."""
        theirs, ours = [view(played) for played in self.play_both(script, app, **settings)]
        assert ours == theirs
        return theirs

    def play_both(self, script: Script, app: App, **settings: Any) -> list[Transcript]:
        """uvicorn's own, and ours."""
        return [self._runner.run(self._play(each, script, app, settings)) for each in PROTOCOLS]

    def play_alone(self, script: Script, app: App, *, view: View = _as_it_is) -> Transcript:
        """As `play`, on servers that may be shut down by it."""
        theirs, ours = [view(self._runner.run(_play_alone(each, script, app))) for each in PROTOCOLS]
        assert ours == theirs
        return theirs

    async def _play(self, protocol: str, script: Script, app: App, settings: Mapping[str, Any]) -> Transcript:
        key = f"{protocol} {settings}"
        if key not in self._players:
            player = _Player(protocol, settings)
            self._players[key] = await self._running.enter_async_context(player.playing())
        return await self._players[key].play(script, app)
