"""The servers, and how one is started as a process of its own. Another server is another row of `SERVERS`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt

from tests.matrix import Matrix
from tests.processes import ROOT, free_port
from tests.servers.app import SECRET

__all__ = ["MATRIX", "SERVERS", "Process", "Server", "token"]

APP = "tests.servers.app:app"


class Server(NamedTuple):
    """How a server is started on a port."""

    module: str
    arguments: str

    def command(self, port: int, more: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            self.module,
            *self.arguments.format(port=port, app=APP).split(),
            *more.split(),
        ]


_UVICORN = "{app} --host 127.0.0.1 --port {port} "
_OWN = "--ws wsmanager.servers.uvicorn:WebSocketProtocol"
SERVERS: Mapping[str, Server] = {
    "uvicorn": Server("uvicorn", _UVICORN + "--ws websockets-sansio --loop asyncio"),
    "uvicorn, uvloop": Server("uvicorn", _UVICORN + "--ws websockets-sansio --loop uvloop"),
    "uvicorn, wsproto": Server("uvicorn", _UVICORN + "--ws wsproto --loop asyncio"),
    "uvicorn, wsproto, uvloop": Server("uvicorn", _UVICORN + "--ws wsproto --loop uvloop"),
    "uvicorn, wsmanager": Server("uvicorn", f"{_UVICORN} {_OWN} --loop asyncio"),
    "uvicorn, wsmanager, uvloop": Server("uvicorn", f"{_UVICORN} {_OWN} --loop uvloop"),
    # With workers, a signal reaches none of them.
    "hypercorn": Server(
        "hypercorn", "--bind 127.0.0.1:{port} --workers 0 --access-logfile - --error-logfile - {app}"
    ),
    "granian": Server(
        "granian", "--interface asgi --host 127.0.0.1 --port {port} --loop asyncio --access-log {app}"
    ),
    "daphne": Server("daphne", "-b 127.0.0.1 -p {port} --access-log - {app}"),
}
MATRIX = Matrix("servers", "behaviour", "server", SERVERS)


def token(user: str = "ann", **claims: Any) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time()) + 600, **claims}, SECRET, algorithm="HS256")


class Process:
    """A server that answers."""

    def __init__(self, server: Server, settings: Mapping[str, object], more: str = "") -> None:
        self.port = free_port()
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `kill` closes it
        environ = {f"WSMANAGER_{name.upper()}": str(value) for name, value in settings.items()}
        self.process = subprocess.Popen(
            server.command(self.port, more),
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environ},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.figures()
            except OSError:
                assert self.process.poll() is None, f"it ended: {self.output()}"
                assert time.monotonic() < deadline, f"it does not answer: {self.output()}"
                time.sleep(0.05)
            else:
                return

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/ws", *, user: str = "ann") -> str:
        return f"ws://{self.address}{path}?token={token(user)}"

    def output(self) -> str:
        """Everything that it has written."""
        self._output.seek(0)
        return self._output.read()

    # --- what it does, and how it is

    def ask(self, path: str, body: Any = None, *, timeout: float = 10) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://{self.address}{path}", data, timeout=timeout) as response:
            return json.load(response)

    def figures(self) -> Any:
        return self.ask("/figures")

    def wait_for(self, what: str, condition: Any, *, timeout: float = 10) -> Any:
        """The figures, once they are as they should be."""
        deadline = time.monotonic() + timeout
        while not condition(figures := self.figures()):
            assert time.monotonic() < deadline, f"not in time: {what}: {figures}"
            time.sleep(0.02)
        return figures

    def wait_until_empty(self, *, timeout: float = 10) -> Any:
        return self.wait_for(
            "an empty index",
            lambda seen: not any(seen["figures"]["indexes"].values()) and not seen["figures"]["congested"],
            timeout=timeout,
        )

    def wait_for_output(self, text: str, *, timeout: float = 10) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.output():
            assert time.monotonic() < deadline, f"it does not say {text!r}: {self.output()}"
            time.sleep(0.02)

    def wait_until_alone(self, *, timeout: float = 4) -> None:
        """Wait until the kernel knows of no socket of its."""
        deadline = time.monotonic() + timeout
        while sockets := self._sockets():
            assert time.monotonic() < deadline, f"sockets are left, in the states {sockets}"
            time.sleep(0.05)

    def _sockets(self) -> list[str]:
        port = f":{self.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        # One that listens is none, nor one that belongs to no process any more.
        return [row[3] for row in rows if row[1].endswith(port) and row[3] != "0A" and row[9] != "0"]

    # --- its end

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float) -> None:
        """Return when it has ended. Raises `subprocess.TimeoutExpired`."""
        self.process.wait(timeout)

    def kill(self) -> None:
        """End it and its workers at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._output.close()
