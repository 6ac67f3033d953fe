"""What type checkers see of the public names; mypy and pyright read this file, pytest only imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, assert_type

import pytest

from wsmanager import (
    AdaptiveRateLimiter,
    Connection,
    ConnectionHealthMonitor,
    ConnectionManager,
    DeliveryReport,
    HealthStatus,
    JWTAuth,
    MessagePriority,
    MessagePriorityQueue,
    Provide,
    Pushed,
    WebSocketConfig,
)
from wsmanager.engine.figures import Analytics, UserHealth
from wsmanager.protocols import (
    Claims,
    Enqueued,
    RateDecision,
)

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from wsmanager.protocols import (
        Authenticator,
        Codec,
        HealthScorer,
        MessageQueue,
        MessageValidator,
        RateLimiter,
    )


async def the_manager(manager: ConnectionManager, websocket: WebSocket) -> None:
    async with manager.connect(websocket, user_id="alice") as conn:
        assert_type(conn, Connection)
    assert_type(await manager.connect(websocket), Connection)
    assert_type(await manager.send_personal_message("alice", {"type": "a"}), DeliveryReport)
    assert_type(await manager.broadcast({"type": "a"}, priority=MessagePriority.LOW), DeliveryReport)
    assert_type(await conn.send({"type": "a"}), Pushed)
    assert_type(manager.connections(room="a"), list[Connection])
    assert_type(manager.get_connection_health("alice"), UserHealth)
    assert_type(manager.get_analytics(), Analytics)
    assert_type(conn.rooms, frozenset[str])
    assert_type(conn.claims.sub, Any)


def a_handler_keeps_its_type(manager: ConnectionManager) -> None:
    @manager.on("a")
    async def handler(conn: Connection, data: int, name: Annotated[str, Provide(str)]) -> str:
        return f"{conn.id} {data} {name}"

    @manager.on_connect
    def hook(conn: Connection) -> None: ...

    assert_type(hook(Connection.__new__(Connection)), None)


def the_parts() -> None:
    assert_type(AdaptiveRateLimiter().check_rate_limit("a"), RateDecision)
    queue = MessagePriorityQueue[str]()
    assert_type(queue.enqueue("a", MessagePriority.HIGH), Enqueued)
    assert_type(queue.dequeue(), str | None)
    assert_type(ConnectionHealthMonitor().get_status(), HealthStatus)
    assert_type(ConnectionHealthMonitor().score, float)
    assert_type(JWTAuth(key="k", algorithms=["HS256"]).verify("t"), Claims)
    assert_type(WebSocketConfig.from_env(), WebSocketConfig)


def the_parts_keep_their_protocols() -> None:
    from wsmanager import SecurityValidator, WeightedHealthScorer
    from wsmanager.wire.codecs import JSONCodec, MessagePackCodec

    limiter: RateLimiter = AdaptiveRateLimiter()
    queue: MessageQueue[str] = MessagePriorityQueue[str]()
    validator: MessageValidator = SecurityValidator()
    scorer: HealthScorer = WeightedHealthScorer()
    auth: Authenticator = JWTAuth(key="k", algorithms=["HS256"])
    codecs: list[Codec] = [JSONCodec(), MessagePackCodec()]
    ConnectionManager(
        limiter=limiter, queue=lambda: queue, validator=validator, health=scorer, auth=auth, codecs=codecs
    )


@pytest.mark.parametrize("name", [name for name in dir(ConnectionManager) if not name.startswith("_")])
def test_every_public_method_says_what_it_does(name: str) -> None:
    assert getattr(ConnectionManager, name).__doc__
