"""A tower of twenty lines, added to a manager without touching the package; and each seam that it may use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.engine.conftest import ByQuery, MakeManager
from tests.engine.devices import online
from wsmanager import (
    ConfigurationError,
    Connection,
    ConnectionManager,
    EncodeError,
    InboundMessage,
    Refused,
    ReplyError,
    SuspiciousMessage,
    WebSocketConfig,
)
from wsmanager.connections.residents import Resident
from wsmanager.connections.seams import Waiting
from wsmanager.engine.engine import Engine
from wsmanager.handlers.around import Work
from wsmanager.messages import Frame, RoomKey, UserKey
from wsmanager.protocols import Seen
from wsmanager.testing import HandshakeRefused, connect
from wsmanager.wire.codecs import JSONCodec
from wsmanager.wire.outgoing import Outgoing

pytestmark = pytest.mark.anyio

JSON = "wsmanager.v1.json"


# --- the tower


class Greeter(Resident):
    """Welcomes everybody, and tells who asks how many there are."""

    name = "greeter"

    def __init__(self, engine: Engine) -> None:
        self.engine, self.met = engine, 0
        engine.system.register("greeter.count", self.count)

    def opened(self, conn: Connection) -> None:
        self.met += 1

    def welcome(self, conn: Connection) -> Mapping[str, Any]:
        return {"motd": f"Hello {conn.user_id}"}

    def count(self, conn: Connection, message: InboundMessage) -> None:
        conn.answer({"type": "greeter.count", "re": message.id, "data": len(self.engine.registry)})

    def figures(self) -> Mapping[str, Any]:
        return {"met": self.met}


class NoShouting:
    """A part: a validator that wants it quiet."""

    def validate_message(self, message: InboundMessage, *, raw: Frame | None = None) -> None:
        if str(message.data).isupper():
            raise SuspiciousMessage("Please do not shout.", code="shouting")


class Diary:
    """An observer."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def saw(self, seen: Seen) -> None:
        self.seen.append(seen)


async def test_a_tower_joins_a_manager_without_a_change_of_the_package(make_manager: MakeManager) -> None:
    diary = Diary()
    manager = make_manager(auth=ByQuery(), residents=[Greeter], validator=NoShouting(), observer=diary)
    async with connect(manager.endpoint, query="user=ann", subprotocols=[JSON]) as peer:
        assert (await peer.receive_json())["data"]["motd"] == "Hello ann"
        await peer.send_json({"type": "greeter.count", "id": 1})
        assert await peer.receive_json() == {"type": "greeter.count", "re": 1, "data": 1}
        await peer.send_json({"type": "chat", "id": 2, "data": "HELLO"})
        assert (await peer.receive_json())["data"]["code"] == "shouting"
        assert manager.get_analytics().residents == {"greeter": {"met": 1}}
    await asyncio.sleep(0.1)
    assert [seen.event for seen in diary.seen] == ["connection.opened", "connection.closed"]
    assert diary.seen[1].fields["user"] == "ann"


# --- a resident sees the life of each connection


class Witness(Resident):
    """Writes down all that it is told."""

    name = "witness"

    def __init__(self) -> None:
        self.diary: list[Any] = []

    def __call__(self, engine: Engine) -> Witness:
        return self

    async def entering(self, conn: Connection) -> None:
        self.diary.append(("entering", conn.user_id, str(conn.status)))

    def opened(self, conn: Connection) -> None:
        self.diary.append(("opened", conn.user_id))

    def joined(self, conn: Connection, room: str) -> None:
        self.diary.append(("joined", conn.user_id, room))

    def left(self, conn: Connection, room: str) -> None:
        self.diary.append(("left", conn.user_id, room))

    def interest(self, key: UserKey | RoomKey, *, wanted: bool) -> None:
        self.diary.append(("interest", key[1], wanted))

    def leaving(self, conn: Connection) -> None:
        self.diary.append(("leaving", conn.user_id))

    def drained(self, conn: Connection) -> None:
        self.diary.append(("drained", conn.user_id))

    def gone(self, conn: Connection) -> None:
        self.diary.append(("gone", conn.user_id))


async def test_a_resident_is_told_of_every_step_of_a_connection(make_manager: MakeManager) -> None:
    witness = Witness()
    manager = make_manager(auth=ByQuery(), residents=[witness])
    async with online(manager, "ann") as (_, ann), online(manager, "ann"):
        await manager.join_session(ann, "hall")
        await manager.leave_session(ann, "hall")
        await manager.join_session(ann, "attic")
        await ann.close()
        await asyncio.sleep(0)
        assert witness.diary == [
            ("interest", "ann", True),
            ("entering", "ann", "connecting"),
            ("opened", "ann"),
            ("entering", "ann", "connecting"),  # of the second, for whom nothing new is of interest
            ("opened", "ann"),
            ("interest", "hall", True),
            ("joined", "ann", "hall"),
            ("left", "ann", "hall"),
            ("interest", "hall", False),
            ("interest", "attic", True),
            ("joined", "ann", "attic"),
            ("left", "ann", "attic"),
            ("interest", "attic", False),
            ("gone", "ann"),
        ]
        witness.diary.clear()
    await asyncio.sleep(0.1)
    assert witness.diary == [("interest", "ann", False), ("gone", "ann")]


async def test_what_waits_for_one_that_closes_is_told_before_and_after(make_manager: MakeManager) -> None:
    witness = Witness()
    manager = make_manager(auth=ByQuery(), residents=[witness])
    async with online(manager, "ann", window=1_000, stalled=True) as (peer, ann):
        while ann.congestion is None:
            await manager.broadcast({"type": "news", "data": "x" * 2_000})
        closing = asyncio.ensure_future(ann.close())
        await asyncio.sleep(0)
        assert witness.diary[-1] == ("leaving", "ann")
        peer.resume()
        await closing
        assert witness.diary[-2:] == [("drained", "ann"), ("gone", "ann")]


async def test_a_resident_may_turn_a_client_away_before_it_is_accepted(make_manager: MakeManager) -> None:
    class Doorkeeper(Witness):
        async def entering(self, conn: Connection) -> None:
            await asyncio.sleep(1)
            raise Refused("Not today.", code="closed_today")

    keeper = Doorkeeper()
    manager = make_manager(auth=ByQuery(), residents=[keeper])
    with pytest.raises(HandshakeRefused) as refused:
        async with connect(manager.endpoint, query="user=ann"):
            pass
    assert refused.value.status == 403
    assert keeper.diary == [("interest", "ann", True), ("interest", "ann", False), ("gone", "ann")]
    assert manager.get_analytics().refused == {"closed_today": 1}


async def test_who_leaves_while_a_resident_makes_it_wait_leaves_nothing_behind(
    make_manager: MakeManager,
) -> None:
    class Slow(Witness):
        async def entering(self, conn: Connection) -> None:
            await asyncio.sleep(3_600)

    slow = Slow()
    manager = make_manager(auth=ByQuery(), residents=[slow])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), connect(manager.endpoint, query="user=ann"):
            pass
    await asyncio.sleep(0)
    assert slow.diary[-1] == ("gone", "ann")
    assert manager.get_analytics().indexes["connections"] == 0


async def test_one_that_is_closed_while_a_resident_makes_it_wait_never_opens(
    make_manager: MakeManager,
) -> None:
    class Slow(Witness):
        async def entering(self, conn: Connection) -> None:
            conn.close_soon(4000, "no")

    slow = Slow()
    manager = make_manager(auth=ByQuery(), residents=[slow])
    with pytest.raises(HandshakeRefused):
        async with connect(manager.endpoint, query="user=ann"):
            pass
    assert [step[0] for step in slow.diary] == ["interest", "interest", "gone"]


async def test_what_a_resident_takes_back_is_no_drop(make_manager: MakeManager) -> None:
    taken: list[str] = []

    class Keeper(Resident):
        name = "keeper"

        def __init__(self, engine: Engine) -> None: ...

        def given_up(self, conn: Connection, messages: Sequence[Outgoing], reason: str) -> Sequence[Outgoing]:
            taken.extend(f"{message.type} {reason}" for message in messages if message.type == "dear")
            return [message for message in messages if message.type != "dear"]

    manager = make_manager(auth=ByQuery(), residents=[Keeper])
    async with online(manager, "ann", window=1_000, stalled=True) as (_, ann):
        while ann.congestion is None:
            await manager.broadcast({"type": "filler", "data": "x" * 2_000})
        for kind in ("dear", "cheap"):
            await manager.broadcast({"type": kind})
        ann.close_soon(4000, "now", flush=False)
    assert taken == ["dear abandoned"]
    assert manager.get_analytics().drops == {"abandoned": 2}


async def test_a_resident_hears_what_a_server_took(make_manager: MakeManager) -> None:
    taken: list[str] = []

    class Counter(Resident):
        name = "counter"

        def __init__(self, engine: Engine) -> None: ...

        def handed_over(self, conn: Connection, item: Waiting) -> None:
            taken.append(item.counted_as)

    manager = make_manager(auth=ByQuery(), residents=[Counter])
    async with online(manager, "ann") as (_, ann):
        await ann.send({"type": "news"})
    assert taken == ["news"]


async def test_residents_sweep_with_the_heartbeat(make_manager: MakeManager) -> None:
    swept: list[float] = []

    class Sweeper(Resident):
        name = "sweeper"

        def __init__(self, engine: Engine) -> None: ...

        def sweep(self, now: float) -> None:
            swept.append(now)

    config = WebSocketConfig(queue_cleanup_interval=10)
    manager = make_manager(config, auth=ByQuery(), residents=[Sweeper])
    async with online(manager, "ann"):
        await asyncio.sleep(100)
        assert 2 <= len(swept) <= 10


# --- a resident acts in the middle of what it is told


async def test_who_ends_another_as_one_leaves_a_room_leaves_nothing_behind(make_manager: MakeManager) -> None:
    class Duel(Witness):
        """Where one leaves, the other is sent away."""

        def __init__(self) -> None:
            super().__init__()
            self.players: list[Connection] = []

        def joined(self, conn: Connection, room: str) -> None:
            super().joined(conn, room)
            self.players.append(conn)

        def left(self, conn: Connection, room: str) -> None:
            super().left(conn, room)
            for other in self.players:
                other.close_soon(4000, "over")

    duel = Duel()
    manager = make_manager(auth=ByQuery(), residents=[duel])
    async with online(manager, "ann") as (_, ann), online(manager, "ben") as (_, ben):
        await manager.join_session(ann, "duel")
        await manager.join_session(ben, "duel")
        await ann.close(4001, "bored")
        await asyncio.sleep(1)
        assert manager.get_analytics().closed == {4000: 1, 4001: 1}
        assert manager.get_analytics().indexes["rooms"] == 0
    assert duel.diary.count(("interest", "duel", False)) == 1


async def test_one_that_is_closed_as_its_room_comes_to_be_has_not_joined(make_manager: MakeManager) -> None:
    class Closed(Witness):
        def interest(self, key: UserKey | RoomKey, *, wanted: bool) -> None:
            super().interest(key, wanted=wanted)
            if isinstance(key, RoomKey) and wanted:
                for conn in manager.connections():
                    conn.close_soon(4000, "no rooms today")

    closed = Closed()
    manager = make_manager(auth=ByQuery(), residents=[closed])
    async with online(manager, "ann") as (_, ann):
        await manager.join_session(ann, "hall")
        await asyncio.sleep(1)
    told = [step[0] for step in closed.diary if step[-1] in ("hall", True, False)]
    assert told[-1] == "interest"
    assert "joined" not in told[told.index("left") :]


async def test_one_that_is_dropped_as_it_leaves_its_room_delays_nothing_kept(
    make_manager: MakeManager,
) -> None:
    class Impatient(Witness):
        def left(self, conn: Connection, room: str) -> None:
            manager.engine.abandon(conn)

    manager = make_manager(auth=ByQuery(), residents=[Impatient()])
    async with online(manager, "ann", window=1_000, stalled=True) as (_, ann):
        await manager.join_session(ann, "hall")
        while ann.congestion is None:
            await manager.broadcast({"type": "news", "data": "x" * 2_000})
        ann.close_soon(4000, "now")
    await manager.send_personal_message("ann", {"type": "kept"})
    async with online(manager, "ann") as (peer, _):
        assert (await peer.receive_json())["type"] == "kept"


async def test_what_a_resident_says_of_messages_that_expired_arrives(make_manager: MakeManager) -> None:
    class Sorry(Witness):
        def given_up(self, conn: Connection, messages: Sequence[Outgoing], reason: str) -> Sequence[Outgoing]:
            if reason == "expired":
                conn.answer({"type": "sorry"})
            return messages

    manager = make_manager(auth=ByQuery(), residents=[Sorry()])
    async with online(manager, "ann", window=1_000, stalled=True) as (peer, ann):
        while ann.congestion is None:
            await manager.broadcast({"type": "news", "data": "x" * 2_000})
        await manager.broadcast({"type": "brief"}, ttl=0.5)
        await asyncio.sleep(0.7)
        peer.resume()
        await asyncio.sleep(0.1)
        assert peer.frames[-1] == '{"type":"sorry"}'


async def test_a_client_that_is_gone_before_it_is_welcomed_was_opened_and_is_closed(
    make_manager: MakeManager,
) -> None:
    witness, diary = Witness(), Diary()
    manager = make_manager(auth=ByQuery(), residents=[witness], observer=diary)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def failing(event: Any) -> None:
            if event["type"] == "websocket.send":
                raise ConnectionResetError
            await send(event)

        await manager.endpoint({**scope, "extensions": {}}, receive, failing)

    async with connect(app, query="user=ann", subprotocols=[JSON]):
        await asyncio.sleep(1)
    told = [seen.event for seen in diary.seen if seen.event.startswith("connection.")]
    assert told == ["connection.opened", "connection.closed"]
    assert witness.diary[-1] == ("gone", "ann")


# --- what stands round handlers


async def test_who_stands_round_a_handler_hears_of_its_end_whatever_the_codec_says(
    make_manager: MakeManager,
) -> None:
    class Mute(JSONCodec):
        """Has no words for an answer, not even for an error."""

        def encode(self, message: Any) -> str:
            raise EncodeError("no words")

    class Brackets:
        def __init__(self) -> None:
            self.open = 0

        def before(self, conn: Connection, work: Work) -> None:
            self.open += 1

        def after(self, conn: Connection, work: Work, reply: Any, error: BaseException | None) -> None:
            self.open -= 1

    manager, brackets = make_manager(auth=ByQuery(), codecs=(Mute(),)), Brackets()
    manager.engine.dispatch.around = (brackets,)

    @manager.on("x")
    async def x(conn: Connection) -> int:
        return 1

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "x", "id": 1})
        await asyncio.sleep(1)
        assert isinstance(peer.app_error, EncodeError)
    assert brackets.open == 0


# --- system types


async def test_answers_that_take_a_while_take_effect_in_the_order_of_their_messages(
    make_manager: MakeManager,
) -> None:
    done: list[Any] = []

    class Slow(Resident):
        name = "slow"

        def __init__(self, engine: Engine) -> None:
            engine.system.register("slow.one", self.answer)

        async def answer(self, conn: Connection, message: InboundMessage) -> None:
            await asyncio.sleep(message.data)
            done.append(message.data)
            if message.data == 1:
                raise ReplyError("Not one.", code="not_one")

    manager = make_manager(auth=ByQuery(), residents=[Slow])
    async with connect(manager.endpoint, query="user=ann") as peer:
        for seconds in (3, 1, 2):
            await peer.send_json({"type": "slow.one", "id": seconds, "data": seconds})
        await peer.send_json({"type": "ping", "id": "p"})
        assert (await peer.receive_json())["re"] == "p"  # which waits for none of them
        error = await peer.receive_json()
        assert (error["re"], error["data"]["code"]) == (1, "not_one")
        await asyncio.sleep(10)
    assert done == [3, 1, 2]


async def test_a_system_message_may_be_as_large_as_its_type_says(make_manager: MakeManager) -> None:
    class Small(Resident):
        name = "small"

        def __init__(self, engine: Engine) -> None:
            engine.system.register("small", lambda conn, message: None, max_bytes=40)

    manager = make_manager(auth=ByQuery(), residents=[Small])
    async with connect(manager.endpoint, query="user=ann") as peer:
        await peer.send_text('{"type":"small","data":"0123456789abcdef"}')  # 42 bytes
        assert (await peer.receive_json())["data"]["code"] == "too_large"
        await peer.send_text('{"type":"small","data":"0123456789abcd"}')
        await peer.send_json({"type": "ping", "data": "x" * 2_000})
        assert (await peer.receive_json())["data"]["message"] == "A ping message may have 1024 bytes."
    assert manager.get_analytics().messages.types["small"].errors == 1


async def test_a_type_is_registered_once_before_the_first_connection_and_no_handler_takes_it(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(residents=[Greeter])
    system = manager.engine.system
    for taken in ("greeter.count", "ping"):
        with pytest.raises(ConfigurationError, match="answered already"):
            system.register(taken, lambda conn, message: None)
    with pytest.raises(ConfigurationError, match="1 to 255 characters"):
        system.register("two\nlines", lambda conn, message: None)
    with pytest.raises(ConfigurationError, match="manager itself"):
        manager.on("greeter.count")(lambda conn: None)
    async with connect(manager.endpoint):
        pass
    with pytest.raises(ConfigurationError, match="before the first connection"):
        system.register("late", lambda conn, message: None)


async def test_cheap_types_of_a_tower_have_the_bucket_of_life_signs(make_manager: MakeManager) -> None:
    config = WebSocketConfig(rate_limit_max=1)
    manager = make_manager(config, auth=ByQuery(), residents=[Greeter])
    async with connect(manager.endpoint, query="user=ann") as peer:
        for number in range(5):
            await peer.send_json({"type": "greeter.count", "id": number})
            assert (await peer.receive_json())["re"] == number


# --- an observer


async def test_an_observer_sees_what_the_log_says_and_its_faults_harm_nobody(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "wsmanager")
    diary = Diary()
    manager = make_manager(auth=ByQuery(), observer=diary)

    @manager.on("crash")
    async def crash(conn: Connection) -> None:
        raise ZeroDivisionError

    async with connect(manager.endpoint, query="user=ann") as peer:
        await peer.send_json({"type": "crash", "id": 1})
        assert (await peer.receive_json())["data"]["code"] == "internal_error"
        failed = diary.seen[-1]
        assert (failed.event, failed.level, failed.fields["type"]) == (
            "handler.failed",
            logging.ERROR,
            "crash",
        )
        assert isinstance(failed.error, ZeroDivisionError)
        manager.engine.journal.observer = None
    caplog.clear()

    class Broken:
        def saw(self, seen: Seen) -> None:
            raise LookupError

    manager = make_manager(auth=ByQuery(), observer=Broken())
    async with connect(manager.endpoint, query="user=ann"):
        pass
    assert {record.event for record in caplog.records} == {"observer.failed"}  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="saw"):
        make_manager(observer=object())


def test_two_residents_do_not_share_a_name() -> None:
    with pytest.raises(ConfigurationError, match="'greeter'"):
        ConnectionManager(residents=[Greeter, lambda _: Greeter.__new__(Greeter)])


def test_a_cheap_type_is_long_enough_to_be_known_by_its_head() -> None:
    system = ConnectionManager().engine.system
    with pytest.raises(ConfigurationError, match="3 characters"):
        system.register("ab", lambda conn, message: None)
    system.register("ab", lambda conn, message: None, cheap=False)
    system.register("abc", lambda conn, message: None)


async def test_who_is_not_there_is_offline_whatever_was_to_be_sent(make_manager: MakeManager) -> None:
    report = await make_manager().send_to_connection("nobody", {"no": "type"})
    assert (report.offline, report.failed) == (1, ("nobody",))
