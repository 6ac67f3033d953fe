"""The script whose instructions are counted: echoes, deliveries, and their parts one by one.

Run by `.instructions` under callgrind; without it, it counts nothing. The same happens in every run: no
clock moves, no timer fires, garbage is not looked for (when it is depends on all that was done before), and
what chance there is, the ids of connections and the signatures of tokens, is of constant length.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from wsmanager import ConnectionManager, InboundMessage, JWTAuth, WebSocketMiddleware
from wsmanager.doors.guard import GuardedSocket
from wsmanager.servers.pipe import Pipe
from wsmanager.testing import FakeSocket, VirtualTimeLoop
from wsmanager.wire.below import EXTENSION
from wsmanager.wire.codecs import decode_json
from wsmanager.wire.outgoing import prepare_own
from wsmanager.wire.words import Reply

from .counter import Counter
from .fakes import FRAME, SECRET, App, Nowhere, bare, make_manager, open_sockets, quiet, scope_for, settle
from .growth import MESSAGE

Run = Callable[[int], Awaitable[None]]
"""Does what is counted, so many times."""

YARDSTICK: Final = "yardstick"
EMPTY: Final = "an empty call"
ECHO: Final = "echo, endpoint"
GUARDED: Final = "echo, guard in json mode"
DELIVERY: Final = "delivery of a broadcast"
DIRECT: Final = "the same past ASGI"

# What a run costs once, for its first turn of the loop, is in both counts and not in their difference.
FEW: Final = 250
MANY: Final = 1250
# By then CPython has settled for the fast form of every instruction, or given up on it.
_WARM_UP: Final = 2 * MANY

_SUBSCRIBERS: Final = 50
_NOW: Final = 1.0
_EVENT: Final = {"type": "websocket.receive", "text": FRAME}
_REPLY: Final = {"type": "websocket.send", "text": FRAME}


class Client(FakeSocket):
    """Sends a frame as often as it is told to, all in one turn of the loop."""

    __slots__ = ("_left",)

    def __init__(self, scope: dict[str, Any]) -> None:
        super().__init__(scope)
        self._left = 0

    async def receive(self) -> Any:
        if self._left:
            self._left -= 1
            return _EVENT
        return await super().receive()

    async def echo(self, count: int) -> None:
        before = self.sent
        self._left = count - 1
        self.feed(_EVENT)
        await settle()
        assert self.sent == before + count


class Script:
    """Runs by name; one named ``whole: part`` is a part of a whole, done alone."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {YARDSTICK: _compute, EMPTY: partial(_repeat, partial(_nothing))}
        # What serves the sockets lives as long as this does.
        self._tasks: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        await self._add_echo("bare echo", bare)
        manager = _manager(1)
        await self._add_echo(ECHO, manager.endpoint)
        self._add_parts(ECHO, _parts_of_echo(manager))
        manager = _manager(1)
        await self._add_echo(GUARDED, WebSocketMiddleware(bare, manager, "json"))
        self._add_parts(GUARDED, _parts_of_guarded(manager))
        await self._add_deliveries()
        await self._add_direct_deliveries()

    def _add_parts(self, whole: str, parts: dict[str, Callable[[], object]]) -> None:
        self.runs |= {f"{whole}: {part}": partial(_repeat, act) for part, act in parts.items()}

    async def _add_echo(self, name: str, app: App) -> None:
        client = Client(scope_for(0, 1))
        self._tasks.append(asyncio.ensure_future(app(client.scope, client.receive, client.send)))
        await settle()
        self.runs[name] = client.echo

    async def _add_deliveries(self) -> None:
        manager = _manager(_SUBSCRIBERS)
        scopes = [scope_for(number, _SUBSCRIBERS) for number in range(_SUBSCRIBERS)]
        sockets, tasks = open_sockets(manager.endpoint, scopes)
        self._tasks += tasks
        await settle()

        async def send_to_each(count: int) -> None:
            for _ in range(count // _SUBSCRIBERS):
                for socket in sockets:
                    await socket.send(_REPLY)

        async def broadcast(count: int) -> None:
            for _ in range(count // _SUBSCRIBERS):
                assert (await manager.broadcast(MESSAGE)).sent == _SUBSCRIBERS

        self.runs |= {"bare send": send_to_each, DELIVERY: broadcast}
        conn = manager.connections()[0]
        prepared = prepare_own(MESSAGE, conn.codec)
        self._add_parts(DELIVERY, {"push, with the server's send": partial(conn.push, prepared)})

    async def _add_direct_deliveries(self) -> None:
        manager = _manager(_SUBSCRIBERS)
        scopes = [scope_for(number, _SUBSCRIBERS) for number in range(_SUBSCRIBERS)]
        for scope in scopes:
            socket, pipe = FakeSocket(scope), Pipe(Nowhere(), asyncio.get_running_loop())
            pipe.open()
            scope["extensions"] = {EXTENSION: {"transport": pipe, "send": socket.send}}
            self._tasks.append(asyncio.ensure_future(manager.endpoint(scope, socket.receive, socket.send)))
        await settle()

        async def broadcast(count: int) -> None:
            for _ in range(count // _SUBSCRIBERS):
                assert (await manager.broadcast(MESSAGE)).sent == _SUBSCRIBERS
                await asyncio.sleep(0)  # the end of the turn, in which it is written

        self.runs[DIRECT] = broadcast


def _manager(sockets: int) -> ConnectionManager:
    """One that makes echoes, on a clock that stands still and costs next to nothing to read."""
    config = make_manager(sockets).config
    auth = JWTAuth(key=SECRET, algorithms=["HS256"])
    manager = ConnectionManager(config, auth=auth, clock=itertools.repeat(_NOW).__next__)
    manager.on("chat.message")(_echo)
    return manager


async def _echo(conn: Any, data: Any) -> Any:
    return data


def _parts_of_echo(manager: ConnectionManager) -> dict[str, Callable[[], object]]:
    (conn,) = manager.connections()
    inspection, dispatch, size = manager.engine.inspection, manager.engine.dispatch, len(FRAME)
    work = dispatch.admit(conn, FRAME)
    assert work is not None
    reply = Reply(work.message.id or "", work.data)
    analytics, kind = manager.analytics, work.route.type
    return {
        "health": partial(conn.health.heard, _NOW),
        "size": partial(inspection.measure, FRAME),
        "rate limit": partial(inspection.charge, conn, 1, _NOW),
        "decode": partial(conn.codec.decode, FRAME),
        "validate": partial(inspection.validate, work.message, FRAME),
        "route, rights, payload": partial(dispatch.assign, conn, work.message, size),
        "handler": partial(_step, _echo, conn, work.data),
        "encode the reply": partial(prepare_own, reply, conn.codec),
        "push, with the server's send": partial(conn.push, prepare_own(reply, conn.codec)),
        "analytics": partial(analytics.record_message, kind, size=size, latency_ms=0.0, now=_NOW),
    }


def _parts_of_guarded(manager: ConnectionManager) -> dict[str, Callable[[], object]]:
    (conn,) = manager.connections()
    guard, inspection = conn.guard, manager.engine.inspection
    assert isinstance(guard, GuardedSocket)
    message = InboundMessage("json", decode_json(FRAME))
    return {
        "health": partial(conn.health.heard, _NOW),
        "size": partial(inspection.measure, FRAME),
        "rate limit": partial(inspection.charge, conn, 1, _NOW),
        "decode": partial(decode_json, FRAME),
        "validate": partial(inspection.validate, message, FRAME),
        "analytics": partial(inspection.count, "json", size=len(FRAME), error=None, now=_NOW),
        "the guard's send, with the server's": partial(_step, guard.send, _REPLY),
    }


def _nothing() -> None:
    pass


def _step(function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
    try:  # noqa: SIM105 - as the pipeline does; a context manager would cost more
        function(*args).send(None)
    except StopIteration:
        pass


async def _repeat(act: Callable[[], object], count: int) -> None:
    for _ in range(count):
        act()


class _Number:
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value

    async def plus(self, other: int, *, times: int = 1) -> _Number:
        return _Number(self.value + other * times)


async def _compute(count: int) -> None:
    """A little of everything that the package does, in Python alone: it tells builds of Python apart."""
    for _ in range(count):
        number = await (await _Number(1).plus(2)).plus(3, times=4)
        table: dict[str, Any] = {"value": number.value, "pair": (number, number)}
        for key, value in table.items():
            try:
                table[key] = isinstance(value, int) and value
            finally:
                number.value += 1
        ",".join(table).encode().translate(None, b",").decode()


async def _count() -> None:
    script, counter = Script(), Counter()
    await script.prepare()
    for run in script.runs.values():
        await run(_WARM_UP)
    gc.disable()
    counter.start()
    for name, run in script.runs.items():
        for times in (FEW, MANY):
            counter.zero()
            await run(times)
            counter.dump(f"{name} {times}")


if __name__ == "__main__":
    quiet()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(_count())
