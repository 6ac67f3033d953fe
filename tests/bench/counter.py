"""Says to callgrind, from inside of the program that it runs, which stretch to count."""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

# How a program speaks to valgrind on x86-64 (valgrind/valgrind.h): rotations by 128 bits in all and an
# exchange of a register with itself, which do nothing on a processor. The request is where rax points to.
#   mov rax, rdi; xor edx, edx; rol rdi, 3; rol rdi, 13; rol rdi, 61; rol rdi, 51; xchg rbx, rbx;
#   mov rax, rdx; ret
_SPEAK: Final = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")
_ZERO_STATS, _DUMP_STATS_AT, _START_INSTRUMENTATION = (
    (ord("C") << 24 | ord("T") << 16) + number for number in (1, 3, 4)
)


class Counter:
    """Counts nothing, and harms nothing, in a program that valgrind does not run."""

    def __init__(self) -> None:
        self._code = mmap.mmap(-1, len(_SPEAK), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._code.write(_SPEAK)
        self._first = ctypes.c_char.from_buffer(self._code)
        self._speak = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(self._first))

    def start(self) -> None:
        """Start to watch the program, which makes it slower from here on."""
        self._ask(_START_INSTRUMENTATION)

    def zero(self) -> None:
        """Count from here on."""
        self._ask(_ZERO_STATS)

    def dump(self, name: str) -> None:
        """Write what was counted to a file that says `name`."""
        text = ctypes.create_string_buffer(name.encode())
        self._ask(_DUMP_STATS_AT, ctypes.addressof(text))

    def _ask(self, request: int, argument: int = 0) -> None:
        words = (ctypes.c_uint64 * 6)(request, argument)
        self._speak(ctypes.addressof(words))
