from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from .servers import Process, Server

Serve = Callable[..., Process]


@pytest.fixture(scope="session")
def shared() -> Generator[dict[Any, Process]]:
    """Processes that many tests use, one for each server."""
    processes: dict[Any, Process] = {}
    yield processes
    for process in processes.values():
        process.kill()


@pytest.fixture
def process(server: Server, shared: dict[Any, Process]) -> Process:
    """The server's shared process. Nobody is connected to it."""
    running = shared.get(server)
    if running is None or running.process.poll() is not None:
        running = shared[server] = Process(
            server, {"rate_limit_max": 100_000, "max_connections_per_user": 1_000}
        )
    running.wait_until_empty()
    return running


@pytest.fixture
def serve() -> Generator[Serve]:
    """Starts processes for one test alone."""
    processes: list[Process] = []

    def start(server: Server, more: str = "", /, **settings: object) -> Process:
        processes.append(Process(server, settings, more))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
