"""Log records with stable names: ``event`` and ``fields`` travel as attributes of the record.

The text is ``name key=value ...`` for people; a formatter that wants structure reads the attributes.
Values and tracebacks are escaped, so that nothing chosen by a client can forge a line or move a
terminal's cursor; secrets never get here.
"""

from __future__ import annotations

import logging
import textwrap
import traceback
from typing import Any, Final, Protocol

from .protocols import Clock, Observer, Seen

__all__ = ["LOGGER", "Journal", "Note", "log_event"]

LOGGER: Final = logging.getLogger("wsmanager")
_MAX_VALUE: Final = 200
_MAX_TRACEBACK: Final = 10_000


def log_event(
    level: int,
    event: str,
    /,
    *,
    error: BaseException | None = None,
    stacklevel: int = 1,
    **fields: Any,
) -> None:
    """Log `event` with `fields`; `error` adds its traceback."""
    if not LOGGER.isEnabledFor(level):
        return
    fields = {name: _bounded(value) for name, value in fields.items()}
    shown = "".join(f" {name}={_escaped(value)}" for name, value in fields.items())
    extra = {"event": event, "fields": fields}
    LOGGER.log(level, "%s%s", event, shown, exc_info=error, extra=extra, stacklevel=stacklevel + 1)


class Note(Protocol):
    """Logs an event, as `log_event` does."""

    def __call__(
        self, level: int, event: str, /, *, error: BaseException | None = None, **fields: Any
    ) -> None: ...


class Journal:
    """What happens in one manager: to the log, and to its observer, if it has one."""

    __slots__ = ("_clock", "observer")

    def __init__(self, clock: Clock, observer: Observer | None) -> None:
        self._clock = clock
        self.observer = observer

    def note(self, level: int, event: str, /, *, error: BaseException | None = None, **fields: Any) -> None:
        """Log `event`, and show it to the observer."""
        log_event(level, event, error=error, stacklevel=2, **fields)
        if self.observer is not None:
            self.show(event, level=level, error=error, **fields)

    def show(
        self, event: str, /, *, level: int = logging.DEBUG, error: BaseException | None = None, **fields: Any
    ) -> None:
        """Show `event` to the observer alone. A fault of the observer is logged, and harms nobody."""
        if self.observer is None:
            return
        try:
            self.observer.saw(Seen(event, level, self._clock(), fields, error))
        except Exception as fault:
            log_event(logging.ERROR, "observer.failed", error=fault, seen=event)


def _bounded(value: Any) -> Any:
    """What a client made up may be of any length, and what a formatter reads must not."""
    return value[:_MAX_VALUE] + "…" if isinstance(value, str) and len(value) > _MAX_VALUE else value


def _escaped(value: Any) -> str:
    text = value if isinstance(value, str) else _bounded(repr(value))
    if text.isprintable() and " " not in text:
        return text
    return repr(text).encode("ascii", "backslashreplace").decode()


def _escape_traceback(record: logging.LogRecord) -> bool:
    """Formatters print ``exc_text`` where it is set. An exception may quote what a client sent: its
    lines are indented, so that none looks like a record, and what cannot be printed is escaped."""
    if record.exc_info and not record.exc_text:
        text = "".join(traceback.format_exception(record.exc_info[1]))[:_MAX_TRACEBACK]
        record.exc_text = textwrap.indent("".join(map(_printable, text)).rstrip(), "  ", lambda _: True)
    return True


def _printable(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return character.encode("unicode_escape").decode()


LOGGER.addFilter(_escape_traceback)
