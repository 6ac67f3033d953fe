"""What a manager tells about itself: right, bounded, and ready for JSON; and what it logs."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

import wsmanager
from tests.engine.conftest import ByQuery, MakeManager
from wsmanager import AuthenticationError, Connection, HealthStatus, MessagePriority, WebSocketConfig
from wsmanager.protocols import Handshake, Identity
from wsmanager.testing import HandshakeRefused, connect

pytestmark = pytest.mark.anyio

JSON = "wsmanager.v1.json"


# --- analytics


async def test_the_figures_of_a_new_manager_are_zero_and_json(make_manager: MakeManager) -> None:
    figures = json.loads(msgspec.json.encode(make_manager().get_analytics()))
    assert set(figures["indexes"].values()) == {0}
    assert figures["messages"]["types"] == {}
    assert figures["tasks"] == figures["closed"] == figures["refused"] == figures["drops"] == {}
    assert figures["errands"] == figures["congested"] == figures["waiting"] == figures["loop_stalls"] == 0


async def test_the_figures_of_a_session_are_right(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(max_connections_per_user=2), auth=ByQuery())

    @manager.on("chat")
    async def chat(conn: Connection, data: str) -> str:
        await asyncio.sleep(0.02)
        return data

    @manager.on("fail")
    async def fail(conn: Connection) -> None:
        raise LookupError

    async with (
        connect(manager.endpoint, query="user=ann&tenant=t", client=("10.0.0.1", 1)) as ann,
        connect(manager.endpoint, query="user=ann&tenant=t", client=("10.0.0.2", 1)) as other,
        connect(manager.endpoint, query="user=bob", client=("10.0.0.2", 2), subprotocols=[JSON]) as bob,
    ):
        assert (await bob.receive_json())["type"] == "welcome"
        for conn in manager.connections(tenant="t"):
            await manager.join_session(conn, "lobby")
        with pytest.raises(HandshakeRefused):
            async with connect(manager.endpoint, query="user=ann&tenant=t"):
                pass

        frames = [
            '{"type":"chat","data":"hi","id":1}',
            '{"type":"chat","data":"yo"}',
            '{"type":"chat","data":1}',
        ]
        for text in [*frames, "nonsense", '{"type":"unheard"}', '{"type":"fail"}', '{"type":"ping"}']:
            await ann.send_text(text)
            await asyncio.sleep(0.1)
        assert (await manager.send_to_session("lobby", {"type": "news"}, tenant="t")).sent == 2
        assert (await manager.broadcast({"type": "news"})).sent == 1
        assert (await manager.send_personal_message("absent", {"type": "letter"})).kept == 1

        figures = manager.get_analytics()
        assert figures.indexes == {
            "arrived": 3,
            "addresses": 2,
            "connections": 3,
            "users": 2,
            "rooms": 1,
            "tenants": 2,
        }
        assert figures.health == {HealthStatus.HEALTHY: 3}
        assert figures.refused == {"user_limit": 1}
        assert figures.closed == {}
        assert (figures.offline_users, figures.offline_messages) == (1, 1)
        assert figures.offline_bytes == len('{"type":"letter"}')
        assert figures.tasks["heartbeat"].state == "running"

        types = figures.messages.types
        assert (types["chat"].count_in, types["chat"].errors) == (3, 1)
        assert types["chat"].bytes_in == sum(map(len, frames))
        assert types["chat"].p50_ms == pytest.approx(20, rel=0.1)
        assert (types["fail"].count_in, types["fail"].errors) == (1, 1)
        assert (types["ping"].count_in, types["ping"].errors) == (1, 0)
        assert (types["unreadable"].count_in, types["unknown"].count_in) == (1, 1)
        assert (types["news"].count_out, types["news"].bytes_out) == (3, 3 * len('{"type":"news"}'))
        assert "unheard" not in types
        assert figures.messages.errors == {
            "invalid_payload": 1,
            "not_json": 1,
            "unknown_type": 1,
            "internal_error": 1,
        }
        assert figures.messages.total.count_in == 7
        assert json.loads(msgspec.json.encode(figures))["indexes"]["connections"] == 3

        await other.close(4321)
        await manager.disconnect(manager.connections(user_id="bob")[0], 4503, "kicked")
        await asyncio.sleep(0.1)
        assert manager.get_analytics().closed == {4321: 1, 4503: 1}
    assert manager.get_analytics().closed == {1000: 1, 4321: 1, 4503: 1}


async def test_waiting_and_dropped_messages_are_counted(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=3), auth=ByQuery())
    async with connect(manager.endpoint, window=1_000, stalled=True) as peer, connect(manager.endpoint):
        (conn, _) = manager.connections()
        for number in range(8):
            await manager.send_to_connection(conn.id, {"type": "x", "data": "x" * 2_000, "number": number})
        figures = manager.get_analytics()
        assert (figures.congested, figures.waiting) == (1, 4)  # one is in the server's hands
        assert figures.drops["evicted"] == 3
        peer.resume()
        await asyncio.sleep(1)
        assert manager.get_analytics().congested == manager.get_analytics().waiting == 0


@pytest.mark.parametrize("code", [0, 999, 5000, 70_000, None])
async def test_f31_close_codes_that_a_client_invents_are_one(make_manager: MakeManager, code: Any) -> None:
    manager = make_manager()

    async def served(scope: Any, receive: Any, send: Any) -> None:
        async def odd() -> Any:
            event = await receive()
            return {**event, "code": code} if event["type"] == "websocket.disconnect" else event

        await manager.endpoint(scope, odd, send)

    async with connect(served):
        pass
    assert set(manager.get_analytics().closed) <= {1005, 1006}


async def test_f31_refusal_codes_are_bounded(make_manager: MakeManager) -> None:
    class Inventive:
        count = 0

        async def authenticate(self, handshake: Handshake) -> Identity | None:
            self.count += 1
            raise AuthenticationError("no", code=f"reason {self.count}")

    manager = make_manager(WebSocketConfig(handshake_burst=1_000), auth=Inventive())
    for _ in range(150):
        with pytest.raises(HandshakeRefused):
            async with connect(manager.endpoint):
                pass
    refused = manager.get_analytics().refused
    assert len(refused) == 101
    assert refused["other"] == 50


# --- health


async def test_the_health_of_a_user_is_that_of_each_connection_and_the_worst(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint) as good, connect(manager.endpoint) as bad:
        await good.send_json({"type": "ping"})
        for _ in range(15):
            await bad.send_text("nonsense")
        await asyncio.sleep(34)
        await good.send_json({"type": "ping"})
        await bad.send_text("nonsense")
        await asyncio.sleep(1)
        health = manager.get_connection_health("alice")
        assert (health.user_id, health.tenant, health.worst) == ("alice", None, HealthStatus.DEGRADED)
        first, second = health.connections
        assert (first.status, second.status) == (HealthStatus.HEALTHY, HealthStatus.DEGRADED)
        assert first.connection_id == manager.connections()[0].id
        assert first.error_rate == 0
        assert second.error_rate > 0.1
        assert second.score < 0.7 < first.score
        assert first.idle_seconds == pytest.approx(1)
        assert (first.waiting, first.breaker) == (0, "closed")
        assert json.loads(msgspec.json.encode(health))["worst"] == "degraded"


async def test_looking_at_health_is_no_check(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint) as peer:
        for _ in range(15):
            await peer.send_text("nonsense")
        scores = {manager.get_connection_health("alice").connections[0].score for _ in range(20)}
        assert len(scores) == 1
        assert not peer.closed


async def test_a_user_of_another_tenant_has_another_health(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint, query="user=ann&tenant=t"):
        assert manager.get_connection_health("ann").worst is None
        assert manager.get_connection_health("ann").connections == ()
        assert manager.get_connection_health("ann", "t").worst is HealthStatus.HEALTHY


async def test_an_open_breaker_shows(make_manager: MakeManager) -> None:
    config = WebSocketConfig(breaker_failures=1, send_timeout=5, slow_timeout=60)
    manager = make_manager(config, auth=ByQuery())
    async with connect(manager.endpoint, window=1_000, stalled=True):
        (conn,) = manager.connections()
        for _ in range(2):
            await conn.send({"type": "x", "data": "x" * 2_000}, priority=MessagePriority.HIGH)
        await asyncio.sleep(8)
        (health,) = manager.get_connection_health("alice").connections
        assert (health.breaker, health.waiting) == ("open", 1)


# --- logs

EVENTS = {
    "auth.failed",
    "auth.none",
    "abort.unsupported",
    "around.failed",
    "close.timeout",
    "dependency.close_failed",
    "drain.begun",
    "drain.done",
    "errand.crashed",
    "errand.refused",
    "guard.failed",
    "handler.failed",
    "handler.timeout",
    "handler.unavailable",
    "receive.failed",
    "handshake.refused",
    "jwks.fetch_failed",
    "loop.stalled",
    "observer.failed",
    "offline.refused",
    "offline.unencodable",
    "on_connect.failed",
    "on_disconnect.failed",
    "handler.stuck",
    "on_violation.failed",
    "origin.refused",
    "queue.failed",
    "refusal.failed",
    "send.failed",
    "server.moved",
    "server.outdated",
    "shutdown.timeout",
    "sigterm.unseen",
    "task.crashed",
    "visit.failed",
    "wire.moved",
}


def called(function: ast.expr) -> str:
    """The last name of what is called."""
    return ast.unparse(function).rpartition(".")[2]


def events_in(path: Path) -> set[str]:
    """The names that a module logs."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    logs = [call for call in calls if called(call.func) in ("log_event", "note", "_note")]
    logged = [call for call in logs if len(call.args) > 1]
    if path.name == "logs.py":  # which passes on what others log
        logged = [call for call in logged if isinstance(call.args[1], ast.Constant)]
    names = [call.args[1].value for call in logged if isinstance(call.args[1], ast.Constant)]
    assert len(names) == len(logged), f"{path} logs a name that is made up at run time"
    return {str(name) for name in names}


def test_the_names_of_events_are_stable() -> None:
    package = Path(wsmanager.__file__).parent
    assert set().union(*map(events_in, package.rglob("*.py"))) == EVENTS


async def test_a_session_without_faults_logs_nothing(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "wsmanager")
    manager = make_manager(auth=ByQuery())
    manager.on("x")(nothing)
    async with connect(manager.endpoint, subprotocols=[JSON]) as peer:
        await peer.send_json({"type": "x", "id": 1})
        await peer.send_text("nonsense")
        await asyncio.sleep(36.5)
        await manager.broadcast({"type": "y"})
    assert caplog.records == []


async def nothing(conn: Connection) -> None: ...


FORGED = "ann\r\n2026-01-01 INFO admin logged in \x1b[2J\u202e\u2028\x00"


async def test_f32_what_a_client_chose_cannot_forge_a_line(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "wsmanager")
    manager = make_manager(auth=ByQuery())

    @manager.on("quote")
    async def quote(conn: Connection, data: str) -> None:
        raise LookupError(f"no such thing: {data}")

    with pytest.raises(HandshakeRefused):
        async with connect(manager.endpoint, headers=[("origin", "http://x\r\nadmin logged in\x1b[2J")]):
            pass
    async with connect(manager.endpoint, query="user=b%20admin=yes") as peer:
        await peer.send_json({"type": "quote", "data": FORGED})
        await peer.receive()
    assert len(caplog.records) == 3
    for record in caplog.records:
        shown = logging.Formatter("%(levelname)s %(message)s").format(record)
        lines = shown.split("\n")
        assert all(line.isprintable() for line in lines)
        assert all(line.startswith("  ") for line in lines[1:])
        assert len(shown.splitlines()) == len(lines)
    assert "user='b admin=yes'" in caplog.text


async def test_a_record_carries_its_event_and_fields(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on("x")
    async def x(conn: Connection) -> None:
        raise LookupError

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "x"})
        await peer.receive()
        (conn,) = manager.connections()
    (record,) = caplog.records
    attributes = vars(record)
    assert attributes["event"] == "handler.failed"
    assert attributes["fields"] == {"connection": conn.id, "user": "alice", "type": "x"}
    assert record.levelname == "ERROR"
    assert record.exc_info is not None


async def test_the_figures_of_the_limiter_and_the_validator_are_shown(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max_keys=1), auth=ByQuery())

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with (
        connect(manager.endpoint, query="user=ann") as ann,
        connect(manager.endpoint, query="user=bob") as bob,
    ):
        await ann.send_json({"type": "x", "data": "' or 1=1 --"})
        await bob.send_json({"type": "x"})
        figures = manager.get_analytics()
    assert (figures.limiter_keys, figures.limiter_overflowed) == (1, 1)
    assert figures.reported_patterns["injection.sql"] == 1


async def test_what_was_kept_too_long_goes_though_nobody_is_connected(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(offline_ttl=10), auth=ByQuery())
    await manager.send_personal_message("ann", {"type": "x"})
    await asyncio.sleep(11)
    figures = manager.get_analytics()
    assert (figures.offline_messages, figures.drops["offline_expired"]) == (0, 1)
