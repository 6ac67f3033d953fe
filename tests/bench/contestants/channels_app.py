"""Django Channels on its memory layer, with room for everything: nothing is dropped."""

# Django has no type stubs of its own.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from typing import Any

import django
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from django.conf import settings

from .launch import on_uvicorn
from .messages import BURST, FRAME, PERSONAL, ROOM, reply_to, rounds, user_of

HOUR = 3_600  # a message waits for as long as a run may take
LAYER = {
    "BACKEND": "channels.layers.InMemoryChannelLayer",
    "CONFIG": {"capacity": 1_000_000, "expiry": HOUR},
}


class Consumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc] # Channels has no types
    channel_layer: Any
    channel_name: str

    async def connect(self) -> None:
        self.user = user_of("?" + self.scope["query_string"].decode())
        await self.channel_layer.group_add("everybody", self.channel_name)
        await self.channel_layer.group_add(self.user, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        for group in ("everybody", "room", self.user):
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive_json(self, content: Any, **_: Any) -> None:
        if content["type"] == "chat.message":
            await self.send_json(reply_to(content))
        else:
            await self.obey(content["type"], content["data"])

    async def obey(self, command: str, data: Any) -> None:
        match command:
            case "fan":
                await rounds(data, 1, broadcast)
            case "burst":
                await rounds(data, BURST, broadcast)
            case "join":
                await self.channel_layer.group_add("room", self.channel_name)
            case "room":
                await self.channel_layer.group_send("room", {"type": "deliver", "text": ROOM})
            case _:
                await self.channel_layer.group_send(data, {"type": "deliver", "text": PERSONAL})

    async def deliver(self, event: dict[str, str]) -> None:
        await self.send(text_data=event["text"])


async def broadcast() -> None:
    layer: Any = get_channel_layer()
    await layer.group_send("everybody", {"type": "deliver", "text": FRAME})


if __name__ == "__main__":
    settings.configure(CHANNEL_LAYERS={"default": LAYER}, SECRET_KEY="no session is signed with it")
    django.setup()
    on_uvicorn(Consumer.as_asgi())
