"""A contestant as a process on one core, with the load generator on another."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Self

from tests.node import install
from tests.processes import ROOT, free_port

from .lineup import NODE_PACKAGES, Contestant
from .swarm import Swarm

__all__ = ["Host", "Unavailable", "cores"]

PAGE = os.sysconf("SC_PAGE_SIZE")


class Unavailable(Exception):
    """The contestant does not start here; says why."""


def cores() -> tuple[set[int], set[int]]:
    """Those of the server and those of the load generator: the same where there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, {others[0]} if others else {first}


@contextlib.contextmanager
def _on(chosen: set[int]) -> Generator[None]:
    """What is started inside inherits these cores, with every thread that it may start at once."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Host:
    """A server that accepts connections. Raises `Unavailable` if it will not."""

    def __init__(self, name: str, contestant: Contestant, core: set[int]) -> None:
        self.name = name
        self.dialect = contestant.dialect
        self.port = free_port()
        if contestant.on_node and (fault := install(NODE_PACKAGES)):
            raise Unavailable(fault)
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `kill` closes it
        with _on(core):
            self._process = subprocess.Popen(
                contestant.command(self.port), cwd=ROOT, stdout=self._output, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_it_accepts()
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(self._last_words()) from None
                time.sleep(0.02)
            else:
                return

    def _last_words(self) -> str:
        self._output.seek(0)
        return next(reversed(self._output.read().split("\n")[:-1]), "it does not answer")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()

    # --- its clients

    @contextlib.contextmanager
    def swarm(self, count: int) -> Generator[Swarm]:
        """As many clients, whom it knows; they are gone, and forgotten, afterwards."""
        with Swarm(self.port, self.dialect) as swarm:
            swarm.dial(count)
            self.settle()
            yield swarm
        self.settle()

    # --- what the kernel knows of it

    def _busy(self) -> tuple[int, int]:
        """Nanoseconds that its main thread has run, and has waited for its core."""
        ran, waited, _ = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()
        return int(ran), int(waited)

    def seconds(self) -> float:
        """How long it has run."""
        return self._busy()[0] / 1e9

    def settle(self) -> None:
        """Wait until it has nothing more to do."""
        deadline = time.monotonic() + 60
        before, now = -1, sum(self._busy())
        while now - before > 1_000_000:
            assert time.monotonic() < deadline, f"{self.name} does not come to rest"
            time.sleep(0.05)
            before, now = now, sum(self._busy())

    def kibibytes(self) -> float:
        """Its resident memory."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * PAGE / 1024
