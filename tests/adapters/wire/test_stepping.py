from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from wsmanager.testing import DIRECT, ConnectionLost, FakeSocket, VirtualTimeLoop, connect
from wsmanager.wire.asgi import frame_of
from wsmanager.wire.below import EXTENSION
from wsmanager.wire.stepping import Resumed, Transport, _is_known, direct_for, discard, transport_for

pytestmark = pytest.mark.anyio

Send = Callable[[Any], Awaitable[None]]
Wrap = Callable[[Send], Send]


class Line:
    """A peer that reads when it is told to, behind a send that no server of the package's list has."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.closed = False
        self._readable = asyncio.Event()

    def read(self) -> None:
        self._readable.set()

    async def send(self, event: Any) -> None:
        try:
            await self._readable.wait()
        except (GeneratorExit, asyncio.CancelledError):
            self.closed = True
            raise
        self.frames.append(event["text"])


def event(text: str) -> dict[str, Any]:
    return {"type": "websocket.send", "text": text}


async def write_and_finish(send: Send, event: Any) -> None:
    rest = transport_for(send).write(send, event)
    if rest is not None:
        await rest


async def test_a_send_that_binds_nothing_takes_a_frame_at_once() -> None:
    taken: list[Any] = []

    async def send(event: Any) -> None:
        taken.append(event)

    async def logged(event: Any) -> None:
        await send(event)

    for each in (send, logged, functools.partial(logged)):
        assert transport_for(each).write(each, event("a")) is None
    assert len(taken) == 3


async def test_a_send_that_calls_itself_is_no_puzzle() -> None:
    taken: list[Any] = []

    async def send(event: Any) -> None:
        if isinstance(event, dict):
            event = [event]
            await send(event)
        else:
            taken.append(event)

    await write_and_finish(send, event("a"))
    assert taken == [[event("a")]]


# --- ways in which applications wrap a send


def with_timeout(send: Send) -> Send:
    async def wrapped(event: Any) -> None:
        async with asyncio.timeout(1):
            await send(event)

    return wrapped


def with_cancel_scope(send: Send) -> Send:
    async def wrapped(event: Any) -> None:
        with anyio.fail_after(1):
            await send(event)

    return wrapped


def with_task_group(send: Send) -> Send:
    async def wrapped(event: Any) -> None:
        with anyio.fail_after(1):
            async with anyio.create_task_group() as group:
                group.start_soon(_send_in_time, send, event)

    return wrapped


async def _send_in_time(send: Send, event: Any) -> None:
    await asyncio.wait_for(send(event), 1)


def by_helper(send: Send) -> Send:
    async def wrapped(event: Any) -> None:
        await _send_in_time(send, event)

    return wrapped


def by_partial(send: Send) -> Send:
    return functools.partial(_send_in_time, send)


def by_lambda(send: Send) -> Send:
    return lambda event: _send_in_time(send, event)


def by_decorator(send: Send) -> Send:
    """It carries the name and the module of what it wraps."""

    @functools.wraps(FakeSocket.send)
    async def wrapped(event: Any) -> None:
        async with asyncio.timeout(1):
            await send(event)

    return wrapped


class Wrapper:
    def __init__(self, send: Send) -> None:
        self._send = send

    async def send(self, event: Any) -> None:
        await _send_in_time(self._send, event)


class Caller(Wrapper):
    async def __call__(self, event: Any) -> None:
        await self.send(event)


def by_method(send: Send) -> Send:
    return Wrapper(send).send


async def _pass_on(send: Send, event: Any) -> None:
    await send(event)


def by_argument(send: Send) -> Send:
    return functools.partial(_pass_on, with_timeout(send))


def by_default(send: Send) -> Send:
    limited = with_timeout(send)

    async def wrapped(event: Any, inner: Send = limited) -> None:
        await inner(event)

    return wrapped


def by_own_variable(send: Send) -> Send:
    async def wrapped(event: Any) -> None:
        inner = with_timeout(send)

        async def own() -> None:
            await inner(event)

        await inner(event)
        del own

    return wrapped


def by_itself(send: Send) -> Send:
    limited = with_timeout(send)

    async def wrapped(event: Any) -> None:
        if isinstance(event, dict):
            event = [event]
            await wrapped(event)
        else:
            await limited(*event)

    return wrapped


class Stream:
    def __init__(self, send: Send, event: Any) -> None:
        self.rest = [_send_in_time(send, event)]

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> None:
        if not self.rest:
            raise StopAsyncIteration
        await self.rest.pop()


def by_loop(send: Send) -> Send:
    async def wrapped(event: Any) -> None:
        async for _ in Stream(send, event):
            pass

    return wrapped


def by_lambda_inside(send: Send) -> Send:
    inner = by_lambda(send)

    async def wrapped(event: Any) -> None:
        await inner(event)

    return wrapped


def by_object_inside(send: Send) -> Send:
    inner = Caller(send)

    async def wrapped(event: Any) -> None:
        await inner(event)

    return wrapped


def by_list(send: Send) -> Send:
    sends = [with_timeout(send)]

    async def wrapped(event: Any) -> None:
        for each in sends:
            await each(event)

    return wrapped


class Box:
    def __init__(self, send: Send) -> None:
        self.wrapper = Wrapper(send)


def by_attribute_of_an_attribute(send: Send) -> Send:
    box = Box(send)

    async def wrapped(event: Any) -> None:
        await box.wrapper.send(event)

    return wrapped


def _make_sender(send: Send) -> Send:
    return with_timeout(send)


def by_result(send: Send) -> Send:
    async def wrapped(event: Any) -> None:
        await _make_sender(send)(event)

    return wrapped


def by_name(send: Send) -> Send:
    inner = Wrapper(send)

    async def wrapped(event: Any) -> None:
        await getattr(inner, "send")(event)  # noqa: B009 - as code does that knows the name only then

    return wrapped


def by_task(send: Send) -> Send:
    """As on granian: it starts when it is called."""
    return lambda event: asyncio.ensure_future(_send_in_time(send, event))


def inside_a_framework(send: Send) -> Send:
    """A wrapper of a known framework around one that is not known."""
    return framed(with_timeout(send))


def of_module(name: str, source: str, *arguments: Any) -> Any:
    """What ``make`` of a module returns that is not ours."""
    module: dict[str, Any] = {"__name__": name}
    exec(source, module)  # noqa: S102 - the one way to be of a module that is not ours
    return module["make"](*arguments)


def framed(send: Send) -> Send:
    """What Starlette puts around a send for its exception handlers."""
    seen: list[Send] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(send)

    wrapped: Any = wrap_app_handling_exceptions(app, Request({"type": "http"}))
    with pytest.raises(StopIteration):
        wrapped({}, None, send).send(None)
    return seen[0]


WRAPPERS: list[Wrap] = [
    with_timeout,
    with_cancel_scope,
    with_task_group,
    by_helper,
    by_partial,
    by_lambda,
    by_decorator,
    by_method,
    Caller,
    by_argument,
    by_default,
    by_own_variable,
    by_itself,
    by_loop,
    by_lambda_inside,
    by_object_inside,
    by_list,
    by_attribute_of_an_attribute,
    by_result,
    by_name,
    by_task,
    inside_a_framework,
]


@pytest.mark.parametrize("wrap", WRAPPERS)
async def test_a_time_limit_inside_a_send_never_hits_who_writes(wrap: Wrap) -> None:
    line = Line()
    send = wrap(line.send)
    rest = transport_for(send).write(send, event("late"))
    assert rest is not None
    drain = asyncio.ensure_future(rest)
    await asyncio.sleep(5)  # cancelled here, if the limit was bound to this task
    assert isinstance(drain.exception(), TimeoutError)
    assert line.frames == []
    assert line.closed


@pytest.mark.parametrize("wrap", WRAPPERS)
async def test_a_wrapped_send_delivers_once_the_peer_reads(wrap: Wrap) -> None:
    line = Line()
    send = wrap(line.send)
    rest = transport_for(send).write(send, event("first"))
    assert rest is not None
    drain = asyncio.ensure_future(rest)
    await asyncio.sleep(0.5)
    line.read()
    await drain
    await write_and_finish(send, event("second"))
    assert line.frames == ["first", "second"]


@pytest.mark.parametrize("wrap", WRAPPERS)
async def test_who_gives_up_a_write_that_nobody_awaited_leaves_nothing_behind(wrap: Wrap) -> None:
    line = Line()
    send = wrap(line.send)
    rest = transport_for(send).write(send, event("never"))
    assert rest is not None
    discard(rest)
    del rest
    gc.collect()  # a coroutine that nobody awaited complains here
    await asyncio.sleep(0)
    line.read()
    await asyncio.sleep(0)
    assert line.frames == []


# --- servers


@pytest.mark.parametrize("depth", [0, 1, 3])
async def test_a_server_that_takes_a_frame_at_once_costs_no_task(depth: int) -> None:
    socket = FakeSocket()
    send: Send = socket.send
    for _ in range(depth):
        send = framed(send)
    tasks = asyncio.all_tasks()
    assert transport_for(send).write(send, event("a")) is None
    assert socket.sent == 1
    assert asyncio.all_tasks() == tasks


async def test_uvicorn_is_known() -> None:
    send: Any = WebSocketsSansIOProtocol.send
    assert transport_for(send) is transport_for(FakeSocket().send)


async def test_a_partial_of_a_servers_method_is_the_servers_own_as_on_daphne() -> None:
    socket = FakeSocket()
    send = functools.partial(FakeSocket.send, socket)
    assert transport_for(send).write(send, event("a")) is None
    assert socket.sent == 1


SERVER = """
def make(send, tool):
    async def own(event):
        if event["text"] == "again":
            await own({**event, "text": "a"})
        elif event["text"] == "tool":
            tool(later)
        else:
            await send(event)
            if event["text"] == "wait":
                try:
                    await tool
                finally:
                    tool.cancel()
    if not send:
        later = None
    return own
"""


def servers_own(send: Send, tool: Any = None) -> Send:
    """A closure of a server's module, over itself, a tool and a variable without a value."""
    made: Send = of_module("uvicorn.protocols", SERVER, send, tool)
    return made


@pytest.mark.parametrize("tool", [None, 3, len])
async def test_what_else_a_servers_closure_holds_is_no_obstacle(tool: Any) -> None:
    socket = FakeSocket()
    send = servers_own(socket.send, tool)
    assert transport_for(send).write(send, event("again")) is None
    assert socket.sent == 1


async def test_a_server_that_holds_a_frame_gives_back_what_is_to_be_awaited() -> None:
    readable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    send = servers_own(FakeSocket().send, readable)
    tasks = asyncio.all_tasks()
    rest = transport_for(send).write(send, event("wait"))
    assert rest is not None
    assert asyncio.all_tasks() == tasks
    readable.set_result(None)
    await rest


async def test_a_frame_that_a_server_holds_can_be_given_up() -> None:
    readable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    send = servers_own(FakeSocket().send, readable)
    rest = transport_for(send).write(send, event("wait"))
    assert rest is not None
    discard(rest)
    assert readable.cancelled()


async def test_a_send_that_fails_at_once_fails_at_the_write() -> None:
    async def lost(event: Any) -> None:
        raise ConnectionLost

    send = servers_own(lost)
    with pytest.raises(ConnectionLost):
        await write_and_finish(send, event("a"))


# --- frameworks

Seen = list[tuple[Any, Send]]
"""The scope and the `send` that an endpoint was given."""


def on_starlette(endpoint: Any) -> Any:
    return Starlette(routes=[WebSocketRoute("/", endpoint)])


def on_fastapi(endpoint: Any) -> Any:
    app = FastAPI()
    app.add_api_websocket_route("/", endpoint)
    return app


def mounted(endpoint: Any) -> Any:
    return Starlette(routes=[Mount("/", on_fastapi(endpoint))])


def with_sessions(endpoint: Any) -> Any:
    return SessionMiddleware(on_starlette(endpoint), "a secret")


@pytest.fixture(params=[on_starlette, on_fastapi, mounted, with_sessions])
def seen(request: pytest.FixtureRequest) -> tuple[Any, Seen]:
    found: Seen = []

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        found.append((websocket.scope, websocket._send))
        tasks = asyncio.all_tasks()
        assert transport_for(websocket._send).write(websocket._send, event("a")) is None
        assert asyncio.all_tasks() == tasks
        await websocket.close()

    return request.param(endpoint), found


async def test_what_a_framework_gives_its_endpoints_is_stepped_without_a_task(seen: tuple[Any, Seen]) -> None:
    app, found = seen
    async with connect(app) as peer:
        assert await peer.receive() == "a"
        await peer.wait_closed(1)
    ((_, send),) = found
    assert _is_known(send)  # and not found out by its code, which takes Python 3.11
    assert transport_for(send).is_simple()


async def test_messages_may_go_past_what_a_framework_gives_its_endpoints(seen: tuple[Any, Seen]) -> None:
    app, found = seen
    async with connect(app, server=DIRECT) as peer:
        await peer.wait_closed(1)
    ((scope, send),) = found
    assert direct_for(scope, send) is scope["extensions"][EXTENSION]["transport"]
    assert direct_for(scope, with_timeout(send)) is None


UNKNOWN = """
def make(send, asyncio, disguise):
    @disguise
    async def sender(message):
        async with asyncio.timeout(1):
            await send(message)
    return sender
"""


def plain(function: Send) -> Send:
    return function


@pytest.mark.parametrize("disguise", [plain, functools.wraps(framed(FakeSocket().send))])
async def test_a_time_limit_in_a_new_function_of_a_framework_never_hits_who_writes(disguise: Any) -> None:
    readable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    inner = servers_own(FakeSocket().send, readable)
    send = of_module("starlette._exception_handler", UNKNOWN, inner, asyncio, disguise)
    rest = transport_for(send).write(send, event("wait"))
    assert rest is not None
    drain = asyncio.ensure_future(rest)
    await asyncio.sleep(5)  # cancelled here, if the limit was bound to this task
    assert isinstance(drain.exception(), TimeoutError)


RENAMED = """
def wrap_app_handling_exceptions(other):
    def wrapped_app():
        async def sender(message):
            await other(message)
        return sender
    return wrapped_app()
make = wrap_app_handling_exceptions
"""


async def test_a_known_function_that_holds_its_send_otherwise_is_known_no_more() -> None:
    send = of_module("starlette._exception_handler", RENAMED, FakeSocket().send)
    scope = {"extensions": {EXTENSION: {"transport": None, "send": FakeSocket.send}}}
    assert direct_for(scope, send) is None
    assert not _is_known(send)


# --- the rest of a coroutine that was stepped by hand


async def _sum(futures: list[asyncio.Future[int]]) -> int:
    total = 0
    for future in futures:
        try:
            total += await future
        except ValueError:
            total += 1_000
    return total


def step(coroutine: Any) -> Resumed:
    return Resumed(coroutine, coroutine.send(None))


@given(answers=st.lists(st.integers(0, 9) | st.none(), min_size=1, max_size=6))
def test_a_resumed_coroutine_ends_as_if_it_had_been_awaited(answers: list[int | None]) -> None:
    async def law() -> None:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[int]] = [loop.create_future() for _ in answers]
        rest = asyncio.ensure_future(step(_sum(futures)))
        for future, answer in zip(futures, answers, strict=True):
            await asyncio.sleep(0)
            if answer is None:
                future.set_exception(ValueError())
            else:
                future.set_result(answer)
        assert await rest == sum(1_000 if answer is None else answer for answer in answers)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(law())


async def test_a_cancelled_rest_is_cancelled_where_it_waits() -> None:
    line = Line()
    rest = asyncio.ensure_future(step(line.send(event("never"))))
    await asyncio.sleep(0)
    rest.cancel()
    await asyncio.wait({rest})
    assert rest.cancelled()
    assert line.closed


async def test_a_rest_that_is_dropped_while_awaited_closes_the_coroutine() -> None:
    line = Line()
    awaiting = step(line.send(event("never"))).__await__()
    next(awaiting)
    awaiting.close()
    assert line.closed


def test_what_cannot_be_given_up_is_left_alone() -> None:
    class Rest:
        def __await__(self) -> Any:
            yield

    discard(Rest())


# --- frames


@pytest.mark.parametrize(
    ("event", "frame"),
    [
        ({"text": "a"}, "a"),
        ({"text": "", "bytes": None}, ""),
        ({"text": None, "bytes": b"a"}, b"a"),
        ({"bytes": b""}, b""),
        ({}, b""),
    ],
)
def test_the_frame_of_an_event_is_its_text_or_its_bytes(event: dict[str, Any], frame: str | bytes) -> None:
    assert frame_of({"type": "websocket.receive", **event}) == frame


async def test_a_frame_for_many_is_begun_for_each_whatever_the_others_do() -> None:
    taken: list[str] = []
    slow = Line()

    async def quick(event: Any) -> None:
        taken.append(event["text"])

    async def gone(event: Any) -> None:
        raise ConnectionLost

    async def cancelled(event: Any) -> None:
        raise asyncio.CancelledError

    others = Transport.fan_out([quick, gone, slow.send, cancelled, quick], event("a"))
    assert taken == ["a", "a"]
    assert [place for place, _ in others] == [1, 2, 3]
    lost, rest, end = (answer for _, answer in others)
    assert isinstance(lost, ConnectionLost)
    assert isinstance(end, asyncio.CancelledError)
    assert isinstance(rest, Resumed)
    slow.read()
    await rest
    assert slow.frames == ["a"]
