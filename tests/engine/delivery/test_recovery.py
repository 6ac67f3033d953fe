"""Every kind of failure, brought about on purpose: its strategy, and that nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

import pytest

from tests.engine.conftest import ByQuery, MakeManager, ask, errors_logged, refusal
from wsmanager import (
    Connection,
    ConnectionManager,
    ConnectionStatus,
    FailureKind,
    MessagePriority,
    Unavailable,
    WebSocketConfig,
)
from wsmanager.protocols import Handshake, Identity
from wsmanager.testing import HandshakeRefused, Peer, connect

pytestmark = pytest.mark.anyio

LARGE = {"type": "x", "data": "x" * 2_000}


@contextlib.asynccontextmanager
async def bystander(manager: ConnectionManager) -> AsyncGenerator[Peer]:
    """A client that must not notice anything."""
    async with connect(manager.endpoint, query="user=bystander") as peer:
        yield peer
        await peer.send_json({"type": "ping"})
        assert (await peer.receive_json())["type"] == "pong"
        assert peer.frames == []


def failures(manager: ConnectionManager) -> dict[FailureKind, int]:
    return manager.get_analytics().messages.failures


async def denied(manager: ConnectionManager, query: str = "user=ann") -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        async with connect(manager.endpoint, query=query):
            pass
    return caught.value


# --- transient


async def test_transient_what_a_gone_peer_did_not_get_is_delivered_to_the_next_connection(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with bystander(manager):
        async with connect(manager.endpoint, query="user=ann", window=1_000, stalled=True) as peer:
            for _ in range(3):
                await manager.send_personal_message("ann", LARGE)
            peer.reset()
            await asyncio.sleep(1)
        async with connect(manager.endpoint, query="user=ann") as peer:
            kept = [await peer.receive_json() for _ in range(2)]
    assert kept == [LARGE] * 2


async def test_transient_a_critical_message_is_tried_again_with_backoff(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(critical_retries=3, critical_backoff=1), auth=ByQuery())
    async with bystander(manager):
        sending = asyncio.create_task(
            manager.send_personal_message("ann", {"type": "x"}, priority=MessagePriority.CRITICAL)
        )
        await asyncio.sleep(2)  # between its second and its third try
        async with connect(manager.endpoint, query="user=ann") as peer:
            report = await sending
            assert (report.sent, report.attempts > 1) == (1, True)
            assert await peer.receive_json() == {"type": "x"}


async def test_transient_a_handler_that_takes_too_long_is_answered_and_weighs_on_nobody(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(WebSocketConfig(handler_timeout=2), auth=ByQuery())
    manager.on("slow")(lambda conn: asyncio.sleep(60))
    async with bystander(manager), connect(manager.endpoint, query="user=ann") as peer:
        answer = await ask(peer, "slow")
        assert (answer["data"]["code"], answer["data"]["temporary"]) == ("handler_timeout", True)
        assert manager.get_connection_health("ann").connections[0].error_rate == 0
    assert failures(manager) == {FailureKind.TRANSIENT: 1}


# --- client


async def test_client_faults_are_answered_and_too_many_close(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(max_errors=5), auth=ByQuery())
    async with bystander(manager), connect(manager.endpoint, query="user=ann") as peer:
        for _ in range(5):
            await peer.send_text("{")
            assert (await peer.receive_json())["data"]["code"] == "not_json"
        await peer.send_text("{")
        assert (await peer.wait_closed(5))[0] == 4509
    assert failures(manager) == {FailureKind.CLIENT: 6}


# --- auth


async def test_auth_is_refused_at_once_and_never_tried_again(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    manager.on("admin", scopes=["admin"])(lambda conn: None)
    async with bystander(manager), connect(manager.endpoint, query="user=ann") as peer:
        assert await refusal(peer, "admin") == "forbidden"
    assert failures(manager) == {FailureKind.AUTH: 1}


# --- capacity


async def test_capacity_tells_when_to_come_back(make_manager: MakeManager) -> None:
    config = WebSocketConfig(rate_limit_max=2, max_connections_per_user=1)
    manager = make_manager(config, auth=ByQuery())
    manager.on("x")(lambda conn: None)
    async with bystander(manager), connect(manager.endpoint, query="user=ann") as peer:
        for _ in range(2):
            assert (await ask(peer, "x"))["type"] == "reply"
        answer = (await ask(peer, "x"))["data"]
        assert (answer["code"], answer["temporary"]) == ("rate_limited", True)
        assert 0 < answer["retry_after_ms"] <= 62_000  # to one slice of the window
        assert (await denied(manager)).status == 429
    assert failures(manager) == {FailureKind.CAPACITY: 2}


# --- backend


class Down(ByQuery):
    """An authenticator whose directory can be switched off."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.hangs = False
        self.asked = 0

    async def authenticate(self, handshake: Handshake) -> Identity:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(3_600)
        if self.fault is not None:
            raise self.fault
        return await super().authenticate(handshake)


@pytest.mark.parametrize("way", ["refuses", "hangs"])
async def test_backend_an_authenticator_that_is_down_is_spared_and_tried_again(
    make_manager: MakeManager, way: str
) -> None:
    auth = Down()
    manager = make_manager(WebSocketConfig(auth_timeout=2, breaker_reset=30), auth=auth)
    loop = asyncio.get_running_loop()
    async with bystander(manager):
        auth.fault, auth.hangs = ConnectionRefusedError("directory"), way == "hangs"
        auth.asked = 0
        for _ in range(5):
            assert (await denied(manager)).status == 503
        started = loop.time()
        for _ in range(10):
            refused = await denied(manager)
            assert refused.status == 503
            assert 1 <= int(dict(refused.headers)[b"retry-after"]) <= 30
        assert loop.time() - started < 0.1  # nobody waits for what is down
        assert auth.asked == 5
        assert manager.get_analytics().breakers["auth"].state == "open"
        auth.fault, auth.hangs = None, False
        await asyncio.sleep(30)
        async with connect(manager.endpoint, query="user=ann"):
            assert manager.get_analytics().breakers["auth"].state == "closed"
    assert failures(manager) == {FailureKind.BACKEND: 15}


async def test_backend_a_fault_that_a_token_can_bring_about_locks_nobody_out(
    make_manager: MakeManager,
) -> None:
    auth = Down()
    manager = make_manager(auth=auth)
    auth.fault = KeyError("no such claim")
    for _ in range(20):
        assert (await denied(manager)).status == 503
    auth.fault = None
    async with connect(manager.endpoint, query="user=ann"):
        pass


@pytest.mark.parametrize(
    "fault", [ConnectionResetError("db"), TimeoutError("db"), Unavailable(), Unavailable(retry_after_ms=5)]
)
async def test_backend_a_handler_that_cannot_reach_it_says_so(
    make_manager: MakeManager, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on("store")
    async def store(conn: Connection) -> None:
        raise fault

    async with bystander(manager), connect(manager.endpoint, query="user=ann") as peer:
        for _ in range(30):  # more than a client's own faults may be
            answer = (await ask(peer, "store"))["data"]
            assert (answer["code"], answer["temporary"]) == ("unavailable", True)
            assert answer.get("retry_after_ms") == getattr(fault, "retry_after_ms", None)
            assert "db" not in answer["message"]
    assert failures(manager) == {FailureKind.BACKEND: 30}
    assert bool(errors_logged(caplog)) is not isinstance(fault, Unavailable)


# --- bug


async def test_bug_is_logged_and_told_to_nobody_and_the_connection_lives(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on("broken")
    async def broken(conn: Connection) -> None:
        raise ZeroDivisionError("secret")

    async with bystander(manager), connect(manager.endpoint, query="user=ann") as peer:
        answer = await ask(peer, "broken")
        assert answer["data"]["code"] == "internal_error"
        assert "secret" not in str(answer)
        assert manager.connections(user_id="ann", status=ConnectionStatus.OPEN)
    assert failures(manager) == {FailureKind.BUG: 1}
    assert errors_logged(caplog) == ["handler.failed"]


async def test_bug_in_the_background_is_reported_and_the_work_starts_again(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "wsmanager")
    manager = make_manager(auth=ByQuery())
    async with bystander(manager):
        heartbeat = manager.engine.heartbeat

        def crash(now: float) -> None:
            raise ZeroDivisionError

        original, heartbeat._sweep = heartbeat._sweep, crash
        await asyncio.sleep(301)
        assert manager.get_analytics().tasks["heartbeat"].restarts == 1
        heartbeat._sweep = original
        await asyncio.sleep(1)
        assert manager.get_analytics().tasks["heartbeat"].state == "running"
    assert "task.crashed" in errors_logged(caplog)


# --- one failing target


async def test_one_target_that_fails_never_harms_the_rest(make_manager: MakeManager) -> None:
    manager: ConnectionManager = make_manager(auth=ByQuery())
    async with contextlib.AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(connect(manager.endpoint, query=f"user={number}"))
            for number in range(10)
        ]

        peers[4].reset()
        report = await manager.broadcast({"type": "news"})
        assert (report.sent, report.offline) == (9, 1)
        assert [len(peer.frames) for peer in peers] == [1] * 4 + [0] + [1] * 5
    assert failures(manager) == {FailureKind.TRANSIENT: 1}


async def test_failures_by_kind_are_reset_with_the_errors(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint) as peer:
        assert await refusal(peer, "nothing") == "unknown_type"
    assert failures(manager) == {FailureKind.CLIENT: 1}
    manager.analytics.reset_errors()
    assert failures(manager) == {}
