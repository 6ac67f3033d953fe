"""What `wsmanager.handlers.signatures` reads of handlers and dependencies, and which it refuses."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import pytest

from wsmanager.handlers.router import Router
from wsmanager.handlers.signatures import CONNECTION, DATA, MESSAGE, CallKind, Provide
from wsmanager.messages import InboundMessage

from .samples import Chat, Handler, Order, Peer, Point, only_conn, plan, refused, shown, typed

if TYPE_CHECKING:
    from wsmanager.protocols import Principal as KnownToCheckersOnly


async def conn_and_data(conn, data): ...  # type: ignore[no-untyped-def]  # bare handlers are a form, too


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


class Plain:
    pass


def test_an_unsupported_payload_is_refused_with_handler_and_parameter() -> None:
    def store(conn: Peer, thing: Plain) -> None: ...

    text = refused(store)
    assert "store" in text
    assert "'x'" in text
    assert "'thing'" in text
    assert "Plain" in text


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
