"""Log records with stable names: ``event`` and ``fields`` travel as attributes of the record.

The text is ``name key=value ...`` for people; a formatter that wants structure reads the attributes.
Values are escaped, so that no name chosen by a client can forge a line; secrets never get here.
"""

from __future__ import annotations

import logging
from typing import Any, Final

__all__ = ["LOGGER", "log_event"]

LOGGER: Final = logging.getLogger("wsmanager")
_MAX_VALUE = 200


def log_event(level: int, event: str, /, *, error: BaseException | None = None, **fields: Any) -> None:
    """Log `event` with `fields`; `error` adds its traceback."""
    if not LOGGER.isEnabledFor(level):
        return
    shown = "".join(f" {name}={_escaped(value)}" for name, value in fields.items())
    LOGGER.log(
        level, "%s%s", event, shown, exc_info=error, extra={"event": event, "fields": fields}, stacklevel=2
    )


def _escaped(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    if len(text) > _MAX_VALUE:
        text = text[:_MAX_VALUE] + "…"
    if text.isprintable() and " " not in text:
        return text
    return repr(text).encode("ascii", "backslashreplace").decode()
