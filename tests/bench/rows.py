"""Figures with their bounds, as every measure returns them."""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["Row", "judged", "verdict_of"]

Row = dict[str, Any]
"""``id``, ``measure`` and ``value``; with bounds ``floor``, ``target`` and ``met``, whatever else beside."""

Verdict = Literal["target", "floor", "below target", "NOT MET", ""]


def judged(id: str, measure: str, value: float, floor: float | None, target: float, **more: Any) -> Row:
    """A figure that has bounds. Without a floor there is only a target, which may be missed.

    More is better where the target is above the floor, or there is no floor; elsewhere less is.
    """
    met = floor is None or _reaches(value, floor, floor, target)
    return {
        "id": id,
        "measure": measure,
        "value": value,
        "floor": floor,
        "target": target,
        "met": met,
        **more,
    }


def _reaches(value: float, bound: float, floor: float | None, target: float) -> bool:
    return value >= bound if floor is None or target > floor else value <= bound


def verdict_of(row: Row) -> Verdict:
    """The best bound that it reaches."""
    if "target" not in row:
        return ""
    if _reaches(row["value"], row["target"], row["floor"], row["target"]):
        return "target"
    if row["floor"] is None:
        return "below target"
    return "floor" if row["met"] else "NOT MET"
