"""A chat room behind ``manager.endpoint``: handlers, a room, a typed payload, a reply.

Run it with ``python -m examples.starlette_mount``, then talk to it with any WebSocket client:

    python -m websockets "ws://127.0.0.1:8000/ws?token=$(python -m examples.starlette_mount --token alice)"
    > {"type": "chat.join", "data": {"room": "general"}, "id": 1}
    > {"type": "chat.message", "data": {"room": "general", "text": "Hello!"}, "id": 2}
"""

from __future__ import annotations

import argparse
import os
import time

import jwt
import msgspec
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from wsmanager import Connection, ConnectionManager, JWTAuth, WebSocketConfig

SECRET = os.environ.get("CHAT_SECRET", "a secret for the example, not for you")

manager = ConnectionManager(WebSocketConfig.from_env(), auth=JWTAuth(key=SECRET, algorithms=["HS256"]))


class Join(msgspec.Struct):
    room: str


class ChatMessage(msgspec.Struct):
    room: str
    text: str


class Receipt(msgspec.Struct):
    delivered: int


@manager.on("chat.join")
async def join(conn: Connection, data: Join) -> list[str]:
    await manager.join_session(conn, data.room)
    return sorted({other.user_id for other in manager.connections(room=data.room)})


@manager.on("chat.message")
async def chat(conn: Connection, data: ChatMessage) -> Receipt:
    message = {"type": "chat.message", "data": {"from": conn.user_id, "room": data.room, "text": data.text}}
    report = await manager.send_to_session(data.room, message, sender=conn)
    return Receipt(delivered=report.sent)


app = Starlette(routes=[WebSocketRoute("/ws", manager.endpoint)], lifespan=manager.lifespan)


def token_for(user: str) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time()) + 3600}, SECRET)


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat room behind manager.endpoint.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--token", metavar="USER", help="print a token for USER and exit")
    options = parser.parse_args()
    if options.token:
        print(token_for(options.token))  # noqa: T201  # what the option is for
        return
    import uvicorn

    uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
