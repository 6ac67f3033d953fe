"""FastAPI, by its own idioms: JSON in and out for one, a loop of ``send_text`` for all."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from .launch import on_uvicorn
from .messages import FRAME, Crowd, reply_to

app = FastAPI()


async def tell(websocket: WebSocket, text: str) -> None:
    await websocket.send_text(text)


async def broadcast(everybody: Iterable[WebSocket]) -> None:
    for websocket in everybody:
        await websocket.send_text(FRAME)


crowd = Crowd(tell, broadcast)


async def serve(websocket: WebSocket) -> None:
    while True:
        message = await websocket.receive_json()
        if message["type"] == "chat.message":
            await websocket.send_json(reply_to(message))
        else:
            await crowd.obey(websocket, message["type"], message["data"])


@app.websocket("/ws")
async def endpoint(websocket: WebSocket, user: str) -> None:
    await websocket.accept()
    crowd.enter(user, websocket)
    try:
        await serve(websocket)
    except WebSocketDisconnect:
        pass
    finally:
        crowd.leave(user, websocket)


if __name__ == "__main__":
    on_uvicorn(app)
