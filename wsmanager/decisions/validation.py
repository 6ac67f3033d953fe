"""Decides whether a decoded message may reach the application: its shape, its bounds, its texts."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ..errors import ConfigurationError, InvalidMessage, SuspiciousMessage
from ..messages import Frame, InboundMessage
from ..wire.unreadable import fault_of_strict_json
from .patterns import GROUPS, INJECTION, XSS, Content, Group, PatternCheck, checked_by, joined

__all__ = ["SecurityValidator"]

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**64 - 1


class SecurityValidator:
    """A `MessageValidator` that bounds what a message may be and looks for hostile patterns in it.

    It raises `InvalidMessage` with one of the codes

    - ``not_object``, ``missing_type``, ``invalid_type`` (empty, longer than `max_name_length`, or with
      characters that cannot be printed), and for frames ``not_json``;
    - ``too_large`` (more than `max_size` bytes; without a frame, more characters and items than fit
      one), ``too_deep`` (more than `max_depth` levels, the message itself being the first),
      ``too_many_items`` (more than `max_items` in one array or object);
    - ``bad_unicode`` (a lone surrogate), ``bad_number`` (not finite, or an integer outside
      ``-2**63 .. 2**64-1``, which not every codec can express),

    and `SuspiciousMessage` with the code ``forbidden_pattern``.

    `block` and `report` are names: those of `Pattern`, and those of `patterns`, which adds patterns of
    the application. A blocked pattern refuses the message; a reported one counts in `reports` and calls
    ``on_report(type, pattern)``, which must neither block nor raise. `overrides` gives the names that
    are blocked for one message type instead of `block`: ``{"code.paste": frozenset()}``.

    Patterns are looked for in the decoded type, keys and values at any depth, through upper case,
    full-width forms, HTML entities (encoded up to three times over), control and invisible characters,
    and white space inside of words. Time is linear in the size of the message, whatever it holds.

    It does not replace output encoding. It stops common attacks early and makes them visible; it knows
    neither where a text will be shown nor how, so the application must still escape what it displays
    and bind the parameters of its queries.
    """

    def __init__(
        self,
        *,
        max_size: int = 1_048_576,
        max_depth: int = 32,
        max_items: int = 10_000,
        max_name_length: int = 255,
        block: Collection[str] = XSS,
        report: Collection[str] = INJECTION,
        overrides: Mapping[str, Collection[str]] = MappingProxyType({}),
        patterns: Mapping[str, PatternCheck] = MappingProxyType({}),
        on_report: Callable[[str, str], object] | None = None,
    ) -> None:
        """Raises `ConfigurationError` for a limit below one and for a name that stands for no pattern."""
        _refuse_limits(
            max_size=max_size, max_depth=max_depth, max_items=max_items, max_name_length=max_name_length
        )
        self._max_size = max_size
        self._max_depth = max_depth
        self._max_items = max_items
        self._max_name_length = max_name_length
        self._on_report = on_report
        groups = _groups(patterns, used=chain(block, report, *overrides.values()))
        self._reports = dict.fromkeys(sorted(report), 0)
        short = min(max_size, max_items)
        self._default = _Rules(groups, block, report, max_depth, short)
        self._overrides = {
            type: _Rules(groups, names, report, max_depth, short) for type, names in overrides.items()
        }

    @property
    def reports(self) -> Mapping[str, int]:
        """How many messages held each reported pattern; a live view."""
        return MappingProxyType(self._reports)

    def validate_message(
        self, message: InboundMessage | Mapping[str, Any] | Frame, *, raw: Frame | None = None
    ) -> None:
        """Return, or raise `InvalidMessage` (or a subclass) with a stable code.

        A frame in the place of `message` is measured, then decoded as JSON. `raw` must be the JSON or
        MessagePack frame that msgspec decoded `message` from; leave it out for any other encoding. It
        does not change the answer: a frame that cannot hold anything to refuse passes without a walk.
        """
        if isinstance(message, InboundMessage):
            type: Any = message.type
        else:
            message, type, raw = self._shaped(message, raw)
        if not (isinstance(type, str) and 0 < len(type) <= self._max_name_length and type.isprintable()):
            raise InvalidMessage("The type of a message is a short, printable text.", code="invalid_type")
        rules = self._overrides.get(type, self._default)
        try:
            if raw is not None:
                if rules.clear(raw):
                    return
                self._refuse_large(raw)
            self._inspect(message, type, rules)
        except UnicodeEncodeError:
            raise _bad_unicode() from None

    def _shaped(
        self, message: Mapping[str, Any] | Frame, raw: Frame | None
    ) -> tuple[Mapping[str, Any], Any, Frame | None]:
        if isinstance(message, (str, bytes)):
            raw = message
            self._refuse_large(raw)
            message = _decoded(raw)
        if not isinstance(message, Mapping):
            raise InvalidMessage("A message is an object.", code="not_object")
        if "type" not in message:
            raise InvalidMessage("The message has no type.", code="missing_type")
        return message, message["type"], raw

    def _refuse_large(self, frame: Frame) -> None:
        size = len(frame)
        if isinstance(frame, str) and size <= self._max_size < 4 * size:
            size = len(frame.encode("utf-8", "surrogatepass"))
        if size > self._max_size:
            raise self._too_large()

    def _too_large(self) -> InvalidMessage:
        return InvalidMessage(f"The message is larger than {self._max_size} bytes.", code="too_large")

    def _inspect(self, message: InboundMessage | Mapping[str, Any], type: str, rules: _Rules) -> None:
        texts, objects = self._opened(message)
        text = joined(texts)
        if rules.clear(text):
            return
        content = Content(texts, objects, text)
        for name, group in rules.blocked:
            if group.matches(content):
                raise SuspiciousMessage(f"The message holds a forbidden pattern ({name}).")
        for name, group in rules.reported:
            if group.matches(content):
                self._report(type, name)

    def _report(self, type: str, name: str) -> None:
        self._reports[name] += 1
        if self._on_report is not None:
            self._on_report(type, name)

    def _opened(
        self, message: InboundMessage | Mapping[str, Any]
    ) -> tuple[list[str], list[Mapping[Any, Any]]]:
        """The texts and objects of the message, level by level: depth costs no stack, a circle ends."""
        texts: list[str] = []
        objects: list[Mapping[Any, Any]] = []
        if isinstance(message, InboundMessage):
            depth, level = 2, _taken_apart((message.type, message.data, message.id), texts, objects)
        else:
            depth, level = 1, _taken_apart((message,), texts, objects)
        room = self._max_size
        while level:
            if depth > self._max_depth:
                raise InvalidMessage(f"The message has more than {self._max_depth} levels.", code="too_deep")
            room = self._measured(level, room)
            level = _taken_apart(chain.from_iterable(level), texts, objects)
            depth += 1
        if sum(map(len, texts)) > room:
            raise self._too_large()
        return texts, objects

    def _measured(self, level: list[Collection[Any]], room: int) -> int:
        """What is left of `room` once all items of `level` are counted."""
        for container in level:
            width = len(container)
            if width > self._max_items:
                raise InvalidMessage(
                    f"An array or object has more than {self._max_items} items.", code="too_many_items"
                )
            room -= width
        if room < 0:
            raise self._too_large()
        return room


def _taken_apart(
    values: Iterable[Any], texts: list[str], objects: list[Mapping[Any, Any]]
) -> list[Collection[Any]]:
    """Keep the texts and objects of `values`, check the numbers, return what is one level below."""
    below: list[Collection[Any]] = []
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, int):
            if not _SMALLEST <= value <= _LARGEST:
                raise _bad_number()
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise _bad_number()
        elif isinstance(value, (list, tuple)):
            below.append(value)
        elif isinstance(value, (dict, Mapping)):
            objects.append(value)
            below += (value.keys(), value.values())
    return below


def _decoded(frame: Frame) -> Any:
    try:
        return msgspec.json.decode(frame)
    except Exception:  # whatever it is: the frame shows what is wrong with it
        raise fault_of_strict_json(frame) from None


def _bad_number() -> InvalidMessage:
    return InvalidMessage("A number is not finite or has more than 64 bits.", code="bad_number")


def _bad_unicode() -> InvalidMessage:
    return InvalidMessage("A text is not valid Unicode.", code="bad_unicode")


def _refuse_limits(**limits: int) -> None:
    for name, limit in limits.items():
        if limit < 1:
            raise ConfigurationError(f"{name} must be at least 1, not {limit}")


def _groups(patterns: Mapping[str, PatternCheck], used: Iterable[str]) -> dict[str, Group]:
    groups = {**{name: checked_by(check) for name, check in patterns.items()}, **GROUPS}
    used = set(used)
    if unknown := used - groups.keys():
        raise ConfigurationError(f"no pattern is named {min(unknown)!r}; known are {sorted(groups)}")
    if idle := patterns.keys() - (used - GROUPS.keys()):
        raise ConfigurationError(f"the pattern {min(idle)!r} is neither blocked nor reported")
    return groups


# --- What proves that a frame or a text need not be looked at.

_SIGN: Final = "\0"
_LONG_NUMBER: Final = "0" * 19
_DISGUISES: Final = b"\\&\xef"  # a JSON escape, an HTML entity, the lead byte of full-width forms
_FLOATS: Final = b"\xca\xcb"  # the only numbers of MessagePack that may not be finite
_CONTAINERS: Final = bytes({*range(0x80, 0xA0), *range(0xDC, 0xE0)})  # of MessagePack
_FOLDS: Final = {
    **dict(zip(string.ascii_uppercase.encode(), string.ascii_lowercase.encode(), strict=True)),
    **dict.fromkeys(string.digits.encode(), ord("0")),
    **dict.fromkeys([*range(0x20), *range(0x7F, 0x100)], ord(" ")),
    ord("{"): ord("["),
}


class _Rules:
    """What is looked for in messages of one type, and quick proofs that none of it is there.

    They fold UTF-8 or MessagePack to one text: lower case, digits as ``0``, ``{`` as ``[``, each sign of
    a group as NUL, and nothing of white space, control characters and whatever else is beyond ASCII.
    Without an escape all texts stand in a frame as they are; so where the folded frame shows neither a
    sign nor a word, no pattern can match, however it was spaced out.
    """

    __slots__ = ("_max_depth", "_short", "_table", "_words", "blocked", "reported")

    def __init__(
        self,
        groups: Mapping[str, Group],
        block: Collection[str],
        report: Collection[str],
        max_depth: int,
        short: int,
    ) -> None:
        self.blocked = [(name, groups[name]) for name in sorted(set(block))]
        self.reported = [(name, groups[name]) for name in sorted(set(report))]
        self._max_depth = max_depth
        self._short = short  # a frame of so many bytes is neither too large nor has too many items
        active = [group for _, group in self.blocked + self.reported]
        provable = all(group.signs or group.words for group in active)
        words = dict.fromkeys(word for group in active for word in group.words)
        self._words = (_SIGN, _LONG_NUMBER, *words) if provable else ("",)  # the empty word is in every text
        signs = "".join(group.signs for group in active).encode() + _FLOATS + (_DISGUISES if active else b"")
        folds = _FOLDS | dict.fromkeys(signs, ord(_SIGN))
        self._table = bytes(folds.get(byte, byte) for byte in range(256))

    def clear(self, frame: Frame) -> bool:
        """Whether `frame`, or the texts of a message joined, prove that there is nothing to look for.

        Raises `UnicodeEncodeError` for a lone surrogate.
        """
        data = frame if isinstance(frame, bytes) else frame.encode()
        if len(data) > self._short:
            return False
        folded = data.translate(self._table).replace(b" ", b"").decode()
        for word in self._words:
            if word in folded:
                return False
        if folded.count("[") > self._max_depth:
            return False
        return data is not frame or len(data) - len(data.translate(None, _CONTAINERS)) <= self._max_depth
