"""The test kit: for applications on wsmanager, and for parts that plug into it.

`connect` opens an in-memory WebSocket to any ASGI application, `lifespan` starts and stops one,
`ManualClock` and `VirtualTimeLoop` move time, and the ``check_`` functions hold a part against what
`wsmanager.protocols` asks of it. Nothing here needs a particular test runner.
"""

from __future__ import annotations

from .asgi import Peer, PeerClosed, connect
from .clock import Deadlock, ManualClock, VirtualTimeLoop
from .contracts import (
    QueueFactory,
    check_authenticator,
    check_codec,
    check_health_scorer,
    check_message_queue,
    check_message_validator,
    check_rate_limiter,
)
from .lifespan import lifespan
from .servers import DAPHNE, DIRECT, GRANIAN, HYPERCORN, UVICORN, Server, websocket_scope
from .sockets import ConnectionLost, FakeSocket, HandshakeRefused

__all__ = [
    # an application on a server in memory
    "FakeSocket",
    "HandshakeRefused",
    "Peer",
    "PeerClosed",
    "connect",
    "lifespan",
    "websocket_scope",
    # how servers behave
    "ConnectionLost",
    "DAPHNE",
    "DIRECT",
    "GRANIAN",
    "HYPERCORN",
    "Server",
    "UVICORN",
    # what a part must do
    "QueueFactory",
    "check_authenticator",
    "check_codec",
    "check_health_scorer",
    "check_message_queue",
    "check_message_validator",
    "check_rate_limiter",
    # time
    "Deadlock",
    "ManualClock",
    "VirtualTimeLoop",
]
