"""What single frameworks have beyond the common: dependencies, security, middleware, test clients."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect, WebSocketException
from fastapi.security import APIKeyCookie, APIKeyHeader, APIKeyQuery, HTTPBearer, OAuth2PasswordBearer
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse

from tests.frameworks import apps
from wsmanager import ConnectionManager, WebSocketMiddleware
from wsmanager.testing import HandshakeRefused, PeerClosed, connect

on_the_virtual_clock = pytest.mark.anyio


# --- FastAPI: the same with the guard and without


def fastapi_app(diary: list[str]) -> FastAPI:
    app = FastAPI()

    async def session() -> AsyncGenerator[str]:
        diary.append("opened")
        yield "session"
        diary.append("closed")

    async def with_session(websocket: WebSocket, session: str = Depends(session)) -> None:
        await websocket.accept()
        await websocket.send_text(session)
        try:
            await websocket.receive_text()
        except WebSocketDisconnect as left:
            diary.append(f"left {left.code}")

    async def refused(websocket: WebSocket) -> None:
        raise WebSocketException(4400, "no")

    async def denied(websocket: WebSocket) -> None:
        raise HTTPException(401, "who are you?", headers={"x-why": "because"})

    async def thrown_out(websocket: WebSocket) -> None:
        await websocket.accept()
        raise WebSocketException(4401, "out")

    def secured(scheme: Callable[..., Any]) -> Callable[..., Any]:
        async def endpoint(websocket: WebSocket, found: Any = Depends(scheme)) -> None:  # noqa: B008 - as FastAPI wants it
            await websocket.accept()
            await websocket.send_text(str(found))
            await websocket.close()

        return endpoint

    for path, endpoint in {
        "/session": with_session,
        "/refused": refused,
        "/denied": denied,
        "/thrown-out": thrown_out,
        "/oauth": secured(OAuth2PasswordBearer("token")),
        "/bearer": secured(HTTPBearer()),
        "/key-header": secured(APIKeyHeader(name="x-key")),
        "/key-query": secured(APIKeyQuery(name="key")),
        "/key-cookie": secured(APIKeyCookie(name="key")),
    }.items():
        app.add_api_websocket_route(path, endpoint)
    return app


CREDENTIALS: Any = {
    "headers": [("authorization", "Bearer t"), ("x-key", "k"), ("cookie", "key=c")],
    "query": "key=q",
}


async def talk(app: Any, path: str, **options: Any) -> list[Any]:
    """What a client gets that listens, and then leaves."""
    heard: list[Any] = []
    try:
        async with connect(app, path, **options) as peer:
            try:
                while True:
                    heard.append(await peer.receive(timeout=1))
            except PeerClosed as closed:
                heard.append((closed.code, closed.reason))
            except TimeoutError:
                await peer.close(4242)
    except HandshakeRefused as refusal:
        heard.append((refusal.status, sorted(refusal.headers), refusal.body))
    return heard


@on_the_virtual_clock
@pytest.mark.parametrize("options", [{}, CREDENTIALS], ids=["nobody", "somebody"])
@pytest.mark.parametrize(
    "path",
    [
        "/session",
        "/refused",
        "/denied",
        "/thrown-out",
        "/oauth",
        "/bearer",
        "/key-header",
        "/key-query",
        "/key-cookie",
    ],
)
async def test_fastapi_dependencies_and_security_work_as_without(path: str, options: dict[str, Any]) -> None:
    stories = []
    for is_guarded in (False, True):
        diary: list[Any] = []
        app = fastapi_app(diary)
        if is_guarded:
            app.add_middleware(WebSocketMiddleware, manager=ConnectionManager(), mode="json")
        stories.append((await talk(app, path, **options), diary))
    bare, guarded = stories
    assert guarded == bare
    if path == "/session":
        assert guarded == (["session"], ["opened", "left 4242", "closed"])


# --- Starlette: beside a middleware for HTTP, and mounted


@on_the_virtual_clock
async def test_starlette_middleware_for_http_stands_beside_it() -> None:
    async def add_header(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-added"] = "yes"
        return response

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    manager = ConnectionManager()
    app = Starlette(routes=[Route("/hello", hello), WebSocketRoute("/echo", echo)])
    app.add_middleware(WebSocketMiddleware, manager=manager)
    app.add_middleware(BaseHTTPMiddleware, dispatch=add_header)
    assert TestClient(app).get("/hello").headers["x-added"] == "yes"
    async with connect(app, "/echo") as peer:
        await peer.send_text("hi")
        assert await peer.receive() == "hi"
        assert len(manager.connections()) == 1


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@on_the_virtual_clock
async def test_a_part_of_an_application_is_guarded_where_it_is_mounted() -> None:
    manager = ConnectionManager()
    inner = Starlette(routes=[WebSocketRoute("/echo", echo)])
    app = Starlette(
        routes=[
            Mount("/guarded", app=WebSocketMiddleware(inner, manager, {"/echo": "json"})),
            Mount("/open", app=inner),
        ]
    )
    async with connect(app, "/open/echo"):
        assert manager.connections() == []
    async with connect(app, "/guarded/echo") as peer:
        assert (await manager.broadcast({"n": 1})).sent == 1
        assert await peer.receive_json() == {"n": 1}


def test_starlettes_test_client() -> None:
    manager = ConnectionManager()
    guarded = apps.add_middleware(apps.starlette([]), manager, "json")
    with TestClient(guarded) as client:
        with client.websocket_connect("/echo", subprotocols=[apps.SUBPROTOCOL]) as socket:
            socket.send_text("1")
            assert socket.receive_text() == "1"
            assert socket.accepted_subprotocol == apps.SUBPROTOCOL
            assert len(manager.connections()) == 1
        assert client.get("/hello").text == "hello"


def test_fastapis_test_client_sees_a_refusal() -> None:
    guarded = apps.add_middleware(apps.fastapi([]), ConnectionManager(auth=Nobody()), "json")
    with (
        TestClient(guarded) as client,
        pytest.raises(WebSocketDenialResponse) as caught,
        client.websocket_connect("/echo"),
    ):
        pass
    response = caught.value
    assert (response.status_code, response.json()["error"]["code"]) == (401, "token_missing")


class Nobody:
    async def authenticate(self, handshake: Any) -> None:
        return None


# --- Litestar


@pytest.mark.parametrize("mode", ["opaque", "json"])
def test_litestars_test_client_listeners_and_a_middleware_for_each_route(mode: str) -> None:
    from litestar import Litestar, get, websocket_listener
    from litestar.middleware import DefineMiddleware
    from litestar.testing import TestClient as LitestarClient

    @websocket_listener("/shout")
    async def shout(data: str) -> str:
        return data.upper()

    @websocket_listener("/sum")
    async def add(data: list[int]) -> dict[str, int]:
        return {"sum": sum(data)}

    @get("/hello", media_type="text/plain")
    async def hello() -> str:
        return "hello"

    manager = ConnectionManager()
    middleware = DefineMiddleware(WebSocketMiddleware, manager=manager, mode=mode)
    app = Litestar([shout, add, hello], middleware=[middleware], logging_config=None)
    with LitestarClient(app) as client:
        with client.websocket_connect("/shout") as loud, client.websocket_connect("/sum") as adder:
            loud.send_text('"hi"')
            assert loud.receive_text() == '"HI"'
            adder.send_json([1, 2])
            assert adder.receive_json() == {"sum": 3}
        assert client.get("/hello").text == "hello"
    assert manager.get_analytics().messages.types[mode].count_in == 2


# --- Quart


def test_quarts_test_client() -> None:
    async def talk() -> None:
        manager = ConnectionManager()
        app = apps.guard_quart(apps.quart([]), manager, "opaque")
        client = app.test_client()  # type: ignore[attr-defined]  # it is still the Quart
        async with client.websocket("/echo") as socket:
            await socket.send("hi")
            assert await socket.receive() == "hi"
            assert len(manager.connections()) == 1
        assert await (await client.get("/hello")).get_data(as_text=True) == "hello"

    asyncio.run(talk())


# --- Falcon


def test_falcons_test_client() -> None:
    from falcon.testing import ASGIConductor

    async def talk() -> None:
        manager = ConnectionManager()
        async with ASGIConductor(WebSocketMiddleware(apps.falcon([]), manager, "json")) as conductor:
            async with conductor.simulate_ws("/echo") as socket:
                await socket.send_text("1")
                assert await socket.receive_text() == "1"
                assert (await manager.broadcast({"n": 1})).delivered
                assert json.loads(await socket.receive_text()) == {"n": 1}
            assert (await conductor.simulate_get("/hello")).text == "hello"

    asyncio.run(talk())


# --- Django and Channels


def test_channels_communicator_and_a_synchronous_consumer() -> None:
    apps.django()
    from channels.generic.websocket import JsonWebsocketConsumer
    from channels.testing import WebsocketCommunicator

    class Sum(JsonWebsocketConsumer):  # type: ignore[misc]  # channels is untyped
        def receive_json(self, content: Any, **_: Any) -> None:
            self.send_json({"sum": sum(content)})

    async def talk() -> None:
        manager = ConnectionManager()
        communicator = WebsocketCommunicator(WebSocketMiddleware(Sum.as_asgi(), manager, "json"), "/sum")
        assert await communicator.connect() == (True, None)
        await communicator.send_json_to([1, 2])
        assert await communicator.receive_json_from() == {"sum": 3}
        assert (await manager.broadcast({"n": 1})).delivered
        assert await communicator.receive_json_from() == {"n": 1}
        await communicator.disconnect()
        assert manager.connections() == []

    asyncio.run(talk())


@on_the_virtual_clock
@pytest.mark.parametrize("make", [apps.channels, lambda _: apps.django()], ids=["channels", "django"])
async def test_what_django_does_not_serve_fails_as_without(make: Any) -> None:
    complaints = []
    for app in (make([]), WebSocketMiddleware(make([]), ConnectionManager())):
        with pytest.raises(ValueError, match="lifespan") as caught:
            await app({"type": "lifespan", "asgi": {"version": "3.0"}}, refusing, refusing)
        complaints.append(str(caught.value))
    assert complaints[0] == complaints[1]


async def refusing(*_: Any) -> Any:
    raise AssertionError("nothing is received or sent")


@on_the_virtual_clock
async def test_plain_django_refuses_sockets_as_without() -> None:
    complaints = []
    for app in (apps.django(), WebSocketMiddleware(apps.django(), ConnectionManager())):
        with pytest.raises(ValueError, match="Django can only handle") as caught:
            async with connect(app):
                pass
        complaints.append(str(caught.value))
    assert complaints[0] == complaints[1]
