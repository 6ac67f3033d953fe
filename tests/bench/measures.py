"""The measures by name, for a process that runs one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from .components import measure_components
from .fakes import quiet
from .growth import measure_growth
from .memory import measure_memory
from .options import Options
from .race import measure_servers
from .rows import Row
from .stack import measure_stack
from .stalled import measure_stalled
from .walks import measure_walks

__all__ = ["MEASURES", "run"]

MEASURES: Mapping[str, Callable[[Options], Coroutine[Any, Any, list[Row]]]] = {
    "memory": measure_memory,
    "components": measure_components,
    "growth": measure_growth,
    "stack": measure_stack,
    "stalled": measure_stalled,
    "servers": measure_servers,
    "walks": measure_walks,
}


def run(name: str, options: Options) -> list[Row]:
    """The rows of one measure."""
    quiet()
    return asyncio.run(MEASURES[name](options))
