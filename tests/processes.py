"""Programs of this repository as processes of their own, on a port that was free."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ROOT", "Running", "free_port", "running"]

ROOT = Path(__file__).parents[1]
STARTED = re.compile(r"running on http://127\.0\.0\.1:(\d+)")


@dataclass
class Running:
    """A server that answers."""

    process: subprocess.Popen[str]
    port: int = 0
    log: list[str] = field(default_factory=list)
    """Every line that it wrote, to whichever stream; what came since it started, once it was stopped."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def listen(self) -> None:
        """Wait until it says which port it has."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if started := STARTED.search(line):
                self.port = int(started[1])
                return
        raise AssertionError("the program did not start: " + "".join(self.log))

    def kill(self) -> None:
        """End it at once, without a farewell to its clients."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end, which it must do by itself, and without a fault in its log."""
        assert self.process.stdout is not None
        self.process.terminate()
        self.log += self.process.stdout.readlines()
        assert self.process.wait(20) in (0, -15)
        assert "Traceback" not in "".join(self.log), "".join(self.log)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(module: str, port: int = 0, /, **environ: str) -> Generator[Running]:
    """``python -m module``, which is asked to end unless it was killed."""
    surroundings = {
        **os.environ,
        "PYTHONWARNINGS": "error::ResourceWarning",
        "PYTHONUNBUFFERED": "1",
        **environ,
    }
    command = [sys.executable, "-m", module, "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    server = Running(process)
    try:
        server.listen()
        yield server
        if process.poll() is None:
            server.stop()
    finally:
        server.kill()
        process.stdout.close()
