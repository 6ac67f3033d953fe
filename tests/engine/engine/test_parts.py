"""What the manager makes of the parts that an application brings, and what it refuses at once."""

from __future__ import annotations

from typing import Any

import pytest

from wsmanager import (
    AdaptiveRateLimiter,
    ConfigurationError,
    Connection,
    ConnectionHealthMonitor,
    ConnectionManager,
    Disconnect,
    JWTAuth,
    MessagePriority,
    SecurityValidator,
    Tier,
    WebSocketConfig,
)
from wsmanager.protocols import RateDecision
from wsmanager.testing import connect

from ..conftest import ByQuery, MakeManager

pytestmark = pytest.mark.anyio


class Synchronous:
    def authenticate(self, handshake: Any) -> None: ...


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"limiter": AdaptiveRateLimiter}, "limiter= takes an instance, not the class AdaptiveRateLimiter"),
        ({"health": ConnectionHealthMonitor()}, r"health= takes an object with the method score\(\)"),
        ({"auth": JWTAuth}, "auth= takes an instance"),
        ({"auth": Synchronous()}, r"authenticate\(\) of auth= must be async def"),
        ({"validator": object()}, r"the method validate_message\(\), which object lacks"),
        ({"queue": 5}, "queue= is a factory"),
        ({"codecs": ()}, "codecs= must not be empty"),
        ({"config": {"max_depth": 3}}, r"from_mapping\(\) makes one of a dict"),
    ],
)
def test_a_part_that_cannot_be_one_is_refused_at_once(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        ConnectionManager(**parts)


async def test_parts_with_the_smallest_signatures_serve(make_manager: MakeManager) -> None:
    class Limiter:
        def check_rate_limit(self, key: Any, *, cost: int = 1, now: float | None = None) -> RateDecision:
            return RateDecision(True, 1, 1)

    class Validator(SecurityValidator):
        def validate_message(self, message: Any) -> None:  # type: ignore[override]  # the smaller signature
            super().validate_message(message)

    manager = make_manager(auth=ByQuery(), limiter=Limiter(), validator=Validator())

    @manager.on("x")
    async def x(conn: Connection, data: str) -> str:
        return data

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "x", "data": "hi", "id": 1})
        assert (await peer.receive_json())["data"] == "hi"
        await peer.send_json({"type": "x", "data": "<script>", "id": 2})
        assert (await peer.receive_json())["data"]["code"] == "forbidden_pattern"


def test_a_tier_may_be_given_as_a_dict() -> None:
    config = WebSocketConfig(tiers={"pro": {"rate_factor": 2, "priority": 2}})  # type: ignore[dict-item]  # as users do
    assert config.tiers == {"pro": Tier(rate_factor=2.0, priority=MessagePriority.HIGH)}


async def test_a_priority_is_checked_whether_the_peer_is_congested_or_not(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    for priority in ("high", 9):
        with pytest.raises(ConfigurationError, match="priority must be a MessagePriority"):
            await manager.broadcast({"type": "x"}, priority=priority)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("code", [99, 1005, 1006, 2000, 5000, "x"])
async def test_a_code_that_no_close_frame_may_carry_is_refused(make_manager: MakeManager, code: Any) -> None:
    manager = make_manager(auth=ByQuery())
    async with connect(manager.endpoint) as peer:
        (conn,) = manager.connections()
        with pytest.raises(ConfigurationError, match="a close code is"):
            await conn.close(code)
        with pytest.raises(ConfigurationError, match="a close code is"):
            raise Disconnect(code)
        assert not peer.closed


async def test_a_queue_that_cannot_be_made_costs_its_own_connection_only(make_manager: MakeManager) -> None:
    def no_queue() -> Any:
        raise RuntimeError("no queue")

    manager = make_manager(auth=ByQuery(), queue=no_queue)
    async with (
        connect(manager.endpoint, query="user=stuck", window=1, stalled=True),
        connect(manager.endpoint, query="user=well") as well,
    ):
        for number in range(3):
            await manager.broadcast({"type": "x", "data": number})
        assert [(await well.receive_json())["data"] for _ in range(3)] == [0, 1, 2]
        assert [conn.user_id for conn in manager.connections()] == ["well"]


async def test_every_report_says_that_the_user_is_away(make_manager: MakeManager) -> None:
    manager = make_manager(auth=ByQuery())
    for _ in range(2):
        report = await manager.send_personal_message("ann", {"type": "x"})
        assert (report.offline, report.kept, report.failed) == (1, 1, ("ann",))
