"""A peer that does not keep up: what waits for it, in which order, what gives way, who does not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect

from tests.ends import closing_of
from tests.engine.words import type_of
from wsmanager import (
    Connection,
    ConnectionManager,
    ConnectionStatus,
    MessagePriority,
    MessagePriorityQueue,
    WebSocketConfig,
)
from wsmanager.config import Tier
from wsmanager.connections.ending import end, peer_left
from wsmanager.decisions.breaker import BreakerState
from wsmanager.errors import ConnectionClosed, EncodeError
from wsmanager.messages import Delivery, DeliveryReport, HealthStatus, Pushed
from wsmanager.testing import (
    HYPERCORN,
    ConnectionLost,
    Peer,
    Server,
    VirtualTimeLoop,
    connect,
)
from wsmanager.wire.codecs import JSONCodec

from ..conftest import ByQuery, MakeManager
from ..devices import (
    SERVERS,
    SLOW,
    adopted,
    congest,
    decoded,
    drops,
    every_server,
    got,
    news,
    online,
    read_all,
)

pytestmark = pytest.mark.anyio

LOW, MEDIUM, HIGH, CRITICAL = MessagePriority


def text(size: int) -> str:
    """Makes a message of `size` bytes, news included."""
    return "x" * (size - len('{"type":"news","data":""}'))


# --- idle


async def test_a_peer_that_keeps_up_costs_no_task_and_no_queue(make_manager: MakeManager) -> None:
    queues: list[Any] = []

    def queue() -> MessagePriorityQueue[Any]:
        made: MessagePriorityQueue[Any] = MessagePriorityQueue()
        queues.append(made)
        return made

    manager = make_manager(auth=ByQuery(), queue=queue)
    async with online(manager, "ann") as (peer, conn):
        tasks = asyncio.all_tasks()
        for n in range(10):
            assert await conn.send(news(n)) is Pushed.SENT
            await manager.broadcast(news(n))
            assert asyncio.all_tasks() == tasks
        assert queues == []
        assert len(got(peer)) == 20


async def test_a_peer_that_caught_up_is_as_cheap_as_before(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        tasks = asyncio.all_tasks()
        await congest(conn)
        for n in range(10):
            assert await conn.send(news(n)) is Pushed.QUEUED
        assert len(asyncio.all_tasks() - tasks) == 1
        assert manager.get_analytics().congested == 1
        assert manager.get_analytics().waiting == conn.waiting == 11
        assert await read_all(peer) == ["first", "first", *range(10)]
        assert conn.congestion is None
        assert asyncio.all_tasks() == tasks
        assert await conn.send(news("last")) is Pushed.SENT


# --- order


class Talk:
    """Senders of many kinds that talk to one device at once, and what of it arrived."""

    def __init__(self, manager: ConnectionManager, conn: Connection, peer: Peer) -> None:
        self.ways: list[Callable[[Any], Awaitable[Any]]] = [
            conn.send,
            manager.broadcast,
            lambda message: manager.send_to_session("tea", message),
            lambda message: manager.send_to_connection(conn.id, message),
            lambda message: manager.send_personal_message("ann", message, delivery=Delivery.VOLATILE),
            lambda message: manager.send_personal_message("ann", message),
        ]
        self.peer = peer

    async def say(self, sender: int, pauses: list[int]) -> None:
        """Send a numbered message after each pause, each in another way."""
        for number, pause in enumerate(pauses):
            for _ in range(pause):
                await asyncio.sleep(0)
            await self.ways[(sender + number) % len(self.ways)](news([sender, number]))

    async def read_in_bouts(self, bouts: list[int]) -> None:
        for turns in bouts:
            self.peer.stall()
            for _ in range(turns):
                await asyncio.sleep(0)
            self.peer.resume()
            await asyncio.sleep(0)

    def heard(self, sender: int) -> list[int]:
        return [data[1] for data in got(self.peer) if data[0] == sender]


@given(
    server=st.sampled_from(SERVERS),
    window=st.sampled_from([1, 100, 65_536]),
    pauses=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=4),
    bouts=st.lists(st.integers(0, 9), max_size=8),
)
def test_messages_of_one_sender_arrive_in_the_order_of_its_calls(
    server: Server, window: int, pauses: list[list[int]], bouts: list[int]
) -> None:
    async def law() -> None:
        manager = ConnectionManager(auth=ByQuery(), clock=asyncio.get_running_loop().time)
        async with manager, online(manager, "ann", server=server, window=window) as (peer, conn):
            await manager.join_session(conn, "tea")
            talk = Talk(manager, conn, peer)
            async with asyncio.TaskGroup() as group:
                group.create_task(talk.read_in_bouts(bouts))
                for sender, own in enumerate(pauses):
                    group.create_task(talk.say(sender, own))
            await asyncio.sleep(1)
            for sender, own in enumerate(pauses):
                assert talk.heard(sender) == list(range(len(own)))

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(law())


@every_server
async def test_what_waits_keeps_its_order(make_manager: MakeManager, server: Server) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", server=server, **SLOW) as (peer, conn):
        for n in range(100):
            await conn.send(news(n))
        assert await read_all(peer) == list(range(100))


async def test_what_waits_goes_by_priority_and_by_age_inside_one(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        for n in range(3):
            for priority in MessagePriority:
                await conn.send(news([priority.name, n]), priority=priority)
        names = ["CRITICAL", "HIGH", "MEDIUM", "LOW"]
        assert (await read_all(peer))[2:] == [[name, n] for name in names for n in range(3)]


async def test_a_peer_that_keeps_up_gets_everything_in_the_order_of_the_calls(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann") as (peer, conn):
        for priority in MessagePriority:
            await conn.send(news(priority.name), priority=priority)
        assert got(peer) == ["LOW", "MEDIUM", "HIGH", "CRITICAL"]


async def test_a_tier_has_a_priority_of_its_own(make_manager: MakeManager) -> None:
    tiers = {"free": Tier(priority=LOW)}
    manager = make_manager(WebSocketConfig(tiers=tiers), auth=ByQuery())
    async with online(manager, "ann", query="tier=free", **SLOW) as (peer, conn):
        await congest(conn)
        await conn.send(news("as all of the tier"))
        await conn.send(news("as asked for"), priority=MEDIUM)
        assert (await read_all(peer))[2:] == ["as asked for", "as all of the tier"]


async def test_only_the_latest_message_of_a_key_waits(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn), online(manager, "ben") as (other, _):
        await congest(conn)
        await conn.send(news("before"))
        for n in range(5):
            await manager.broadcast(news(n), conflate="price")
        await conn.send(news("after"))
        assert got(other) == [0, 1, 2, 3, 4]
        assert (await read_all(peer))[2:] == ["before", 4, "after"]
        assert drops(manager) == {"conflated": 4}


# --- bounds


async def test_the_oldest_of_the_lowest_priority_gives_way(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=4), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        for n, priority in enumerate([HIGH, LOW, MEDIUM, LOW, MEDIUM, HIGH]):
            await manager.broadcast(news(n), priority=priority)
        assert conn.waiting == 5
        assert (await read_all(peer))[2:] == [0, 5, 2, 4]
        assert drops(manager) == {"evicted": 2}


async def test_a_message_of_too_low_a_priority_is_dropped_and_reported(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=2), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        for n in range(2):
            await manager.broadcast(news(n), priority=HIGH)
        report = await manager.broadcast(news("low"), priority=LOW)
        assert report == DeliveryReport(dropped=1, failed=(conn.id,))
        assert not report.delivered
        assert (await read_all(peer))[2:] == [0, 1]
        assert drops(manager) == {"queue_full": 1}


async def test_bytes_are_bounded_as_they_are_on_the_wire(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_bytes=1_000), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await manager.broadcast(news("漢" * 200))
        await manager.broadcast(news(text(400)))
        assert (await read_all(peer))[2:] == [text(400)]
        assert drops(manager) == {"evicted": 1}


async def test_a_message_larger_than_the_queue_is_dropped_and_closes_nothing(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(WebSocketConfig(queue_max_bytes=1_000), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await conn.send(news("small"))
        assert await conn.send(news(text(1_001)), priority=CRITICAL) is Pushed.DROPPED
        assert (await read_all(peer))[2:] == ["small"]


@every_server
async def test_a_queue_full_of_critical_messages_closes_the_connection(
    make_manager: MakeManager, server: Server
) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=3), auth=ByQuery())
    async with online(manager, "ann", server=server, **SLOW) as (peer, conn):
        await congest(conn)
        for n in range(3):
            await manager.broadcast(news(n), priority=CRITICAL)
        report = await manager.broadcast(news("one too many"), priority=CRITICAL)
        assert report == DeliveryReport(dropped=1, failed=(conn.id,))
        assert conn.status is ConnectionStatus.DRAINING
        assert conn.waiting == 0
        peer.resume()
        assert (await peer.wait_closed(1))[0] == 4008
        assert drops(manager) == {"queue_full": 1, "abandoned": 4}


async def test_what_waited_too_long_is_not_sent_but_counted(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(send_timeout=50, slow_timeout=100), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await manager.broadcast(news("short"), ttl=10)
        await conn.send(news("short too"), ttl=10)
        await manager.send_personal_message("ann", news("short and durable"), ttl=10)
        await manager.broadcast(news("long"), ttl=60)
        await asyncio.sleep(20)
        assert (await read_all(peer))[2:] == ["long"]
        assert drops(manager) == {"expired": 3}
        assert manager.get_analytics().offline_messages == 0


async def test_what_expired_is_counted_while_the_peer_is_still_stalled(make_manager: MakeManager) -> None:
    config = WebSocketConfig(send_timeout=500, slow_timeout=1_000, queue_cleanup_interval=60)
    manager = make_manager(config, auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (_, conn):
        await congest(conn)
        await manager.broadcast(news("short"), ttl=10)
        await asyncio.sleep(200)
        assert drops(manager) == {"expired": 1}
        assert conn.waiting == 1


async def test_expired_messages_give_way_first(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=2), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await manager.broadcast(news("stays"), priority=LOW)
        await manager.broadcast(news("short"), priority=HIGH, ttl=1)
        await asyncio.sleep(2)
        await manager.broadcast(news("new"))
        assert (await read_all(peer))[2:] == ["new", "stays"]


# --- others do not notice


async def test_f03_a_stalled_peer_never_delays_the_others(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with AsyncExitStack() as stack:
        fast = [await stack.enter_async_context(online(manager, f"fast{n}")) for n in range(5)]
        slow = [await stack.enter_async_context(online(manager, f"slow{n}", **SLOW)) for n in range(5)]
        turns: list[int] = []
        for n in range(50):
            asyncio.get_running_loop().call_soon(turns.append, n)
            report = await manager.broadcast(news(n))
            assert len(turns) == 0  # the loop did not turn between the call and the last of them
            assert [got(peer)[-1] for peer, _ in fast] == [n] * 5
            assert report.sent >= 5
            await asyncio.sleep(0)
            turns.clear()
        assert [conn.waiting for _, conn in slow] == [49] * 5
        assert [len(peer.frames) for peer, _ in slow] == [1] * 5
        for peer, _ in slow:
            assert await read_all(peer) == list(range(50))


async def test_f03_a_slow_peer_is_degraded_and_then_closed(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (_, conn), online(manager, "ben") as (other, _):
        await congest(conn)
        await asyncio.sleep(12)
        (health,) = manager.get_connection_health("ann").connections
        assert health.error_rate > 0
        await asyncio.sleep(17)
        assert manager.connections(user_id="ann") == [conn]
        assert conn.health.status is HealthStatus.DEGRADED
        await asyncio.sleep(3)
        assert manager.connections(user_id="ann") == []
        await asyncio.sleep(6)
        assert conn.status is ConnectionStatus.CLOSED
        assert manager.get_analytics().closed == {4008: 1}
        assert not other.closed


async def test_a_slow_peer_that_wakes_up_in_time_reads_why_it_was_closed(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await manager.broadcast(news("given up"))
        await asyncio.sleep(32)
        assert conn.status is ConnectionStatus.DRAINING
        assert await read_all(peer) == ["first", {"code": 4008, "reason": "slow", "reconnect": True}]
        assert (peer.close_code, peer.close_reason) == (4008, "slow")


async def test_a_peer_that_reads_a_little_now_and_then_is_not_closed(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        for _ in range(20):
            await manager.broadcast(news("more"))
        for _ in range(10):
            await asyncio.sleep(25)
            await peer.receive()
        assert conn.status is ConnectionStatus.OPEN
        assert len(await read_all(peer)) == 12


# --- health and breaker


async def degrade(conn: Connection) -> None:
    """As the heartbeat does once the client has sent mostly rubbish."""
    for _ in range(10):
        conn.health.record_error()
    conn.health.get_status(now=asyncio.get_running_loop().time())
    conn.weigh()
    assert conn.health.status is HealthStatus.DEGRADED


async def test_a_degraded_connection_sheds_low_messages_only(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann") as (peer, conn):
        await degrade(conn)
        for priority in MessagePriority:
            await manager.broadcast(news(priority.name), priority=priority)
        assert got(peer) == ["MEDIUM", "HIGH", "CRITICAL"]
        assert drops(manager) == {"shed": 1}
        conn.health.get_status(now=asyncio.get_running_loop().time() - 0.1)
        for _ in range(10):
            conn.health.get_status(now=asyncio.get_running_loop().time())
        conn.weigh()
        await manager.broadcast(news("well again"), priority=LOW)
        assert got(peer)[-1] == "well again"


async def test_a_degraded_connection_sheds_no_durable_message(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann") as (peer, conn):
        await degrade(conn)
        await manager.send_personal_message("ann", news("low"), priority=LOW)
        await manager.send_personal_message("ann", news("next"))
        assert got(peer) == ["low", "next"]


async def test_what_keeps_a_degraded_connection_alive_is_never_shed(make_manager: MakeManager) -> None:
    tiers = {"free": Tier(priority=LOW)}
    manager = make_manager(WebSocketConfig(tiers=tiers), auth=ByQuery())
    manager.on("ask")(lambda conn, data: "answer")
    protocols = ["wsmanager.v1.json"]
    async with online(manager, "ann", query="tier=free", subprotocols=protocols) as (peer, conn):
        await degrade(conn)
        await peer.send_json({"type": "ping", "id": 1})
        assert (await peer.receive_json())["type"] == "pong"
        await peer.send_json({"type": "ask", "id": 2})
        assert (await peer.receive_json())["data"] == "answer"
        await peer.send_json({"type": "unknown", "id": 3})
        assert (await peer.receive_json())["type"] == "error"
        await degrade(conn)
        assert (await peer.receive_json(60))["type"] == "ping"
        assert (await manager.broadcast(news("shed"))).dropped == 1
        await peer.send_json({"type": "pong"})


async def test_a_peer_that_keeps_timing_out_opens_its_breaker(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(breaker_failures=3, breaker_reset=60), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn), online(manager, "ben") as (other, _):
        await congest(conn)
        for n in range(6):
            await manager.broadcast(news(n))

        def breaker() -> BreakerState:
            return manager.get_connection_health("ann").connections[0].breaker

        for _ in range(3):
            assert breaker() is BreakerState.CLOSED
            await asyncio.sleep(12)
            await peer.receive()
        assert breaker() is BreakerState.OPEN
        report = await manager.broadcast(news("dropped"))
        assert (report.sent, report.dropped, report.failed) == (1, 1, (conn.id,))
        assert drops(manager) == {"breaker": 1}
        assert (await manager.send_personal_message("ann", news("durable"))).queued == 1
        assert breaker() is BreakerState.OPEN
        assert manager.get_connection_health("ben").connections[0].breaker is BreakerState.CLOSED
        assert got(other)[-1] == "dropped"
        assert (await read_all(peer))[-1] == "durable"
        assert breaker() is BreakerState.CLOSED


async def test_an_open_breaker_lets_one_probe_through(make_manager: MakeManager) -> None:
    config = WebSocketConfig(breaker_failures=1, breaker_reset=12, send_timeout=5, slow_timeout=1_000)
    manager = make_manager(config, auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await asyncio.sleep(7)
        assert await conn.send(news("refused")) is Pushed.DROPPED
        await asyncio.sleep(12)
        assert await conn.send(news("probe")) is Pushed.QUEUED
        assert await conn.send(news("refused")) is Pushed.DROPPED
        assert await read_all(peer) == ["first", "first", "probe"]
        assert await conn.send(news("taken")) is Pushed.SENT


# --- backpressure


async def test_who_sends_to_one_connection_waits_while_half_its_queue_is_taken(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=10), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        for n in range(5):
            await asyncio.wait_for(conn.send(news(n)), 0.1)
        sending = asyncio.create_task(conn.send(news(5)))
        await asyncio.sleep(5)
        assert not sending.done()
        await peer.receive()
        await asyncio.sleep(0)
        await peer.receive()
        assert await asyncio.wait_for(sending, 0.1) is Pushed.QUEUED
        assert (await read_all(peer))[-1] == 5
        assert drops(manager) == {}


async def test_large_messages_press_back_by_their_bytes(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_bytes=1_000), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):

        async def send_all() -> None:
            for _ in range(20):
                await conn.send(news(text(300)))

        sending = asyncio.create_task(send_all())
        await asyncio.sleep(1)
        assert not sending.done()
        assert len(await read_all(peer)) == 20
        assert sending.done()
        assert drops(manager) == {}


async def test_what_gave_way_does_not_press_back(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_bytes=1_000), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        for _ in range(20):
            await manager.broadcast(news(text(300)))
            await manager.broadcast(news(text(300)), conflate="latest")
        while conn.waiting > 1:
            await peer.receive()
            await asyncio.sleep(0.1)
        assert await asyncio.wait_for(conn.send(news(text(400))), 0.1) is Pushed.QUEUED
        assert (await manager.send_personal_message("ann", news(text(500)))).queued == 1


@pytest.mark.parametrize("end", ["reset", "closed by the peer", "closed by the server", "slow"])
async def test_who_waits_for_room_learns_of_the_end(make_manager: MakeManager, end: str) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=2), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        sending = [asyncio.create_task(conn.send(news(n))) for n in range(3)]
        await asyncio.sleep(1)
        assert [task.done() for task in sending] == [True, False, False]
        if end == "reset":
            peer.reset()
        elif end == "closed by the peer":
            await peer.close()
        elif end == "closed by the server":
            conn.close_soon(4000, "closed")
        for task in sending[1:]:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(task, 40)


async def test_who_stops_waiting_for_room_leaves_nothing_behind(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=2), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await conn.send(news(0))
        for n in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(conn.send(news(n)), 1)
        assert (await read_all(peer))[2:] == [1, 2]
        assert conn.congestion is None
        assert await conn.send(news("more")) is Pushed.SENT


# --- what the application sends by itself


async def test_own_sends_and_the_managers_share_one_order(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with adopted(manager, **SLOW) as (peer, websocket, conn):
        await congest(conn)
        await manager.broadcast(news(0))
        own = asyncio.create_task(websocket.send_json(news(1)))
        await asyncio.sleep(0)
        await manager.broadcast(news(2))
        late = asyncio.create_task(websocket.send_json(news(3)))
        await asyncio.sleep(0)
        await manager.broadcast(news(4))
        assert (await read_all(peer))[2:] == [0, 1, 2, 3, 4]
        await asyncio.gather(own, late)


@every_server
async def test_an_own_send_waits_until_the_server_has_it(make_manager: MakeManager, server: Server) -> None:
    manager = make_manager()
    async with adopted(manager, server=server, **SLOW) as (peer, websocket, _):
        await websocket.send_json(news(0))
        first = asyncio.create_task(websocket.send_json(news(1)))
        second = asyncio.create_task(websocket.send_json(news(2)))
        await asyncio.sleep(10)
        assert not first.done()
        assert not second.done()
        await peer.receive()
        await asyncio.sleep(0.1)
        assert first.done()
        assert not second.done()
        assert await read_all(peer) == [1, 2]
        await second


async def test_an_own_send_gets_its_turn_however_much_else_is_sent(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=10))
    async with adopted(manager, **SLOW) as (peer, websocket, conn):
        await congest(conn)
        for n in range(10):
            await manager.broadcast(news(n), priority=HIGH)
        own = asyncio.create_task(websocket.send_json(news("own")))
        for n in range(100):
            await manager.broadcast(news(n), priority=HIGH)
            if n % 3 == 0:
                await peer.receive()
            await asyncio.sleep(0)
        assert own.done()


async def test_an_own_send_never_gives_way(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=2))
    async with adopted(manager, **SLOW) as (peer, websocket, conn):
        await congest(conn)
        own = [asyncio.create_task(websocket.send_json(news(f"own {n}"))) for n in range(5)]
        await asyncio.sleep(0)
        for n in range(5):
            await manager.broadcast(news(n), priority=HIGH)
        heard = (await read_all(peer))[2:]
        assert [data for data in heard if isinstance(data, str)] == [f"own {n}" for n in range(5)]
        assert [data for data in heard if isinstance(data, int)] == [3, 4]
        await asyncio.gather(*own)
        assert drops(manager) == {"evicted": 3}


async def test_who_is_cancelled_before_its_turn_has_sent_nothing(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with adopted(manager, **SLOW) as (peer, websocket, conn):
        await congest(conn)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(websocket.send_json(news("never")), 1)
        await conn.send(news("after"))
        assert await read_all(peer) == ["first", "first", "after"]


async def test_who_is_cancelled_while_the_server_has_the_frame_has_sent_it(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with adopted(manager, **SLOW) as (peer, websocket, conn):
        await websocket.send_json(news(0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(websocket.send_json(news(1)), 1)
        assert await read_all(peer) == [0, 1]
        assert await conn.send(news(2)) is Pushed.SENT


@every_server
@pytest.mark.parametrize("end", ["reset", "closed by the peer", "closed by the server", "slow"])
async def test_an_own_send_learns_of_the_end(make_manager: MakeManager, server: Server, end: str) -> None:
    manager = make_manager()
    async with adopted(manager, server=server, **SLOW) as (peer, websocket, conn):
        await congest(conn)
        sending = [asyncio.create_task(websocket.send_json(news(n))) for n in range(2)]
        await asyncio.sleep(1)
        if end == "reset":
            peer.reset()
        elif end == "closed by the peer":
            await peer.close(4999)
        elif end == "closed by the server":
            conn.close_soon(4000, "closed")
        results = await asyncio.wait_for(asyncio.gather(*sending, return_exceptions=True), 60)
        silent = server.after_disconnect == "silent" and end in ("reset", "closed by the peer")
        for result in results:
            assert isinstance(result, WebSocketDisconnect) or silent
        assert conn.congestion is None


async def test_an_own_send_that_finds_the_peer_gone_ends_the_connection(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with adopted(manager) as (peer, websocket, conn):
        peer.reset()
        with pytest.raises(WebSocketDisconnect):
            await websocket.send_json(news(1))
        assert conn.status is ConnectionStatus.CLOSED
        assert manager.connections() == []


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "congested"])
async def test_an_own_send_is_told_what_the_server_says_to_it(make_manager: MakeManager, busy: bool) -> None:
    manager = make_manager()
    async with adopted(manager, **(SLOW if busy else {})) as (peer, websocket, conn):
        if busy:
            await congest(conn)
        sending = asyncio.ensure_future(websocket._send({"type": "websocket.send", "text": 5}))
        await asyncio.sleep(0.1)
        peer.resume()
        with pytest.raises(AssertionError, match="text is a int"):
            await sending
        peer._socket.breach = None  # it was on purpose


# --- the server's own failures


class Broken:
    """Wraps the manager's endpoint so that the server's send fails from some frame on."""

    def __init__(self, manager: ConnectionManager, error: BaseException, *, after: int, wait: bool) -> None:
        self.manager = manager
        self.error = error
        self.after = after
        self.wait = wait

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def broken(event: Any) -> None:
            if event["type"] == "websocket.send":
                self.after -= 1
                if self.after < 0:
                    if self.wait:
                        await asyncio.sleep(1)
                    raise self.error
            await send(event)

        await self.manager.endpoint(scope, receive, broken)


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize(
    "error", [ConnectionLost(), RuntimeError("closed"), ValueError("a bug"), asyncio.CancelledError()]
)
async def test_f01_a_send_that_fails_ends_its_connection_once_and_no_other(
    make_manager: MakeManager, error: BaseException, wait: bool
) -> None:
    manager = make_manager(auth=ByQuery())
    gone: list[str] = []
    manager.on_disconnect(lambda conn: gone.append(conn.user_id))
    broken = Broken(manager, error, after=1, wait=wait)
    async with connect(broken, query="user=ann") as peer, online(manager, "ben") as (other, _):
        for n in range(4):
            await manager.broadcast(news(n))
        await asyncio.sleep(10)
        assert got(peer) == [0]
        assert got(other) == [0, 1, 2, 3]
        assert [conn.user_id for conn in manager.connections()] == ["ben"]
        assert gone == ["ann"]
        assert manager.get_analytics().congested == 0
        await asyncio.sleep(0.1)
        assert peer.closed


@every_server
async def test_f01_a_reset_in_the_middle_of_a_send_cleans_up_once(
    make_manager: MakeManager, server: Server
) -> None:
    manager = make_manager(auth=ByQuery())
    gone: list[Any] = []
    manager.on_disconnect(lambda conn: gone.append(closing_of(conn)))
    async with online(manager, "ann", server=server, **SLOW) as (peer, conn):
        await congest(conn)
        for n in range(5):
            await manager.broadcast(news(n))
        assert peer.suspended
        peer.reset()
        await asyncio.sleep(1)
        assert conn.status is ConnectionStatus.CLOSED
        assert [code for code, _ in gone] == [1006]
        assert drops(manager).keys() == {"abandoned"}
        assert manager.get_analytics().errands == 0


async def test_a_connection_that_ends_before_its_drain_began_leaves_nothing_behind(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def own(event: Any) -> None:
            async with asyncio.timeout(5):
                await send(event)

        await manager.endpoint(scope, receive, own)

    async with connect(app, query="user=ann", **SLOW) as peer:
        await manager.broadcast(news(0))
        await asyncio.sleep(1)
        await manager.broadcast(news(1))
        (conn,) = manager.connections()
        peer_left(conn, 1006, "")
        await asyncio.sleep(0)
        assert conn.congestion is None
        assert got(peer) == [0]


async def test_a_time_limit_around_the_servers_send_hits_nobody_but_the_peer(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def own(event: Any) -> None:
            with anyio.fail_after(3):
                await send(event)

        await manager.endpoint(scope, receive, own)

    async with connect(app, query="user=ann", **SLOW), online(manager, "ben") as (other, _):
        for n in range(10):
            await manager.broadcast(news(n))
            await asyncio.sleep(1)
        assert got(other) == list(range(10))
        assert [conn.user_id for conn in manager.connections()] == ["ben"]


class Crumbling(MessagePriorityQueue[Any]):
    """A queue that fails once it is used as often as it says."""

    uses = 0

    def _use(self) -> None:
        type(self).uses -= 1
        if self.uses < 0:
            raise ValueError("the queue is broken")

    def enqueue(self, *values: Any, **options: Any) -> Any:
        self._use()
        return super().enqueue(*values, **options)

    def dequeue(self, **options: Any) -> Any:
        self._use()
        return super().dequeue(**options)

    def cleanup_expired(self, **options: Any) -> Any:
        self._use()
        return super().cleanup_expired(**options)


@pytest.mark.parametrize("uses", range(8))
async def test_a_queue_that_fails_costs_its_own_connection_only(make_manager: MakeManager, uses: int) -> None:
    manager = make_manager(auth=ByQuery(), queue=type("Queue", (Crumbling,), {"uses": uses}))
    async with online(manager, "ann", **SLOW) as (peer, _), online(manager, "ben") as (other, _):
        for n in range(6):
            await manager.broadcast(news(n))
        await read_all(peer)
        await asyncio.sleep(6)
        assert [conn.user_id for conn in manager.connections()] == ["ben"]
        assert got(other) == list(range(6))


async def test_a_server_that_does_not_let_go_of_a_frame_holds_up_nothing_else(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(auth=ByQuery())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def stubborn(event: Any) -> None:
            if event["type"] == "websocket.send":
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(1_000)
            await send(event)

        await manager.endpoint(scope, receive, stubborn)

    async with connect(app, query="user=ann", server=HYPERCORN) as peer:
        await manager.send_personal_message("ann", news(0))
        await manager.send_personal_message("ann", news(1))
        await asyncio.sleep(1)
        peer.reset()
        await asyncio.sleep(6)
        assert manager.connections() == []
        assert manager.get_analytics().offline_messages == 2
        assert caplog.records == []


# --- closing


@every_server
async def test_a_close_flushes_what_waits_and_says_why(make_manager: MakeManager, server: Server) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", server=server, **SLOW) as (peer, conn):
        for n in range(5):
            await manager.broadcast(news(n))
        closing = asyncio.create_task(conn.close(4001, "restart"))
        await asyncio.sleep(1)
        assert not closing.done()
        assert conn.status is ConnectionStatus.DRAINING
        assert await manager.broadcast(news("too late")) == DeliveryReport()
        peer.resume()
        await closing
        assert got(peer) == [*range(5), {"code": 4001, "reason": "restart", "reconnect": True}]
        assert await peer.wait_closed(1) == (4001, "restart" if server.close_reason else "")


@every_server
async def test_the_close_of_a_stalled_peer_takes_no_longer_than_it_may(
    make_manager: MakeManager, server: Server
) -> None:
    manager = make_manager(WebSocketConfig(close_timeout=7), auth=ByQuery())
    async with online(manager, "ann", server=server, **SLOW) as (_, conn):
        await congest(conn)
        started = asyncio.get_running_loop().time()
        await conn.close(4000)
        assert asyncio.get_running_loop().time() - started == 7
        assert conn.status is ConnectionStatus.CLOSED


async def test_closing_twice_waits_for_the_first_and_changes_nothing(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        conn.close_soon(4001, "first")
        second = asyncio.create_task(conn.close(4503, "second"))
        third = asyncio.create_task(manager.disconnect(conn, 4503, "third"))
        await asyncio.sleep(1)
        assert not second.done()
        assert not third.done()
        peer.resume()
        await asyncio.gather(second, third)
        assert await peer.wait_closed(1) == (4001, "first")
        await conn.close(4503, "fourth")
        assert closing_of(conn) == (4001, "first")


async def test_a_close_without_a_flush_hands_back_at_once(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (_, conn):
        await congest(conn)
        await manager.send_personal_message("ann", news("durable"))
        conn.close_soon(4008, "slow", flush=False)
        assert manager.get_analytics().offline_messages == 1
        assert conn.waiting == 0


async def test_a_close_without_a_flush_waits_for_the_send_that_it_cancels(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def tidy(event: Any) -> None:
            if event.get("text") != '{"type":"news","data":0}':
                steps.append(event["type"])
                await send(event)
                return
            try:
                await asyncio.sleep(1_000)
            finally:
                await asyncio.sleep(1)
                steps.append("tidied up")

        await manager.endpoint(scope, receive, tidy)

    async with connect(app, query="user=ann", server=HYPERCORN) as peer:
        (conn,) = manager.connections()
        await manager.broadcast(news(0))
        await asyncio.sleep(0.1)
        conn.close_soon(4008, "slow", flush=False)
        assert await peer.wait_closed(3) == (4008, "slow")
        assert steps == ["websocket.accept", "tidied up", "websocket.send", "websocket.close"]


async def test_a_peer_that_leaves_while_it_is_closed_is_not_spoken_to(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", after_disconnect="runtimeerror", **SLOW) as (peer, conn):
        await congest(conn)
        closing = asyncio.create_task(conn.close(4001))
        await asyncio.sleep(1)
        sends = peer.server_sends
        await peer.close()
        await asyncio.wait_for(closing, 0.1)
        assert closing_of(conn) == (4001, "")
        assert peer.server_sends == sends


async def test_a_close_from_another_task_wakes_the_one_that_serves(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    ends: list[Any] = []
    manager.on_disconnect(lambda conn: ends.append(closing_of(conn)))
    async with online(manager, "ann") as (peer, conn):
        await conn.close(4503, "kicked")
        await asyncio.sleep(0.1)
        assert ends == [(4503, "kicked")]
        assert await peer.wait_closed(1) == (4503, "kicked")


async def test_a_message_that_races_with_a_close_is_not_worked_on(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    heard: list[Any] = []
    manager.on("note")(lambda conn, data: heard.append(data))
    async with online(manager, "ann") as (peer, conn):
        closing = asyncio.ensure_future(conn.close(4503))
        await peer.send_json({"type": "note", "data": 1})
        await closing
        await asyncio.sleep(1)
        assert heard == []
        assert conn.status is ConnectionStatus.CLOSED


async def test_a_cancellation_from_outside_is_not_mistaken_for_a_close(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    serving: list[asyncio.Task[None]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.ensure_future(manager.endpoint(scope, receive, send))
        serving.append(task)
        await asyncio.wait({task})

    for order in ("close first", "cancel first"):
        async with connect(app, query="user=ann"):
            (conn,) = manager.connections()
            if order == "close first":
                end(conn)
            serving[-1].cancel()
            end(conn)
            await asyncio.sleep(0.1)
            assert serving[-1].cancelled()


async def test_a_reason_is_cut_to_what_a_close_frame_can_carry(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    for reason, cut in [("漢" * 100, "漢" * 41), ("x" * 200, "x" * 123), ("\ud800!", "?!")]:
        async with online(manager, "ann") as (peer, conn):
            await conn.close(4000, reason)
            assert await peer.wait_closed(1) == (4000, cut)
            assert decoded(peer.frames[0])["data"]["reason"] == cut


class Curt(JSONCodec):
    """Has no word for a farewell."""

    def encode(self, message: Any) -> str:
        if type_of(message) == "disconnect":
            raise EncodeError("no words for it")
        return super().encode(message)


async def test_a_codec_without_a_word_for_it_closes_with_the_code_alone(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery(), codecs=[Curt()])
    async with online(manager, "ann") as (peer, conn):
        await conn.close(4001, "restart")
        assert await peer.wait_closed(1) == (4001, "restart")
        assert peer.frames == []


async def test_what_waits_for_room_of_a_closing_connection_is_flushed_too(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=2))
    async with adopted(manager, **SLOW) as (peer, websocket, conn):
        await congest(conn)
        own = [asyncio.create_task(websocket.send_json(news(n))) for n in range(3)]
        await asyncio.sleep(0)
        conn.close_soon(4001, "")
        assert (await read_all(peer))[2:5] == [0, 1, 2]
        await asyncio.gather(*own)
        assert await peer.wait_closed(1) == (4001, "")
