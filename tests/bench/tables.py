"""Figures as a reader sees them: on a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .rows import Row, verdict_of

__all__ = ["absolute", "markdown", "ratio", "show", "standings_of"]


def show(rows: Sequence[Row]) -> None:
    """The table on the standard output."""
    bounded = [row for row in rows if "contestant" not in row]
    if bounded:
        _show_bounds(bounded)
    if standings_of(rows):
        _show_standings(standings_of(rows))


def _show_bounds(rows: Iterable[Row]) -> None:
    print(f"{'id':5}{'measure':72}{'value':>10}{'min':>9}{'max':>9}{'floor':>8}{'target':>8}  met")
    for row in rows:
        figures = f"{row['value']:>10.3f}"
        figures += f"{row['low']:>9.3f}{row['high']:>9.3f}" if "low" in row else " " * 18
        if "target" in row:
            floor = "" if row["floor"] is None else row["floor"]
            figures += f"{floor:>8}{row['target']:>8}  {verdict_of(row)}"
        if row.get("bound_by_client"):
            figures += ", client-bound"
        print(f"{row['id']:5}{row['measure']:72}{figures}".rstrip())


def _show_standings(rows: Iterable[Row]) -> None:
    print(f"\n{'beside the bare loop':62}{'ratio':>9}{'min':>9}{'max':>9}{'absolute':>12}  {'client':>6}")
    for row in rows:
        share = f"{row['client']:7.0%}" + (" client-bound" if row["bound_by_client"] else "")
        figures = f"{row['value']:9.3f}{row['low']:9.3f}{row['high']:9.3f}{absolute(row):>12} {share}"
        print(f"{row['measure'] + ', ' + row['unit']:36}{row['contestant']:26}{figures}")


def standings_of(rows: Iterable[Row]) -> list[Row]:
    """Those that place a contestant beside the bare loop."""
    return [row for row in rows if "contestant" in row]


def ratio(row: Row, spread: Row | None = None) -> str:
    """``1.52 (1.48 … 1.60)``; of a figure that the load generator bounds, at least that."""
    shown = row if spread is None else spread
    least = "≥ " if row.get("bound_by_client") else ""
    return f"{least}{_short(shown['value'])} ({_short(shown['low'])} … {_short(shown['high'])})"


def absolute(row: Row) -> str:
    value = row["absolute"]["value"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _short(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 or value < 0 else f"{value:.3f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_lines(head, rows)) + "\n"


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
