"""An application of every framework with the manager in it, in the framework's own idiom.

- ``/ws`` is ``manager.endpoint``;
- ``/own`` hands the framework's own WebSocket to `use`, such as `adopt`;
- ``/hello`` is plain HTTP;
- the manager starts and ends with the application.
"""

# Django has no type stubs of its own, and those of Channels are narrower than Channels.
# pyright: reportMissingTypeStubs=false, reportArgumentType=false

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeAlias

from tests.frameworks import apps
from tests.frameworks.apps import App
from wsmanager import ConnectionManager

Use: TypeAlias = Callable[[ConnectionManager, Any], Awaitable[None]]


async def adopt(manager: ConnectionManager, websocket: Any) -> None:
    """Greet its user, and send back what it hears."""
    async with manager.connect(websocket) as conn:
        await conn.send({"type": "hello", "data": conn.user_id})
        async for message in websocket.iter_json():
            await websocket.send_json({"type": "echo", "data": message["data"]})


def beside(app: App, manager: ConnectionManager) -> App:
    """For a framework that has no place for another ASGI application."""

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        is_managed = scope["type"] == "websocket" and scope["path"] == "/ws"
        await (manager.endpoint if is_managed else app)(scope, receive, send)

    return dispatch


def bare(manager: ConnectionManager, use: Use) -> App:
    from starlette.websockets import WebSocket

    http = apps.bare([])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await http(scope, receive, send)
        elif scope["type"] == "websocket" and scope["path"] == "/own":
            await use(manager, WebSocket(scope, receive, send))
        else:  # the lifespan, too
            await manager.endpoint(scope, receive, send)

    return app


def starlette(manager: ConnectionManager, use: Use) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    async def own(websocket: WebSocket) -> None:
        await use(manager, websocket)

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    return Starlette(
        routes=[
            WebSocketRoute("/ws", manager.endpoint),
            WebSocketRoute("/own", own),
            Route("/hello", hello),
        ],
        lifespan=manager.lifespan,
    )


def fastapi(manager: ConnectionManager, use: Use) -> Any:
    from fastapi import FastAPI, WebSocket
    from fastapi.responses import PlainTextResponse
    from starlette.routing import WebSocketRoute

    app = FastAPI(lifespan=manager.lifespan)
    app.router.routes.append(WebSocketRoute("/ws", manager.endpoint))

    @app.websocket("/own")
    async def own(websocket: WebSocket) -> None:
        await use(manager, websocket)

    @app.get("/hello", response_class=PlainTextResponse)
    async def hello() -> str:
        return "hello"

    return app


def litestar(manager: ConnectionManager, use: Use) -> Any:
    from litestar import Litestar, WebSocket, asgi, get, websocket
    from litestar.types import Receive, Scope, Send

    # The token is hidden in the scope that the server logs from, which is no copy.
    @asgi("/ws", copy_scope=False)
    async def managed(scope: Scope, receive: Receive, send: Send) -> None:
        await manager.endpoint(scope, receive, send)

    @websocket("/own")
    async def own(socket: WebSocket[Any, Any, Any]) -> None:
        await use(manager, socket)

    @get("/hello", media_type="text/plain")
    async def hello() -> str:
        return "hello"

    return Litestar([managed, own, hello], lifespan=[manager.lifespan], logging_config=None)


def quart(manager: ConnectionManager, use: Use) -> Any:
    from quart import websocket

    async def own() -> None:
        await use(manager, websocket)

    async def life() -> AsyncGenerator[None]:
        async with manager:
            yield

    app = apps.quart([])
    app.asgi_app = beside(app.asgi_app, manager)
    app.websocket("/own")(own)
    app.while_serving(life)
    return app


def falcon(manager: ConnectionManager, use: Use) -> App:
    from falcon.asgi import Request, WebSocket

    class Own:
        async def on_websocket(self, req: Request, ws: WebSocket) -> None:
            await use(manager, ws)

    class Life:
        async def process_startup(self, scope: Any, event: Any) -> None:
            await manager.__aenter__()

        async def process_shutdown(self, scope: Any, event: Any) -> None:
            await manager.aclose()

    app = apps.falcon([])
    app.add_route("/own", Own())
    app.add_middleware(Life())
    return beside(app, manager)


def channels(manager: ConnectionManager, use: Use) -> Any:
    http = apps.django()
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import path

    class Own(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels is untyped
        async def connect(self) -> None:
            await use(manager, self)

    sockets = [path("ws", manager.endpoint), path("own", Own.as_asgi())]
    return ProtocolTypeRouter({"http": http, "websocket": URLRouter(sockets), "lifespan": manager.endpoint})


def django(manager: ConnectionManager, use: Use) -> App:
    http = apps.django()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        is_django = scope["type"] == "http" or scope.get("path") == "/own"
        await (http if is_django else manager.endpoint)(scope, receive, send)

    return app
