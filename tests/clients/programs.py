"""Clients that are programs: spoken to by lines, on Node or anywhere else."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.node import NODE, install

__all__ = ["TIMEOUT", "Program", "Script", "require_node"]

HERE = Path(__file__).parent
TIMEOUT = 10.0
"""Seconds that a client has for anything."""


class Program:
    """A process that reads lines and writes lines."""

    def __init__(self, *command: str | Path, **environ: str) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=HERE,
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="program", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def write_end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def read(self) -> str:
        """The next line. Raises `EOFError` behind the last, and `queue.Empty` when none comes."""
        line = self._lines.get(timeout=TIMEOUT)
        if line is None:
            raise EOFError
        return line

    def end(self) -> None:
        """End it, whatever it is doing."""
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # it ended before it read everything
            self.write_end()


class Script:
    """A script of this directory on Node: it obeys commands, and tells events. Both are JSON lists, in which
    bytes look as Node writes them."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self._program = Program(NODE, HERE / name, json.dumps(arguments))

    def do(self, *command: Any) -> None:
        self._program.write(json.dumps(command, default=_buffer_of))

    def next(self) -> list[Any]:
        """The next event."""
        event: list[Any] = json.loads(self._program.read(), object_hook=_without_buffer)
        return event

    def end(self) -> None:
        self._program.end()


def _buffer_of(data: bytes) -> dict[str, Any]:
    return {"type": "Buffer", "data": list(data)}


def _without_buffer(value: dict[str, Any]) -> Any:
    return bytes(value["data"]) if value.get("type") == "Buffer" else value


def require_node() -> None:
    """Skip the test where the packages for Node cannot be had; fail where somebody insists on them."""
    fault = install(HERE)
    if fault:
        (pytest.fail if os.environ.get("REQUIRE_NODE") else pytest.skip)(f"no packages for Node: {fault}")
