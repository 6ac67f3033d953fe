"""How codecs of the tests see what they are to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["type_of"]


def type_of(message: Any) -> str:
    """The type of a message: of a mapping as applications send them, or of a word of the manager's own."""
    kind: str = message["type"] if isinstance(message, Mapping) else message.type
    return kind
