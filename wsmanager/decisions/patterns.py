"""Named groups of patterns, and the plain form of a text in which they are looked for.

Every group runs in time linear in the text: substrings, and expressions whose repetitions are bounded.
"""

from __future__ import annotations

import enum
import html.entities
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = ["INJECTION", "XSS", "Pattern", "PatternCheck"]


class Pattern(enum.StrEnum):
    """The groups that come with the package."""

    XSS_SCRIPT = "xss.script"
    """``<script``."""
    XSS_FRAME = "xss.frame"
    """``<iframe``, ``<object``, ``<embed``."""
    XSS_SCHEME = "xss.scheme"
    """``javascript:``, ``vbscript:``, ``data:text/html``."""
    XSS_HANDLER = "xss.handler"
    """``onclick=`` and its like: a known event as a word of its own; any ``on…=`` once a tag has begun.

    ``is online = true`` passes, ``<b>is online = true`` does not.
    """
    SQL = "injection.sql"
    """``' or 1=1``, ``union select``, ``; drop table``, ``'--``."""
    NOSQL = "injection.nosql"
    """Keys such as ``$where`` and ``$ne``."""


XSS: Final = frozenset({Pattern.XSS_SCRIPT, Pattern.XSS_FRAME, Pattern.XSS_SCHEME, Pattern.XSS_HANDLER})
"""What is blocked unless configured."""
INJECTION: Final = frozenset({Pattern.SQL, Pattern.NOSQL})
"""What is reported unless configured: people do write such texts."""

PatternCheck: TypeAlias = re.Pattern[str] | Callable[[str], object]
"""A pattern of the application: what it finds in one decoded text (or a true answer) is a hit.

It sees every text as the client sent it: the type, values and keys. It must take linear time.
"""


# --- The plain form: ASCII, lower case, entities decoded, nothing invisible.

_SEPARATOR: Final = "\x01"  # between the texts of a message; the plain form has no other control character
_ROUNDS: Final = 3  # how often a text may have been encoded
_LOWER: Final = bytes(range(256)).lower()
_CONTROLS: Final = bytes({*range(32), 127} - {*b"\t\n\v\f\r", ord(_SEPARATOR)})
_WIDE: Final = re.compile("[\uff01-\uff5e]")
_WIDE_OFFSET: Final = 0xFF01 - ord("!")
_INVISIBLE: Final = re.compile(  # C1 controls and Unicode's Default_Ignorable_Code_Point
    "[\x80-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]+"
)


def _narrowed(text: str) -> str:
    """`text` with full-width forms as the ASCII characters that a normalising reader makes of them."""
    return text if text.isascii() else _WIDE.sub(lambda wide: chr(ord(wide[0]) - _WIDE_OFFSET), text)


def _plain(text: str) -> str:
    if not text.isascii():
        text = " ".join(_INVISIBLE.sub("", text).split())
    return _unescaped(_tidied(text.encode("ascii", "replace")))


def _tidied(data: bytes) -> str:
    return b" ".join(data.translate(_LOWER, _CONTROLS).split()).decode()


def _unescaped(text: str) -> str:
    for _ in range(_ROUNDS):
        decoded = _ENTITY.sub(_character, text)
        if decoded == text:
            break
        text = _tidied(decoded.encode())
    return text


def _character(entity: re.Match[str]) -> str:
    hexadecimal, decimal, name = entity.groups()
    if name:
        return _NAMED.get(name, entity[0])
    digits = (hexadecimal or decimal).lstrip("0")[:8]  # more are no character, and slow to read
    return _ascii(int(digits or "0", 16 if hexadecimal else 10))


def _ascii(code: int) -> str:
    """What stands for a character in the plain form; never the separator."""
    character = _narrowed(chr(code)) if code <= 0x10FFFF else "?"
    if character.isspace():
        return " "
    if character < " " or _INVISIBLE.match(character):
        return ""
    return character if character.isascii() else "?"


_NAMED: Final[Mapping[str, str]] = {
    name.rstrip(";").lower(): _ascii(ord(value))
    for name, value in html.entities.html5.items()
    if len(value) == 1 and _ascii(ord(value)) != "?"
}
_UNENDED: Final = "|".join(name for name in html.entities.html5 if name in _NAMED)
_ENTITY: Final = re.compile(f"&(?:#(?:x([0-9a-f]+)|([0-9]+));?|({_UNENDED}|[a-z0-9]{{2,24}}(?=;));?)")


class Content:
    """The texts of one message, as they are and in the plain form."""

    __slots__ = ("_objects", "compact", "spaced", "texts")

    def __init__(self, texts: Sequence[str], objects: Sequence[Mapping[Any, Any]], text: str) -> None:
        """`text` is what `joined` makes of `texts`, which hold the keys of `objects` too."""
        self.texts = texts
        """Type, keys and values, as the client sent them."""
        self.spaced = _plain(text)
        """The plain form of all texts, with one space for every run of white space."""
        self.compact = _unescaped(self.spaced.replace(" ", ""))
        """The plain form without white space."""
        self._objects = objects

    def keys(self) -> str:
        """The plain form of all keys, without white space."""
        keys = [key for each in self._objects for key in each if isinstance(key, str)]
        return _plain(joined(keys)).replace(" ", "")


def joined(texts: Sequence[str]) -> str:
    """The texts with the separator between them and nowhere else, and no full-width forms."""
    text = _SEPARATOR.join(texts)
    if text.count(_SEPARATOR) >= len(texts):  # a client wrote one
        text = _SEPARATOR.join([each.replace(_SEPARATOR, "") for each in texts])
    return _narrowed(text)


# --- The groups.


class Group(NamedTuple):
    """How a group is found, and what a text that holds it cannot be without.

    Where `matches` is true, the compact form of the texts holds one of the characters `signs` or one of
    the `words`. A group that names none is asked about every message.
    """

    matches: Callable[[Content], bool]
    signs: str = ""
    words: tuple[str, ...] = ()


def checked_by(check: PatternCheck) -> Group:
    """A pattern of the application as a group."""
    finds = check.search if isinstance(check, re.Pattern) else check
    return Group(lambda content: any(finds(text) for text in content.texts))


def _script(content: Content) -> bool:
    return "<script" in content.compact


def _frame(content: Content) -> bool:
    text = content.compact
    return "<" in text and ("<iframe" in text or "<object" in text or "<embed" in text)


def _scheme(content: Content) -> bool:
    text = content.compact
    return "javascript:" in text or "vbscript:" in text or "data:text/html" in text


_EVENTS: Final = (
    "abort|activate|after|animation|auxclick|before|begin|blur|bounce|cancel|canplay|change|click|close|"
    "command|context|copy|cuechange|cut|dblclick|device|drag|drop|duration|emptied|end|error|finish|focus|"
    "formdata|fullscreen|gamepad|gesture|gotpointer|hashchange|input|invalid|key|language|load|"
    "lostpointer|message|mouse|move|offline|online|orientation|page|paste|pause|play|pointer|popstate|"
    "progress|property|ratechange|ready|rejection|repeat|reset|resize|row|scroll|search|security|seek|"
    "select(?!ed)|show|slotchange|stalled|start|stop|storage|submit|suspend|timeout|timeupdate|toggle|"
    "touch|transition|unhandled|unload|volumechange|waiting|webkit|wheel|zoom"
)
_HANDLER: Final = re.compile(rf"on(?<![a-z0-9_.$-]on)(?:{_EVENTS})[a-z]{{0,30}} ?=")
_BROKEN_HANDLER: Final = re.compile(rf"on(?:{_EVENTS})[a-z]{{0,30}}=")
_ATTRIBUTE: Final = re.compile(r"[ /\"'`]on[a-z]{2,40} ?=")
_TAG: Final = re.compile(r"<[a-z]")
_SPELLED: Final = re.compile(r" (?<=\b[a-z] )(?=[a-z]\b)")


def _handler(content: Content) -> bool:
    if "=" not in content.compact:
        return False
    text = _SPELLED.sub("", content.spaced)
    return bool(_HANDLER.search(text)) or ("<" in text and any(map(_in_tag, text.split(_SEPARATOR))))


def _in_tag(text: str) -> bool:
    # A tag is never seen to end: the ">" of a quoted value would hide what follows it.
    tag = _TAG.search(text)
    if tag is None:
        return False
    rest = text[tag.start() :]
    return bool(_ATTRIBUTE.search(rest) or _BROKEN_HANDLER.search(rest.replace(" ", "")))


_TAUTOLOGY: Final = re.compile(
    r"""['"] ?\)? ?(?:or|and)\b ?\(? ?['"]?([a-z0-9]{0,20})['"]? ?= ?['"]?\1(?![a-z0-9])"""
)
_UNION: Final = re.compile(r"union(?<!\wunion)[ +(/*]{1,8}(?:(?:all|distinct)[ +(/*]{1,8})?select\b")
_STACKED: Final = re.compile(
    r"; ?(?:(?:drop|truncate|alter|create) (?:table|database|schema|view|user)|delete from|insert into)\b"
)
_OPERATOR: Final = re.compile(
    r"\$(?<![^\x01.\[]\$)(?:accumulator|all|and|elemmatch|eq|exists|expr|function|gte?|in|jsonschema|lookup|"
    r"lte?|mod|ne|nin|nor|not|or|regex|size|type|where)(?![a-z])"
)


def _sql(content: Content) -> bool:
    text = content.spaced
    return bool(
        "'--" in text
        or ("=" in text and _TAUTOLOGY.search(text))
        or (";" in text and ("';--" in text or "');--" in text or _STACKED.search(text)))
        or ("union" in text and _UNION.search(text))
    )


def _nosql(content: Content) -> bool:
    return "$" in content.compact and bool(_OPERATOR.search(content.keys()))


GROUPS: Final[Mapping[str, Group]] = {
    Pattern.XSS_SCRIPT: Group(_script, signs="<"),
    Pattern.XSS_FRAME: Group(_frame, signs="<"),
    Pattern.XSS_SCHEME: Group(_scheme, words=("script:", "data:text/html")),
    Pattern.XSS_HANDLER: Group(_handler, signs="="),
    Pattern.SQL: Group(_sql, signs="=;", words=("union", "'--")),
    Pattern.NOSQL: Group(_nosql, signs="$"),
}
