"""Names of users, tenants, rooms, types and connections: what a good one is."""

from __future__ import annotations

import re

from .errors import InvalidName

__all__ = ["is_name", "require_name"]

# Control characters forge log lines and terminals; surrogates cannot be encoded.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_name(value: object, max_length: int = 255) -> bool:
    """Whether `value` is a non-empty text of at most `max_length` without control characters."""
    return isinstance(value, str) and 0 < len(value) <= max_length and not _FORBIDDEN.search(value)


def require_name(kind: str, value: object, max_length: int = 255) -> str:
    """`value`, or `InvalidName` saying what a `kind` name must be; the text never holds the value."""
    if not isinstance(value, str) or not is_name(value, max_length):
        raise InvalidName(
            f"A {kind} name is a text of 1 to {max_length} characters without control characters."
        )
    return value
