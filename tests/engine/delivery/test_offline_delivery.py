"""Durable messages: kept for who is away, handed over once, in order, and never lost without a word."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ends import closing_of
from wsmanager import Connection, ConnectionManager, ConnectionStatus, MessagePriority, WebSocketConfig
from wsmanager.errors import EncodeError
from wsmanager.messages import Delivery, DeliveryReport
from wsmanager.protocols import Enqueued
from wsmanager.testing import (
    GRANIAN,
    ConnectionLost,
    Peer,
    Server,
    VirtualTimeLoop,
    connect,
)
from wsmanager.wire.codecs import JSONCodec

from ...profiles import examples
from ..conftest import ByQuery, MakeManager
from ..devices import (
    MSGPACK,
    SERVERS,
    SLOW,
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


async def send(manager: ConnectionManager, *data: Any, user: str = "ann", **options: Any) -> DeliveryReport:
    """Send durable messages to a user; the report of the last."""
    report = DeliveryReport()
    for one in data:
        report = await manager.send_personal_message(user, news(one), **options)
    return report


def kept(manager: ConnectionManager) -> int:
    return manager.get_analytics().offline_messages


# --- for who is away


@every_server
async def test_messages_for_an_absent_user_arrive_on_connect_oldest_first(
    make_manager: MakeManager, server: Server
) -> None:
    manager = make_manager(auth=ByQuery())
    assert await send(manager, 0) == DeliveryReport(offline=1, kept=1, failed=("ann",))
    await send(manager, 1, 2)
    async with online(manager, "ann", server=server) as (peer, _):
        await asyncio.sleep(0.1)
        assert got(peer) == [0, 1, 2]
        assert kept(manager) == 0
    async with online(manager, "ann", server=server) as (again, _):
        await asyncio.sleep(0.1)
        assert got(again) == []


async def test_what_waited_comes_after_the_welcome_and_before_anything_new(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on_connect
    async def greet(conn: Connection) -> None:
        await conn.send(news("new"))

    await send(manager, "old")
    async with connect(manager.endpoint, query="user=ann", subprotocols=[MSGPACK]) as peer:
        assert decoded(await peer.receive())["type"] == "welcome"
        assert [decoded(await peer.receive())["data"] for _ in range(2)] == ["old", "new"]


async def test_volatile_messages_are_not_kept(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    report = await send(manager, 0, delivery=Delivery.VOLATILE)
    assert report == DeliveryReport(offline=1, failed=("ann",))
    assert kept(manager) == 0


async def test_nobody_else_gets_what_is_kept(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    await send(manager, "for red", tenant="red")
    await send(manager, "for none")
    async with (
        online(manager, "ben") as (ben, _),
        online(manager, "ann", tenant="blue") as (blue, _),
        online(manager, "ann", tenant="red") as (red, _),
        online(manager, "ann") as (plain, _),
    ):
        assert [got(peer) for peer in (ben, blue, red, plain)] == [[], [], ["for red"], ["for none"]]


async def test_the_first_of_several_devices_gets_what_waited_and_all_get_what_is_new(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    await send(manager, "old")
    async with online(manager, "ann") as (phone, _), online(manager, "ann") as (laptop, _):
        await send(manager, "new")
        assert (got(phone), got(laptop)) == (["old", "new"], ["new"])


async def test_a_client_of_another_codec_gets_what_was_kept_in_its_own(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    await send(manager, {"text": "漢字", "n": 1.5}, 2**80, None)
    async with online(manager, "ann", subprotocols=[MSGPACK]) as (peer, _):
        assert got(peer) == [{"text": "漢字", "n": 1.5}, str(2**80), None]


async def test_what_the_application_changes_later_changes_nothing_that_was_sent(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    message = news("as sent")
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await manager.send_personal_message("ann", message)
        message["data"] = object()
        peer.reset()
        await asyncio.sleep(0.1)
        assert kept(manager) == 1
    async with online(manager, "ann") as (again, _):
        assert got(again) == ["as sent"]


class ShyCodec(JSONCodec):
    """Knows no message with a negative number."""

    subprotocol = "shy"

    def encode(self, message: Any) -> str:
        if isinstance(message, dict) and message.get("data") == -1:
            raise EncodeError("no words for it")
        return super().encode(message)


async def test_a_kept_message_that_a_codec_cannot_write_is_counted_and_the_others_arrive(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery(), codecs=[JSONCodec(), ShyCodec()])
    await send(manager, 0, -1, 1)
    async with online(manager, "ann", subprotocols=["shy"]) as (peer, _):
        assert got(peer) == [0, 1]
        assert drops(manager) == {"unencodable": 1}


# --- bounds


async def test_the_oldest_gives_way_when_too_many_are_kept(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(offline_max_messages=3), auth=ByQuery())
    await send(manager, *range(5))
    assert drops(manager) == {"offline_evicted": 2}
    async with online(manager, "ann") as (peer, _):
        assert got(peer) == [2, 3, 4]


async def test_a_message_too_large_to_keep_is_reported(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(offline_max_bytes=100), auth=ByQuery())
    report = await send(manager, "x" * 100)
    assert report == DeliveryReport(offline=1, dropped=1, failed=("ann", "ann"))
    assert not report.delivered
    assert drops(manager) == {"offline_refused": 1}


async def test_one_absent_user_too_many_is_reported(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(offline_max_users=2), auth=ByQuery())
    for user in ("ann", "ben", "cid"):
        report = await send(manager, 0, user=user)
        assert report.kept == (user != "cid")
    assert report.dropped == 1
    assert manager.get_analytics().offline_users == 2


# --- time to live


async def test_a_kept_message_expires(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(offline_ttl=100), auth=ByQuery())
    await send(manager, "short", ttl=10)
    await send(manager, "as configured")
    await send(manager, "long", ttl=1_000)
    await asyncio.sleep(50)
    async with online(manager, "ann") as (peer, _):
        assert got(peer) == ["as configured", "long"]


async def test_waiting_for_a_peer_does_not_prolong_a_life(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (_, conn):
        await congest(conn)
        await send(manager, "short", ttl=40)
        await send(manager, "long", ttl=60)
        await asyncio.sleep(37)
        assert conn.status is ConnectionStatus.CLOSED
        assert kept(manager) == 2
    await asyncio.sleep(10)
    async with online(manager, "ann") as (peer, _):
        assert got(peer) == ["long"]


async def test_a_durable_message_outlives_the_patience_for_volatile_ones(make_manager: MakeManager) -> None:
    config = WebSocketConfig(queue_ttl=10, send_timeout=50, slow_timeout=100)
    manager = make_manager(config, auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await manager.broadcast(news("volatile"))
        await send(manager, "durable")
        await asyncio.sleep(20)
        assert (await read_all(peer))[2:] == ["durable"]


# --- a peer that does not keep up


async def test_a_peer_that_is_slow_from_the_start_gets_the_rest_as_it_reads(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=10), auth=ByQuery())
    await send(manager, *range(50))
    async with online(manager, "ann", **SLOW) as (peer, conn):
        assert conn.waiting <= 7
        assert kept(manager) >= 42
        report = await send(manager, 50)
        assert report == DeliveryReport(kept=1)
        assert report.delivered
        for _ in range(20):
            await peer.receive()
            await asyncio.sleep(0.1)
        await send(manager, 51)
        assert await read_all(peer) == list(range(20, 52))
        assert await send(manager, "new") == DeliveryReport(sent=1)
        assert drops(manager) == {}


async def test_large_messages_keep_their_order_too(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_bytes=1_000), auth=ByQuery())
    await send(manager, *(f"{n} {'x' * (37 * n % 400)}" for n in range(30)))
    async with online(manager, "ann", **SLOW) as (peer, _):
        await send(manager, *(f"{n} {'x' * (37 * n % 400)}" for n in range(30, 60)))
        heard = [int(text.split()[0]) for text in await read_all(peer)]
        assert heard == list(range(60))
        assert drops(manager) == {}


async def test_a_message_larger_than_the_queue_waits_until_nothing_else_does(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(WebSocketConfig(queue_max_bytes=100), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        assert (await send(manager, "x" * 200)).kept == 1
        assert (await send(manager, "after")).kept == 1
        assert (await read_all(peer))[2:] == ["x" * 200, "after"]


async def test_durable_messages_push_no_older_ones_out(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=4), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        for n in range(20):
            await send(manager, n)
        assert conn.waiting == 5
        assert kept(manager) == 16
        assert (await read_all(peer))[2:] == list(range(20))


async def test_large_durable_messages_push_no_older_ones_out(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_bytes=1_000), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await send(manager, *(f"{n}{'x' * 400}" for n in range(9)))
        assert kept(manager) == 7
        assert [data[0] for data in (await read_all(peer))[2:]] == list("012345678")


async def test_a_critical_message_overtakes_what_is_kept(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=4), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await send(manager, *range(10))
        assert await send(manager, "alarm", priority=CRITICAL) == DeliveryReport(queued=1)
        heard = (await read_all(peer))[2:]
        assert heard[0] == "alarm"
        assert sorted(heard[1:]) == list(range(10))


async def test_what_others_push_out_comes_later_and_is_not_lost(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=3), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await send(manager, "durable")
        for n in range(3):
            await manager.broadcast(news(n))
        assert kept(manager) == 1
        assert (await send(manager, "next")).kept == 1
        assert (await read_all(peer))[2:] == [0, "durable", 1, 2, "next"]
        assert drops(manager) == {}


async def test_what_is_kept_arrives_though_the_peer_never_catches_up(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=4), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        for n in range(10):
            await manager.broadcast(news(f"volatile {n}"))
        await send(manager, *range(5), priority=LOW)
        heard: list[Any] = []
        while len([data for data in heard if isinstance(data, int)]) < 5:
            for _ in range(3):
                await manager.broadcast(news("more"))
            heard.append(decoded(await peer.receive())["data"])
            await asyncio.sleep(0.1)
        assert len(heard) <= 20
        assert [data for data in heard if isinstance(data, int)] == list(range(5))


async def test_what_one_device_cannot_take_goes_to_one_that_can(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=3), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (_, conn):
        await congest(conn)
        await send(manager, *range(6))
        assert kept(manager) == 3
        async with online(manager, "ann") as (laptop, _):
            assert got(laptop) == [3, 4, 5]
            for _ in range(3):
                await manager.broadcast(news("pushes one out"), priority=HIGH)
            assert [data for data in got(laptop) if data != "pushes one out"] == [3, 4, 5, 0, 1, 2]
            assert kept(manager) == 0
            assert drops(manager) == {}


# --- a connection that dies


async def end(how: str, peer: Peer, conn: Connection) -> None:
    if how == "reset":
        peer.reset()
    elif how == "left":
        await peer.close()
    elif how == "kicked":
        conn.close_soon(4000, "kicked")
        await asyncio.sleep(6)
    elif how == "slow":
        await asyncio.sleep(31)
    elif how == "unhealthy":
        conn.close_soon(4013, "unhealthy", flush=False)
    await asyncio.sleep(0.1)


@every_server
@pytest.mark.parametrize("how", ["reset", "left", "kicked", "slow", "unhealthy"])
async def test_f01_what_waited_for_a_dying_connection_is_delivered_on_reconnect_once_and_in_order(
    make_manager: MakeManager, server: Server, how: str
) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", server=server, **SLOW) as (peer, conn):
        await congest(conn)
        await send(manager, 0, 1)
        await send(manager, 2, priority=HIGH)
        await send(manager, 3, priority=LOW)
        await manager.broadcast(news("volatile"))
        await send(manager, 4)
        await end(how, peer, conn)
        assert manager.connections() == []
        assert kept(manager) == 5
        await send(manager, 5)
    async with online(manager, "ann", server=server) as (again, _):
        await asyncio.sleep(0.1)
        assert got(again) == [0, 1, 2, 3, 4, 5]
        assert kept(manager) == 0
    async with online(manager, "ann", server=server) as (third, _):
        await asyncio.sleep(0.1)
        assert got(third) == []


@pytest.mark.parametrize("turns", range(6))
async def test_what_the_server_took_in_the_last_turn_is_not_delivered_again(
    make_manager: MakeManager, turns: int
) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", server=GRANIAN) as (peer, conn):
        await send(manager, 0, 1)
        for _ in range(turns):
            await asyncio.sleep(0)
        conn.close_soon(4013, "unhealthy", flush=False)
        await asyncio.sleep(1)
        heard = got(peer)[:-1]
    async with online(manager, "ann") as (again, _):
        assert heard + got(again) == [0, 1]


async def test_a_frame_that_the_server_refuses_after_it_took_another_is_delivered_later(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        frames = 0

        def at_the_call(event: Any) -> Any:
            nonlocal frames
            frames += event["type"] == "websocket.send"
            if frames == 2:
                raise ConnectionLost("refused at the call")
            return asyncio.ensure_future(send(event))

        await manager.endpoint(scope, receive, at_the_call)

    async with connect(app, query="user=ann") as peer:
        await send(manager, 0, 1, 2)
        await asyncio.sleep(0.1)
        assert got(peer) == [0]
        assert kept(manager) == 2
    async with online(manager, "ann") as (again, _):
        assert got(again) == [1, 2]


async def test_a_connection_that_is_gone_is_not_remembered(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    await send(manager, *range(5))
    remembered: weakref.WeakSet[Connection] = weakref.WeakSet()
    for ending in ("drained", "reset"):
        async with connect(manager.endpoint, query="user=ann", **SLOW) as peer:
            remembered.update(manager.connections())
            await send(manager, 0)
            if ending == "drained":
                await read_all(peer)
            peer.reset()
            await asyncio.sleep(1)
    gc.collect()
    assert not list(remembered)


async def test_what_waited_for_a_dying_connection_goes_to_another_of_the_user(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (phone, conn):
        await congest(conn)
        await send(manager, 0, 1)
        async with online(manager, "ann") as (laptop, _):
            await send(manager, 2)
            assert got(laptop) == [2]
            phone.reset()
            await asyncio.sleep(0.1)
            assert got(laptop) == [2, 0, 1]
            await send(manager, 3)
            assert got(laptop) == [2, 0, 1, 3]
            assert kept(manager) == 0


async def test_what_another_device_has_is_not_put_back(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (phone, conn), online(manager, "ann") as (laptop, _):
        await congest(conn)
        await send(manager, 0, 1)
        assert got(laptop) == [0, 1]
        phone.reset()
        await asyncio.sleep(0.1)
        assert got(laptop) == [0, 1]
        assert kept(manager) == 0


async def test_what_still_waits_for_another_device_is_put_back_when_that_dies_too(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with (
        online(manager, "ann", **SLOW) as (phone, one),
        online(manager, "ann", **SLOW) as (tablet, two),
    ):
        await congest(one)
        await congest(two)
        await send(manager, 0, 1)
        phone.reset()
        await asyncio.sleep(0.1)
        assert kept(manager) == 0
        tablet.reset()
        await asyncio.sleep(0.1)
        assert kept(manager) == 2
    async with online(manager, "ann") as (again, _):
        assert got(again) == [0, 1]


async def test_what_is_sent_while_a_connection_closes_comes_after_what_it_flushes(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (old, conn):
        await congest(conn)
        await send(manager, 0, 1)
        conn.close_soon(4001, "restart")
        async with online(manager, "ann") as (fresh, _):
            assert (await send(manager, 2)).kept == 1
            assert got(fresh) == []
            assert (await read_all(old))[2:4] == [0, 1]
            assert got(fresh) == [2]
            assert await send(manager, 3) == DeliveryReport(sent=1)


async def test_what_a_closing_connection_cannot_flush_comes_first_on_the_next(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (_, conn):
        await congest(conn)
        await send(manager, 0, 1)
        conn.close_soon(4001, "restart")
        async with online(manager, "ann") as (fresh, _):
            await send(manager, 2)
            await asyncio.sleep(6)
            assert got(fresh) == [0, 1, 2]


async def test_what_a_closing_connection_holds_comes_first_whatever_else_is_sent(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (_, conn):
        await congest(conn)
        await send(manager, 0, 1)
        conn.close_soon(4001, "restart")
        async with online(manager, "ann", server=GRANIAN) as (fresh, _):
            await send(manager, 2)
            await manager.broadcast(news("volatile"))
            await asyncio.sleep(1)
            assert got(fresh) == ["volatile"]
            await asyncio.sleep(6)
            assert got(fresh) == ["volatile", 0, 1, 2]


async def test_what_cannot_be_put_back_is_counted(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(offline_max_users=1), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await send(manager, 0, 1)
        await send(manager, 0, user="ben")
        peer.reset()
        await asyncio.sleep(0.1)
        assert drops(manager) == {"offline_refused": 2, "abandoned": 1}


# --- critical messages


async def test_a_critical_message_is_tried_again_with_growing_pauses_and_then_kept(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    report = await send(manager, 0, priority=CRITICAL)
    assert report == DeliveryReport(offline=1, kept=1, attempts=4, failed=("ann",))
    assert asyncio.get_running_loop().time() == pytest.approx(0.1 + 0.2 + 0.4)
    async with online(manager, "ann") as (peer, _):
        assert got(peer) == [0]


async def test_a_critical_message_goes_out_as_soon_as_the_user_appears(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(critical_backoff=10), auth=ByQuery())
    sending = asyncio.create_task(send(manager, 0, priority=CRITICAL))
    await asyncio.sleep(15)
    async with online(manager, "ann") as (peer, _):
        assert await sending == DeliveryReport(sent=1, attempts=3)
        assert asyncio.get_running_loop().time() < 15.1
        assert got(peer) == [0]


async def test_a_critical_volatile_message_is_tried_again_and_then_reported(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(WebSocketConfig(critical_retries=1), auth=ByQuery())
    report = await send(manager, 0, priority=CRITICAL, delivery=Delivery.VOLATILE)
    assert report == DeliveryReport(offline=1, attempts=2, failed=("ann",))


async def test_a_critical_message_whose_sender_is_cancelled_is_kept(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(critical_backoff=10), auth=ByQuery())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send(manager, 0, priority=CRITICAL), 1)
    assert kept(manager) == 1


async def test_a_critical_message_that_finds_the_queue_full_survives_the_connection(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=2), auth=ByQuery())
    async with online(manager, "ann", **SLOW) as (_, conn):
        await congest(conn)
        await send(manager, 0, 1, priority=CRITICAL)
        report = await send(manager, 2, priority=CRITICAL)
        assert (report.kept, report.attempts) == (1, 4)
        assert closing_of(conn) == (4008, "slow")
    async with online(manager, "ann") as (again, _):
        assert got(again) == [0, 1, 2]


# --- a queue of the application's own


class Drawer:
    """A queue with room for two, whatever the configuration says."""

    def __init__(self) -> None:
        self._messages: list[Any] = []

    def enqueue(self, message: Any, *_: Any, **__: Any) -> Any:
        self._messages.append(message)
        return Enqueued(accepted=True, evicted=(self._messages.pop(0),) if len(self._messages) > 2 else ())

    def dequeue(self, *, now: float | None = None) -> Any:
        return self._messages.pop(0) if self._messages else None

    def cleanup_expired(self, *, now: float | None = None) -> list[Any]:
        return []

    def __len__(self) -> int:
        return len(self._messages)


async def test_a_smaller_queue_of_the_applications_own_loses_nothing(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery(), queue=Drawer)
    await send(manager, *range(10))
    async with online(manager, "ann", **SLOW) as (peer, _):
        await send(manager, *range(10, 20))
        assert sorted(await read_all(peer)) == list(range(20))


async def test_a_queue_of_the_applications_own_that_lets_others_give_way_loses_nothing(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery(), queue=Drawer)
    async with online(manager, "ann", **SLOW) as (peer, conn):
        await congest(conn)
        await send(manager, *range(10))
        assert sorted((await read_all(peer))[2:]) == list(range(10))


# --- conservation


class History:
    """Sends numbered messages to one user through devices that come, stall and go; notes who got what."""

    def __init__(self, manager: ConnectionManager, stack: AsyncExitStack, server: Server) -> None:
        self.manager = manager
        self.stack = stack
        self.server = server
        self.sent = 0
        self.heard: list[Any] = []
        self.peer: Peer | None = None
        self.conn: Connection | None = None

    async def send(self) -> None:
        report = await self.manager.send_personal_message("ann", news(self.sent))
        assert report.delivered
        self.sent += 1

    async def chat(self) -> None:
        await self.manager.broadcast(news("volatile"))

    async def come(self) -> None:
        if self.peer is None:
            self.peer, self.conn = await self.stack.enter_async_context(
                online(self.manager, "ann", server=self.server, window=30)
            )

    async def come_stalled(self) -> None:
        if self.peer is None:
            self.peer, self.conn = await self.stack.enter_async_context(
                online(self.manager, "ann", server=self.server, window=30, stalled=True)
            )

    async def stall(self) -> None:
        if self.peer is not None:
            self.peer.stall()

    async def resume(self) -> None:
        if self.peer is not None:
            self.peer.resume()

    async def turn(self) -> None:
        await asyncio.sleep(0)

    async def wait(self) -> None:
        await asyncio.sleep(3)

    async def wait_long(self) -> None:
        await asyncio.sleep(20)

    async def reset(self) -> None:
        """Only where the server says so: a silent one takes frames for a peer that is gone."""
        if self.peer is not None and self.server.after_disconnect != "silent":
            self.note()
            self.peer.reset()
            self.peer = self.conn = None

    async def leave(self) -> None:
        if self.peer is not None and self.server.after_disconnect != "silent":
            self.note()
            await self.peer.close()
            self.peer = self.conn = None

    async def kick(self) -> None:
        if self.conn is not None:
            self.conn.close_soon(4000, "kicked")

    async def drop(self) -> None:
        if self.conn is not None:
            self.conn.close_soon(4008, "slow", flush=False)

    async def reconnect(self) -> None:
        """As a client does that has read everything and was told to come back."""
        if self.conn is not None and self.conn.status is ConnectionStatus.CLOSED:
            self.note()
            self.peer = self.conn = None
            await self.come()

    def note(self) -> None:
        """What the server has taken for the device counts as delivered."""
        assert self.peer is not None
        data = [decoded(frame) for frame in self.peer.frames]
        self.heard += [one["data"] for one in data if isinstance(one["data"], int)]

    async def finish(self) -> None:
        await self.resume()
        await asyncio.sleep(60)
        if self.conn is None or self.conn.status is not ConnectionStatus.OPEN:
            if self.peer is not None:
                self.note()
            self.peer = None
            await self.come()
        await asyncio.sleep(1)
        self.note()


ACTS = [
    "send",
    "send",
    "send",
    "come",
    "come_stalled",
    "stall",
    "resume",
    "turn",
    "wait",
    "wait_long",
    "reset",
    "leave",
    "kick",
    "drop",
    "reconnect",
]


async def live(server: Server, queue: int, acts: list[str]) -> History:
    """What comes of `acts`, once all is quiet."""
    manager = ConnectionManager(
        WebSocketConfig(queue_max_messages=queue), auth=ByQuery(), clock=asyncio.get_running_loop().time
    )
    async with manager, AsyncExitStack() as stack:
        history = History(manager, stack, server)
        for act in acts:
            await getattr(history, act)()
        await history.finish()
        assert kept(manager) == 0
        return history


@given(
    server=st.sampled_from(SERVERS),
    queue=st.sampled_from([1, 3, 1_000]),
    acts=st.lists(st.sampled_from(ACTS), max_size=40),
)
@examples(300)
def test_every_durable_message_is_delivered_once_and_in_order(
    server: Server, queue: int, acts: list[str]
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        history = runner.run(live(server, queue, acts))
    assert history.heard == list(range(history.sent))


@given(
    server=st.sampled_from(SERVERS),
    queue=st.sampled_from([1, 3, 1_000]),
    acts=st.lists(st.sampled_from([*ACTS, "chat", "chat", "chat"]), max_size=40),
)
@examples(300)
def test_every_durable_message_is_delivered_once_whatever_others_push_out(
    server: Server, queue: int, acts: list[str]
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        history = runner.run(live(server, queue, acts))
    assert sorted(history.heard) == list(range(history.sent))
