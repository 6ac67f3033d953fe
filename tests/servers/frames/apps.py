"""What the applications of several tests do."""

from __future__ import annotations

from .stage import Call
from .wire import CLOSE, TEXT, reason_for, said

__all__ = ["FAREWELL", "close_when_told", "echo"]


async def echo(call: Call) -> None:
    """Answer each message with itself, until the client has gone."""
    await call.accept()
    while (event := await call.receive())["type"] == "websocket.receive":
        await call.send("send", **{kind: event[kind] for kind in ("text", "bytes") if kind in event})


FAREWELL = said(TEXT, b"last") + said(CLOSE, reason_for(4002, "enough, ä"))


async def close_when_told(call: Call) -> None:
    """Say `FAREWELL` to the first message, and see what becomes of more."""
    await call.accept()
    await call.receive()
    await call.send("send", text="last")
    await call.send("close", code=4002, reason="enough, ä")
    await call.see_it_out()
    await call.try_to_send("send", text="late")
    await call.try_to_send("close")
