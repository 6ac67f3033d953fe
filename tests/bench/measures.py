"""The measures by name, for a process that runs one of them."""

from __future__ import annotations

import asyncio
from typing import Any

from .components import measure_components
from .fakes import quiet
from .growth import measure_growth
from .memory import measure_memory
from .stalled import measure_stalled

MEASURES = {
    "memory": measure_memory,
    "components": measure_components,
    "growth": measure_growth,
    "stalled": measure_stalled,
}


def run(name: str, scale: float) -> list[dict[str, Any]]:
    """The rows of one measure; `scale` is a share of the sockets."""
    quiet()
    return asyncio.run(MEASURES[name](scale))
