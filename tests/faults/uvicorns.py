"""uvicorn as a process of its own, with each of its WebSocket implementations."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.guarded import sign
from tests.processes import Running, running

__all__ = ["EITHER", "figures", "memory", "uvicorn"]

EITHER = pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])


@contextmanager
def uvicorn(ws: str, **settings: Any) -> Generator[Running]:
    """`tests.faults.guarded` on ``uvicorn --ws <ws>``. Settings in lower case are uvicorn's flags, those in
    upper case the manager's."""
    environ = {
        f"UVICORN_{name.upper()}" if name.islower() else f"WSMANAGER_{name}": str(value)
        for name, value in settings.items()
    }
    app = "tests.faults.guarded:app"
    with running("uvicorn", 0, UVICORN_APP=app, UVICORN_WS=ws, **environ) as server:
        yield server


def figures(server: Running) -> Any:
    """What ``/analytics`` tells an operator."""
    headers = {"authorization": f"Bearer {sign('operator', scope='wsmanager.operator')}"}
    request = urllib.request.Request(f"http://{server.address}/status/analytics", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310  # loopback
        return json.load(response)


def memory(server: Running) -> int:
    """The most bytes that the process ever held."""
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("the memory of a process is read from /proc")
    (peak,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024
