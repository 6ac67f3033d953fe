"""An endpoint that keeps its own loop, adopted with one line: ``async with manager.connect(...)``.

From then on its socket is limited, validated and watched, and the rest of the application reaches it:
here an HTTP route sends to a user. Run it with ``python -m examples.existing_endpoint``.
"""

from __future__ import annotations

import argparse

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from wsmanager import ConnectionManager, WebSocketConfig

manager = ConnectionManager(WebSocketConfig.from_env())


async def echo(websocket: WebSocket) -> None:
    user = websocket.query_params.get("user", "guest")
    async with manager.connect(websocket, user_id=user) as conn:
        try:
            while True:
                message = await websocket.receive_json()
                await websocket.send_json({"type": "echo", "to": conn.user_id, "data": message["data"]})
        except WebSocketDisconnect:
            pass


async def notify(request: Request) -> JSONResponse:
    report = await manager.send_personal_message(
        request.path_params["user"], {"type": "notice", "data": (await request.body()).decode()}
    )
    return JSONResponse({"sent": report.sent, "kept": report.kept})


app = Starlette(
    routes=[WebSocketRoute("/ws", echo), Route("/notify/{user}", notify, methods=["POST"])],
    lifespan=manager.lifespan,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="An endpoint with a loop of its own, adopted.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    import uvicorn

    uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
