"""What a client may send, how much of it, and how often it may be wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wsmanager import (
    Connection,
    InboundMessage,
    InvalidMessage,
    RateLimited,
    ReplyError,
    Tier,
    WebSocketConfig,
)
from wsmanager.testing import Peer, connect

from ..conftest import ByQuery, MakeManager, ask, refusal

pytestmark = pytest.mark.anyio


# --- rights


async def test_a_type_with_scopes_is_for_those_who_have_them_all(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on("purge", scopes=["admin", "write"])
    async def purge(conn: Connection) -> str:
        return "purged"

    for scopes, allowed in [("admin write read", True), ("admin", False), ("", False)]:
        async with connect(manager.endpoint, query=f"scopes={scopes.replace(' ', '+')}") as peer:
            answer = await ask(peer, "purge", {"not": "even looked at"})
            assert (answer["type"] == "reply") is allowed
            assert allowed or answer["data"]["code"] == "forbidden"


async def test_allow_decides_by_connection_and_message(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    def own(conn: Connection, message: InboundMessage) -> bool:
        return bool(message.data == conn.user_id)

    @manager.on("rename", allow=own)
    async def rename(conn: Connection, data: str) -> str:
        return data

    async with connect(manager.endpoint, query="user=ann") as peer:
        assert (await ask(peer, "rename", "ann"))["type"] == "reply"
        assert await refusal(peer, "rename", "bob") == "forbidden"


async def test_an_allow_that_answers_later_allows_nothing(make_manager: MakeManager) -> None:
    manager = make_manager()

    def soon(conn: Connection, message: InboundMessage) -> Any:
        return asyncio.get_running_loop().create_future()

    @manager.on("rename", allow=soon)
    async def rename(conn: Connection) -> str:
        return "renamed"

    async with connect(manager.endpoint) as peer:
        assert await refusal(peer, "rename") == "internal_error"


async def test_an_allow_that_raises_allows_nothing(make_manager: MakeManager) -> None:
    manager = make_manager()

    def broken(conn: Connection, message: InboundMessage) -> bool:
        raise LookupError("no such role: secret")

    @manager.on("rename", allow=broken)
    async def rename(conn: Connection) -> str:
        return "renamed"

    async with connect(manager.endpoint) as peer:
        assert await refusal(peer, "rename") == "internal_error"


async def test_a_feature_is_for_tiers_that_have_it(make_manager: MakeManager) -> None:
    tiers = {"free": Tier(), "pro": Tier(features=frozenset({"export", "import"}))}
    manager = make_manager(WebSocketConfig(tiers=tiers), auth=ByQuery())

    @manager.on("export", features=["export"])
    async def export(conn: Connection) -> str:
        return "exported"

    for query, allowed in [("tier=pro", True), ("tier=free", False), ("tier=unheard-of", False), ("", False)]:
        async with connect(manager.endpoint, query=query) as peer:
            answer = await ask(peer, "export")
            assert (answer["type"] == "reply") is allowed
            assert allowed or answer["data"]["code"] == "forbidden"


# --- rate limits


async def accepted(peer: Peer, type: str, *, tries: int) -> int:
    """How many of so many messages were not refused for their number."""
    answers = [await ask(peer, type) for _ in range(tries)]
    assert {a["data"]["code"] for a in answers if a["type"] == "error"} <= {"rate_limited"}
    return sum(answer["type"] == "reply" for answer in answers)


async def test_the_101st_message_inside_a_minute_is_refused_and_told_when(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as peer:
        assert await accepted(peer, "x", tries=100) == 100
        answer = await ask(peer, "x")
        # Past the limit nothing is decoded, so there is no id to refer to.
        assert answer["data"].pop("message")
        retry = answer["data"].pop("retry_after_ms")
        assert answer == {"type": "error", "data": {"code": "rate_limited", "temporary": True}}
        assert 59_000 <= retry <= 61_001
        await asyncio.sleep(retry / 1000)
        assert (await ask(peer, "x"))["type"] == "reply"


async def test_the_tier_scales_the_rate_limit(make_manager: MakeManager) -> None:
    config = WebSocketConfig(
        rate_limit_max=10, tiers={"half": Tier(rate_factor=0.5), "double": Tier(rate_factor=2)}
    )
    manager = make_manager(config, auth=ByQuery())

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    for tier, limit in [("half", 5), ("none", 10), ("double", 20)]:
        async with connect(manager.endpoint, query=f"user={tier}&tier={tier}") as peer:
            assert await accepted(peer, "x", tries=25) == limit


async def test_a_costly_type_takes_more_of_the_limit(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=10))

    @manager.on("search", cost=4)
    async def search(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as peer:
        assert await accepted(peer, "search", tries=4) == 2


async def test_the_connections_of_a_user_share_one_limit_and_users_do_not(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=4), auth=ByQuery())

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with (
        connect(manager.endpoint, query="user=ann") as first,
        connect(manager.endpoint, query="user=ann") as second,
        connect(manager.endpoint, query="user=ann&tenant=other") as namesake,
    ):
        assert await accepted(first, "x", tries=3) == 3
        assert await accepted(second, "x", tries=3) == 1
        assert await accepted(namesake, "x", tries=3) == 3


async def test_a_tenant_has_a_limit_of_its_own(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(tenant_rate_limit_max=4), auth=ByQuery())

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with (
        connect(manager.endpoint, query="user=ann&tenant=a") as ann,
        connect(manager.endpoint, query="user=bob&tenant=a") as bob,
        connect(manager.endpoint, query="user=ann&tenant=b") as other,
    ):
        assert await accepted(ann, "x", tries=3) == 3
        assert await accepted(bob, "x", tries=3) == 1
        assert await accepted(other, "x", tries=3) == 3


# --- repeated offences


async def offend(peer: Peer, type: str, times: int) -> None:
    for _ in range(times):
        await peer.send_json({"type": type, "id": 1})


@pytest.mark.parametrize("offence", ["unheard-of", "scoped", "typed", "replied"])
async def test_the_21st_fault_inside_a_minute_closes_4509(make_manager: MakeManager, offence: str) -> None:
    manager = make_manager()

    @manager.on("scoped", scopes=["x"])
    async def scoped(conn: Connection) -> None: ...

    @manager.on("typed")
    async def typed(conn: Connection, data: int) -> None: ...

    @manager.on("replied")
    async def replied(conn: Connection) -> None:
        raise InvalidMessage("Not like this.")

    async with connect(manager.endpoint) as peer:
        await offend(peer, offence, 20)
        assert not peer.closed
        await offend(peer, offence, 1)
        assert await peer.wait_closed() == (4509, "too many errors")
        assert len(peer.frames) == 22  # every fault is answered, and then the goodbye


async def test_a_handlers_ordinary_refusals_are_no_faults(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("enter")
    async def enter(conn: Connection) -> None:
        raise ReplyError("No such room.", code="room_not_found")

    async with connect(manager.endpoint) as peer:
        await offend(peer, "enter", 50)
        assert not peer.closed
        assert len(peer.frames) == 50


async def test_haste_closes_4029(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(rate_limit_max=1))

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as peer:
        await offend(peer, "x", 22)
        assert await peer.wait_closed() == (4029, "rate_limited")


async def test_faults_are_forgiven_after_a_minute(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint) as peer:
        for _ in range(3):
            await offend(peer, "unheard-of", 20)
            await asyncio.sleep(60)
        assert not peer.closed


class Busy(ReplyError):
    temporary = True


@pytest.mark.parametrize("fault", [ValueError("a bug"), Busy("later"), asyncio.CancelledError()])
async def test_the_servers_own_faults_do_not_count_against_the_client(
    make_manager: MakeManager, fault: BaseException
) -> None:
    manager = make_manager()

    @manager.on("x")
    async def x(conn: Connection) -> None:
        raise fault

    async with connect(manager.endpoint) as peer:
        await offend(peer, "x", 50)
        assert len(peer.frames) == 50
        assert not peer.closed
        health = manager.get_connection_health(next(iter(manager.connections())).user_id)
        assert health.connections[0].error_rate == 0


async def test_a_limit_of_the_applications_own_counts_as_haste(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("x")
    async def x(conn: Connection) -> None:
        raise RateLimited("One vote an hour.", retry_after_ms=3_600_000)

    async with connect(manager.endpoint) as peer:
        await offend(peer, "x", 21)
        assert (await peer.wait_closed())[0] == 4029


async def test_one_fault_of_two_messages_is_an_error_rate_of_a_half(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())

    @manager.on("x")
    async def x(conn: Connection) -> None: ...

    async with connect(manager.endpoint) as peer:
        for _ in range(10):
            await offend(peer, "unheard-of", 1)
            await offend(peer, "x", 1)
        (health,) = manager.get_connection_health("alice").connections
        assert health.error_rate == 0.5
