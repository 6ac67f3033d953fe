"""Messages that the manager answers itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest

from wsmanager import Connection, ConnectionManager, InboundMessage, WebSocketConfig
from wsmanager.protocols import Principal
from wsmanager.testing import Peer, connect

from ..conftest import ByQuery, MakeManager, ask, errors_logged, no_errands

pytestmark = pytest.mark.anyio


async def join(peer: Peer, room: Any, way: str = "join") -> str:
    """``joined``, ``left``, or the code of the refusal."""
    answer = await ask(peer, f"session.{way}", {"room": room})
    if answer["type"] == "error":
        code: str = answer["data"]["code"]
        return code
    assert answer == {"type": "reply", "re": 1, "data": {"room": room}}
    return {"join": "joined", "leave": "left"}[way]


def rooms_of(manager: ConnectionManager, user: str = "alice", tenant: str | None = None) -> list[str]:
    return sorted(room for conn in manager.connections(user_id=user, tenant=tenant) for room in conn.rooms)


# --- life signs


async def test_a_plain_browser_that_pings_gets_a_pong(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint) as peer:
        await peer.send_text('{"type":"ping","data":{}}')
        assert await peer.receive_json() == {"type": "pong", "data": {}}
        assert await ask(peer, "ping", [1, "ü"], id="p") == {"type": "pong", "data": [1, "ü"], "re": "p"}


async def test_an_unasked_pong_is_taken_in_silence_and_measures_nothing(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint) as peer:
        for _ in range(3):
            await peer.send_json({"type": "pong", "data": {}})
        await asyncio.sleep(1)
        (health,) = manager.get_connection_health("alice").connections
        assert health.latency_ms is None
        assert peer.frames == []


async def test_who_has_pinged_once_is_missed_when_it_falls_silent(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint) as listener, connect(manager.endpoint) as peer:
        await ask(peer, "ping")
        assert (await peer.wait_closed(timeout=45))[0] == 4012
        await asyncio.sleep(600)
        assert not listener.closed


async def test_the_answer_to_a_ping_measures_the_round_trip_once(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint, subprotocols=["wsmanager.v1.json"]) as peer:
        await peer.receive_json()
        assert (await peer.receive_json(timeout=40))["type"] == "ping"
        await asyncio.sleep(0.08)
        await peer.send_json({"type": "pong"})
        await peer.send_json({"type": "pong"})
        (health,) = manager.get_connection_health("alice").connections
        assert health.latency_ms == pytest.approx(80)


async def test_f12_a_flood_of_pings_is_limited_and_closes_4029(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(system_rate_limit_max=30))
    async with connect(manager.endpoint) as peer:
        tasks = asyncio.all_tasks()
        for _ in range(50):
            await peer.send_json({"type": "ping"})
        assert asyncio.all_tasks() == tasks
        answers = [(await peer.receive_json())["type"] for _ in range(50)]
        assert answers == ["pong"] * 30 + ["error"] * 20
        await peer.send_json({"type": "pong"})
        assert (await peer.wait_closed())[0] == 4029


async def test_system_messages_have_a_bucket_of_their_own(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=1, system_rate_limit_max=3))

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as peer:
        for type in ("x", "ping", "ping", "ping"):
            assert (await ask(peer, type))["type"] != "error"
        for type in ("x", "ping"):
            assert (await ask(peer, type))["data"]["code"] == "rate_limited"


@pytest.mark.parametrize(
    "disguised",
    ['{"type":"ping","type":"x","id":1}', '{"type": "pong", "type": "x", "id": 1}', '{"type":"pingpong"}'],
)
async def test_a_message_that_only_begins_like_a_ping_is_charged_to_the_user(
    make_manager: MakeManager, disguised: str
) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=3))

    @manager.on("*")
    async def whatever(conn: Connection) -> str:
        return "handled"

    async with connect(manager.endpoint) as peer:
        for _ in range(4):
            await peer.send_text(disguised)
        (refusal,) = [frame for frame in peer.frames if '"rate_limited"' in str(frame)]
        assert refusal == peer.frames[-1]


@pytest.mark.parametrize("subprotocol", ["wsmanager.v1.json", "wsmanager.v1.msgpack"])
async def test_types_of_the_application_that_resemble_the_managers_are_not_limited_with_them(
    make_manager: MakeManager, subprotocol: str
) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=50, system_rate_limit_max=3))
    handled: list[str] = []

    @manager.on("*")
    async def whatever(conn: Connection, message: InboundMessage) -> None:
        handled.append(message.type)

    types = ["session.chat", "session.joint", "sessions", "pings"] * 10
    async with connect(manager.endpoint, subprotocols=[subprotocol]) as peer:
        for type in types:
            if subprotocol.endswith("json"):
                await peer.send_text(f'{{"type":"{type}"}}')
            else:
                await peer.send_bytes(msgspec.msgpack.encode({"type": type}))
        assert handled == types


# --- rooms


class Doorman:
    """Lets in whom the room is named for, at once or after a while."""

    def __init__(self, pause: float | None = None) -> None:
        self.pause = pause
        self.asked = 0

    def may_join(self, who: Principal, room: str) -> bool | Awaitable[bool]:
        self.asked += 1
        allowed = room.startswith(who.user_id)
        return allowed if self.pause is None else self._later(allowed)

    def may_publish(self, who: Principal, room: str) -> bool | Awaitable[bool]:
        return self.may_join(who, room)

    async def _later(self, allowed: bool) -> bool:
        assert self.pause is not None
        await asyncio.sleep(self.pause)
        return allowed


async def test_without_an_authorizer_no_client_joins_a_room(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint) as peer:
        assert await join(peer, "alice-1") == "forbidden"
        assert rooms_of(manager) == []


@pytest.mark.parametrize("pause", [None, 0, 5])
async def test_a_client_joins_and_leaves_the_rooms_it_may(
    make_manager: MakeManager, pause: float | None
) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Doorman(pause))
    async with connect(manager.endpoint, query="tenant=t") as peer:
        assert await join(peer, "alice-1") == "joined"
        assert await join(peer, "alice-1") == "joined"
        assert await join(peer, "alice-2") == "joined"
        assert rooms_of(manager, tenant="t") == ["alice-1", "alice-2"]
        assert not (await manager.send_to_session("alice-1", {"type": "x"})).delivered  # another tenant's
        assert (await manager.send_to_session("alice-1", {"type": "x"}, tenant="t")).sent == 1
        assert await peer.receive_json() == {"type": "x"}
        assert await join(peer, "alice-1", "leave") == "left"
        assert await join(peer, "never-joined", "leave") == "left"
        assert rooms_of(manager, tenant="t") == ["alice-2"]


async def test_f26_a_forbidden_room_answers_like_an_absent_one(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Doorman())
    async with connect(manager.endpoint) as peer, connect(manager.endpoint, query="user=bob") as bob:
        assert await join(bob, "bob-1") == "joined"
        there = await ask(peer, "session.join", {"room": "bob-1"})
        absent = await ask(peer, "session.join", {"room": "bob-2"})
        assert there == absent
        assert there["data"]["code"] == "forbidden"


async def test_a_join_without_an_id_is_not_answered(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Doorman())
    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "session.join", "data": {"room": "alice-1"}})
        assert rooms_of(manager) == ["alice-1"]
        await peer.send_json({"type": "session.leave", "data": {"room": "alice-1"}})
        assert rooms_of(manager) == []
        assert peer.frames == []


@pytest.mark.parametrize("way", ["join", "leave"])
@pytest.mark.parametrize("room", ["", "r" * 256, "a\x00b", "a\nb", "\x9b31m", "\u2028", 7, None, ["a"]])
async def test_a_room_name_must_be_a_name(make_manager: MakeManager, way: str, room: Any) -> None:
    doorman = Doorman()
    manager = make_manager(auth=ByQuery(), authorizer=doorman)
    async with connect(manager.endpoint) as peer:
        assert await join(peer, room, way) == "invalid_name"
        assert doorman.asked == 0


@pytest.mark.parametrize("data", [None, {}, "alice-1", ["room"], {"rooms": "alice-1"}])
async def test_a_join_must_name_the_room(make_manager: MakeManager, data: Any) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Doorman())
    async with connect(manager.endpoint) as peer:
        assert (await ask(peer, "session.join", data))["data"]["code"] == "invalid_payload"


async def test_a_connection_is_in_so_many_rooms_at_most(make_manager: MakeManager) -> None:
    config = WebSocketConfig(max_rooms_per_connection=2)
    manager = make_manager(config, auth=ByQuery(), authorizer=Doorman())
    async with connect(manager.endpoint) as peer:
        answers = [await join(peer, f"alice-{number}") for number in range(3)]
        assert answers == ["joined", "joined", "room_limit"]
        await join(peer, "alice-0", "leave")
        assert await join(peer, "alice-2") == "joined"


# --- an authorizer that takes its time


async def test_f51_a_leave_after_a_pending_join_is_the_last_word(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Doorman(5))
    async with connect(manager.endpoint) as peer:
        for id, way in enumerate(["join", "leave", "join", "leave"]):
            await peer.send_json({"type": f"session.{way}", "data": {"room": "alice-1"}, "id": id})
        await asyncio.sleep(20)
        assert rooms_of(manager) == []
        assert [(await peer.receive_json())["re"] for _ in range(4)] == [0, 1, 2, 3]


async def test_pending_joins_of_one_connection_do_not_delay_those_of_another(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Doorman(5))
    async with connect(manager.endpoint) as ann, connect(manager.endpoint, query="user=bob") as bob:
        for number in range(4):
            await ann.send_json({"type": "session.join", "data": {"room": f"alice-{number}"}})
        await bob.send_json({"type": "session.join", "data": {"room": "bob-1"}, "id": 1})
        assert (await bob.receive_json(timeout=5.1))["type"] == "reply"


async def test_an_authorizer_is_asked_for_all_rooms_at_once(make_manager: MakeManager) -> None:
    class Slow:
        async def may_join(self, conn: Connection, room: str) -> bool:
            await asyncio.sleep(1)
            return True

        def may_publish(self, conn: Connection, room: str) -> bool:
            return True

    manager = make_manager(auth=ByQuery(), authorizer=Slow())
    async with connect(manager.endpoint) as peer:
        for number in range(10):
            await peer.send_json({"type": "session.join", "data": {"room": f"{number}"}, "id": number})
        await asyncio.sleep(1.5)
        assert [json.loads(frame)["re"] for frame in peer.frames] == list(range(10))
        (conn,) = manager.connections()
        assert len(conn.rooms) == 10


async def test_a_pending_join_neither_delays_handlers_nor_is_delayed_by_them(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Doorman(5))

    @manager.on("slow")
    async def slow(conn: Connection) -> None:
        await asyncio.sleep(10)

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "session.join", "data": {"room": "alice-1"}, "id": "join"})
        await peer.send_json({"type": "slow", "id": "slow"})
        assert (await peer.receive_json(timeout=5.1))["re"] == "join"
        assert (await peer.receive_json(timeout=5.1))["re"] == "slow"


async def test_f51_a_connection_that_closes_while_it_joins_is_in_no_room(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Doorman(5))
    async with connect(manager.endpoint) as peer:
        for number in range(3):
            await peer.send_json({"type": "session.join", "data": {"room": f"alice-{number}"}})
    await asyncio.sleep(0.1)
    assert set(manager.get_analytics().indexes.values()) == {0}
    await asyncio.sleep(20)
    figures = manager.get_analytics()
    assert (set(figures.indexes.values()), figures.errands) == ({0}, 0)
    assert errors_logged(caplog) == []


async def test_f47_an_authorizer_that_hangs_is_given_up(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Doorman(10_000))
    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "session.join", "data": {"room": "alice-1"}, "id": 1})
        answer = await peer.receive_json(timeout=31)
        assert (answer["re"], answer["data"]["code"]) == (1, "handler_timeout")
        assert rooms_of(manager) == []


async def test_where_no_task_can_be_had_a_late_authorizer_allows_nothing(make_manager: MakeManager) -> None:
    class Slow(Doorman):
        def may_join(self, who: Principal, room: str) -> Awaitable[bool]:
            return asyncio.get_running_loop().create_future()

    manager = make_manager(auth=ByQuery(), authorizer=Slow())
    async with connect(manager.endpoint) as peer:
        with no_errands(manager):
            assert await join(peer, "alice-1") == "internal_error"
            assert await join(peer, "alice-1", "leave") == "left"


async def test_f47_a_pending_join_is_cancelled_at_shutdown(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    config = WebSocketConfig(drain_timeout=2)
    manager = make_manager(config, auth=ByQuery(), authorizer=Doorman(10))
    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "session.join", "data": {"room": "alice-1"}})
        await manager.aclose()
        assert manager.get_analytics().errands == 0
    assert errors_logged(caplog) == []


class Broken:
    def __init__(self, error: BaseException, *, late: bool) -> None:
        self.error = error
        self.late = late

    def may_join(self, who: Principal, room: str) -> bool | Awaitable[bool]:
        if self.late:
            return self._later()
        raise self.error

    may_publish = may_join

    async def _later(self) -> bool:
        await asyncio.sleep(1)
        raise self.error


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", [LookupError("secret"), asyncio.CancelledError("secret")])
async def test_f47_an_authorizer_that_raises_allows_nothing_and_tells_nothing(
    make_manager: MakeManager, late: bool, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Broken(error, late=late))
    async with connect(manager.endpoint) as peer:
        answer = await ask(peer, "session.join", {"room": "alice-1"})
        assert answer["data"]["code"] == "internal_error"
        assert "secret" not in str(answer)
        assert (await ask(peer, "ping"))["type"] == "pong"
        assert rooms_of(manager) == []
    assert errors_logged(caplog)


@pytest.mark.parametrize("pause", [None, 1])
async def test_the_authorizer_decides_what_a_client_may_say_in_a_room(
    make_manager: MakeManager, pause: float | None
) -> None:
    manager = make_manager(auth=ByQuery(), authorizer=Doorman(pause))

    @manager.on("say")
    async def say(conn: Connection, data: str) -> int:
        return (await manager.send_to_session(data, {"type": "said"}, sender=conn)).sent

    async with connect(manager.endpoint) as peer, connect(manager.endpoint, query="user=bob") as bob:
        assert await join(bob, "bob-1") == "joined"
        assert (await ask(peer, "say", "bob-1"))["data"]["code"] == "forbidden"
        assert (await ask(bob, "say", "bob-1"))["type"] == "said"
        assert (await bob.receive_json())["data"] == 1


async def test_without_an_authorizer_members_may_speak(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on("enter")
    async def enter(conn: Connection, data: str) -> bool:
        return await manager.join_session(conn, data)

    @manager.on("say")
    async def say(conn: Connection, data: str) -> int:
        return (await manager.send_to_session(data, {"type": "said"}, sender=conn, exclude=conn)).sent

    async with connect(manager.endpoint) as peer:
        assert (await ask(peer, "say", "hall"))["data"]["code"] == "forbidden"
        assert (await ask(peer, "enter", "hall"))["data"] is True
        assert (await ask(peer, "say", "hall"))["data"] == 0
