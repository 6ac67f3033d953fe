"""What every engine test needs: a manager on the loop's own clock, and proof that nothing stays behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest

from wsmanager import ConnectionManager, WebSocketConfig
from wsmanager.protocols import Handshake, Identity
from wsmanager.testing import DIRECT, UVICORN, Peer, asgi


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test holds whether messages go by ASGI, or past it; a module may have `TRANSPORTS` of its own."""
    transports = getattr(metafunc.module, "TRANSPORTS", {"asgi": UVICORN, "direct": DIRECT})
    metafunc.parametrize("transport", transports.values(), ids=transports.keys(), indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server in memory, where a test asks for no other."""
    monkeypatch.setattr(asgi, "default_server", getattr(request, "param", UVICORN))


class MakeManager(Protocol):
    def __call__(self, config: WebSocketConfig | None = None, **parts: Any) -> ConnectionManager: ...


@pytest.fixture
async def make_manager() -> AsyncGenerator[MakeManager]:
    """Makes managers whose clock is the loop's; each must be empty again once the test is over."""
    made: list[ConnectionManager] = []

    def make(config: WebSocketConfig | None = None, **parts: Any) -> ConnectionManager:
        parts.setdefault("clock", asyncio.get_running_loop().time)
        manager = ConnectionManager(config, **parts)
        made.append(manager)
        return manager

    yield make
    await asyncio.sleep(60)
    for manager in made:
        assert_empty(manager)


def assert_empty(manager: ConnectionManager) -> None:
    """Nobody is connected, nothing waits for anybody, and nothing runs."""
    figures = manager.get_analytics()
    assert set(figures.indexes.values()) == {0}, figures.indexes
    assert (figures.congested, figures.waiting, figures.errands) == (0, 0, 0)
    assert {task.state for task in figures.tasks.values()} <= {"ended"}, figures.tasks


class ByQuery:
    """An authenticator that believes what the query says: ``user=``, ``tenant=``, ``tier=``, ``scopes=``."""

    async def authenticate(self, handshake: Handshake) -> Identity:
        query = handshake.query
        return Identity(
            query.get("user", "alice"),
            tenant=query.get("tenant"),
            tier=query.get("tier"),
            scopes=frozenset(query.get("scopes", "").split()),
        )


async def ask(peer: Peer, type: str, data: Any = None, id: str | int = 1) -> Any:
    """What the server answers to one message."""
    await peer.send_json({"type": type, "data": data, "id": id})
    return await peer.receive_json(timeout=10)


async def refusal(peer: Peer, type: str, data: Any = None) -> str:
    """The code of the error that the message is answered with."""
    answer = await ask(peer, type, data)
    assert answer["type"] == "error", answer
    code: str = answer["data"]["code"]
    return code


def errors_logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The events that the package logged as errors."""
    return [getattr(record, "event", "") for record in caplog.records if record.levelno >= logging.ERROR]


@contextmanager
def no_errands(manager: ConnectionManager) -> Generator[None]:
    """As if as many errands ran as may: it would take a hundred thousand."""
    supervisor = manager.engine.supervisor
    most, supervisor._max_errands = supervisor._max_errands, 0
    yield
    supervisor._max_errands = most
