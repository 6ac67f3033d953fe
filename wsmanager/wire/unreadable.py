"""Finds out what is wrong with a frame that could not be read.

It looks at the frame and at nothing else: the errors of a decoder change their class and their text from one
release to the next, and clients act on the codes. Only frames that failed come here. No frame makes it
raise or recurse, and its time is linear in the size of the frame.
"""

from __future__ import annotations

import math
import re
from itertools import accumulate
from typing import Final, Literal, TypeAlias

from ..errors import InvalidMessage
from ..messages import Frame

__all__ = ["bad_key", "fault_of_json", "fault_of_msgpack", "fault_of_strict_json"]

_DEEP: Final = 128
"""More levels than these explain a failure. Decoders recurse, so that their own limit is that of a stack."""


def bad_key() -> InvalidMessage:
    """Return the error for an object with a key that is no text."""
    return InvalidMessage("The keys of a message are texts.", code="bad_key")


def _bad_unicode() -> InvalidMessage:
    return InvalidMessage("A text of the message holds a lone surrogate or bad UTF-8.", code="bad_unicode")


def _too_deep() -> InvalidMessage:
    return InvalidMessage("The message is nested too deep.", code="too_deep")


# --- JSON: RFC 8259

_HEX: Final = "[0-9a-fA-F]"
_GOOD_ESCAPE: Final = re.compile(
    rf"\\(?:[^u]|u(?:[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}|(?![dD][89a-fA-F]){_HEX}{{4}}))",
    re.DOTALL,
)
_STRING: Final = re.compile(r'"[^"]*"?')
_SURROGATE: Final = re.compile(rf"[\ud800-\udfff]|\\u[dD][89a-fA-F]{_HEX}{{2}}")
_NO_BRACKETS: Final = re.compile(r"[^\[\]{}]+")
_STEPS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}

# Where a value may stand: somebody may write about NaN without meaning one.
_NOT_FINITE: Final = re.compile(r"(?:\A|[\[,:])\s*-?(?:NaN|Infinity)\s*(?:\Z|[\],}])")
# A number is looked at from its first character alone, or time would be quadratic in its length.
_BEGINS: Final = r"[-0-9](?<![0-9.eE+-].)"
_FLOAT: Final = re.compile(_BEGINS + r"[0-9]*(?<=[0-9])(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)")
# Of more than 4300 characters, which is where Python's own conversion ends.
_HUGE: Final = re.compile(_BEGINS + r"[0-9]{4300,}(?![0-9.eE])")


def fault_of_json(frame: Frame) -> InvalidMessage:
    """Return the error for a frame that could not be read as JSON.

    NaN and Infinity, which some encoders write, are ``bad_number``; the rest is as in `fault_of_strict_json`.
    """
    fault = fault_of_strict_json(frame)
    if fault.code == "not_json" and _NOT_FINITE.search(_STRING.sub('""', _without_escapes(frame))):
        return InvalidMessage("NaN and Infinity are no JSON numbers.", code="bad_number")
    return fault


def fault_of_strict_json(frame: Frame) -> InvalidMessage:
    """Return the error for a frame that could not be read as JSON, in which NaN is just a word.

    Of several faults the first of these counts: a surrogate in a text frame, too many levels, bad Unicode in
    a string, a number out of range. The rest is ``not_json``.
    """
    if isinstance(frame, str) and not _is_unicode(frame):
        return _bad_unicode()
    text = _without_escapes(frame)
    bare = _STRING.sub('""', text)
    if _is_deep(bare):
        return _too_deep()
    # Bad bytes outside of strings are no text of a message: such a frame is not JSON at all.
    if _SURROGATE.search("".join(_STRING.findall(text))):
        return _bad_unicode()
    if _HUGE.search(bare) or math.inf in map(abs, map(float, _FLOAT.findall(bare))):
        return InvalidMessage("A number is out of range.", code="bad_number")
    return InvalidMessage("The message is not JSON.", code="not_json")


def _without_escapes(frame: Frame) -> str:
    """Return text in which a backslash is a bad one and each quote begins or ends a string."""
    text = frame if isinstance(frame, str) else frame.decode("utf-8", "surrogateescape")
    return _GOOD_ESCAPE.sub("x", text)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_deep(bare: str) -> bool:
    steps = map(_STEPS.__getitem__, _NO_BRACKETS.sub("", bare))
    return max(accumulate(steps), default=0) > _DEEP


# --- MessagePack: https://github.com/msgpack/msgpack/blob/master/spec.md

_Kind: TypeAlias = Literal["byte", "plain", "text", "ext", "array", "map", "never"]
_Head: TypeAlias = tuple[_Kind, int, int]
"""What the first byte of a value says: its kind; the bytes, items or pairs that follow; and how many bytes
hold a number that adds to them."""


def _heads() -> tuple[_Head, ...]:
    heads: list[_Head] = [("byte", 0, 0)] * 256
    heads[0x80:0x90] = [("map", size, 0) for size in range(16)]
    heads[0x90:0xA0] = [("array", size, 0) for size in range(16)]
    heads[0xA0:0xC0] = [("text", size, 0) for size in range(32)]
    heads[0xC1] = ("never", 0, 0)
    heads[0xC4:0xC7] = [("plain", 0, width) for width in (1, 2, 4)]
    heads[0xC7:0xCA] = [("ext", 1, width) for width in (1, 2, 4)]  # one byte more, for the extension's type
    heads[0xCA:0xD4] = [("plain", size, 0) for size in (4, 8, 1, 2, 4, 8, 1, 2, 4, 8)]
    heads[0xD4:0xD9] = [("ext", 1 + size, 0) for size in (1, 2, 4, 8, 16)]
    heads[0xD9:0xDC] = [("text", 0, width) for width in (1, 2, 4)]
    heads[0xDC:0xDE] = [("array", 0, width) for width in (2, 4)]
    heads[0xDE:0xE0] = [("map", 0, width) for width in (2, 4)]
    return tuple(heads)


_HEADS: Final = _heads()
_END: Final[_Head] = ("never", 0, 0)
_BYTES: Final = re.compile(rb"[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]+")
_TIMESTAMP: Final = 0xFF  # -1
_FIRST_SECOND: Final = -62_135_596_800  # 0001-01-01
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31


def fault_of_msgpack(frame: bytes) -> InvalidMessage:
    """Return the error for a frame that could not be read as MessagePack.

    The first fault counts, and a container in the place of a key only where there is no other.
    """
    at, left, paired = 0, 1, False  # `left` values of the innermost container are still to come
    around: list[tuple[int, bool]] = []
    odd_key = False
    while left or around:
        if not left:
            left, paired = around.pop()
            continue
        kind, size, width = _HEADS[frame[at]] if at < len(frame) else _END
        at += 1 + width
        if width:  # a frame that ends within the number ends before the value, too
            size += int.from_bytes(frame[at - width : at], "big")
        if kind == "array" or kind == "map":
            odd_key = odd_key or (paired and left % 2 == 0)
            around.append((left - 1, paired))
            left, paired = (2 * size, True) if kind == "map" else (size, False)
            if len(around) > _DEEP:
                return _too_deep()
        elif kind == "byte":  # often one of many, which are passed over at once
            left, at = _behind_bytes(frame, at, left - 1)
        else:
            left, at = left - 1, at + size
            if fault := _fault_of_one(kind, size, frame[at - size : at]):
                return fault
    return bad_key() if odd_key and at == len(frame) else _not_msgpack()


def _behind_bytes(frame: bytes, at: int, left: int) -> tuple[int, int]:
    """Return how many of `left` values remain behind those of one byte at `at`, and where."""
    end = at
    if run := _BYTES.match(frame, at, min(at + left, len(frame))):
        end = run.end()
    return left - (end - at), end


def _fault_of_one(kind: _Kind, size: int, body: bytes) -> InvalidMessage | None:
    if kind == "never" or len(body) < size:
        return _not_msgpack()
    if kind == "text" and not _is_utf8(body):
        return _bad_unicode()
    if kind == "ext":
        return _fault_of_extension(body[0], body[1:])
    return None


def _fault_of_extension(code: int, data: bytes) -> InvalidMessage | None:
    if code != _TIMESTAMP:
        return InvalidMessage(f"MessagePack extension {code} is not understood.", code="bad_value")
    if len(data) not in {4, 8, 12} or not _is_moment(data):
        return InvalidMessage("A timestamp is out of range.", code="bad_number")
    return None


def _is_moment(data: bytes) -> bool:
    """Tell whether a timestamp has less than a second of nanoseconds, and a year that Python knows."""
    if len(data) == 8:
        nanoseconds, seconds = divmod(int.from_bytes(data, "big"), 2**34)
    else:
        nanoseconds, seconds = int.from_bytes(data[:-8], "big"), int.from_bytes(data[-8:], "big", signed=True)
    return nanoseconds < 10**9 and _FIRST_SECOND <= seconds <= _LAST_SECOND


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_msgpack() -> InvalidMessage:
    return InvalidMessage("The message is not MessagePack.", code="not_msgpack")
