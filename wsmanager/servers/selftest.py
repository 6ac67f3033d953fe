"""Compare our protocol for uvicorn with uvicorn's own: the same conversation, over a transport in memory.

A new version may behave otherwise without renaming anything that `SansIOProtocol` relies on. No socket is
opened and no event loop runs, so that this works while another loop runs in the thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
from asyncio.events import _get_running_loop, _set_running_loop
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVarTuple, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from ..wire.below import EXTENSION
from ..wire.framing import BINARY, TEXT, WireFrame, wire_frame

__all__ = ["differences"]

_MOST_CALLBACKS: Final = 10_000
"""More than any step of the conversation needs: it goes round in circles."""
_MASK: Final = b"\x0f\xf0\x3c\xc3"
_CONTINUED: Final = 0x7F
"""What is left of a first byte without its FIN bit."""
_LAST, _PING, _PONG, _CLOSE = 0x80, 0x89, 0x8A, 0x88
_PAYLOAD_OF_PING: Final = b"wsm!"
_BYE: Final = "bye"
"""What the application is asked to close with."""
# The second may have ticked between the two.
_DATE: Final = re.compile(rb"^date:.*\r\n", re.IGNORECASE | re.MULTILINE)
_HANDSHAKE: Final = (
    b"GET /self%2Dtest?a=b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: first, second\r\n\r\n"
)

Ts = TypeVarTuple("Ts")
Seen = list[tuple[str, Any]]
"""What one step of the conversation led to, in order."""


def differences(ours: type[asyncio.Protocol], base: type[asyncio.Protocol]) -> list[str]:
    """Return the steps of a conversation that `ours` takes otherwise than `base`; empty when it is alike.

    Raises `RuntimeError` when either of them raises anything.
    """
    with _set_aside_running_loop():
        first, second = _Conversation(ours), _Conversation(base)
        try:
            mine, theirs = dict(first.run()), dict(second.run())
        finally:
            first.end()
            second.end()
    differing = [step for step in theirs if mine.get(step) != theirs[step]]
    return differing + _unused(first.protocol)


def _unused(protocol: Any) -> list[str]:
    """Return what our protocol is there for and did not do: that never shows in a comparison."""
    pipe = protocol.transport
    return [] if pipe.heard_at is not None else ["latency of a pong"]


@contextmanager
def _set_aside_running_loop() -> Generator[None]:
    """Give the running loop back at the end: `asyncio.Queue` and `asyncio.Event` want one to wait in."""
    before = _get_running_loop()
    try:
        yield
    finally:
        _set_running_loop(before)


class _Conversation:
    """One client, one protocol and an application that answers every message twice."""

    def __init__(self, kind: Any) -> None:
        # Abstract to type checkers alone: what it lacks raises `NotImplementedError`.
        self.loop: _Loop = cast("Any", _Loop)()
        self._seen: Seen = []
        config = _configure(self._answer)
        self.transport = _Transport(self._seen)
        self.protocol = kind(config, ServerState(), {}, _loop=self.loop)
        # Nobody is to read of a client that does not exist, and tracing takes other paths.
        self.protocol.logger = self.protocol.conn.logger = _SILENT
        self.protocol.conn.debug = False

    def run(self) -> Generator[tuple[str, Seen]]:
        """Yield each step with what it led to."""
        _set_running_loop(self.loop)
        self.protocol.connection_made(self.transport)
        for step, act in self._steps():
            try:
                act()
                self.loop.run_until_idle()
            except Exception as error:
                kind = type(self.protocol).__name__
                raise RuntimeError(f"{kind}, {step}: {type(error).__name__}: {error}") from error
            self._seen.append(("reads", self.transport.reads))
            yield step, _summary(self._seen)
            self._seen.clear()

    def end(self) -> None:
        self.loop.close()

    def _steps(self) -> Iterable[tuple[str, Callable[[], object]]]:
        protocol = self.protocol
        yield "handshake", lambda: self._receive(_HANDSHAKE)
        yield "text message", lambda: self._receive(_frame(TEXT, "naïve ✓".encode()))
        yield "empty message", lambda: self._receive(_frame(BINARY, b""))
        yield "longer message", lambda: self._receive(_frame(BINARY, bytes(range(256))))
        first, last = _frame(TEXT & _CONTINUED, b"on"), _frame(_LAST, b"e")
        yield "message in fragments", lambda: self._receive(first, _frame(_PING, b"?"), last)
        # Whole messages pass by the parser: they must not overtake what is in it.
        whole = _frame(TEXT, b"whole")
        yield "message after fragments", lambda: self._receive(first, last, whole)
        yield "message in two segments", lambda: self._receive(whole[:3], whole[3:])
        outer = _frame(BINARY, _masked(whole))
        yield "message that holds another", lambda: self._receive(outer[: -len(whole)], outer[-len(whole) :])
        yield "two messages in a segment", lambda: self._receive(whole + whole)
        yield "pong", self._pong
        yield "full transport", lambda: self._receive_while_full(whole)
        yield "room in the transport", protocol.resume_writing
        yield "full again", lambda: self._receive_while_full(_frame(BINARY, b"\0"))
        yield "room again", protocol.resume_writing
        yield "close", lambda: self._receive(_frame(TEXT, _BYE.encode()))
        yield "answer to the close", lambda: self._receive(_frame(_CLOSE, b"\x03\xe8bye"))
        yield "end", lambda: (protocol.eof_received(), protocol.connection_lost(None))

    def _receive(self, *segments: bytes) -> None:
        for segment in segments:
            self.protocol.data_received(segment)

    def _receive_while_full(self, segment: bytes) -> None:
        self.protocol.pause_writing()
        self._receive(segment)

    def _pong(self) -> None:
        self.protocol.pending_ping_payload = _PAYLOAD_OF_PING
        self._receive(_frame(_PONG, _PAYLOAD_OF_PING))
        self._seen.append(("pending", self.protocol.pending_ping_payload))

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        offered = scope["extensions"].get(EXTENSION)

        async def past_asgi(answer: Any) -> None:
            if offered is None:
                await send(answer)
            elif rest := offered["transport"].write_prepared(_prepared(answer)):
                await rest

        known = {name: value for name, value in scope.items() if name != "extensions"}
        self._seen.append(("scope", (known, scope["extensions"].keys() - {EXTENSION})))
        self._seen.append(("event", await receive()))
        await send({"type": "websocket.accept", "subprotocol": "second", "headers": [(b"x-self", b"test")]})
        while (event := await receive())["type"] == "websocket.receive":
            self._seen.append(("event", event))
            if event.get("text") == _BYE:
                await send({"type": "websocket.close", "code": 1000, "reason": _BYE})
                continue
            answer = {**event, "type": "websocket.send"}
            # Either has to wait for room once, too.
            first, second = (send, past_asgi) if "text" in event else (past_asgi, send)
            await first(answer)
            await second(answer)
        self._seen.append(("event", event))


def _configure(app: Any) -> Config:
    config = Config(
        app,
        http=asyncio.Protocol,  # classes: so that none is looked for
        ws=asyncio.Protocol,
        ws_ping_interval=None,
        ws_per_message_deflate=False,  # the one thing that ours has otherwise on purpose
        lifespan="off",
        log_config=None,
        interface="asgi3",
        proxy_headers=False,
    )
    config.load()
    config.loaded_app = app  # without what traces its messages
    return config


def _prepared(event: Any) -> WireFrame:
    return wire_frame(event["text"] if "text" in event else event["bytes"])


def _frame(first: int, payload: bytes) -> bytes:
    """Return a frame as clients send it."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([first]) + length + _MASK + _masked(payload)


def _masked(payload: bytes) -> bytes:
    return bytes(byte ^ _MASK[place % 4] for place, byte in enumerate(payload))


def _summary(seen: Seen) -> Seen:
    """Return what was seen with all that was written in one piece: ours writes once per turn of the loop."""
    written = b"".join(data for kind, data in seen if kind == "write")
    return [(kind, data) for kind, data in seen if kind != "write"] + [("written", _DATE.sub(b"", written))]


_SILENT: Final = logging.Logger("wsmanager.selftest", logging.CRITICAL + 1)


class _Transport(asyncio.Transport):
    """Goes nowhere, and notes down what it is given."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen
        self._is_closing = False
        self.reads = True

    def write(self, data: Any) -> None:
        self._seen.append(("write", bytes(data)))

    def close(self) -> None:
        if not self._is_closing:
            self._seen.append(("close", None))
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class _Loop(asyncio.AbstractEventLoop):
    """Keeps callbacks until it is told to run them; its time stands still, so that no timer is ever due."""

    def __init__(self) -> None:
        self._ready: list[asyncio.Handle] = []
        self._steps: list[_Steps] = []

    def run_until_idle(self) -> None:
        """Run what is ready, and what that makes ready. Raises what a callback or an application raised."""
        for _ in range(_MOST_CALLBACKS):
            if not self._ready:
                break
            handle = self._ready.pop(0)
            if not handle.cancelled():
                handle._run()
        else:
            raise RuntimeError("the self-test comes to no end")
        for steps in self._steps:
            if steps.done():
                steps.result()

    def close(self) -> None:
        for steps in self._steps:
            steps.give_up()
        self._ready.clear()

    def time(self) -> float:
        return 0.0

    def get_debug(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return asyncio.TimerHandle(delay, callback, args, self, context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **_: Any) -> Any:
        steps = _Steps(coro, self)
        self._steps.append(steps)
        return steps

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context.get("exception") or RuntimeError(context["message"])


class _Steps(asyncio.Future[Any]):
    """Runs a coroutine as a task does; a task itself may not start inside another (Python 3.14)."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], loop: _Loop) -> None:
        super().__init__(loop=loop)
        self._coroutine = coroutine
        loop.call_soon(self._step)

    def _step(self, _: object = None) -> None:
        try:
            waits_for: Any = self._coroutine.send(None)
        except StopIteration as end:
            self.set_result(end.value)
        except Exception as error:
            self.set_exception(error)
        else:
            if waits_for is None:
                self.get_loop().call_soon(self._step)
            else:
                waits_for._asyncio_future_blocking = False
                waits_for.add_done_callback(self._step)

    def give_up(self) -> None:
        """Leave nothing behind, whether it came to its end or not."""
        if self.done():
            self.exception()  # else it is logged that nobody asked
        else:
            with suppress(Exception):
                self._coroutine.close()
            self.cancel()
