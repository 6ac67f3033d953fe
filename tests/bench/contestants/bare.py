"""Bare ASGI with msgspec: what an application without any library does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from .launch import on_uvicorn
from .messages import FRAME, Crowd, reply_to, user_of

Send = Callable[[dict[str, Any]], Awaitable[None]]

EVENT = {"type": "websocket.send", "text": FRAME}
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode


async def tell(send: Send, text: str) -> None:
    await send({"type": "websocket.send", "text": text})


async def broadcast(everybody: Iterable[Send]) -> None:
    for send in everybody:
        await send(EVENT)


crowd = Crowd(tell, broadcast)


async def serve(receive: Any, send: Send) -> None:
    while (event := await receive())["type"] != "websocket.disconnect":
        message = decode(event["text"])
        if message["type"] == "chat.message":
            await send({"type": "websocket.send", "text": encode(reply_to(message)).decode()})
        else:
            await crowd.obey(send, message["type"], message["data"])


async def app(scope: Any, receive: Any, send: Send) -> None:
    if scope["type"] != "websocket":
        return  # a lifespan that it does not want
    await receive()
    await send({"type": "websocket.accept"})
    user = user_of("?" + scope["query_string"].decode())
    crowd.enter(user, send)
    try:
        await serve(receive, send)
    finally:
        crowd.leave(user, send)


if __name__ == "__main__":
    on_uvicorn(app)
