"""How a contestant is started: on the port that the command line names, as quick as its server can be."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn
import uvloop

__all__ = ["HOST", "on_uvicorn", "on_uvloop"]

HOST = "127.0.0.1"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--loop", default="uvloop", choices=["uvloop", "asyncio"])
    parser.add_argument("--ws", default="websockets-sansio", help="uvicorn's WebSocket protocol class")
    return parser.parse_args()


def on_uvicorn(app: Any) -> None:
    options = _options()
    uvicorn.run(
        app,
        host=HOST,
        port=options.port,
        loop=options.loop,
        ws=options.ws,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
    )


def on_uvloop(serve: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """Run a server that brings its own protocol; it is given the port."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(_options().port))
