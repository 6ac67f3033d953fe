"""What one idle connection costs beyond the task that any ASGI application has for it."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

from wsmanager import WebSocketMiddleware
from wsmanager.middleware import ModeName

from .fakes import FRAME, App, bare, make_manager, open_sockets, scope_for, settle
from .options import Options
from .rows import Row, judged

MODES: tuple[ModeName, ...] = ("opaque", "json", "envelope")


async def _bytes_per_socket(app: App, count: int, users: int) -> tuple[float, int]:
    scopes = [scope_for(number, users) for number in range(count)]
    gc.collect()
    tracemalloc.start()
    sockets, tasks = open_sockets(app, scopes)
    await settle()
    for socket in sockets:
        socket.feed_text(FRAME)
    await settle()
    assert sum(socket.sent for socket in sockets) == 2 * count
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for socket in sockets:
        socket.disconnect()
    await asyncio.gather(*tasks)
    return used / count, used


async def _added_by_the_guard(mode: ModeName, count: int, without: float) -> Row:
    manager = make_manager(count)
    guarded, _ = await _bytes_per_socket(WebSocketMiddleware(bare, manager, mode), count, count)
    await manager.aclose()
    added = (guarded - without) / 1024
    return {"id": "P9", "measure": f"the same, by the guard in {mode} mode", "value": added}


async def measure_memory(options: Options) -> list[Row]:
    count = int(100_000 * options.scale)
    without, _ = await _bytes_per_socket(bare, count, count)
    manager = make_manager(count)
    with_manager, _ = await _bytes_per_socket(manager.endpoint, count, count)
    await manager.aclose()
    added = (with_manager - without) / 1024
    guards = [await _added_by_the_guard(mode, count, without) for mode in MODES]
    many = int(150_000 * options.scale)
    manager = make_manager(many)
    _, total = await _bytes_per_socket(manager.endpoint, many, int(100_000 * options.scale))
    await manager.aclose()
    megabytes = (total - without * many) / 1e6 / options.scale
    return [
        judged("P9", f"KiB a connection adds ({count} sockets)", added, floor=1.0, target=0.8),
        *guards,
        judged(
            "P11",
            f"MB that {many} sockets of two thirds as many users add",
            megabytes,
            floor=165,
            target=120,
        ),
    ]
