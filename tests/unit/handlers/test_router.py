"""What `wsmanager.handlers.router` finds out about handlers, and which one it finds for a message."""

import datetime
import enum
import functools
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Protocol, TypedDict

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.errors import ConfigurationError, InvalidPayload
from wsmanager.handlers.payloads import payload_converter
from wsmanager.handlers.router import Route, Router
from wsmanager.handlers.signatures import CONNECTION, DATA, MESSAGE, CallKind, Provide
from wsmanager.messages import InboundMessage, SystemType

from ...profiles import examples


def shown(value: object) -> str:
    """A test id that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


if TYPE_CHECKING:
    from wsmanager.protocols import Principal as KnownToCheckersOnly

Handler = Callable[..., Any]


class Peer:
    """Stands for the connection."""


class Chat(msgspec.Struct, forbid_unknown_fields=True):
    room: str
    n: int = 0


@dataclass
class Point:
    x: int
    y: int = 0

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError(f"inner thoughts about {self.x}")


class Options(TypedDict):
    volume: int


class Colour(enum.Enum):
    RED = "red"


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    item: str = pydantic.Field(min_length=2)
    count: int = 1
    prices: dict[str, int] = {}
    colour: Literal["red", "blue"] = "red"

    @pydantic.field_validator("count")
    @classmethod
    def _is_even_or_one(cls, value: int) -> int:
        if value % 2 and value != 1:
            raise ValueError(f"inner thoughts about {value}")
        return value


class Basket(msgspec.Struct):
    orders: list[Order] = []
    first: Order | None = None


@pydantic.dataclasses.dataclass
class CheckedByPydantic:
    name: Annotated[str, pydantic.Field(max_length=2)]


def plan(handler: Handler, **options: Any) -> Route:
    return Router(Peer).add("x", handler, **options)


def refused(handler: Handler, type: str = "x") -> str:
    router = Router(Peer)
    with pytest.raises(ConfigurationError) as caught:
        router.add(type, handler)
    assert router.routes == ()
    return str(caught.value)


def convert(annotation: Any, value: Any) -> Any:
    converter = payload_converter(annotation)
    assert converter is not None
    return converter(value)


def misfit(annotation: Any, value: Any) -> str:
    with pytest.raises(InvalidPayload) as caught:
        convert(annotation, value)
    assert caught.value.code == "invalid_payload"
    return caught.value.message


# --- payloads


@pytest.mark.parametrize("annotation", [Any, object])
def test_an_annotation_that_takes_anything_needs_no_conversion(annotation: Any) -> None:
    assert payload_converter(annotation) is None


@pytest.mark.parametrize(
    ("annotation", "data", "expected"),
    [
        (Chat, {"room": "a"}, Chat("a")),
        (Point, {"x": 1}, Point(1)),
        (Options, {"volume": 3}, {"volume": 3}),
        (Order, {"item": "tea"}, Order(item="tea")),
        (dict, {"any": 1}, {"any": 1}),
        (dict[str, object], {"any": [1]}, {"any": [1]}),
        (dict[int, str], {"7": "a"}, {7: "a"}),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (str, "a", "a"),
        (float, 1, 1.0),
        (list[int], [1], [1]),
        (list[Any], ["a", 1], ["a", 1]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1], {1}),
        (None, None, None),
        (Optional[Chat], None, None),  # noqa: UP045 (people write both)
        (Chat | None, {"room": "a"}, Chat("a")),
        (Cat | Dog, {"type": "dog", "name": "a"}, Dog("a")),
        (Colour, "red", Colour.RED),
        (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
        (uuid.UUID, "0" * 32, uuid.UUID(int=0)),
        (list[Order], [{"item": "tea"}], [Order(item="tea")]),
        (Basket, {"first": {"item": "tea"}}, Basket(first=Order(item="tea"))),
        (Annotated[int, msgspec.Meta(ge=1)], 1, 1),
    ],
    ids=shown,
)
def test_a_payload_becomes_what_the_handler_asks_for(annotation: Any, data: Any, expected: Any) -> None:
    converted = convert(annotation, data)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "data", "text"),
    [
        (dict, [], "data: Expected `object`, got `array`"),
        (Chat, None, "data: Expected `object`, got `null`"),
        (Chat, {}, "data: Object missing required field `room`"),
        (Chat, {"room": "a", "n": "7"}, "data.n: Expected `int`, got `str`"),
        (Chat, {"room": "a", "zzz": 1}, "data: Object contains unknown field"),
        (list[Chat], [{"room": "a", "zzz": 1}], "data[0]: Object contains unknown field"),
        (dict[int, int], {"zzz": 1}, "data: Expected `int`, got `str`"),
        (dict[str, int], {"zzz": "zzz"}, "data[...]: Expected `int`, got `str`"),
        (Colour, "zzz", "data: Invalid enum value"),
        (list[Literal["a"]], ["zzz` - at `$.zzz"], "data[0]: Invalid enum value"),
        (Cat | Dog, {"type": "zzz"}, "data.type: Invalid value"),
        (Annotated[str, msgspec.Meta(max_length=2)], "zzz", "data: Expected `str` of length <= 2"),
        (Point, {"x": -7}, "data: Invalid value"),
        (list[Point], [{"x": -7}], "data[0]: Invalid value"),
        (Order, "zzz", "data: Input should be a valid dictionary"),
        (Order, {}, "data.item: Field required"),
        (Order, {"item": "z"}, "data.item: String should have at least 2 characters"),
        (Order, {"item": "tea", "count": "zzz"}, "data.count: Invalid value (int_parsing)"),
        (Order, {"item": "tea", "count": 7}, "data.count: Invalid value (value_error)"),
        (Order, {"item": "tea", "colour": "zzz"}, "data.colour: Input should be 'red' or 'blue'"),
        (Order, {"item": "tea", "prices": {"z z": "zzz"}}, "data.prices[...]: Invalid value (int_parsing)"),
        (Order, {"item": "tea", "z" * 65: 1}, "data[...]: Extra inputs are not permitted"),
        (Basket, {"orders": [{"item": 1}]}, "data.orders[0].item: Input should be a valid string"),
    ],
)
def test_a_misfit_names_the_place_and_what_was_expected(annotation: Any, data: Any, text: str) -> None:
    assert misfit(annotation, data) == text


def test_a_misfit_of_a_list_inside_a_model_names_the_index() -> None:
    class Scores(pydantic.BaseModel):
        points: list[int]

    assert misfit(Scores, {"points": [1, None]}) == "data.points[1]: Input should be a valid integer"


def test_a_model_by_shape_may_raise_errors_that_are_not_of_pydantic() -> None:
    class Shaped:
        @classmethod
        def model_validate(cls, value: object) -> "Shaped":
            raise ValueError(f"inner thoughts about {value}")

    assert misfit(Shaped, 7) == "data: Invalid value"


SECRET = "s3cr3t"
_marked = st.text(max_size=8).map(lambda text: text + SECRET)
_values = st.recursive(
    _marked | st.integers(-9, 9),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["room", "type", "x", "item", "count", "colour"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@examples(30)
@given(st.sampled_from([Chat, Point, Order, Basket, Colour, Cat | Dog, list[Order], uuid.UUID]), _values)
def test_no_misfit_ever_quotes_the_value(annotation: Any, data: Any) -> None:
    converter = payload_converter(annotation)
    assert converter is not None
    told = ""
    try:
        converter(data)
    except InvalidPayload as error:
        told = error.message
    assert SECRET not in told


class Plain:
    pass


class HasUnknown(msgspec.Struct):
    principal: "KnownToCheckersOnly"


class HasPlain(msgspec.Struct):
    inner: "list[HasPlain] | None"
    plain: dict[str, Plain]


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (Plain, "Plain"),
        (HasPlain, "Plain"),
        (HasUnknown, "HasUnknown"),
        (list[CheckedByPydantic], "CheckedByPydantic"),
        (msgspec.Raw, "Raw"),
        (Callable[[], int], "Callable"),
        (Order | int, "Order"),
        (7, "7"),
    ],
    ids=shown,
)
def test_an_annotation_that_data_cannot_become_is_refused_at_once(annotation: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{named}.* is no payload"):
        payload_converter(annotation)


def test_an_unsupported_payload_is_refused_with_handler_and_parameter() -> None:
    def store(conn: Peer, thing: Plain) -> None: ...

    text = refused(store)
    assert "store" in text
    assert "'x'" in text
    assert "'thing'" in text
    assert "Plain" in text


# --- forms of handlers


async def only_conn(conn: Any) -> None: ...
async def conn_and_data(conn, data): ...  # type: ignore[no-untyped-def]  # bare handlers are a form, too
async def typed(conn: Peer, data: Chat) -> Point: ...  # type: ignore[empty-body]  # never run
def synchronous(conn: Peer, data: Chat) -> None: ...


def test_a_handler_of_the_connection_alone_takes_no_data() -> None:
    route = plan(only_conn)
    assert route.direct
    assert not route.takes_data
    assert route.convert is None
    assert route.reply_type is type(None)


def test_a_bare_handler_takes_connection_and_data_as_they_come() -> None:
    route = plan(conn_and_data)
    assert route.direct
    assert route.is_async
    assert route.takes_data
    assert route.convert is None
    assert route.payload_type is Any
    assert route.reply_type is Any
    assert dict(route.call.keywords) == {"conn": CONNECTION, "data": DATA}


def test_a_typed_handler_tells_its_payload_and_its_reply() -> None:
    route = plan(typed)
    assert route.payload_type is Chat
    assert route.reply_type is Point
    assert route.convert is not None
    assert route.convert({"room": "a"}) == Chat("a")


def test_a_synchronous_handler_is_not_called_directly() -> None:
    route = plan(synchronous)
    assert not route.is_async
    assert not route.direct
    assert route.call.kind is CallKind.THREAD


class Room:
    async def on_chat(self, conn: Peer, data: Chat) -> None: ...

    @classmethod
    async def for_all(cls, conn: Peer, data: Chat) -> None: ...

    @staticmethod
    async def for_none(conn: Peer, data: Chat) -> None: ...

    async def __call__(self, conn: Peer, data: "Chat") -> None: ...


async def with_room(room: str, conn: Peer, data: Chat) -> None: ...


def logged(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    async def logging(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return logging


@pytest.mark.parametrize(
    "handler",
    [
        Room().on_chat,
        Room.for_all,
        Room.for_none,
        Room(),
        functools.partial(with_room, "lobby"),
        functools.partial(functools.partial(with_room), "lobby"),
        logged(typed),
        logged(functools.partial(with_room, "lobby")),
    ],
)
def test_every_kind_of_callable_is_a_handler(handler: Handler) -> None:
    route = plan(handler)
    assert route.direct
    assert route.payload_type is Chat
    assert route.handler is handler


def test_a_partial_that_names_an_early_parameter_leaves_the_others_to_be_filled() -> None:
    route = plan(functools.partial(with_room, room="lobby"))
    assert dict(route.call.keywords) == {"conn": CONNECTION, "data": DATA}
    assert not route.direct


def test_data_that_goes_by_name_only_is_not_passed_by_position() -> None:
    async def handler(conn: Peer, *, data: Chat) -> None: ...

    route = plan(handler)
    assert route.takes_data
    assert not route.direct


def test_the_connection_may_be_asked_for_by_its_type_anywhere() -> None:
    class Special(Peer): ...

    async def swapped(data: Chat, conn: Annotated[Special, "mine"]) -> None: ...

    route = plan(swapped)
    assert dict(route.call.keywords) == {"data": DATA, "conn": CONNECTION}
    assert not route.direct


def test_the_connection_may_be_asked_for_by_a_protocol_it_follows() -> None:
    class Sender(Protocol):
        async def send(self, message: object) -> None: ...

    async def handler(conn: Sender, data: Chat) -> None: ...

    assert plan(handler).direct


def test_the_whole_message_is_given_to_who_asks_for_it() -> None:
    async def handler(conn: Peer, message: InboundMessage, data: Chat) -> None: ...

    route = plan(handler)
    assert dict(route.call.keywords) == {"conn": CONNECTION, "message": MESSAGE, "data": DATA}
    assert not route.direct


def test_a_handler_may_take_nothing() -> None:
    async def handler() -> None: ...

    route = plan(handler)
    assert route.call.keywords == ()
    assert not route.direct


def test_positional_only_parameters_are_passed_by_position() -> None:
    async def handler(conn: Peer, data: Chat, /, *, again: InboundMessage) -> None: ...

    route = plan(handler)
    assert route.call.positional == (CONNECTION, DATA)
    assert route.call.keywords == (("again", MESSAGE),)


def test_further_parameters_with_a_default_are_left_alone() -> None:
    async def handler(conn: Peer, data: Chat, limit: int = 5, *, loud: bool = False, **more: int) -> None: ...

    assert dict(plan(handler).call.keywords) == {"conn": CONNECTION, "data": DATA}


@pytest.mark.parametrize("data", [{"room": "a"}, None])
def test_a_default_stands_for_absent_data(data: Any) -> None:
    async def handler(conn: Peer, chat: Chat = Chat("default")) -> None: ...  # noqa: B008 (the case)

    converter = plan(handler).convert
    assert converter is not None
    assert converter(data) == Chat("a" if data else "default")


def test_a_default_stands_for_absent_data_without_an_annotation() -> None:
    converter = plan(lambda conn, data=7: None).convert
    assert converter is not None
    assert converter(None) == 7
    assert converter("a") == "a"


def test_annotations_as_text_find_the_types_of_the_function_around() -> None:
    class Local(msgspec.Struct):
        x: int

    async def handler(conn: "Peer", data: "list[Local]") -> "Local": ...  # type: ignore[empty-body]  # never run

    route = plan(handler)
    assert route.payload_type == list[Local]
    assert route.reply_type is Local


def test_the_connection_is_known_where_it_is_imported_for_checkers_only() -> None:
    class Connection: ...

    async def handler(data: Chat, conn: Any, message: Any) -> None: ...

    handler.__annotations__.update(conn="Connection", message="InboundMessage")
    route = Router(Connection).add("x", functools.partial(handler))
    assert dict(route.call.keywords) == {"data": DATA, "conn": CONNECTION, "message": MESSAGE}


def test_an_annotation_that_cannot_be_resolved_is_refused_with_its_parameter() -> None:
    def handler(conn: Peer, data: "KnownToCheckersOnly") -> None: ...

    text = refused(handler)
    assert "'data'" in text
    assert "KnownToCheckersOnly" in text


def test_a_return_annotation_that_cannot_be_resolved_is_refused() -> None:
    def handler(conn: Peer) -> "KnownToCheckersOnly": ...  # type: ignore[empty-body]  # never run

    assert "return: the annotation" in refused(handler)


def test_an_annotation_that_raises_is_refused() -> None:
    def handler(conn: Peer, data: Any) -> None: ...

    handler.__annotations__["data"] = "1 / 0"
    assert "division by zero" in refused(handler)


def _ask(conn: Peer, data: Chat, session: str) -> None: ...
def _keyword(conn: Peer, data: Chat, *, session: str) -> None: ...
def _left_out(conn: Peer, data: Chat, session: str = "", /) -> None: ...
def _data_first(data: Chat) -> None: ...
def _hidden(*args: Any, **kwargs: Any) -> None: ...


def _yielding(conn: Peer) -> Iterator[int]:
    yield 1


async def _streaming(conn: Peer) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (_ask, "'session' is neither the connection, the data nor a dependency"),
        (_keyword, "'session' is neither"),
        (_left_out, "'session' is neither"),
        (_data_first, "'data' is given the connection"),
        (_hidden, "'args' hides what it takes"),
        (_yielding, "is a generator"),
        (_streaming, "is a generator"),
        (type, "has no signature"),
        (7, "has no signature"),
    ],
    ids=shown,
)
def test_a_handler_that_could_not_be_called_is_refused_at_once(handler: Any, why: str) -> None:
    assert why in refused(handler)


# --- dependencies


class Session:
    def __init__(self, url: str = "db") -> None:
        self.url = url


def get_url(conn: Peer, message: InboundMessage) -> str: ...  # type: ignore[empty-body]  # never run
async def get_session(url: Annotated[str, Provide(get_url)]) -> Session: ...  # type: ignore[empty-body]  # never run


def _planned(handler: Handler) -> list[tuple[Any, dict[str, int]]]:
    return [(call.function, dict(call.keywords)) for call in plan(handler).dependencies]


def test_dependencies_run_before_what_depends_on_them() -> None:
    async def handler(conn: Peer, data: Chat, session: Annotated[Session, Provide(get_session)]) -> None: ...

    route = plan(handler)
    assert not route.direct
    assert dict(route.call.keywords) == {"conn": CONNECTION, "data": DATA, "session": MESSAGE + 2}
    assert _planned(handler) == [
        (get_url, {"conn": CONNECTION, "message": MESSAGE}),
        (get_session, {"url": MESSAGE + 1}),
    ]


def test_a_dependency_asked_for_twice_runs_once() -> None:
    async def handler(
        conn: Peer,
        session: Annotated[Session, Provide(get_session)],
        url: Annotated[str, Provide(get_url)],
    ) -> None: ...

    assert [function for function, _ in _planned(handler)] == [get_url, get_session]


def test_a_dependency_that_must_not_be_shared_runs_each_time() -> None:
    async def handler(
        conn: Peer,
        one: Annotated[str, Provide(get_url, use_cache=False)],
        two: Annotated[str, Provide(get_url)],
        three: Annotated[str, Provide(get_url, use_cache=False)],
    ) -> None: ...

    assert len(plan(handler).dependencies) == 3


class Checker:
    async def __call__(self, conn: Peer) -> None: ...

    def yielding(self) -> Iterator[int]:
        yield 1

    async def streaming(self) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("dependency", "kind"),
    [
        (get_url, CallKind.THREAD),
        (Session, CallKind.THREAD),
        (msgspec.defstruct("Bare", [("x", int, 1)]), CallKind.THREAD),
        (Order.model_validate, CallKind.THREAD),
        (get_session, CallKind.COROUTINE),
        (Checker(), CallKind.COROUTINE),
        (Checker().streaming, CallKind.ASYNC_GENERATOR),
        (Checker().yielding, CallKind.GENERATOR),
        (functools.partial(Checker.yielding, Checker()), CallKind.GENERATOR),
    ],
)
def test_every_kind_of_callable_is_a_dependency(dependency: Handler, kind: CallKind) -> None:
    def handler(conn: Peer, needed: Any) -> None: ...

    if dependency == Order.model_validate:
        dependency = functools.partial(dependency, {"item": "tea"})
    handler.__annotations__["needed"] = Annotated[Any, Provide(dependency)]
    assert plan(handler).dependencies[-1].kind is kind


class Depends:
    """The shape by which a marker of FastAPI is known; its own are tried elsewhere."""

    def __init__(self, dependency: Any = None, *, use_cache: bool = True, **options: Any) -> None:
        self.dependency = dependency
        self.use_cache = use_cache
        self.__dict__.update(options)


def test_a_marker_of_that_shape_is_a_dependency_as_annotation_and_as_default() -> None:
    async def handler(
        conn: Peer,
        one: Annotated[Session, Depends(get_session)],
        two: Any = Depends(get_url),  # noqa: B008 (how it is written)
        three: Annotated[Session, Depends(use_cache=False)] = None,  # type: ignore[assignment]  # never run
    ) -> None: ...

    planned = [function for function, _ in _planned(handler)]
    assert planned == [get_url, get_session, Session]


class Header:
    """Known by where it comes from."""

    __module__ = "fastapi.params"


def _needs_more(token: str) -> None: ...
def _circle_a(b: Annotated[None, "replaced"]) -> None: ...
def _circle_b(a: Annotated[None, Provide(_circle_a)]) -> None: ...


_circle_a.__annotations__["b"] = Annotated[None, Provide(_circle_b)]


@pytest.mark.parametrize(
    ("marker", "why"),
    [
        (Provide(_needs_more), "dependency _needs_more: parameter 'token' is neither"),
        (
            Provide(_circle_b),
            "_circle_b, dependency _circle_a, dependency _circle_b: dependencies go in a circle",
        ),
        (Provide(type), "dependency type has no signature"),
        (Depends(7), "depends on 7, which cannot be called"),
        (Depends(get_url, scopes=["admin"]), "asks for scopes="),
        (Header(), "asks for a part of an HTTP request"),
    ],
    ids=shown,
)
def test_a_dependency_that_could_not_be_given_is_refused_at_once(marker: Any, why: str) -> None:
    def handler(conn: Peer, needed: Any) -> None: ...

    handler.__annotations__["needed"] = Annotated[Any, marker]
    assert why in refused(handler)


# --- routes


def test_the_options_of_a_route_are_kept() -> None:
    def allow(conn: Peer) -> bool: ...  # type: ignore[empty-body]  # never run

    route = plan(typed, scopes="admin", allow=allow, features=["a", "b"], cost=5, concurrent=True)
    assert route.type == "x"
    assert route.scopes == {"admin"}
    assert route.allow is allow
    assert route.features == {"a", "b"}
    assert route.cost == 5
    assert route.concurrent


def test_a_permission_that_cannot_answer_at_once_is_refused() -> None:
    async def allow(conn: Peer, message: InboundMessage) -> bool: ...  # type: ignore[empty-body]  # never run

    with pytest.raises(ConfigurationError, match="allow= must answer at once"):
        plan(typed, allow=allow)


def test_a_route_asks_for_nothing_by_default() -> None:
    route = plan(typed)
    assert (route.scopes, route.allow, route.features) == (frozenset(), None, frozenset())
    assert (route.cost, route.concurrent) == (1, False)


def _router(*types: str) -> Router:
    router = Router(Peer)
    for type in types:
        router.add(type, typed)
    return router


def _found(router: Router, type: str) -> str | None:
    route = router.find(type)
    return route.type if route else None


def test_a_type_without_handler_is_not_found() -> None:
    assert _found(_router("chat.message"), "chat") is None


def test_a_prefix_takes_what_lies_below_it_only() -> None:
    router = _router("chat.*")
    assert _found(router, "chat.x") == "chat.*"
    assert _found(router, "chat.x.y") == "chat.*"
    assert _found(router, "chat") is None
    assert _found(router, "chatter.x") is None


_segments = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(".".join)
_patterns = _segments | _segments.map(lambda segments: segments + ".*") | st.just("*")


def _naive(patterns: set[str], type: str) -> str | None:
    if type in patterns:
        return type
    fitting = [one for one in patterns if one.endswith("*") and type.startswith(one[:-1])]
    return max(fitting, key=len, default=None)


@examples(30)
@given(st.sets(_patterns, max_size=8), st.lists(_segments, min_size=1, max_size=5))
def test_the_exact_type_wins_then_the_longest_prefix_then_the_asterisk(
    patterns: set[str], types: list[str]
) -> None:
    router = _router(*patterns)
    assert {route.type for route in router.routes} == patterns
    for type in types:
        assert _found(router, type) == _naive(patterns, type)


@pytest.mark.parametrize("type", ["chat", "chat.*", "*"])
def test_a_type_has_one_handler(type: str) -> None:
    router = _router("chat", "chat.*", "*")
    with pytest.raises(ConfigurationError, match="has a handler already"):
        router.add(type, only_conn)
    assert len(router.routes) == 3


@pytest.mark.parametrize("type", list(SystemType))
def test_what_the_manager_answers_cannot_be_taken_over(type: str) -> None:
    assert "answered by the manager" in refused(typed, type)
    assert _router("*", "session.*").find(type) is None


@pytest.mark.parametrize("type", ["", "x" * 256, "a\nb", "a\x7f", "a\x9f", "a\ud800"])
def test_a_type_is_a_name(type: str) -> None:
    assert "1 to 255 characters" in refused(typed, type)


@pytest.mark.parametrize("type", ["**", "a*", "*.a", "a.*.b", ".*.*", "a.**"])
def test_an_asterisk_stands_alone_or_after_the_last_dot(type: str) -> None:
    assert "asterisk" in refused(typed, type)


def test_a_long_name_of_any_script_is_a_type() -> None:
    longest = "чат." + "é" * 251
    assert _found(_router(longest), longest) == longest


def test_the_routes_are_listed_as_they_are_tried() -> None:
    types = [route.type for route in _router("*", "a.*", "z", "a.b.*", "a").routes]
    assert types == ["z", "a", "a.b.*", "a.*", "*"]
