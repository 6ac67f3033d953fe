"""The plot of the page: bars beside the bare loop, readable on light and on dark ground."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape

from .lineup import BARE, OURS, OWN_TRANSPORT
from .rows import Row
from .tables import standings_of

__all__ = ["PANELS", "svg"]

PANELS = {
    "fan-out to 1,000": "Fan-out to 1,000 subscribers: deliveries a second",
    "bursts to 1,000": "Ten messages in one turn to 1,000 subscribers: deliveries a second",
    "echo": "Echo on 50 connections: messages a second",
}
WIDTH, LABEL, NUMBER, LINE, HEAD = 760, 190, 80, 20, 40
SPAN = WIDTH - LABEL - NUMBER
STYLE = """
text { font: 13px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.name { text-anchor: end }
.other { fill: #8c959f }
.bare { fill: #57606a }
.ours { fill: #1f883d }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .other { fill: #6e7681 }
  .bare { fill: #9ea7b3 }
  .ours { fill: #3fb950 }
}
"""


def svg(rows: Iterable[Row]) -> str:
    """A panel for each figure of `PANELS`, the fastest first."""
    every = standings_of(rows)
    shapes: list[str] = []
    top = 0
    for figure, title in PANELS.items():
        panel = sorted((row for row in every if row["measure"] == figure), key=lambda row: -row["value"])
        if panel:
            shapes += _panel(title, panel, top)
            top += HEAD + LINE * len(panel)
    size = f'width="{WIDTH}" height="{top + 10}" viewBox="0 0 {WIDTH} {top + 10}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    title = "<title>Throughput beside the bare ASGI loop, which is 1</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *shapes, "</svg>", ""])


def _panel(title: str, rows: list[Row], top: int) -> Iterator[str]:
    scale = SPAN / rows[0]["value"]
    yield f'<text class="title" x="10" y="{top + 25}">{escape(title)}, bare ASGI = 1</text>'
    for place, row in enumerate(rows):
        yield from _bar(row, top + HEAD + place * LINE, scale)


def _bar(row: Row, top: int, scale: float) -> Iterator[str]:
    name, length = row["contestant"], max(1.0, row["value"] * scale)
    kind = "ours" if name in (OURS, OWN_TRANSPORT) else "bare" if name == BARE else "other"
    least = "≥ " if row["bound_by_client"] else ""
    value = f"{row['value']:.2f}" if row["value"] >= 0.1 else f"{row['value']:.3f}"
    yield f'<text class="name" x="{LABEL - 8}" y="{top + 13}">{escape(name)}</text>'
    yield f'<rect class="{kind}" x="{LABEL}" y="{top + 2}" width="{length:.1f}" height="{LINE - 5}" rx="2"/>'
    yield f'<text x="{LABEL + length + 6:.1f}" y="{top + 13}">{least}{value}</text>'
