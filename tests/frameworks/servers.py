"""Applications on a real uvicorn, in a thread of this process, and who may connect to them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import jwt
import uvicorn
from starlette.testclient import TestClient
from websockets.sync.client import ClientConnection, connect

from wsmanager import ConnectionManager, JWTAuth, WebSocketConfig
from wsmanager.http import endpoints

SECRET = "a secret of at least 32 characters"

T = TypeVar("T")


class Running(uvicorn.Server):
    """A server that knows its port, and whose loop takes work from other threads."""

    def __init__(self, app: Any, *, port: int = 0, **settings: Any) -> None:
        config = uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=5, **settings)
        super().__init__(config)
        self.ready = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready.set()

    @property
    def address(self) -> str:
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the server's loop."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)


@contextmanager
def serving(app: Any, **settings: Any) -> Generator[Running]:
    server = Running(app, **settings)
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        assert server.ready.wait(10), "uvicorn did not start"
        yield server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "uvicorn did not end"


def token(user: str = "ann") -> str:
    return jwt.encode({"sub": user, "exp": int(time.time()) + 600}, SECRET, algorithm="HS256")


def make_manager(**settings: Any) -> ConnectionManager:
    return ConnectionManager(WebSocketConfig(**settings), auth=JWTAuth(SECRET, algorithms=["HS256"]))


def dial(server: Running, path: str = "/echo", *, user: str = "ann", **options: Any) -> ClientConnection:
    socket: ClientConnection = connect(
        f"ws://{server.address}{path}?token={token(user)}", proxy=None, **options
    )
    return socket


def readiness(manager: ConnectionManager) -> int:
    return TestClient(endpoints(manager)).get("/ready").status_code
