from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

from wsmanager.testing import VirtualTimeLoop

settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("night", deadline=None, print_blob=True, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Tests marked ``anyio`` run on a loop of their own that never sleeps."""
    return "asyncio", {"loop_factory": VirtualTimeLoop}
