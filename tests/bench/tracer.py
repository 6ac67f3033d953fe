"""Writes down which functions of the package run, one after the other."""

from __future__ import annotations

import dis
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import wsmanager

__all__ = ["Step", "Walk", "traced"]

_PACKAGE: Final = Path(wsmanager.__file__).parent
_TESTING: Final = str(_PACKAGE / "testing")
_RESUME: Final = dis.opmap["RESUME"]
# Its argument says whether a frame begins (0), or goes on after a yield or an await.
_REASON: Final = 3


class Step(NamedTuple):
    """A function of the package that was entered."""

    file: str
    name: str
    is_resumed: bool
    """True for a coroutine or generator that goes on where it had waited."""


class Walk:
    """The steps of one walk. Calls of C functions are none; comprehensions that have frames are."""

    def __init__(self, root: Path = _PACKAGE) -> None:
        self._root = f"{root}/"
        self.steps: list[Step] = []

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        """Take note as `sys.setprofile` asks it."""
        del argument
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(self._root):
            return
        if not code.co_filename.startswith(_TESTING):
            file = code.co_filename.removeprefix(self._root).removesuffix(".py")
            self.steps.append(Step(file, code.co_qualname, _goes_on(frame)))

    @property
    def calls(self) -> int:
        """How many functions were entered."""
        return sum(not step.is_resumed for step in self.steps)

    @property
    def resumed(self) -> int:
        """How often one went on."""
        return len(self.steps) - self.calls

    @property
    def files(self) -> int:
        return len({step.file for step in self.steps})

    @property
    def switches(self) -> int:
        """How often the file changes from one step to the next."""
        return sum(one.file != other.file for one, other in zip(self.steps, self.steps[1:], strict=False))


def _goes_on(frame: FrameType) -> bool:
    if frame.f_lasti < 0:
        return False
    operation, argument = frame.f_code.co_code[frame.f_lasti : frame.f_lasti + 2]
    return operation != _RESUME or argument & _REASON != 0  # else an exception is thrown into it


@contextmanager
def traced(walk: Walk) -> Generator[Walk]:
    """Write down what runs in this thread."""
    sys.setprofile(walk.note)
    try:
        yield walk
    finally:
        sys.setprofile(None)
