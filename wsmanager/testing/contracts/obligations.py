"""How a check says that an obligation is not met."""

from __future__ import annotations

__all__ = ["require", "require_code", "require_type"]


def require(kept: bool, obligation: str) -> None:
    """Raises `AssertionError` with the obligation that was not `kept`."""
    if not kept:
        raise AssertionError(obligation)


def require_type(value: object, kind: type | tuple[type, ...], obligation: str) -> None:
    """As `require`, for what type checkers believe already, and a part of somebody else may not keep."""
    require(isinstance(value, kind), obligation)


def require_code(code: object, method: str) -> str:
    """The code of an error that `method` raised."""
    if not isinstance(code, str) or not code:
        raise AssertionError(f"{method} must raise its errors with a code, a text that is not empty")
    return code
