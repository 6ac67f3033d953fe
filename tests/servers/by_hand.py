"""Hypercorn started by the application's own code, which drains before it lets the server end."""

from __future__ import annotations

import asyncio
import signal
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.servers.app import app, manager


async def main() -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)

    async def drained() -> None:
        await told.wait()
        await manager.drain()

    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    await serve(app, config, shutdown_trigger=drained)  # type: ignore[arg-type]  # wants a type of its own


if __name__ == "__main__":
    asyncio.run(main())
