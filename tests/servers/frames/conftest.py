from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from .stage import Stage

LOOPS = ["asyncio", "uvloop"]


@pytest.fixture(scope="session", params=LOOPS)
def stage(request: pytest.FixtureRequest) -> Generator[Stage]:
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    else:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        stage = Stage(runner)
        yield stage
        stage.close()
