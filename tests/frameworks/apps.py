"""The same small application in every framework's own idiom.

- ``/echo`` takes the subprotocol ``chat.v1`` if it is offered, and sends back what it hears until the client
  leaves; how it left is appended to `ends`;
- ``/tick`` only sends, until that fails; what it failed with is appended to `ends`;
- ``/refuse`` does not accept; ``/close`` closes with 4321; ``/fail`` raises once it has heard something;
- ``/hello`` is plain HTTP.
"""

# Django has no type stubs of its own, and those of Channels are narrower than Channels.
# pyright: reportMissingTypeStubs=false, reportArgumentType=false

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from wsmanager import ConnectionManager, WebSocketMiddleware
from wsmanager.middleware import ModeName

App = Callable[[Any, Any, Any], Awaitable[None]]
Ends = list[Any]

SUBPROTOCOL = "chat.v1"


class Fault(Exception):
    """What ``/fail`` raises."""


def wrap(app: Any, manager: ConnectionManager, mode: ModeName) -> App:
    return WebSocketMiddleware(app, manager, mode)


def add_middleware(app: Any, manager: ConnectionManager, mode: ModeName) -> App:
    app.add_middleware(WebSocketMiddleware, manager=manager, mode=mode)
    added: App = app
    return added


def chosen(offered: Any) -> str | None:
    return SUBPROTOCOL if SUBPROTOCOL in (offered or ()) else None


async def ticking(send: Callable[[str], Awaitable[Any]], ends: Ends) -> None:
    try:
        while True:
            await send("tick")
            await asyncio.sleep(0.02)
    except BaseException as error:
        ends.append("OSError" if isinstance(error, OSError) else type(error).__name__)
        raise


# --- a bare callable


def bare(ends: Ends) -> App:  # noqa: C901 - one small function for each path
    async def app(scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "websocket":
            assert (await receive())["type"] == "websocket.connect"
        await (sockets[scope["path"]] if kind == "websocket" else {"http": hello, "lifespan": live}[kind])(
            scope, receive, send
        )

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "subprotocol": chosen(scope["subprotocols"])})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        ends.append(event["code"])

    async def tick(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await ticking(lambda text: send({"type": "websocket.send", "text": text}), ends)

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "code": 4400})

    async def close(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4321, "reason": "enough"})

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        raise Fault

    async def hello(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async def live(scope: Any, receive: Any, send: Any) -> None:
        for stage in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{stage}"
            await send({"type": f"lifespan.{stage}.complete"})

    sockets = {"/echo": echo, "/tick": tick, "/refuse": refuse, "/close": close, "/fail": fail}
    return app


# --- Starlette and FastAPI


def starlette(ends: Ends) -> Any:
    from starlette.applications import Starlette
    from starlette.endpoints import WebSocketEndpoint
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.websockets import WebSocket

    class Echo(WebSocketEndpoint):
        encoding = "text"

        async def on_connect(self, websocket: WebSocket) -> None:
            await websocket.accept(chosen(websocket.scope["subprotocols"]))

        async def on_receive(self, websocket: WebSocket, data: str) -> None:
            await websocket.send_text(data)

        async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
            ends.append(close_code)

    async def tick(websocket: WebSocket) -> None:
        await websocket.accept()
        await ticking(websocket.send_text, ends)

    async def refuse(websocket: WebSocket) -> None:
        await websocket.close(4400)

    async def close(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4321, "enough")

    async def fail(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        raise Fault

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    inner = [WebSocketRoute("/close", close), WebSocketRoute("/fail", fail)]
    return Starlette(
        routes=[
            WebSocketRoute("/echo", Echo),
            WebSocketRoute("/refuse", refuse),
            WebSocketRoute("/tick", tick),
            Route("/hello", hello),
            Mount("/", routes=inner),
        ]
    )


def fastapi(ends: Ends) -> Any:  # noqa: C901 - one small function for each path
    from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect, WebSocketException

    app = FastAPI()

    def subprotocol(websocket: WebSocket) -> str | None:
        return chosen(websocket.scope["subprotocols"])

    async def echo(websocket: WebSocket, subprotocol: str | None = Depends(subprotocol)) -> None:
        await websocket.accept(subprotocol)
        try:
            async for text in websocket.iter_text():
                await websocket.send_text(text)
            await websocket.receive()
        except (WebSocketDisconnect, RuntimeError):
            ends.append("left")

    async def tick(websocket: WebSocket) -> None:
        await websocket.accept()
        await ticking(websocket.send_text, ends)

    async def refuse(websocket: WebSocket) -> None:
        raise WebSocketException(4400, "no")

    async def close(websocket: WebSocket) -> None:
        await websocket.accept()
        raise WebSocketException(4321, "enough")

    async def fail(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        raise Fault

    async def hello() -> str:
        return "hello"

    for endpoint in (echo, tick, refuse, close, fail):
        app.add_api_websocket_route(f"/{endpoint.__name__}", endpoint)
    app.add_api_route("/hello", hello)
    return app


# --- Litestar


def litestar(ends: Ends) -> Any:
    from litestar import Litestar, WebSocket, get
    from litestar import websocket as route
    from litestar.exceptions import WebSocketDisconnect

    async def echo(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept(chosen(socket.scope["subprotocols"]))
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect as error:
            ends.append(error.code)

    async def tick(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await ticking(socket.send_text, ends)

    async def refuse(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.close(4400)

    async def close(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.close(4321, "enough")

    async def fail(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.receive_text()
        raise Fault

    async def hello() -> str:
        return "hello"

    sockets = [route(f"/{endpoint.__name__}")(endpoint) for endpoint in (echo, tick, refuse, close, fail)]
    return Litestar([*sockets, get("/hello", media_type="text/plain")(hello)], logging_config=None)


# --- Quart


def quart(ends: Ends) -> Any:
    from quart import Quart, Response, websocket

    app = Quart("chat")

    @app.websocket("/echo")
    async def echo() -> None:
        await websocket.accept(subprotocol=chosen(websocket.requested_subprotocols))
        try:
            while True:
                await websocket.send(await websocket.receive())
        except (asyncio.CancelledError, Exception) as error:  # as it receives, or as it sends
            ends.append("cancelled")
            if isinstance(error, asyncio.CancelledError):
                raise

    @app.websocket("/tick")
    async def tick() -> None:
        await websocket.accept()
        await ticking(websocket.send, ends)

    @app.websocket("/refuse")
    async def refuse() -> Response:
        return Response("no", status=400)

    @app.websocket("/close")
    async def close() -> None:
        await websocket.accept()
        await websocket.close(4321, "enough")

    @app.websocket("/fail")
    async def fail() -> None:
        await websocket.accept()
        await websocket.receive()
        raise Fault

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    return app


def guard_quart(app: Any, manager: ConnectionManager, mode: ModeName) -> App:
    app.asgi_app = WebSocketMiddleware(app.asgi_app, manager, mode)
    guarded: App = app
    return guarded


# --- Falcon


def falcon(ends: Ends) -> Any:
    import falcon.asgi
    from falcon.asgi import Request, Response, WebSocket

    class Echo:
        async def on_websocket(self, req: Request, ws: WebSocket) -> None:
            await ws.accept(chosen(ws.subprotocols))
            try:
                while True:
                    await ws.send_text(await ws.receive_text())
            except falcon.WebSocketDisconnected as error:
                ends.append(error.code)

    class Tick:
        async def on_websocket(self, req: Request, ws: WebSocket) -> None:
            await ws.accept()
            await ticking(ws.send_text, ends)

    class Refuse:
        async def on_websocket(self, req: Request, ws: WebSocket) -> None:
            await ws.close(4400)

    class Close:
        async def on_websocket(self, req: Request, ws: WebSocket) -> None:
            await ws.accept()
            await ws.close(4321, "enough")

    class Fail:
        async def on_websocket(self, req: Request, ws: WebSocket) -> None:
            await ws.accept()
            await ws.receive_text()
            raise Fault

    class Hello:
        async def on_get(self, req: Request, resp: Response) -> None:
            resp.text = "hello"

    app = falcon.asgi.App()
    for resource in (Echo, Tick, Refuse, Close, Fail, Hello):
        app.add_route(f"/{resource.__name__.lower()}", resource())
    return app


# --- Django and Channels


def django() -> Any:
    """Django's own application, with nothing but ``/hello``."""
    from django.conf import settings

    if not settings.configured:
        from django import setup
        from django.http import HttpRequest, HttpResponse
        from django.urls import path

        async def hello(request: HttpRequest) -> HttpResponse:
            return HttpResponse(b"hello", content_type="text/plain")

        settings.configure(
            SECRET_KEY="for tests",
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF=(path("hello", hello),),
            LOGGING_CONFIG=None,
        )
        setup()
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


def channels(ends: Ends) -> Any:
    http = django()
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import path

    class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels is untyped
        async def connect(self) -> None:
            await self.accept(chosen(self.scope["subprotocols"]))

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.send(text_data, bytes_data)

        async def disconnect(self, code: int) -> None:
            ends.append(code)

    class Tick(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels is untyped
        async def connect(self) -> None:
            await self.accept()
            await ticking(self.send, ends)

    class Refuse(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels is untyped
        async def connect(self) -> None:
            await self.close(4400)

    class Close(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels is untyped
        async def connect(self) -> None:
            await self.accept()
            await self.close(4321, "enough")

    class Fail(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels is untyped
        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            raise Fault

    sockets = [path(one.__name__.lower(), one.as_asgi()) for one in (Echo, Tick, Refuse, Close, Fail)]
    return ProtocolTypeRouter({"http": http, "websocket": URLRouter(sockets)})
