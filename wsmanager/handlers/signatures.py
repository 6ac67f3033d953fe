"""Reads the signature of a handler: what fills each parameter, and which dependencies run before it.

It is read once, when the handler is registered, so that a message takes lookups alone.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, get_type_hints

from ..errors import ConfigurationError
from ..messages import InboundMessage
from .payloads import Converter, payload_converter

__all__ = [
    "CONNECTION",
    "DATA",
    "MESSAGE",
    "Call",
    "CallKind",
    "Provide",
    "kind_of_call",
    "name_of",
    "read_signature",
]

_Filled: TypeAlias = tuple[inspect.Parameter, int]
_EMPTY: Final = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Provide:
    """Marks a parameter as filled by calling `dependency`: ``Annotated[Session, Provide(get_session)]``.

    The dependency may be a function, synchronous or not, a class, or a generator, which is closed when
    the handler has ended. It may have dependencies itself. With `use_cache` it runs once for a message,
    even if several parameters ask for it.
    """

    dependency: Callable[..., Any]
    use_cache: bool = field(default=True, kw_only=True)


class CallKind(enum.Enum):
    """Says how a function is run."""

    COROUTINE = enum.auto()
    THREAD = enum.auto()
    ASYNC_GENERATOR = enum.auto()
    GENERATOR = enum.auto()


# Slots for the values of one message: these three, then the result of each dependency.
CONNECTION: Final = 0
DATA: Final = 1
MESSAGE: Final = 2
_FIRST_DEPENDENCY: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A function, and the slots of the values that are passed to it."""

    function: Callable[..., Any]
    """A generator is wrapped in a context manager."""
    kind: CallKind
    positional: tuple[int, ...]
    keywords: tuple[tuple[str, int], ...]


class _Planner:
    """Plans what is called for one handler: its dependencies in the order they run, then the handler."""

    def __init__(self, connection_type: type[Any]) -> None:
        self.dependencies: list[Call] = []
        self._connection_type = connection_type
        self._slots: list[tuple[Callable[..., Any], int]] = []
        self._unfinished: list[Callable[..., Any]] = []

    def fill(self, function: Callable[..., Any], where: str, *roles: int) -> list[_Filled]:
        """Return the slot of each parameter, found by its type; the others get `roles`, in order.

        Raises `ConfigurationError` for a parameter that nothing fills.
        """
        parameters = self._parameters(function, where)
        slots = [self._slot_by_type(parameter, where) for parameter in parameters]
        open_roles = [role for role in roles if role not in slots]
        filled: list[_Filled] = []
        for parameter, slot in zip(parameters, slots, strict=True):
            optional = parameter.default is not _EMPTY
            if slot is not None:
                filled.append((parameter, slot))
            elif open_roles and not (optional and parameter.kind is parameter.KEYWORD_ONLY):
                filled.append((parameter, open_roles.pop(0)))
                if filled[-1][1] == CONNECTION and _is_payload(parameter.annotation):
                    raise _refusal(where, parameter, "is given the connection; the data comes second")
            elif not optional or parameter.kind is parameter.POSITIONAL_ONLY:
                raise _refusal(where, parameter, "is neither the connection, the data nor a dependency")
        return filled

    def _parameters(self, function: Callable[..., Any], where: str) -> list[inspect.Parameter]:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{where} has no signature to read; wrap it in a function") from error
        return [
            p.replace(annotation=self.resolve(p.annotation, function, f"{where}, parameter {p.name!r}"))
            for p in parameters
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]

    def resolve(self, annotation: Any, function: Callable[..., Any], where: str) -> Any:
        """Return `annotation` with its names looked up; Any when there is none.

        The types of connection and message are found even if they are imported for type checkers only.
        Raises `ConfigurationError` for an annotation that cannot be evaluated.
        """
        if annotation is _EMPTY:
            return Any
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        scope = _namespace(function)
        known = {self._connection_type.__name__: self._connection_type, "InboundMessage": InboundMessage}
        try:
            try:
                hints = get_type_hints(holder, known | scope, include_extras=True)
            except NameError:
                hints = get_type_hints(holder, known | scope, _running_locals(scope), include_extras=True)
        except Exception as error:  # an annotation may hold any expression
            raise ConfigurationError(
                f"{where}: the annotation {annotation!r} cannot be resolved at run time ({error})"
            ) from error
        return hints["it"]

    def _slot_by_type(self, parameter: inspect.Parameter, where: str) -> int | None:
        annotation, *extras = *_unpacked(parameter.annotation), parameter.default
        marker = next(filter(_is_marker, extras), None)
        if marker is not None:
            return self._slot_of(annotation, marker, parameter, where)
        if any(type(extra).__module__.startswith("fastapi.") for extra in extras):
            raise _refusal(where, parameter, "asks for a part of an HTTP request")
        if isinstance(annotation, type) and issubclass(annotation, self._connection_type):
            return CONNECTION
        return MESSAGE if annotation is InboundMessage else None

    def _slot_of(self, annotation: Any, marker: Any, parameter: inspect.Parameter, where: str) -> int:
        function = annotation if marker.dependency is None else marker.dependency
        if not callable(function):
            raise _refusal(where, parameter, f"depends on {function!r}, which cannot be called")
        for option in ("scopes", "max_concurrency"):
            if getattr(marker, option, None):
                raise _refusal(where, parameter, f"asks for {option}=, which only FastAPI can give")
        known = (slot for other, slot in self._slots if other == function and marker.use_cache)
        return next(known, None) or self._depend_on(function, where, use_cache=marker.use_cache)

    def _depend_on(self, function: Callable[..., Any], where: str, *, use_cache: bool) -> int:
        where = f"{where}, dependency {name_of(function)}"
        if function in self._unfinished:
            raise ConfigurationError(f"{where}: dependencies go in a circle")
        self._unfinished.append(function)
        call = _call(function, self.fill(function, where))
        self._unfinished.pop()
        slot = _FIRST_DEPENDENCY + len(self.dependencies)
        self.dependencies.append(call)
        if use_cache:
            self._slots.append((function, slot))
        return slot


def _namespace(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the globals of the module in which `function` was written."""
    origin = _origin(function)
    if isinstance(origin, type):
        constructor = getattr(origin, "__init__", None)
        return getattr(constructor, "__globals__", vars(sys.modules[origin.__module__]))
    return getattr(origin, "__globals__", None) or getattr(_origin(type(origin).__call__), "__globals__", {})


def _origin(function: Any) -> Any:
    """Return the function inside of partials and `functools.wraps`."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return function


def _running_locals(scope: dict[str, Any]) -> dict[str, Any]:
    """Return the local names of running functions of that module: a local handler may use types of theirs."""
    names: dict[str, Any] = {}
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals is scope:
            names = frame.f_locals | names
        frame = frame.f_back
    return names


def _unpacked(annotation: Any) -> tuple[Any, ...]:
    """Return the type, then the metadata of `Annotated`."""
    extras = getattr(annotation, "__metadata__", ())
    return (annotation.__origin__ if extras else annotation, *extras)


def _is_marker(extra: object) -> bool:
    """Tell whether it has the attributes that FastAPI's `Depends` shares with `Provide`."""
    return hasattr(extra, "dependency") and hasattr(extra, "use_cache") and not isinstance(extra, type)


def _call(function: Callable[..., Any], filled: Iterable[_Filled]) -> Call:
    kind = kind_of_call(function)
    if kind is CallKind.ASYNC_GENERATOR:
        function = contextlib.asynccontextmanager(function)
    elif kind is CallKind.GENERATOR:
        function = contextlib.contextmanager(function)
    positional = tuple(slot for p, slot in filled if p.kind is p.POSITIONAL_ONLY)
    keywords = tuple((p.name, slot) for p, slot in filled if p.kind is not p.POSITIONAL_ONLY)
    return Call(function, kind, positional, keywords)


def kind_of_call(function: Callable[..., Any]) -> CallKind:
    """Return how `function`, or the ``__call__`` of an object, is run."""
    for candidate in (function, type(function).__call__):
        if inspect.iscoroutinefunction(candidate):
            return CallKind.COROUTINE
        if inspect.isasyncgenfunction(candidate):
            return CallKind.ASYNC_GENERATOR
        if inspect.isgeneratorfunction(candidate):
            return CallKind.GENERATOR
    return CallKind.THREAD


def name_of(function: Any) -> str:
    """Return the name of `function` for an error message."""
    origin = _origin(function)
    return getattr(origin, "__qualname__", type(origin).__qualname__)


def _refusal(where: str, parameter: inspect.Parameter, why: str) -> ConfigurationError:
    return ConfigurationError(f"{where}: parameter {parameter.name!r} {why}")


def read_signature(handler: Callable[..., Any], where: str, connection_type: type[Any]) -> dict[str, Any]:
    """Return the fields of `Route` that follow from the handler's signature.

    Raises `ConfigurationError` for a handler that could not be called; `where` names it there.
    """
    planner = _Planner(connection_type)
    filled = planner.fill(handler, where, CONNECTION, DATA)
    call = _call(handler, filled)
    _require_sensible(handler, call.kind, where)
    data = next((parameter for parameter, slot in filled if slot == DATA), None)
    slots = [slot for parameter, slot in filled if parameter.kind is not parameter.KEYWORD_ONLY]
    plain = len(slots) == len(filled) and slots in ([CONNECTION], [CONNECTION, DATA])
    returned = inspect.signature(handler).return_annotation
    return {
        "is_async": call.kind is CallKind.COROUTINE,
        "takes_data": data is not None,
        "convert": data and _data_converter(data, where),
        "payload_type": data.annotation if data else Any,
        "reply_type": planner.resolve(returned, handler, f"{where}, return"),
        "dependencies": tuple(planner.dependencies),
        "call": call,
        "direct": call.kind is CallKind.COROUTINE and plain,
    }


def _require_sensible(handler: Callable[..., Any], kind: CallKind, where: str) -> None:
    if kind in (CallKind.GENERATOR, CallKind.ASYNC_GENERATOR):
        raise ConfigurationError(f"{where} is a generator; a handler returns its reply")
    for parameter in inspect.signature(handler).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise _refusal(where, parameter, "hides what it takes; functools.wraps keeps it visible")


def _is_payload(annotation: Any) -> bool:
    try:
        return payload_converter(annotation) is not None
    except ConfigurationError:
        return False


def _data_converter(data: inspect.Parameter, where: str) -> Converter | None:
    """Return the converter of a handler's data; it turns absent data into the parameter's default."""
    try:
        convert = payload_converter(data.annotation)
    except ConfigurationError as error:
        raise _refusal(where, data, f"cannot be filled: {error}") from None
    if (default := data.default) is _EMPTY:
        return convert

    def convert_or_default(value: Any) -> Any:
        if value is None:
            return default
        return convert(value) if convert else value

    return convert_or_default
