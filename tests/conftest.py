from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from wsmanager.testing import VirtualTimeLoop

from . import profiles

settings.load_profile(profiles.PROFILE)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Tests marked ``anyio`` run on a loop of their own that never sleeps."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}
