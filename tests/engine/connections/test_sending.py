"""Sending to users, rooms, everybody and one connection: who gets it, in which form, and what is reported."""

from __future__ import annotations

import asyncio
import datetime
import enum
import math
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.words import type_of
from wsmanager import ALL, Connection, ConnectionManager, MessagePriority, WebSocketConfig
from wsmanager.errors import ConfigurationError, ConnectionClosed, EncodeError
from wsmanager.messages import Delivery, DeliveryReport, Pushed
from wsmanager.testing import GRANIAN, VirtualTimeLoop, connect
from wsmanager.wire.codecs import JSONCodec, MessagePackCodec

from ..conftest import ByQuery, MakeManager
from ..devices import JSON, MSGPACK, decoded, got, news, online

pytestmark = pytest.mark.anyio

NEWS = news(1)


# --- who gets it


async def test_a_personal_message_reaches_every_device_of_the_user_and_nobody_else(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with (
        online(manager, "ann") as (phone, _),
        online(manager, "ann") as (laptop, _),
        online(manager, "ben") as (other, _),
    ):
        report = await manager.send_personal_message("ann", NEWS)
        assert report == DeliveryReport(sent=2)
        assert (got(phone), got(laptop), got(other)) == ([1], [1], [])


async def test_a_message_to_a_session_reaches_its_members_only(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with (
        online(manager, "ann") as (ann, ann_conn),
        online(manager, "ben") as (ben, ben_conn),
        online(manager, "cid") as (cid, cid_conn),
    ):
        await manager.join_session(ann_conn, "tea")
        await manager.join_session(ben_conn, "tea")
        await manager.join_session(cid_conn, "coffee")
        assert await manager.send_to_session("tea", NEWS) == DeliveryReport(sent=2)
        await manager.leave_session(ben_conn, "tea")
        assert await manager.send_to_session("tea", NEWS) == DeliveryReport(sent=1)
        assert (got(ann), got(ben), got(cid)) == ([1, 1], [1], [])


async def test_a_session_without_members_is_no_error(make_manager: MakeManager) -> None:
    assert await make_manager().send_to_session("nobody", NEWS) == DeliveryReport()


async def test_a_message_to_one_connection_reaches_that_one(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann") as (phone, _), online(manager, "ann") as (laptop, conn):
        assert await manager.send_to_connection(conn.id, NEWS) == DeliveryReport(sent=1)
        assert (got(phone), got(laptop)) == ([], [1])


async def test_a_connection_that_is_not_there_is_reported_offline(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint):
        (conn,) = manager.connections()
    report = await manager.send_to_connection(conn.id, NEWS)
    assert report == DeliveryReport(offline=1, failed=(conn.id,))
    assert not report.delivered


# --- tenants


async def test_the_same_name_in_another_tenant_is_another_user_and_another_room(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with (
        online(manager, "ann") as (plain, plain_conn),
        online(manager, "ann", tenant="red") as (red, red_conn),
        online(manager, "ann", tenant="blue") as (blue, blue_conn),
    ):
        for conn in (plain_conn, red_conn, blue_conn):
            await manager.join_session(conn, "tea")
        await manager.send_personal_message("ann", news("to red"), tenant="red")
        await manager.send_to_session("tea", news("in blue"), tenant="blue")
        await manager.broadcast(news("to all of red"), tenant="red")
        await manager.broadcast(news("to those without a tenant"))
        assert got(plain) == ["to those without a tenant"]
        assert got(red) == ["to red", "to all of red"]
        assert got(blue) == ["in blue"]
        assert await manager.broadcast(NEWS, tenant=ALL) == DeliveryReport(sent=3)


async def test_what_a_client_says_goes_to_the_room_of_its_own_tenant(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with (
        online(manager, "ann", tenant="red") as (_, ann),
        online(manager, "ben", tenant="red") as (ben_peer, ben),
        online(manager, "cid", tenant="blue") as (cid_peer, cid),
    ):
        for conn in (ann, ben, cid):
            await manager.join_session(conn, "tea")
        await manager.send_to_session("tea", NEWS, sender=ann, tenant="blue", exclude=ann)
        assert (got(ben_peer), got(cid_peer)) == ([1], [])


# --- exclude


def by_connection(conn: Connection) -> Any:
    return conn


def by_id(conn: Connection) -> Any:
    return conn.id


def among_others(conn: Connection) -> Any:
    return iter(["somebody", conn])


@pytest.mark.parametrize("form", [by_connection, by_id, among_others])
async def test_whom_a_send_excludes_does_not_get_it(make_manager: MakeManager, form: Any) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann") as (phone, conn), online(manager, "ann") as (laptop, other):
        for one in (conn, other):
            await manager.join_session(one, "tea")
        report = DeliveryReport(sent=1)
        assert await manager.send_personal_message("ann", NEWS, exclude=form(conn)) == report
        assert await manager.send_to_session("tea", NEWS, exclude=form(conn)) == report
        assert await manager.broadcast(NEWS, exclude=form(conn)) == report
        assert (got(phone), got(laptop)) == ([], [1, 1, 1])


async def test_a_user_whose_only_device_is_excluded_gets_nothing_later_either(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann") as (peer, conn):
        report = await manager.send_personal_message(
            "ann", NEWS, exclude=conn, priority=MessagePriority.CRITICAL
        )
        assert report == DeliveryReport()
        assert manager.get_analytics().offline_messages == 0
    async with online(manager, "ann") as (again, _):
        assert (got(peer), got(again)) == ([], [])


async def test_a_user_who_is_away_is_kept_a_message_whomever_it_excludes(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    assert (await manager.send_personal_message("ann", NEWS, exclude="some-id")).kept == 1
    async with online(manager, "ann") as (peer, _):
        assert got(peer) == [1]


# --- reports


async def test_a_report_counts_each_target_and_names_those_that_failed(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(max_report_ids=2), auth=ByQuery())
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(online(manager, f"user{n}")) for n in range(5)]
        stalled, stalled_conn = await stack.enter_async_context(
            online(manager, "slow", window=1, stalled=True)
        )
        await manager.broadcast(NEWS)
        for peer, _ in peers[:3]:
            peer.reset()
        report = await manager.broadcast(NEWS)
        assert (report.sent, report.queued, report.offline, report.dropped) == (2, 1, 3, 0)
        assert len(report.failed) == 2
        assert set(report.failed) < {conn.id for _, conn in peers[:3]}
        assert report.delivered
        assert stalled_conn.waiting == 1
        stalled.resume()
        await asyncio.sleep(0.1)
        assert got(stalled) == [1, 1]


async def test_a_report_may_name_nobody(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(max_report_ids=0), auth=ByQuery())
    report = await manager.send_personal_message("ann", NEWS, delivery=Delivery.VOLATILE)
    assert report == DeliveryReport(offline=1)


async def test_a_reset_peer_fails_alone(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann") as (ann, _), online(manager, "ben") as (ben, gone):
        ben.reset()
        assert await manager.broadcast(NEWS) == DeliveryReport(sent=1, offline=1, failed=(gone.id,))
        assert got(ann) == [1]
        assert gone not in manager.connections()
        assert await manager.broadcast(NEWS) == DeliveryReport(sent=1)


async def test_what_was_sent_is_counted_by_type_in_messages_and_bytes(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with (
        online(manager, "ann") as (_, conn),
        online(manager, "ben", subprotocols=[MSGPACK]),
        online(manager, "cid", window=1, stalled=True) as (cid, _),
    ):
        await manager.broadcast(NEWS)
        await manager.broadcast(NEWS)
        await conn.send(NEWS)
        cid.resume()
        await asyncio.sleep(0.1)
        figures = manager.get_analytics().messages
        text, binary = len(JSONCodec().encode(NEWS)), len(MessagePackCodec().encode(NEWS))
        assert set(figures.types) == {"news"}
        assert figures.types["news"].count_out == 7
        assert figures.types["news"].bytes_out == 5 * text + 2 * binary


async def test_on_a_server_that_starts_at_the_call_a_message_counts_once_it_is_taken(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann", server=GRANIAN) as (peer, conn):
        assert await conn.send(NEWS) is Pushed.QUEUED
        assert await manager.broadcast(NEWS) == DeliveryReport(queued=1)
        await asyncio.sleep(0.1)
        assert got(peer) == [1, 1]
        assert manager.get_analytics().messages.types["news"].count_out == 2


# --- waiting for the user


async def test_who_waits_for_a_user_sends_as_soon_as_the_user_appears(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    await manager.send_personal_message("ann", news("before"))
    sending = asyncio.create_task(manager.send_personal_message("ann", news("waited"), wait=10))
    await asyncio.sleep(5)
    assert not sending.done()
    async with online(manager, "ann") as (peer, _):
        assert await sending == DeliveryReport(sent=1)
        assert asyncio.get_running_loop().time() < 5.1
        assert got(peer) == ["before", "waited"]


@pytest.mark.parametrize(
    ("delivery", "report"),
    [
        (Delivery.DURABLE, DeliveryReport(offline=1, kept=1, failed=("ann",))),
        (Delivery.VOLATILE, DeliveryReport(offline=1, failed=("ann",))),
    ],
)
async def test_who_waits_in_vain_is_told_so(
    make_manager: MakeManager, delivery: Delivery, report: DeliveryReport
) -> None:
    manager = make_manager(auth=ByQuery())
    assert await manager.send_personal_message("ann", NEWS, wait=10, delivery=delivery) == report
    assert asyncio.get_running_loop().time() == 10
    assert manager.get_analytics().offline_messages == report.kept


async def test_a_user_who_is_there_is_not_waited_for(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann") as (peer, _):
        started = asyncio.get_running_loop().time()
        await manager.send_personal_message("ann", NEWS, wait=10)
        assert asyncio.get_running_loop().time() == started
        assert got(peer) == [1]


async def test_the_same_user_of_another_tenant_is_not_who_is_waited_for(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    sending = asyncio.create_task(manager.send_personal_message("ann", NEWS, tenant="red", wait=10))
    async with online(manager, "ann", tenant="blue") as (peer, _):
        assert (await sending).kept == 1
        assert got(peer) == []


@pytest.mark.parametrize("delivery", Delivery)
async def test_a_durable_message_outlives_who_was_cancelled_while_waiting(
    make_manager: MakeManager, delivery: Delivery
) -> None:
    manager = make_manager(auth=ByQuery())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await manager.send_personal_message("ann", NEWS, wait=10, delivery=delivery)
    async with online(manager, "ann") as (peer, _):
        assert got(peer) == ([1] if delivery is Delivery.DURABLE else [])


async def test_too_many_waiting_sends_do_not_wait(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(max_waiting_sends=1), auth=ByQuery())
    waiting = asyncio.create_task(manager.send_personal_message("ann", NEWS, wait=10))
    await asyncio.sleep(1)
    report = await manager.send_personal_message("ben", NEWS, wait=10)
    assert asyncio.get_running_loop().time() == 1
    assert report.kept == 1
    assert manager.get_analytics().drops == {"wait_refused": 1, "offline_evicted": 0}
    assert (await waiting).kept == 1


# --- what cannot be encoded reaches nobody


class Cycle(dict[str, Any]):
    def __init__(self) -> None:
        super().__init__(type="news")
        self["data"] = self


UNENCODABLE = [
    pytest.param({"type": "news", "data": object()}, id="an object"),
    pytest.param(news("\ud800"), id="a lone surrogate"),
    pytest.param({"type": "news", "data": {"\udfff": 1}}, id="a lone surrogate in a key"),
    pytest.param({"type": "\ud800"}, id="a lone surrogate in the type"),
    pytest.param(Cycle(), id="a message in itself"),
    pytest.param({"data": 1}, id="no type"),
    pytest.param({"type": 1, "data": 1}, id="a type that is no text"),
    pytest.param({"type": "news", "data": 1j}, id="a complex number"),
]


@pytest.mark.parametrize("message", UNENCODABLE)
async def test_f04_a_message_that_cannot_be_encoded_reaches_nobody(
    make_manager: MakeManager, message: Any
) -> None:
    manager = make_manager(auth=ByQuery())
    async with (
        online(manager, "ann") as (ann, conn),
        online(manager, "ann", subprotocols=[MSGPACK]) as (tablet, _),
        online(manager, "ann", subprotocols=[JSON]) as (laptop, _),
    ):
        await manager.join_session(conn, "tea")
        for sending in (
            manager.send_personal_message("ann", message),
            manager.send_personal_message("ann", message, priority=MessagePriority.CRITICAL, wait=1),
            manager.send_personal_message("away", message),
            manager.send_to_session("tea", message),
            manager.send_to_session("empty", message),
            manager.broadcast(message),
            manager.send_to_connection(conn.id, message),
            conn.send(message),
        ):
            with pytest.raises(EncodeError):
                await sending
        assert [ann.frames, tablet.frames, laptop.frames] == [[], [], []]
        assert manager.get_analytics().offline_messages == 0
        assert len(manager.connections()) == 3
        await manager.broadcast(NEWS)
        assert [got(ann), got(tablet), got(laptop)] == [[1], [1], [1]]


async def test_a_message_that_one_codec_of_the_targets_cannot_write_reaches_none_of_them(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    only_binary = {"type": "news", "data": {(1, 2): "a pair is no key in JSON"}}
    async with (
        online(manager, "ann", subprotocols=[MSGPACK]) as (ann, ann_conn),
        online(manager, "ben") as (ben, ben_conn),
    ):
        for conn in (ann_conn, ben_conn):
            await manager.join_session(conn, "tea")
        with pytest.raises(EncodeError):
            await manager.send_to_session("tea", only_binary)
        with pytest.raises(EncodeError):
            await manager.broadcast(only_binary)
        assert (ann.frames, ben.frames) == ([], [])
        with pytest.raises(EncodeError):  # it could not be kept
            await manager.send_personal_message("ann", only_binary)
        await manager.send_to_connection(ann_conn.id, only_binary)
        report = await manager.send_personal_message("ann", only_binary, delivery=Delivery.VOLATILE)
        assert report.sent == 1
        assert len(ann.frames) == 2


class TelemetryCodec(JSONCodec):
    """What devices speak that know one kind of message."""

    subprotocol = "telemetry"

    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0

    def encode(self, message: Any) -> str:
        self.encoded += 1
        if type_of(message) not in ("telemetry", "welcome"):
            raise EncodeError("this codec has no words for it")
        return super().encode(message)


async def test_a_codec_that_is_not_among_the_targets_is_not_asked(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery(), codecs=[JSONCodec(), TelemetryCodec()])
    async with online(manager, "ann") as (ann, _), online(manager, "meter", subprotocols=["telemetry"]):
        assert (await manager.send_personal_message("ann", NEWS)).sent == 1
        assert got(ann) == [1]
        with pytest.raises(EncodeError):
            await manager.broadcast(NEWS)


async def test_a_connection_that_is_about_to_open_does_not_spoil_a_send(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery(), codecs=[JSONCodec(), TelemetryCodec()])
    reports: list[DeliveryReport] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def slow(event: Any) -> None:
            if event["type"] == "websocket.accept":
                reports.append(await manager.broadcast(NEWS))
            await send(event)

        await manager.endpoint(scope, receive, slow)

    async with (
        online(manager, "ann") as (ann, _),
        connect(app, query="user=meter", subprotocols=["telemetry"]),
    ):
        assert [(report.sent, report.offline) for report in reports] == [(1, 1)]
        assert got(ann) == [1]


async def test_a_message_is_encoded_once_however_many_get_it(make_manager: MakeManager) -> None:
    codec = TelemetryCodec()
    manager = make_manager(auth=ByQuery(), codecs=[codec])
    async with AsyncExitStack() as stack:
        for n in range(5):
            await stack.enter_async_context(online(manager, f"user{n}"))
        assert (await manager.broadcast({"type": "telemetry"})).sent == 5
        assert codec.encoded == 1
        await manager.send_personal_message("user1", {"type": "telemetry"})
        assert codec.encoded == 2


class ComplexCodec(JSONCodec):
    """An application's own JSON, which knows more."""

    def encode(self, message: Any) -> str:
        if isinstance(message, dict) and isinstance(message["data"], complex):
            message = {**message, "data": [message["data"].real, message["data"].imag]}
        return super().encode(message)


async def test_messages_are_kept_as_the_applications_own_json_writes_them(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery(), codecs=[MessagePackCodec(), ComplexCodec()])
    assert (await manager.send_personal_message("ann", news(1 + 2j))).kept == 1
    async with online(manager, "ann", subprotocols=[JSON]) as (peer, _):
        assert (await manager.send_personal_message("ann", news(2j))).sent == 1
        assert got(peer) == [[1.0, 2.0], [0.0, 2.0]]


# --- forms


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: Decimal


class Place(pydantic.BaseModel):
    name: str
    since: datetime.date


class Note(msgspec.Struct):
    type: str
    data: Any


class Model(pydantic.BaseModel):
    type: str
    data: Any


MOMENT = datetime.datetime(2026, 11, 20, 23, 59, 1, 500, tzinfo=datetime.UTC)
ID = uuid.UUID(int=7)
TEXT = "\0 \u007f é ß 漢字 \u2028 \ufeff 👩‍👩‍👧 \U0010ffff"

FORMS = [
    pytest.param(MOMENT, "2026-11-20T23:59:01.000500Z", MOMENT, id="datetime"),
    pytest.param(MOMENT.date(), "2026-11-20", "2026-11-20", id="date"),
    pytest.param(datetime.timedelta(minutes=1), "PT60S", "PT60S", id="timedelta"),
    pytest.param(ID, str(ID), str(ID), id="UUID"),
    pytest.param(Colour.RED, "red", "red", id="Enum"),
    pytest.param(MessagePriority.HIGH, 2, 2, id="IntEnum"),
    pytest.param(Decimal("1.10"), "1.10", "1.10", id="Decimal"),
    pytest.param(Point(1, Decimal("2.5")), {"x": 1, "y": "2.5"}, {"x": 1, "y": "2.5"}, id="dataclass"),
    pytest.param(
        Place(name="Ulm", since=MOMENT.date()),
        {"name": "Ulm", "since": "2026-11-20"},
        {"name": "Ulm", "since": "2026-11-20"},
        id="pydantic",
    ),
    pytest.param(b"\0\xff", "AP8=", b"\0\xff", id="bytes"),
    pytest.param(TEXT, TEXT, TEXT, id="all of Unicode"),
    pytest.param({1}, [1], [1], id="set"),
    pytest.param((1, None), [1, None], [1, None], id="tuple"),
    pytest.param(2**80, 2**80, str(2**80), id="a number beyond 64 bits"),
    pytest.param(math.inf, None, math.inf, id="infinity"),
]


@pytest.mark.parametrize(("value", "as_json", "as_msgpack"), FORMS)
async def test_what_an_application_has_arrives_in_the_form_of_the_codec(
    make_manager: MakeManager, value: Any, as_json: Any, as_msgpack: Any
) -> None:
    manager = make_manager(auth=ByQuery())
    async with (
        online(manager, "ann") as (plain, _),
        online(manager, "ann", subprotocols=[JSON]) as (text, _),
        online(manager, "ann", subprotocols=[MSGPACK]) as (binary, _),
    ):
        await manager.send_personal_message("ann", news(value))
        await manager.broadcast(news([value]))
        assert got(plain) == got(text) == [as_json, [as_json]]
        assert got(binary) == [as_msgpack, [as_msgpack]]


async def test_not_a_number_never_reaches_a_json_client(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with (
        online(manager, "ann") as (text, _),
        online(manager, "ann", subprotocols=[MSGPACK]) as (binary, _),
    ):
        await manager.broadcast(news(math.nan))
        assert got(text) == [None]
        assert math.isnan(got(binary)[0])


@pytest.mark.parametrize("message", [Note("news", 1), Model(type="news", data=1)])
async def test_a_message_may_be_an_object_with_a_type(make_manager: MakeManager, message: Any) -> None:
    manager = make_manager(auth=ByQuery())
    async with (
        online(manager, "ann") as (text, conn),
        online(manager, "ann", subprotocols=[MSGPACK]) as (binary, _),
    ):
        await manager.broadcast(message)
        await conn.send(message)
        assert (got(text), got(binary)) == ([1, 1], [1])
        assert manager.get_analytics().messages.types["news"].count_out == 3


@given(
    values=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_every_json_value_arrives_as_it_was_sent(values: Any) -> None:
    async def law() -> None:
        manager = ConnectionManager(auth=ByQuery(), clock=asyncio.get_running_loop().time)
        async with (
            manager,
            online(manager, "ann") as (text, _),
            online(manager, "ann", subprotocols=[MSGPACK]) as (binary, _),
        ):
            await manager.broadcast(news(values))
            assert got(text) == got(binary) == [values]

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(law())


# --- the end


async def test_f48_a_send_on_a_closed_connection_says_so(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann") as (peer, conn):
        await conn.close()
        with pytest.raises(ConnectionClosed, match=conn.id):
            await conn.send(NEWS)
        assert await manager.send_to_connection(conn.id, NEWS) == DeliveryReport(offline=1, failed=(conn.id,))
        assert [decoded(frame)["type"] for frame in peer.frames] == ["disconnect"]


async def test_a_send_that_finds_the_peer_gone_says_so(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    async with online(manager, "ann") as (peer, conn):
        peer.reset()
        with pytest.raises(ConnectionClosed):
            await conn.send(NEWS)


async def test_a_handler_that_finds_another_connection_closed_keeps_its_own(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(auth=ByQuery())
    others: list[Connection] = []

    @manager.on("tell")
    async def tell(conn: Connection, data: Any) -> None:
        await others[0].send(news(data))

    async with online(manager, "ann") as (ann, conn), online(manager, "ben") as (_, ben):
        others.append(ben)
        await ben.close()
        await ann.send_json({"type": "tell", "id": 1, "data": "psst"})
        assert (await ann.receive_json())["data"]["code"] == "internal_error"
        assert manager.connections() == [conn]


async def test_only_personal_messages_are_durable(make_manager: MakeManager) -> None:
    manager = make_manager()
    with pytest.raises(ConfigurationError, match="durable"):
        await manager.broadcast(NEWS, delivery=Delivery.DURABLE)
    with pytest.raises(ConfigurationError, match="durable"):
        await manager.send_to_session("tea", NEWS, delivery=Delivery.DURABLE)
