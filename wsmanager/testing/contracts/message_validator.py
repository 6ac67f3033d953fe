"""What every `MessageValidator` must do."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from ...errors import InvalidMessage
from ...messages import Frame, InboundMessage
from ...protocols import MessageValidator
from .obligations import require, require_code

__all__ = ["check_message_validator"]

_now = time.thread_time  # what other programs do on a busy machine is no fault of the validator

_ORDINARY: Final[tuple[Any, ...]] = (
    *(None, {}, [], 0, -1.5, True, "hello, everyone!", "", "äß中文 \U0001f600", "2 < 3 and 5 > 4"),
    {"room": "general", "text": "It's 5 o'clock; let's go!", "n": 12345, "ok": True},
    {"items": [{"id": n, "name": f"item {n}"} for n in range(100)]},
)
_TYPES: Final = ("ping", "chat.message", "session.join")
_IDS: Final = (None, 0, 17, "request-1")


def _nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


_HOSTILE: Final[tuple[Any, ...]] = (
    *("\ud800", {"\udfff": 1}, float("nan"), float("inf"), 10**400, -(10**400), "\x00", "x" * 2_000_000),
    *(
        "<script>alert(1)</script>",
        "jAvAsCrIpT:x",
        {"<iframe>": 1},
        "' OR 1=1 --",
        {"$where": "1"},
        "%00\u202e",
    ),
    *(b"\x00\xff", (1, 2), {1: 2}, {None: None}, {b"k": 1}, {(1, 2): 3}, datetime.now(UTC)),
    *([None] * 20_000, {str(n): n for n in range(11_000)}, _nested(100), _nested(50_000)),
)
_FRAMES: Final = (
    '{"type":"chat","data":{"text":"hello"},"id":1}',
    '{"type":"chat","data":"2 < 3 && 5 > 4"}',
    '{"type":"chat","data":"\\ud83d\\ude00 \\u00e4"}',
    '{"type":"chat","data":"<script>alert(1)</script>"}',
    '{"type":"chat","data":"\\u003cscript\\u003ealert(1)\\u003c/script\\u003e"}',
    '{"type":"chat","data":{"\\u003Cscript\\u003E":1}}',
    '{"type":"chat","data":"harmless","ignored":"<script>alert(1)</script>"}',
    '{"type":"chat","data":"java\\tscript\\u003ax"}',
    '{"type":"\\u0063hat","data":"onload=x"}',
    '{"type":"chat","data":' + "[" * 200 + "]" * 200 + "}",
)
_SPINS: Final = (
    "<",
    "<script",
    " ",
    "on",
    "a=",
    "'",
    "' OR ",
    "--",
    "/*",
    "&#",
    "&lt;",
    "%3c",
    "\\",
    "$",
    "\t",
    '="',
    "ä",
)


def check_message_validator(factory: Callable[[], MessageValidator]) -> None:
    """Hold a `MessageValidator` against its obligations."""
    _check_ordinary(factory())
    _check_hostile(factory)
    _check_raw(factory())
    for spin in _SPINS:
        _check_time(factory(), spin)


def _check_ordinary(validator: MessageValidator) -> None:
    messages = [InboundMessage(type_, data, 1) for type_ in _TYPES for data in _ORDINARY]
    messages += [InboundMessage("ping", {}, id_) for id_ in _IDS]
    for message in messages:
        before = repr(message)
        code = _verdict(validator, message)
        require(code is None, f"ordinary messages must pass: {before[:80]} was refused as {code!r}")
        require(repr(message) == before, f"a message must not be changed: {before[:80]} was")


def _check_hostile(factory: Callable[[], MessageValidator]) -> None:
    sly = {"text": ["<script>alert(1)</script>"]}
    before = repr(sly)
    _verdict(factory(), InboundMessage("chat", sly))
    require(repr(sly) == before, "a message must not be changed, even when it is refused")
    for data in _HOSTILE:
        for message in (InboundMessage("chat", data), InboundMessage("chat", {"in": [data]})):
            codes = {_verdict(factory(), message) for _ in range(2)}
            require(len(codes) == 1, "the verdict on a message must be stable")
    for type_ in ("", "\ud800", "\x00", "x" * 100_000, "<script>"):
        _verdict(factory(), InboundMessage(type_))


def _check_raw(validator: MessageValidator) -> None:
    for text in _FRAMES:
        message = msgspec.json.decode(text, type=InboundMessage)
        alone = _verdict(validator, message)
        for raw in (text, text.encode(), msgspec.msgpack.encode(msgspec.json.decode(text))):
            same = _verdict(validator, message, raw) == alone
            require(same, f"the verdict must not depend on whether raw is given: it does for {text[:80]}")


def _check_time(validator: MessageValidator, spin: str) -> None:
    """Four times the size may take four times as long, not sixteen; a few milliseconds prove nothing."""
    short, long = (InboundMessage("chat", spin * (size // len(spin))) for size in (2_048, 8_192))
    took = min(_seconds(validator, long) for _ in range(3))
    if took > 0.005:
        linear = took < 10 * min(_seconds(validator, short) for _ in range(3))
        require(linear, f"validation must take time linear in the size: it does not for many {spin!r}")


def _seconds(validator: MessageValidator, message: InboundMessage) -> float:
    began = _now()
    _verdict(validator, message)
    return _now() - began


def _verdict(validator: MessageValidator, message: InboundMessage, raw: Frame | None = None) -> str | None:
    """The code with which the message is refused, None when it passes."""
    try:
        validator.validate_message(message, raw=raw)
    except InvalidMessage as refusal:
        return require_code(refusal.code, "validate_message")
    except Exception as error:
        name, data = type(error).__name__, type(message.data).__name__
        raise AssertionError(
            f"validate_message must raise nothing but InvalidMessage, not {name}, for data of type {data}"
        ) from error
    return None
