"""How far a newcomer walks through the package to follow one thing: calls, files, and changes of file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from wsmanager import Connection, ConnectionManager, JWTAuth, WebSocketMiddleware
from wsmanager.middleware import ModeName
from wsmanager.testing import Peer, VirtualTimeLoop, connect

from .contestants.messages import FRAME
from .fakes import SECRET, App, bare, token_for
from .options import Options
from .rows import Row, judged
from .tracer import Walk, traced

__all__ = ["WALKS", "measure_walks"]

_MOST_CALLS: Final = 33
_MOST_FILES: Final = 8
_TURNS: Final = 50
_NEWS: Final = {"type": "news", "data": 1}


def _manager() -> ConnectionManager:
    manager = ConnectionManager(
        auth=JWTAuth(key=SECRET, algorithms=["HS256"]), clock=asyncio.get_running_loop().time
    )
    manager.on("chat.message")(_echo)
    return manager


async def _echo(conn: Connection, data: Any) -> Any:
    return data


@asynccontextmanager
async def _online(app: App, user: str = "ann") -> AsyncGenerator[Peer]:
    async with connect(app, headers=[(b"authorization", b"Bearer " + token_for(user))]) as peer:
        await asyncio.sleep(0.7)  # between two ticks of the heartbeat
        yield peer


async def _follow(act: Callable[[], Awaitable[Any]]) -> Walk:
    """Trace `act`, and all that it sets going."""
    with traced(Walk()) as walk:
        await act()
        for _ in range(_TURNS):  # in which no time passes, so that no heartbeat comes between
            await asyncio.sleep(0)
    return walk


async def _frame_at(app: App) -> Walk:
    async with _online(app) as peer:
        for _ in range(3):
            await peer.send_text(FRAME)
            await peer.receive()
        return await _follow(lambda: peer.send_text(FRAME))


async def frame_at_the_endpoint() -> Walk:
    return await _frame_at(_manager().endpoint)


def _frame_at_the_guard(mode: ModeName) -> Callable[[], Awaitable[Walk]]:
    return lambda: _frame_at(WebSocketMiddleware(bare, _manager(), mode))


async def broadcast_to_two() -> Walk:
    manager = _manager()
    async with _online(manager.endpoint), _online(manager.endpoint, "bob"):
        return await _follow(lambda: manager.broadcast(_NEWS))


async def message_to_an_absent_user() -> Walk:
    manager = _manager()
    async with _online(manager.endpoint):
        return await _follow(lambda: manager.send_personal_message("bob", _NEWS))


async def connect_at_the_endpoint() -> Walk:
    manager = _manager()
    async with _online(manager.endpoint), asyncio.TaskGroup() as group:
        done = asyncio.Event()

        async def stay() -> None:
            async with _online(manager.endpoint, "bob"):
                await done.wait()

        walk = await _follow(lambda: asyncio.sleep(0, group.create_task(stay())))
        done.set()
    return walk


async def close_by_the_application() -> Walk:
    manager = _manager()
    async with _online(manager.endpoint):
        (conn,) = manager.connections()
        return await _follow(conn.close)


async def peer_leaves() -> Walk:
    manager = _manager()
    async with _online(manager.endpoint) as peer:
        return await _follow(peer.close)


async def drain_of_one() -> Walk:
    manager = _manager()
    async with _online(manager.endpoint):
        return await _follow(manager.drain)


WALKS: Final[dict[str, Callable[[], Awaitable[Walk]]]] = {
    "frame in, door 2, with a reply": frame_at_the_endpoint,
    "frame in and echo, door 1, opaque": _frame_at_the_guard("opaque"),
    "frame in and echo, door 1, envelope": _frame_at_the_guard("envelope"),
    "broadcast to two": broadcast_to_two,
    "personal message, durable, absent user": message_to_an_absent_user,
    "connect, door 2": connect_at_the_endpoint,
    "close by the application": close_by_the_application,
    "peer leaves": peer_leaves,
    "drain of one": drain_of_one,
}


def _walk(name: str) -> Walk:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:

        async def go() -> Walk:
            return await WALKS[name]()

        return runner.run(go())


async def measure_walks(options: Options) -> list[Row]:
    rows: list[Row] = []
    for name in WALKS:
        walk = await asyncio.to_thread(_walk, name)
        rows += _rows(name, walk)
        if options.profile:
            _show_way(name, walk)
    return rows


def _rows(name: str, walk: Walk) -> list[Row]:
    more = f"{walk.resumed} resumed, {walk.switches} changes of file"
    calls, files = f"{name}: calls ({more})", f"{name}: files"
    if name != "close by the application":
        return [
            {"id": "walk", "measure": calls, "value": walk.calls},
            {"id": "walk", "measure": files, "value": walk.files},
        ]
    return [
        judged("walk", calls, walk.calls, floor=_MOST_CALLS, target=_MOST_CALLS),
        judged("walk", files, walk.files, floor=_MOST_FILES, target=_MOST_FILES),
    ]


def _show_way(name: str, walk: Walk) -> None:
    print(f"\n{name}")
    for step in walk.steps:
        print(f"  {'…' if step.is_resumed else ' '} {step.file}: {step.name}")
