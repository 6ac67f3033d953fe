"""Life signs, health and time: one clock hand for all connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.engine.conftest import ByQuery, MakeManager
from wsmanager import Connection, ConnectionManager, HealthStatus, MessagePriority, WebSocketConfig
from wsmanager.protocols import HealthSample
from wsmanager.testing import FakeSocket, Peer, PeerClosed, VirtualTimeLoop, connect, websocket_scope

pytestmark = pytest.mark.anyio

JSON = "wsmanager.v1.json"


def now() -> float:
    return asyncio.get_running_loop().time()


def stall(seconds: float) -> None:
    """The loop stands still: time passes and nothing runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._jump(seconds)


class Client:
    """Answers pings as long as it likes to, and keeps the rest."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.pings: list[float] = []
        self.others: list[Any] = []
        self.answers = True
        self.delay = 0.0
        self.turns = 0
        """Of the loop, which it takes for what the client sent to be read."""
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        with contextlib.suppress(PeerClosed):
            while True:
                message = await self.peer.receive_json(None)
                if message["type"] == "ping":
                    self.pings.append(now())
                    await self._answer()
                else:
                    self.others.append(message)

    async def _answer(self) -> None:
        await asyncio.sleep(self.delay)
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.answers and not self.peer.closed:
            await self.peer.send_json({"type": "pong"})

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


@contextlib.asynccontextmanager
async def client(manager: ConnectionManager, **options: Any) -> AsyncGenerator[Client]:
    async with connect(manager.endpoint, subprotocols=[JSON], **options) as peer:
        made = Client(peer)
        try:
            yield made
        finally:
            await made.stop()


# --- pings


async def test_who_negotiated_is_pinged_every_thirty_seconds(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with client(manager) as one:
        await asyncio.sleep(600)
        assert not one.peer.closed
        assert one.pings[0] <= 35
        gaps = [later - earlier for earlier, later in zip(one.pings, one.pings[1:], strict=False)]
        assert len(gaps) >= 18
        assert gaps == pytest.approx([30.0] * len(gaps))


@pytest.mark.parametrize(("interval", "timeout"), [(30, 8), (7, 10), (1, 1), (0.5, 30), (60, 20)])
async def test_the_rhythm_is_a_setting(make_manager: MakeManager, interval: float, timeout: float) -> None:
    manager = make_manager(WebSocketConfig(heartbeat_interval=interval, heartbeat_timeout=timeout))
    async with client(manager) as one:
        await asyncio.sleep(20 * interval)
        gaps = [later - earlier for earlier, later in zip(one.pings, one.pings[1:], strict=False)]
        assert len(gaps) >= 17
        assert gaps == pytest.approx([interval] * len(gaps))
        one.answers = False
        last = now()
        await one.peer.wait_closed(10 * (interval + timeout))
        assert interval + timeout <= now() - last + interval
        assert now() - last <= 1.5 * interval + 1.5 * timeout


@pytest.mark.parametrize("interval", [30, 7])
@pytest.mark.parametrize("age", range(0, 30, 3))
async def test_however_late_it_came_a_peer_has_ten_seconds_to_answer(
    make_manager: MakeManager, age: int, interval: float
) -> None:
    manager = make_manager(WebSocketConfig(heartbeat_interval=interval))
    async with connect(manager.endpoint):  # starts the clock hand
        await asyncio.sleep(30 + age + 0.5)
        async with client(manager) as one:
            one.delay = 9.9
            await asyncio.sleep(200)
            assert not one.peer.closed
            assert len(one.pings) >= 5


async def test_the_round_trip_is_measured(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with client(manager) as one:
        (health,) = manager.get_connection_health("alice").connections
        assert health.latency_ms is None
        one.delay = 0.25
        await asyncio.sleep(100)
        (health,) = manager.get_connection_health("alice").connections
        assert health.latency_ms == pytest.approx(250, abs=5)


async def test_f12_unasked_pongs_measure_nothing(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint) as peer:
        for _ in range(50):
            await peer.send_json({"type": "pong"})
        (health,) = manager.get_connection_health("alice").connections
        assert health.latency_ms is None
        assert peer.frames == []


# --- silence


@pytest.mark.parametrize("age", [0.0, 0.7, 3.3, 12.9, 28.1])
async def test_f02_a_half_open_peer_is_closed_within_45_seconds(
    make_manager: MakeManager, age: float
) -> None:
    manager, ends = make_manager(auth=ByQuery()), list[float]()

    @manager.on_disconnect
    async def gone(conn: Connection) -> None:
        ends.append(now())

    async with connect(manager.endpoint):
        await asyncio.sleep(age)
        async with client(manager) as one:
            await asyncio.sleep(100)
            one.answers = False
            await asyncio.sleep(0.1)
            silent_since = one.pings[-1]
            assert await one.peer.wait_closed(60) == (4012, "no heartbeat")
            await asyncio.sleep(0.1)
            assert 40 <= ends[0] - silent_since <= 45
            assert one.others[-1]["data"] == {"code": 4012, "reason": "no heartbeat", "reconnect": True}
            assert len(manager.connections(user_id="alice")) == 1


@pytest.mark.parametrize("offset", [0.1, 1.1, 2.1, 3.1, 4.1])
async def test_f02_no_coming_and_going_of_others_makes_it_later(
    make_manager: MakeManager, offset: float
) -> None:
    manager = make_manager(WebSocketConfig(max_connections_per_user=1_000), auth=ByQuery())
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(connect(manager.endpoint))
        await asyncio.sleep(offset)
        one = await stack.enter_async_context(client(manager, query="user=bob"))
        one.answers = False
        started = now()
        # In a plain list it would move from the first tenth to the end, and be visited that much later.
        async with contextlib.AsyncExitStack() as others:
            for _ in range(45):
                await others.enter_async_context(connect(manager.endpoint))
            await asyncio.sleep(41)
        await one.peer.wait_closed(60)
        assert now() - started <= 45


async def test_any_frame_is_a_sign_of_life(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with client(manager) as one:
        one.answers = False
        for _ in range(20):
            await asyncio.sleep(25)
            await one.peer.send_text("even nonsense")
            assert not one.peer.closed
            if len(one.others) > 15:
                break


async def test_a_plain_listener_may_be_silent_for_ever(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint) as peer:
        await asyncio.sleep(3 * 3_600)
        assert not peer.closed
        assert peer.frames == []
        (conn,) = manager.connections()
        assert conn.health.status is HealthStatus.HEALTHY


async def test_a_plain_client_that_once_sent_a_ping_is_held_to_it(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "ping"})
        started = now()
        assert (await peer.wait_closed(60))[0] == 4012
        assert 40 <= now() - started <= 45


async def test_a_plain_listener_may_be_closed_when_idle_by_setting(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(idle_timeout=120))
    async with connect(manager.endpoint) as peer, client(manager) as one:
        started = now()
        await asyncio.sleep(60)
        await peer.send_text("still here")
        assert (await peer.wait_closed(300)) == (4000, "idle")
        assert 180 <= now() - started <= 185
        await asyncio.sleep(300)
        assert not one.peer.closed


# --- one timer


@pytest.mark.parametrize("subprotocols", [[], [JSON]])
async def test_a_hundred_idle_connections_cost_one_task(
    make_manager: MakeManager, subprotocols: list[str]
) -> None:
    manager = make_manager(WebSocketConfig(max_connections_per_user=200), auth=ByQuery())
    sockets = [FakeSocket(websocket_scope(subprotocols=subprotocols)) for _ in range(100)]
    before = len(asyncio.all_tasks())
    servers = [
        asyncio.create_task(manager.endpoint(socket.scope, socket.receive, socket.send)) for socket in sockets
    ]
    for seconds in (1, 34):
        await asyncio.sleep(seconds)
        assert len(manager.connections()) == 100
        assert len(asyncio.all_tasks()) - before == 100 + 1  # each server's own, and the clock hand
    for socket in sockets:
        socket.disconnect()
    await asyncio.wait(servers)
    await asyncio.sleep(1.1)
    assert len(asyncio.all_tasks()) == before


async def test_an_empty_manager_has_no_timer(make_manager: MakeManager) -> None:
    manager = make_manager()
    before = asyncio.all_tasks()
    async with connect(manager.endpoint):
        await asyncio.sleep(3)
        assert manager.get_analytics().tasks["heartbeat"].state == "running"
    await asyncio.sleep(1.1)
    assert manager.get_analytics().tasks["heartbeat"].state == "ended"
    assert asyncio.all_tasks() == before


# --- f45: a loop that stands still


@pytest.mark.parametrize("seconds", [5, 20, 60])
@pytest.mark.parametrize("at", [2.2, 31.7, 36.4, 39.4])
async def test_f45_a_stall_of_the_loop_disconnects_nobody_and_is_counted(
    make_manager: MakeManager, seconds: float, at: float, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(WebSocketConfig(max_connections_per_user=50), auth=ByQuery())
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(manager)) for _ in range(20)]
        for one in clients:
            one.delay, one.turns = 8.0, 20
        await asyncio.sleep(at)
        stall(seconds)
        await asyncio.sleep(100)
        assert not any(one.peer.closed for one in clients)
        figures = manager.get_analytics()
        assert figures.loop_stalls == 1
        assert figures.loop_lag < 1
    assert caplog.text.count("loop.stalled") == 1


async def test_f45_the_lag_of_the_last_tick_is_told(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint):
        await asyncio.sleep(2.5)
        stall(5)
        await asyncio.sleep(0.1)
        assert 4 < manager.get_analytics().loop_lag <= 5


async def test_f45_a_stall_does_not_make_a_reader_slow(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint, window=1_000, stalled=True) as peer:
        (conn,) = manager.connections()
        await conn.send({"type": "x", "data": "x" * 2_000})
        await conn.send({"type": "x", "data": "x" * 2_000})
        await asyncio.sleep(3.5)
        stall(31)
        await asyncio.sleep(2)
        peer.resume()
        await asyncio.sleep(60)
        assert not peer.closed


async def test_f45_who_is_gone_all_the_same_is_closed_a_little_later(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with client(manager) as one:
        one.answers = False
        await asyncio.sleep(38)
        stall(10)
        await one.peer.wait_closed(10)


# --- health


class Moody:
    """A scorer that answers what the test says."""

    def __init__(self) -> None:
        self.answer = 1.0
        self.error: Exception | None = None

    def score(self, sample: HealthSample) -> float:
        if self.error is not None:
            raise self.error
        return self.answer


async def test_three_unhealthy_checks_in_a_row_close_the_connection(make_manager: MakeManager) -> None:
    mood = Moody()
    manager = make_manager(health=mood)
    async with client(manager) as one:
        await asyncio.sleep(1)
        mood.answer = 0.1
        started = now()
        assert (await one.peer.wait_closed(200)) == (4013, "unhealthy")
        assert 80 <= now() - started <= 100
        await asyncio.sleep(0.1)
        assert one.others[-1]["data"]["reconnect"] is True


async def test_two_unhealthy_checks_and_a_better_one_do_not(make_manager: MakeManager) -> None:
    mood = Moody()
    manager = make_manager(health=mood)
    async with client(manager) as one:
        for _ in range(5):
            mood.answer = 0.1
            await asyncio.sleep(60)
            mood.answer = 0.9
            await asyncio.sleep(30)
        assert not one.peer.closed


async def test_a_degraded_connection_sheds_what_matters_least(make_manager: MakeManager) -> None:
    mood = Moody()
    manager = make_manager(health=mood, auth=ByQuery())
    async with client(manager) as one:
        for score, sent in [(0.5, 0), (0.9, 1)]:
            mood.answer = score
            await asyncio.sleep(40)
            low = await manager.broadcast({"type": "low"}, priority=MessagePriority.LOW)
            assert (low.sent, low.dropped) == (sent, 1 - sent)
            assert (await manager.broadcast({"type": "medium"})).sent == 1
        assert manager.get_analytics().drops["shed"] == 1
        assert not one.peer.closed


async def test_bad_latency_and_many_faults_make_a_connection_unhealthy(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(max_errors=10_000), auth=ByQuery())
    async with client(manager) as one:
        one.delay = 5.0
        for _ in range(30):
            await asyncio.sleep(5)
            if one.peer.closed:
                break
            await one.peer.send_text("nonsense")
        assert (await one.peer.wait_closed(1))[0] == 4013


async def test_a_scorer_that_raises_costs_nobody_the_heartbeat(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    mood = Moody()
    mood.error = LookupError("no samples")
    manager = make_manager(health=mood)
    async with client(manager) as one, client(manager) as silent:
        silent.answers = False
        assert (await silent.peer.wait_closed(60))[0] == 4012
        await asyncio.sleep(100)
        assert not one.peer.closed
        assert len(one.pings) >= 3
        assert manager.get_analytics().tasks["heartbeat"].restarts == 0
    assert "visit.failed" in caplog.text


# --- what waits too long


async def test_what_waits_longer_than_it_may_is_removed_and_counted(make_manager: MakeManager) -> None:
    config = WebSocketConfig(queue_ttl=10, queue_cleanup_interval=12, slow_timeout=3_600, send_timeout=3_600)
    manager = make_manager(config)
    async with connect(manager.endpoint, window=1_000, stalled=True) as peer:
        (conn,) = manager.connections()
        for _ in range(4):
            await conn.send({"type": "x", "data": "x" * 2_000})
        assert manager.get_analytics().waiting == 3
        await asyncio.sleep(20)
        assert manager.get_analytics().drops["expired"] == 2
        assert manager.get_analytics().waiting == 1  # the one in the server's hands
        assert not peer.closed


async def test_what_is_kept_too_long_for_an_absent_user_is_removed(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(offline_ttl=50, queue_cleanup_interval=60), auth=ByQuery())
    await manager.send_personal_message("nobody", {"type": "x"})
    # Visits that are shorter than the interval count together.
    for _ in range(12):
        async with connect(manager.endpoint):
            await asyncio.sleep(10)
        await asyncio.sleep(2)
    figures = manager.get_analytics()
    assert (figures.offline_messages, figures.drops["offline_expired"]) == (0, 1)


async def test_a_stall_is_logged_with_its_length(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "wsmanager")
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint):
        await asyncio.sleep(2)
        stall(7)
        await asyncio.sleep(1)
    (record,) = [record for record in caplog.records if "loop.stalled" in record.getMessage()]
    assert 5 < vars(record)["fields"]["seconds"] <= 7


async def test_a_peer_that_takes_nothing_counts_faults_and_then_is_closed(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint, window=1_000, stalled=True) as peer:
        (conn,) = manager.connections()
        for _ in range(3):
            await conn.send({"type": "x", "data": "x" * 2_000})
        await asyncio.sleep(25)
        (health,) = manager.get_connection_health("alice").connections
        assert health.error_rate == pytest.approx(0.2)  # two send timeouts
        await asyncio.sleep(7)
        assert manager.connections() == []
        peer.resume()
        assert (await peer.wait_closed(5))[0] == 4008
