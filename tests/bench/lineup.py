"""The servers that are measured side by side. Another is one file in `contestants`, and one more row here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.node import NODE

from .dialects import PLAIN, SOCKETIO, Dialect

__all__ = ["BARE", "CONTESTANTS", "NODE_PACKAGES", "OURS", "OWN_TRANSPORT", "Contestant"]

NODE_PACKAGES = Path(__file__).parent / "contestants" / "node"
BARE, OURS, OWN_TRANSPORT = "bare", "wsmanager", "wsmanager, own transport"


class Contestant(NamedTuple):
    """A program that serves on a port, and the language of its clients."""

    program: str
    arguments: str = ""
    dialect: Dialect = PLAIN

    @property
    def on_node(self) -> bool:
        return self.program.endswith(".mjs")

    def command(self, port: int) -> list[str]:
        if self.on_node:
            return [str(NODE), str(NODE_PACKAGES / self.program), str(port)]
        module = f"tests.bench.contestants.{self.program}"
        return [sys.executable, "-m", module, "--port", str(port), *self.arguments.split()]


CONTESTANTS: Mapping[str, Contestant] = {
    # What the others are compared with comes first: a load may be a share of what it carries.
    BARE: Contestant("bare"),
    "bare, asyncio": Contestant("bare", "--loop asyncio"),
    "FastAPI": Contestant("fastapi_app"),
    "python-socketio": Contestant("socketio_app", dialect=SOCKETIO),
    "Django Channels": Contestant("channels_app"),
    "websockets": Contestant("websockets_server"),
    "picows": Contestant("picows_server"),
    "Node ws": Contestant("ws.mjs"),
    "Node socket.io": Contestant("socketio.mjs", dialect=SOCKETIO),
    OURS: Contestant("managed"),
    OWN_TRANSPORT: Contestant("managed", "--ws wsmanager.servers.uvicorn:WebSocketProtocol"),
}
