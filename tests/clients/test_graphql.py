"""A GraphQL server that speaks graphql-transport-ws behind the guard: its clients see what they saw without."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from ariadne import QueryType, SubscriptionType, make_executable_schema
from ariadne.asgi import GraphQL
from ariadne.asgi.handlers import GraphQLTransportWSHandler
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.clients.protocols import GRAPHQL, PROTOCOLS, Client, Ends, Site, made
from tests.clients.service import token

SCHEMA = """
type Query { echo(text: String): String, fail: String }
type Subscription { count(to: Int!): Int!, watch(name: String!): Int! }
"""


def make_graphql(ends: Ends) -> Starlette:
    query, subscription = QueryType(), SubscriptionType()

    def on_connect(websocket: Any, payload: Any) -> None:
        if payload == {"name": "unwanted"}:
            raise ValueError("not you")

    @query.field("echo")
    def echo(_: Any, info: Any, text: str) -> str:
        return text

    @query.field("fail")
    def fail(_: Any, info: Any) -> str:
        raise ValueError("nothing to see")

    @subscription.source("count")
    async def count(_: Any, info: Any, to: int) -> AsyncGenerator[int]:
        for number in range(to):
            yield number

    @subscription.source("watch")
    async def watch(_: Any, info: Any, name: str) -> AsyncGenerator[int]:
        if name == "goner":
            asyncio.get_running_loop().call_soon(asyncio.create_task, end(info))
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            ends.put((name, "ended"))

    async def end(info: Any) -> None:
        await info.context["request"].close(4409, "enough")

    @subscription.field("count")
    @subscription.field("watch")
    def number(value: int, info: Any, **_: Any) -> int:
        return value

    schema = make_executable_schema(SCHEMA, query, subscription)
    patient = GraphQLTransportWSHandler(on_connect=on_connect)
    hasty = GraphQLTransportWSHandler(connection_init_wait_timeout=timedelta(seconds=0.05))
    return Starlette(
        routes=[
            Mount("/hasty", GraphQL(schema, websocket_handler=hasty)),
            Mount("/", GraphQL(schema, websocket_handler=patient)),
        ]
    )


@pytest.fixture(scope="module", params=[False, True], ids=["bare", "guarded"])
def site(request: pytest.FixtureRequest) -> Generator[Site]:
    with made(make_graphql, is_guarded=request.param) as site:
        yield site


@pytest.fixture(scope="module")
def guarded() -> Generator[Site]:
    with made(make_graphql, is_guarded=True) as site:
        yield site


def url_of(site: Site, path: str = "/", query: str | None = None) -> str:
    return f"ws://{site.server.address}{path}?" + (f"token={token()}" if query is None else query)


ECHO = "query ($text: String) { echo(text: $text) }"
WATCH = "subscription ($name: String!) { watch(name: $name) }"


@PROTOCOLS.row("connects with a token, and is known", only=GRAPHQL)
def test_a_token(client: Client, guarded: Site) -> None:
    with client(url_of(guarded)) as ann:
        assert ann.next() == ["connected"]
        (conn,) = guarded.manager.connections(user_id="ann")
        assert guarded.server.do(guarded.manager.broadcast({"type": "news"})).unsupported == 1
        ann.do("subscribe", 1, ECHO, {"text": "hello"})
        assert ann.next() == ["next", 1, {"echo": "hello"}, None]
        assert conn.id


@PROTOCOLS.row("does not connect without one", only=GRAPHQL)
def test_no_token(client: Client, guarded: Site) -> None:
    with client(url_of(guarded, query="")) as nobody:
        assert nobody.next() == ["refused", "Unexpected server response: 401"]
        assert guarded.manager.connections() == []


@PROTOCOLS.row("is refused in the application's own words", only=GRAPHQL)
def test_a_refusal_of_the_application(client: Client, site: Site) -> None:
    with client(url_of(site), {"name": "unwanted"}) as ann:
        assert ann.next() == ["closed", 1000, ""]


@PROTOCOLS.row("asks and is answered: acknowledgements, queries", only=GRAPHQL)
def test_queries(client: Client, site: Site) -> None:
    with client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        ann.do("subscribe", 1, ECHO, {"text": "漢字 👩‍👩‍👧"})
        assert ann.next() == ["next", 1, {"echo": "漢字 👩‍👩‍👧"}, None]
        assert ann.next() == ["complete", 1]


@PROTOCOLS.row("gets the application's errors", only=GRAPHQL)
def test_errors(client: Client, site: Site) -> None:
    with client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        ann.do("subscribe", 1, "{ fail }")
        assert ann.next() == ["next", 1, {"fail": None}, "nothing to see"]
        assert ann.next() == ["complete", 1]
        ann.do("subscribe", 2, "{ nonsense }")
        event, number, message = ann.next()
        assert (event, number) == ("error", 2)
        assert "nonsense" in message


@PROTOCOLS.row(
    "exchanges bytes", only=GRAPHQL, no=dict.fromkeys(GRAPHQL, "the protocol has text frames only")
)
def test_bytes(client: Client, site: Site) -> None:
    with client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        ann.do("subscribe", 1, ECHO, {"text": bytes(range(256))})
        assert ann.next() == ["next", 1, {"echo": bytes(range(256))}, None]


@PROTOCOLS.row("hears what the server says: rooms, subscriptions", only=GRAPHQL)
def test_subscriptions(client: Client, site: Site) -> None:
    with client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        ann.do("subscribe", 1, "subscription { count(to: 3) }")
        assert [ann.next() for _ in range(3)] == [["next", 1, {"count": n}, None] for n in range(3)]
        assert ann.next() == ["complete", 1]


@PROTOCOLS.row("leaves, and the application hears of it", only=GRAPHQL)
def test_an_end_of_the_client(client: Client, site: Site) -> None:
    with client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        for number, name in enumerate(("completer", "leaver")):
            ann.do("subscribe", number, WATCH, {"name": name})
            assert ann.next() == ["next", number, {"watch": 0}, None]
        ann.do("complete", 0)
        assert ann.next() == ["complete", 0]
        assert site.end_of("completer") == "ended"
        ann.do("leave")
        assert site.end_of("leaver") == "ended"


@PROTOCOLS.row("is sent away by the application", only=GRAPHQL)
def test_an_end_of_the_application(client: Client, site: Site) -> None:
    with client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        ann.do("subscribe", 1, WATCH, {"name": "goner"})
        while (event := ann.next())[0] == "next":
            pass
        assert event == ["closed", 4409, "enough"]
        assert site.end_of("goner") == "ended"


@PROTOCOLS.row("sees a restart, 1012, and comes back by itself", only=GRAPHQL)
def test_a_restart(client: Client, guarded: Site) -> None:
    with client(url_of(guarded)) as ann:
        assert ann.next() == ["connected"]
        ann.do("subscribe", 1, WATCH, {"name": "ann"})
        assert ann.next() == ["next", 1, {"watch": 0}, None]
        with guarded.restarting():
            assert ann.next() == ["closed", 1012, "shutdown"]
        while (event := ann.next()) != ["connected"]:
            assert event[0] in {"refused", "closed"}
        assert ann.next() == ["next", 1, {"watch": 0}, None]


INIT, SUBSCRIBE = {"type": "connection_init"}, {"type": "subscribe", "id": "1", "payload": {"query": "{ echo }"}}
FOREVER = {
    "type": "subscribe",
    "id": "1",
    "payload": {"query": WATCH, "variables": {"name": "ann"}},
}


@pytest.mark.parametrize(
    ("path", "messages", "code"),
    [
        ("/", [{"type": "nonsense"}], 4400),
        ("/", [SUBSCRIBE], 4401),
        ("/hasty/", [], 4408),
        ("/", [INIT, FOREVER, FOREVER], 4409),
        ("/", [INIT, INIT], 4429),
    ],
)
def test_the_close_codes_of_the_protocol_pass(
    site: Site, path: str, messages: Sequence[Any], code: int
) -> None:
    offered = [Subprotocol("graphql-transport-ws")]
    with connect(url_of(site, path), subprotocols=offered, proxy=None) as socket:
        assert socket.subprotocol == "graphql-transport-ws"
        for message in messages:
            socket.send(json.dumps(message))
        with pytest.raises(ConnectionClosed):
            while True:
                socket.recv(timeout=10)
        assert socket.close_code == code
