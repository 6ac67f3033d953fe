"""Turns decoded data into what a handler asks for, or says where it does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import msgspec
import msgspec.inspect

from ..errors import ConfigurationError, InvalidPayload

__all__ = ["Converter", "payload_converter"]

Converter: TypeAlias = Callable[[Any], Any]


def payload_converter(annotation: Any) -> Converter | None:
    """What turns decoded data into `annotation`; None when any data will do.

    The converter raises `InvalidPayload` with the place and what was expected there, never the value.
    Raises `ConfigurationError` for what is neither known to msgspec nor a pydantic model.
    """
    if annotation in (Any, object):
        return None
    parts = _parts_of(annotation)
    # msgspec remembers how to make a Struct, but studies any other type anew for each value.
    holder: Any = msgspec.defstruct("Payload", [("data", annotation)], array_like=True)
    needs_more = any(
        isinstance(part, msgspec.inspect.CustomType | msgspec.inspect.DictType) for part in parts
    )
    options: Any = {"str_keys": True, "dec_hook": _convert_custom} if needs_more else {}

    def convert(value: Any) -> Any:
        try:
            return msgspec.convert((value,), holder, **options).data
        except msgspec.ValidationError as error:
            raise InvalidPayload(_explain(error)) from None

    return convert


def _parts_of(annotation: Any) -> list[msgspec.inspect.Type]:
    """The types that `annotation` is made of; all can be made from decoded data."""
    try:
        parts = list(_walk(msgspec.inspect.type_info(annotation), set()))
    except (TypeError, NameError) as error:
        raise ConfigurationError(f"{annotation!r} is no payload: {error}") from None
    if (refused := next(filter(_is_refused, parts), None)) is not None:
        raise ConfigurationError(
            f"{getattr(refused, 'cls', annotation)!r} is no payload;"
            " take a Struct, dataclass, TypedDict, pydantic model or builtin"
        )
    return parts


def _walk(node: object, seen: set[int]) -> Iterator[msgspec.inspect.Type]:
    if id(node) in seen:
        return
    seen.add(id(node))
    children = node if isinstance(node, tuple) else ()
    if isinstance(node, msgspec.inspect.Type):
        yield node
    if isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field):
        children = tuple(getattr(node, name) for name in node.__struct_fields__)
    for child in children:
        yield from _walk(child, seen)


def _is_refused(part: msgspec.inspect.Type) -> bool:
    """A pydantic dataclass is, because msgspec would make it without pydantic's checks."""
    if isinstance(part, msgspec.inspect.CustomType):
        return part.cls is not object and not hasattr(part.cls, "model_validate")
    if isinstance(part, msgspec.inspect.DataclassType):
        return hasattr(part.cls, "__pydantic_validator__")
    return isinstance(part, msgspec.inspect.RawType)


class _Misfit(ValueError):
    """What a pydantic model refused, and where in it; msgspec adds where the model itself stands."""

    def __init__(self, place: str, expected: str) -> None:
        super().__init__()
        self.place = place
        self.expected = expected


def _convert_custom(kind: Any, value: Any) -> Any:
    if kind is object:
        return value
    try:
        return kind.model_validate(value)
    except ValueError as error:
        if (errors := getattr(error, "errors", None)) is None:
            raise
        first = errors(include_url=False, include_context=False, include_input=False)[0]
    raise _Misfit("".join(map(_step, first["loc"])), _expectation(first["type"], first["msg"]))


def _step(part: str | int) -> str:
    """One step of a place. What does not look like a field may be a key that the client made up."""
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if part.isidentifier() and len(part) <= 64 else "[...]"


# Errors of pydantic whose texts say only what was expected; others may quote the value or a validator.
_TELLING: Final = re.compile(
    r"missing|extra_forbidden|enum|literal_error|multiple_of|(greater|less)_than(_equal)?"
    r"|(string_)?too_(short|long)|string_pattern_mismatch"
    r"|(model|int|float|bool|string|bytes|list|tuple|set|dict|date|time|datetime|uuid|decimal)_type"
)


def _expectation(kind: str, text: str) -> str:
    return text.partition(" or instance of ")[0] if _TELLING.fullmatch(kind) else f"Invalid value ({kind})"


_QUOTING: Final = re.compile(r"(Invalid enum value|Invalid value|Object contains unknown field).*", re.DOTALL)


def _explain(error: msgspec.ValidationError) -> str:
    """msgspec's text without what it quotes of the value, and without texts of the application."""
    told, _, place = str(error).rpartition(" - at `")
    place = "data" + place.removeprefix("key` in `").removeprefix("$[0]").removesuffix("`")
    if isinstance(error.__cause__, _Misfit):
        return f"{place}{error.__cause__.place}: {error.__cause__.expected}"
    if error.__cause__ is not None:
        return f"{place}: Invalid value"
    return f"{place}: " + _QUOTING.sub(r"\1", told)
