"""What a client makes up takes no memory, becomes no metric, and tells it nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.engine.conftest import ByQuery, MakeManager
from tests.faults.doors import EVERY_DOOR, Door
from wsmanager import ALL, AdaptiveRateLimiter, Connection, WebSocketConfig
from wsmanager.decisions.rate_limit import TokenBuckets
from wsmanager.testing import HandshakeRefused, PeerClosed, connect

pytestmark = pytest.mark.anyio

MILLION = 1_000_000


# --- f26: rooms


class Doorman:
    """Lets nobody in but who is expected; `pause` is the time it takes over that."""

    def __init__(self, pause: float | None) -> None:
        self.pause = pause

    def may_join(self, conn: Connection, room: str) -> Any:
        return self._answer(conn.user_id == "owner")

    def may_publish(self, conn: Connection, room: str) -> Any:
        return self._answer(conn.user_id == "owner")

    def _answer(self, allowed: bool) -> Any:
        return allowed if self.pause is None else self._later(allowed)

    async def _later(self, allowed: bool) -> bool:
        await asyncio.sleep(self.pause or 0.0)
        return allowed


@pytest.mark.parametrize("tenant", ["", "&tenant=other"])
@pytest.mark.parametrize("pause", [None, 0, 3])
async def test_f26_nothing_that_a_stranger_asks_tells_whether_a_room_exists(
    make_manager: MakeManager, pause: float | None, tenant: str
) -> None:
    config = WebSocketConfig(max_rooms_per_connection=1)
    manager = make_manager(config, auth=ByQuery(), authorizer=Doorman(pause))
    app = manager.endpoint
    async with connect(app, query="user=owner") as owner, connect(app, query="user=eve" + tenant) as eve:
        await owner.send_json({"type": "session.join", "data": {"room": "secret"}, "id": 1})
        assert (await owner.receive_json())["type"] == "reply"
        (spy,) = manager.connections(tenant=ALL, where=lambda conn: conn.user_id == "eve")
        for joined in (False, True):  # and when it may join no more rooms anyway
            if joined:
                await manager.join_session(spy, "her own")
            for way in ("join", "leave"):
                answers = []
                for room in ("secret", "absent"):
                    started = asyncio.get_running_loop().time()
                    await eve.send_json({"type": f"session.{way}", "data": {"room": room}, "id": 1})
                    answer = msgspec.json.encode(await eve.receive_json()).replace(room.encode(), b"")
                    answers.append((answer, asyncio.get_running_loop().time() - started))
                assert answers[0] == answers[1]
                assert (b"forbidden" in answers[0][0]) is (way == "join")
        assert [conn.user_id for conn in manager.connections(room="secret")] == ["owner"]


# --- f29: limiters


def test_f29_a_million_users_never_exceed_the_cap_and_reset_nobody() -> None:
    limiter = AdaptiveRateLimiter(5, window=60.0, bonus=0.0)
    cap, largest, passed = 200_000, 0, 0
    for number in range(MILLION):
        now = number * 50.0 / MILLION
        limiter.check_rate_limit(number, now=now)
        largest = max(largest, len(limiter))
        if number % 1_000 == 0:
            passed += bool(limiter.check_rate_limit("greedy", now=now))
    assert largest <= cap
    assert passed == 5  # all within one window, whoever came in between
    assert limiter.overflowed > 0
    assert limiter.check_rate_limit("greedy", now=200.0)


def test_f29_a_million_addresses_never_exceed_the_cap_and_reset_nobody() -> None:
    buckets = TokenBuckets(5.0, 100)
    cap, largest, passed = 100_000, 0, 0
    for number in range(MILLION):
        now = number * 18.0 / MILLION
        buckets.take(number, now=now)
        largest = max(largest, len(buckets))
        if number % 1_000 == 0:
            passed += bool(buckets.take("greedy", now=now))
    assert largest <= cap
    assert passed <= 100 + 5 * 18
    assert buckets.overflowed > 0


# --- f31: figures


def series(value: Any, path: str = "") -> Iterator[str]:
    """Every figure under the name that a metric would have."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from series(inner, f"{path}.{key}")
    else:
        yield path


@EVERY_DOOR
async def test_f31_no_client_makes_up_a_series(make_manager: MakeManager, door: Door) -> None:
    config = WebSocketConfig(handshake_burst=10_000, handshake_rate=1e6, max_connections_per_user=3)
    manager = make_manager(config, auth=ByQuery(), authorizer=Doorman(None))
    app = door(manager)
    counts = []
    for hundred in range(1, 7):
        for number in range(100 * hundred, 100 * (hundred + 1)):
            await invent(app, f"made-up-{number}", 3_000 + number)
        figures = msgspec.to_builtins(manager.get_analytics(), str_keys=True)
        names = list(series(figures))
        assert not any("made-up" in name for name in names)
        counts.append(len(names))
    assert counts[-1] == counts[-2] == counts[-3]
    assert counts[-1] < 100 + counts[0]  # close codes, which are a client's to choose, up to a hundred


async def invent(app: Any, word: str, close_code: int) -> None:
    """Put `word` wherever a client has a word to say."""
    options: dict[str, Any] = {
        "path": f"/{word}",
        "query": f"user=owner&tenant={word}&tier={word}&scopes={word}&{word}={word}",
        "headers": [("user-agent", word), (f"x-{word}", word)],
        "subprotocols": [word],
    }
    with contextlib.suppress(HandshakeRefused, PeerClosed):
        async with connect(app, **options) as peer:
            for message in (
                {"type": word, "data": word, "id": word},
                {"type": "echo", "data": word, "id": word, word: word},
                {"type": "session.join", "data": {"room": word}},
                {"type": "session.leave", "data": {word: word}},
                {"type": "error", "data": {"code": word}},
            ):
                await peer.send_json(message)
            await peer.send_text(word)
            await peer.close(close_code, word)
