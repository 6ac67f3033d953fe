"""A socket.io server behind the guard, with the clients of socket.io: they see what they saw without it."""

# python-socketio has no types of its own.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import secrets
from collections.abc import Generator
from typing import Any

import pytest
import socketio
from socketio import exceptions

from tests.clients.drivers import Actor
from tests.clients.protocols import HASTE, PROTOCOLS, SOCKETIO, Client, Ends, Site, site_of
from tests.clients.service import token


class Handlers(socketio.AsyncNamespace):  # type: ignore[misc]  # python-socketio has no types
    def __init__(self, ends: Ends) -> None:
        super().__init__()
        self._ends = ends

    async def on_connect(self, sid: str, environ: Any, auth: Any) -> None:
        if auth == "unwanted":
            raise exceptions.ConnectionRefusedError("not you")
        await self.save_session(sid, auth)

    async def on_disconnect(self, sid: str, reason: str) -> None:
        self._ends.put((await self.get_session(sid), reason))

    async def on_echo(self, sid: str, data: Any) -> Any:
        return data

    async def on_ask(self, sid: str, data: Any) -> Any:
        return await self.call("question", data, to=sid)

    async def on_join(self, sid: str, room: str) -> str:
        await self.enter_room(sid, room)
        return "joined"

    async def on_say(self, sid: str, room: str) -> str:
        for number in range(3):
            await self.emit("news", number, room=room)
        return "said"

    async def on_end(self, sid: str, _: Any) -> None:
        await self.disconnect(sid)


def make_socketio(ends: Ends) -> Any:
    server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])
    server.register_namespace(Handlers(ends))
    return socketio.ASGIApp(server)


@pytest.fixture(scope="module", params=[False, True], ids=["bare", "guarded"])
def site(request: pytest.FixtureRequest) -> Generator[Site]:
    with site_of(make_socketio, is_guarded=request.param) as site:
        yield site


@pytest.fixture(scope="module")
def guarded() -> Generator[Site]:
    with site_of(make_socketio) as site:
        yield site


def url_of(site: Site, query: str | None = None) -> str:
    return f"http://{site.server.address}/?" + (f"token={token()}" if query is None else query)


def call(client: Actor, name: str, data: Any) -> Any:
    client.do("call", name, data)
    event, answer = client.next()
    assert event == "answer"
    return answer


@PROTOCOLS.row("connects with a token, and is known", only=SOCKETIO)
def test_a_token(client: Client, guarded: Site) -> None:
    user = secrets.token_hex()
    with client(url_of(guarded, f"token={token(user)}")) as somebody:
        assert somebody.next() == ["connected"]
        (conn,) = guarded.manager.connections(user_id=user)
        report = guarded.server.do(guarded.manager.send_to_connection(conn.id, {"type": "news"}))
        assert report.unsupported == 1
        assert call(somebody, "echo", 1) == 1


@PROTOCOLS.row("does not connect without one", only=SOCKETIO)
def test_no_token(client: Client, guarded: Site) -> None:
    with client(url_of(guarded, "")) as nobody:
        assert nobody.next()[0] == "refused"


@PROTOCOLS.row("is turned away by the application", only=SOCKETIO)
def test_a_refusal_of_the_application(client: Client, site: Site) -> None:
    with client(url_of(site), "unwanted") as ann:
        assert ann.next() == ["refused", "not you"]


@PROTOCOLS.row("asks and is answered: acknowledgements, queries", only=SOCKETIO)
def test_acknowledgements_go_both_ways(client: Client, site: Site) -> None:
    with client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        assert call(ann, "echo", {"text": "漢字 👩‍👩‍👧"}) == {"text": "漢字 👩‍👩‍👧"}
        assert call(ann, "ask", "who") == ["re", "who"]


@PROTOCOLS.row("exchanges bytes", only=SOCKETIO)
def test_binary_attachments(client: Client, site: Site) -> None:
    with client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        data = {"name": "all bytes", "files": [bytes(range(256)), b""]}
        assert call(ann, "echo", data) == data


@PROTOCOLS.row("hears what the server says: rooms, subscriptions", only=SOCKETIO)
def test_rooms(client: Client, site: Site) -> None:
    with client(url_of(site)) as ann, client(url_of(site)) as bob, client(url_of(site)) as carol:
        for one in (ann, bob, carol):
            assert one.next() == ["connected"]
        for one in (ann, bob):
            assert call(one, "join", "lobby") == "joined"
        assert call(carol, "say", "lobby") == "said"
        for one in (ann, bob):
            assert [one.next() for _ in range(3)] == [["news", number] for number in range(3)]


@PROTOCOLS.row("leaves, and the application hears of it", only=SOCKETIO)
def test_an_end_of_the_client(client: Client, site: Site) -> None:
    with client(url_of(site), "leaver") as ann:
        assert ann.next() == ["connected"]
        ann.do("leave")
        assert ann.next() == ["left"]
        assert site.end_of("leaver") in {"client disconnect", "transport close"}


@PROTOCOLS.row("is sent away later", only=SOCKETIO)
def test_an_end_of_the_application(client: Client, site: Site) -> None:
    with client(url_of(site), "goner") as ann:
        assert ann.next() == ["connected"]
        ann.do("emit", "end", "now")
        assert ann.next() == ["left"]
        assert site.end_of("goner") in {"server disconnect", "transport close"}


@PROTOCOLS.row("over the rate limit is closed, by 4029, and comes back by itself", only=SOCKETIO)
def test_too_many_messages(client: Client) -> None:
    with site_of(make_socketio, **HASTE) as site, client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        for number in range(30):
            ann.do("emit", "echo", number)
        assert ann.next() == ["left"]
        while (event := ann.next()) != ["connected"]:
            assert event[0] in {"left", "refused"}  # it was back too soon
        assert site.manager.get_analytics().closed.keys() == {4029}


@PROTOCOLS.row("sees a restart, 1012, and comes back by itself", only=SOCKETIO)
def test_a_restart(client: Client, guarded: Site) -> None:
    with client(url_of(guarded)) as ann:
        assert ann.next() == ["connected"]
        with guarded.restarting():
            assert ann.next() == ["left"]
        while (event := ann.next()) != ["connected"]:
            assert event[0] == "refused"
        assert call(ann, "echo", 1) == 1
