"""Whatever ends a connection, and whatever happens meanwhile, nothing stays behind and nobody is missed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from random import Random
from typing import Any

import pytest

from tests.engine.conftest import ByQuery, MakeManager, assert_empty, errors_logged
from tests.engine.connections.test_cancellation import CancelledAt
from tests.engine.devices import decoded, got, news, online
from tests.faults.doors import EVERY_DOOR, Door
from wsmanager import (
    Connection,
    ConnectionManager,
    ConnectionStatus,
    Delivery,
    WebSocketConfig,
    WebSocketMiddleware,
)
from wsmanager.protocols import Handshake, Identity
from wsmanager.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    UVICORN,
    FakeSocket,
    HandshakeRefused,
    Peer,
    PeerClosed,
    Server,
    connect,
    websocket_scope,
)

pytestmark = pytest.mark.anyio

JSON = "wsmanager.v1.json"


# --- f47: cancelled at any await


class Slow(ByQuery):
    async def authenticate(self, handshake: Handshake) -> Identity:
        await asyncio.sleep(0.1)
        return await super().authenticate(handshake)


async def talk(peer: Peer) -> None:
    """With reasons to wait on both sides: what does not fit the window, and what nobody reads."""
    peer.stall()
    for number in range(5):
        await peer.send_json({"type": "echo", "data": "x" * 100, "id": number})
        await peer.send_json({"type": "session.join", "data": {"room": f"{number}"}})
        await asyncio.sleep(0.02)
    peer.resume()
    await asyncio.sleep(1)
    await peer.send_json({"type": "ping"})


class Patient:
    """Allows everything, later."""

    async def may_join(self, conn: Connection, room: str) -> bool:
        await asyncio.sleep(0.03)
        return True

    may_publish = may_join


@EVERY_DOOR
@pytest.mark.parametrize("late", [False, True])
async def test_f47_cancelled_at_any_await_every_gauge_settles_at_zero(
    make_manager: MakeManager, door: Door, late: bool
) -> None:
    n, cancelled = 0, True
    while cancelled:
        n, cancelled = n + 1, False
        manager, met = make_manager(auth=Slow(), authorizer=Patient()), list[int]()
        hook_life(manager, met)
        app = door(manager)

        async def served(scope: Any, receive: Any, send: Any, app: Any = app, n: int = n) -> None:
            nonlocal cancelled

            async def slow_send(event: Any) -> None:
                if event["type"] != "websocket.send":
                    await asyncio.sleep(0.05)
                await send(event)

            try:
                await CancelledAt(app(scope, receive, slow_send), n, late=late)
            except asyncio.CancelledError:
                cancelled = True
                raise

        # Cancelled in the handshake, the application does not answer it; later, the peer is cut off.
        with contextlib.suppress(PeerClosed, AssertionError):
            async with connect(served, window=150) as peer:
                await talk(peer)
        await asyncio.sleep(20)
        assert_empty(manager)
        assert sum(met) == 0, f"cancelled at suspension {n}"
    assert n > 6


def hook_life(manager: ConnectionManager, met: list[int]) -> None:
    """Note who was greeted, and who was taken leave of."""

    @manager.on_connect
    async def greet(conn: Connection) -> None:
        met.append(1)
        await asyncio.sleep(0.1)

    @manager.on_disconnect
    async def miss(conn: Connection) -> None:
        await asyncio.sleep(0.1)
        met.append(-1)


# --- f48: a send after the end


@EVERY_DOOR
@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, GRANIAN, DAPHNE], ids=["u", "h", "g", "d"])
@pytest.mark.parametrize("end", ["reset", "close", "kick"])
async def test_f48_an_application_that_sends_on_and_on_ends_as_if_it_had_read(
    make_manager: MakeManager, door: Door, server: Server, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(told_late(door(manager), 0.3), server=server) as peer:
        await peer.send_json({"type": "echo", "data": 1})
        (conn,) = manager.connections()

        async def bother() -> None:
            for number in range(100):
                await manager.send_personal_message("alice", news(number), ttl=1)
                await asyncio.sleep(0.01)

        bothering = asyncio.create_task(bother())
        await asyncio.sleep(0.05)
        for _ in range(3):  # which are answered when nobody is there any more
            await peer.send_json({"type": "echo", "data": 2})
        if end == "reset":
            peer.reset()
        elif end == "close":
            await peer.close(1000)
        else:
            await conn.close(4000, "enough")
        await bothering
        assert peer.app_error is None
        assert conn.status is ConnectionStatus.CLOSED
    assert len(manager.get_analytics().closed) == 1
    assert errors_logged(caplog) == []


def told_late(app: Any, lag: float) -> Any:
    """`app` on a server that tells it late of a client's end."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        async def receive_late() -> Any:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                await asyncio.sleep(lag)
            return event

        await app(scope, receive_late, send)

    return served


# --- f49: ids


@EVERY_DOOR
async def test_f49_an_id_is_the_servers_and_no_client_has_a_say_in_it(
    make_manager: MakeManager, door: Door
) -> None:
    manager = make_manager(WebSocketConfig(max_connections_per_user=100), auth=ByQuery())
    app, wish = door(manager), "my-own-id"
    options: dict[str, Any] = {
        "query": f"id={wish}&connection_id={wish}",
        "headers": [("x-connection-id", wish), ("x-request-id", wish)],
        "subprotocols": [wish],
    }
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(50):
            await stack.enter_async_context(connect(app, **options))
        ids = {conn.id for conn in manager.connections()}
        assert len(ids) == 50
        assert wish not in ids
        assert {len(id) for id in ids} == {15}  # 88 random bits


async def test_f49_of_two_that_race_for_one_id_the_second_is_refused(make_manager: MakeManager) -> None:
    manager = make_manager(auth=Slow())
    engine, sockets = manager.engine, [FakeSocket(websocket_scope(query="user=ann")) for _ in range(2)]
    first, second = await asyncio.gather(
        *(engine.admission.enter(one.scope, one.receive, one.send, connection_id="same") for one in sockets),
        return_exceptions=True,
    )
    assert isinstance(first, Connection)
    assert isinstance(second, ValueError)
    assert manager.connections() == [first]
    assert manager.get_analytics().indexes["arrived"] == 1
    await first.close()


# --- f50: back before the server knew of the end


def taken_by(app: Any, taken: list[int]) -> Any:
    """`app` on a server that notes which news it took."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        async def noted(event: Any) -> None:
            await send(event)
            if "text" in event:
                taken.append(decoded(event["text"])["data"])

        await app(scope, receive, noted)

    return served


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN], ids=["raises", "silent"])
@pytest.mark.parametrize("half_open", [False, True])
@pytest.mark.parametrize("seed", range(15))
async def test_f50_one_who_is_back_before_the_end_was_seen_never_was_away(
    make_manager: MakeManager, seed: int, half_open: bool, server: Server
) -> None:
    chance, loop = Random(seed), asyncio.get_running_loop()
    manager, absences, taken = make_manager(auth=ByQuery()), list[float](), list[int]()
    lag, away, number = chance.uniform(0.5, 2.0), chance.uniform(0.0, 0.4), 0

    @manager.on_disconnect
    async def gone(conn: Connection) -> None:
        if not manager.connections(user_id="ann"):
            absences.append(loop.time())

    async def tell(times: int) -> None:
        nonlocal number
        for _ in range(times):
            number += 1
            report = await manager.send_personal_message("ann", news(number))
            assert report.sent + report.queued + report.kept >= 1
            await asyncio.sleep(chance.uniform(0.0, 0.1))

    app = taken_by(told_late(manager.endpoint, lag), taken)
    async with contextlib.AsyncExitStack() as stack:
        options: dict[str, Any] = {"query": "user=ann", "window": 120, "stalled": half_open, "server": server}
        old = await stack.enter_async_context(connect(app, **options))
        await tell(10)
        # Either the server knows that it is gone and the application does not, or nobody does yet.
        loop.call_later(lag if half_open else 0.0, old.reset)
        await asyncio.sleep(away)
        before = number
        new = await stack.enter_async_context(connect(manager.endpoint, query="user=ann"))
        while number < before + 40 or len(manager.connections(user_id="ann")) > 1:
            assert manager.connections(user_id="ann")
            await tell(1)
        await asyncio.sleep(1)
        arrived = got(new)
        assert absences == []
    # What had waited for the old connection comes when that is given up, in order among itself.
    assert [one for one in arrived if one > before] == list(range(before + 1, number + 1))
    late = [one for one in arrived if one <= before]
    assert late == sorted(set(late))
    assert set(arrived) | set(taken) == set(range(1, number + 1))
    assert not set(late) & set(taken)


def deliberate(pause: float) -> Any:
    """An application that takes its time before it accepts, and turns some away."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(pause)
        if b"refuse" in scope["query_string"]:
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    return app


async def test_f50_the_oldest_gives_way_once_the_newest_is_there_and_not_before(
    make_manager: MakeManager,
) -> None:
    config = WebSocketConfig(max_connections_per_user=1, over_limit="replace_oldest")
    manager = make_manager(config, auth=ByQuery())
    app = WebSocketMiddleware(deliberate(1.0), manager, mode="json")

    async def volatile(number: int) -> int:
        report = await manager.send_personal_message("alice", news(number), delivery=Delivery.VOLATILE)
        return report.sent

    async def come(query: str) -> tuple[int, str]:
        async with connect(app, query=query) as peer:
            return await peer.wait_closed()

    async with connect(app) as old:
        refused = [asyncio.create_task(come("refuse=1")) for _ in range(3)]
        await asyncio.sleep(0.5)
        assert await volatile(1) == 1
        outcomes = await asyncio.gather(*refused, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [HandshakeRefused] * 3
        assert not old.closed
        async with connect(app) as new:
            assert await volatile(2) == 1
            assert await old.wait_closed(1) == (4503, "replaced")
            assert len(manager.connections()) == 1
            assert (got(old), got(new)) == ([1], [2])


# --- f51: join, leave, close and publish at once


class Hesitant:
    """Allows whatever it is asked, after a while of its own choosing."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def may_join(self, conn: Connection, room: str) -> Any:
        return True if self._chance.random() < 0.3 else self._later()

    may_publish = may_join

    async def _later(self) -> bool:
        await asyncio.sleep(self._chance.uniform(0.0, 0.2))
        return True


@pytest.mark.parametrize("seed", range(40))
async def test_f51_members_are_who_is_in_the_room_and_hear_everything_once(
    make_manager: MakeManager, seed: int
) -> None:
    chance = Random(seed)
    config = WebSocketConfig(system_rate_limit_max=100_000, max_connections_per_user=100)
    manager = make_manager(config, auth=ByQuery(), authorizer=Hesitant(chance))
    expected, devices = defaultdict[Connection, list[int]](list), list[tuple[Peer, Connection]]()
    rooms = ("tea", "milk")
    async with contextlib.AsyncExitStack() as stack:
        for number in range(150):
            await act(manager, chance, stack, devices, rooms)
            room = chance.choice(rooms)
            for conn in manager.connections(room=room):
                expected[conn].append(number)
            await manager.send_to_session(room, news(number))
            agree(manager, rooms)
        await asyncio.sleep(5)
        agree(manager, rooms)
        for peer, conn in devices:
            heard = [message["data"] for message in map(decoded, peer.frames) if message["type"] == "news"]
            assert heard == expected[conn][: len(heard)]
            assert len(heard) == len(expected[conn]) or peer.closed


async def act(
    manager: ConnectionManager,
    chance: Random,
    stack: contextlib.AsyncExitStack,
    devices: list[tuple[Peer, Connection]],
    rooms: tuple[str, ...],
) -> None:
    """One thing that somebody does."""
    live = [
        (peer, conn) for peer, conn in devices if conn.status is ConnectionStatus.OPEN and not peer.closed
    ]
    deed = chance.choice(("connect", "join", "join", "leave", "put", "take", "reset", "close", "wait"))
    if deed == "connect" or not live:
        devices.append(await stack.enter_async_context(online(manager, "ann")))
        return
    peer, conn = chance.choice(live)
    room = chance.choice(rooms)
    if deed in ("join", "leave"):
        await peer.send_json({"type": f"session.{deed}", "data": {"room": room}})
    elif deed == "put":
        await manager.join_session(conn, room)
    elif deed == "take":
        await manager.leave_session(conn, room)
    elif deed == "reset" and len(live) > 2:
        peer.reset()
    elif deed == "close" and len(live) > 2:
        conn.close_soon(4000, "enough")
    else:
        await asyncio.sleep(chance.uniform(0.0, 0.2))


def agree(manager: ConnectionManager, rooms: tuple[str, ...]) -> None:
    """The rooms of every connection and the members of every room say the same."""
    everyone = manager.connections()
    for room in rooms:
        members = manager.connections(room=room)
        assert len(members) == len(set(members))
        assert set(members) == {conn for conn in everyone if room in conn.rooms}
        assert all(conn.status is ConnectionStatus.OPEN for conn in members)
