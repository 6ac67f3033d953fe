"""What `wsmanager.servers.uvicorn` finds out about a uvicorn that behaves otherwise and renames nothing."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import sys
import weakref
from asyncio.events import _get_running_loop
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.protocols.websockets import auto
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from wsmanager.servers import selftest
from wsmanager.servers.pipe import _turns
from wsmanager.servers.sansio import SansIOProtocol
from wsmanager.servers.selftest import differences

Change = Callable[[pytest.MonkeyPatch], None]


def chosen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What an import for the first time would choose."""
    monkeypatch.delitem(sys.modules, "wsmanager.servers.uvicorn", raising=False)
    return importlib.import_module("wsmanager.servers.uvicorn").WebSocketProtocol


# --- a uvicorn that is as expected


def test_our_protocol_serves_where_it_behaves_as_uvicorns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert chosen(monkeypatch) is SansIOProtocol
    assert caplog.records == []


def test_the_choice_can_be_made_while_a_loop_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def choose() -> None:
        loop, tasks = asyncio.get_running_loop(), asyncio.all_tasks()
        assert chosen(monkeypatch) is SansIOProtocol
        assert asyncio.get_running_loop() is loop
        assert asyncio.all_tasks() == tasks
        await asyncio.sleep(0)

    asyncio.run(choose())


def test_the_choice_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    before = len(_turns)
    assert chosen(monkeypatch) is SansIOProtocol
    assert _get_running_loop() is None
    gc.collect()
    assert len(_turns) == before


@pytest.mark.parametrize("level", [5, logging.DEBUG])
def test_a_server_that_traces_is_tested_too(
    level: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "uvicorn.error")
    assert chosen(monkeypatch) is SansIOProtocol
    assert "Sec-WebSocket-Key" not in caplog.text


def test_both_protocols_have_the_whole_conversation() -> None:
    for kind in (SansIOProtocol, WebSocketsSansIOProtocol):
        seen = dict(converse(kind))
        assert ("event", {"type": "websocket.receive", "text": "naïve ✓"}) in seen["text message"]
        assert ("written", b"\x81\x0ana\xc3\xafve \xe2\x9c\x93" * 2) in seen["text message"]
        assert ("event", {"type": "websocket.receive", "text": "one"}) in seen["message in fragments"]
        assert ("written", b"") in seen["full transport"]
        assert ("written", b"\x81\x05whole" * 2) in seen["room in the transport"]
        assert ("written", b"\x88\x05\x03\xe8bye") in seen["close"]
        assert ("close", None) in seen["answer to the close"]


def converse(kind: Any) -> list[Any]:
    conversation = selftest._Conversation(kind)
    with selftest._set_aside_running_loop():
        try:
            return [(step, list(seen)) for step, seen in conversation.run()]
        finally:
            conversation.end()


# --- a uvicorn that is not


def more_in_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is handed over with another key, which ours does not know."""

    def handle_text(self: Any, event: Any) -> None:
        self.curr_msg_data_type = "text"
        self.frames = [event.data]
        if event.fin:
            self.queue.put_nowait({"type": "websocket.receive", "text": event.data.decode(), "fin": True})

    monkeypatch.setattr(WebSocketsSansIOProtocol, "handle_text", handle_text)


def events_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is parsed is handed over in the next turn: a message that passes by the parser overtakes it."""
    before = WebSocketsSansIOProtocol.handle_events

    def handle_events(self: Any) -> None:
        if self.handshake_complete:
            self.loop.call_soon(before, self)
        else:
            before(self)

    monkeypatch.setattr(WebSocketsSansIOProtocol, "handle_events", handle_events)


def other_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message is followed by a ping."""
    before = WebSocketsSansIOProtocol.send

    async def send(self: Any, message: Any) -> None:
        await before(self, message)
        if message["type"] == "websocket.send":
            self.transport.write(b"\x89\x00")

    monkeypatch.setattr(WebSocketsSansIOProtocol, "send", send)


def joined_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fragments are kept as text, and joined as such."""

    def handle_text(self: Any, event: Any) -> None:
        self.curr_msg_data_type = "text"
        self.frames = [event.data.decode()]
        if event.fin:
            self.send_receive_event_to_app()

    def handle_cont(self: Any, event: Any) -> None:
        self.frames.append(event.data.decode())
        if event.fin:
            self.send_receive_event_to_app()

    def hand_over(self: Any) -> None:
        message: dict[str, Any]
        if self.curr_msg_data_type == "text":
            message = {"type": "websocket.receive", "text": "".join(self.frames)}
        else:
            message = {"type": "websocket.receive", "bytes": b"".join(self.frames)}
        self.frames = []
        self.queue.put_nowait(message)

    monkeypatch.setattr(WebSocketsSansIOProtocol, "handle_text", handle_text)
    monkeypatch.setattr(WebSocketsSansIOProtocol, "handle_cont", handle_cont)
    monkeypatch.setattr(WebSocketsSansIOProtocol, "send_receive_event_to_app", hand_over)


def no_answer_to_pongs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pongs are handled elsewhere: ours never learns the latency, and otherwise all is alike."""

    def handle_pong(self: Any, event: Any) -> None: ...

    monkeypatch.setattr(WebSocketsSansIOProtocol, "handle_pong", handle_pong)


def never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    def spin(self: Any) -> None:
        self.loop.call_soon(self.handle_ping)

    monkeypatch.setattr(WebSocketsSansIOProtocol, "handle_ping", spin)


def failing_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise LookupError("later")

    def handle_ping(self: Any) -> None:
        self.loop.call_soon(fail).cancel()
        self.loop.call_soon(fail)

    monkeypatch.setattr(WebSocketsSansIOProtocol, "handle_ping", handle_ping)


def failing_task(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_asgi(self: Any) -> None:
        await asyncio.sleep(0)
        raise LookupError("in the task")

    monkeypatch.setattr(WebSocketsSansIOProtocol, "run_asgi", run_asgi)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (more_in_an_event, "differs=\"['text message'"),
        (events_later, "differs=\"['message after fragments'"),
        (other_frames, "differs=\"['text message'"),
        (joined_otherwise, "failed="),
        (no_answer_to_pongs, "latency of a pong"),
        (never_idle, "comes to no end"),
        (failing_later, "SansIOProtocol, message in fragments: LookupError: later"),
        (failing_task, "SansIOProtocol, handshake: LookupError: in the task"),
    ],
)
def test_where_uvicorn_behaves_otherwise_its_own_serves_and_one_warning_says_what_differs(
    change: Change, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    change(monkeypatch)
    assert chosen(monkeypatch) is auto.AutoWebSocketsProtocol
    (record,) = [record for record in caplog.records if record.name == "wsmanager"]
    assert record.levelno == logging.WARNING
    assert "server.moved" in record.getMessage()
    assert words in record.getMessage()
    gc.collect()  # a coroutine that nobody awaited, or a failure that nobody asked for, complains here


def test_what_changes_in_ours_alone_is_found() -> None:
    class Upper(SansIOProtocol):
        def send_receive_event_to_app(self) -> None:
            self.frames = [frame.upper() for frame in self.frames]
            super().send_receive_event_to_app()

    class Unread(SansIOProtocol):
        async def receive(self) -> Any:
            event = await super().receive()
            self.transport.pause_reading()
            return event

    assert "message in fragments" in differences(Upper, WebSocketsSansIOProtocol)
    assert "handshake" in differences(Unread, WebSocketsSansIOProtocol)


def test_a_change_that_ours_inherits_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before = WebSocketsSansIOProtocol.handle_connect

    def handle_connect(self: Any, event: Any) -> None:
        before(self, event)
        self.response.headers["X-New"] = "1"

    monkeypatch.setattr(WebSocketsSansIOProtocol, "handle_connect", handle_connect)
    assert differences(SansIOProtocol, WebSocketsSansIOProtocol) == []


def test_a_conversation_that_is_given_up_is_collected() -> None:
    conversation: Any = selftest._Conversation(SansIOProtocol)
    with selftest._set_aside_running_loop():
        next(conversation.run())
        conversation.end()
    end = weakref.ref(conversation.protocol)
    del conversation
    gc.collect()
    assert end() is None
