"""A server of graphql-transport-ws behind the guard, with its client, which sees what it saw without it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Generator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from ariadne import QueryType, SubscriptionType, make_executable_schema
from ariadne.asgi import GraphQL
from ariadne.asgi.handlers import GraphQLTransportWSHandler
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.clients.drivers import WebSocketsSocket, end_of
from tests.clients.protocols import GRAPHQL, HASTE, PROTOCOLS, Client, Ends, Site, site_of
from tests.clients.service import token

SCHEMA = """
type Query { echo(text: String): String, fail: String }
type Subscription { count(to: Int!): Int!, watch(name: String!): Int! }
"""
QUERY, SUBSCRIPTION = QueryType(), SubscriptionType()


@QUERY.field("echo")
def echo(_: Any, info: Any, text: str) -> str:
    return text


@QUERY.field("fail")
def fail(_: Any, info: Any) -> str:
    raise ValueError("nothing to see")


@SUBSCRIPTION.source("count")
async def count(_: Any, info: Any, to: int) -> AsyncGenerator[int]:
    for number in range(to):
        yield number


@SUBSCRIPTION.source("watch")
async def watch(_: Any, info: Any, name: str) -> AsyncGenerator[int]:
    try:
        yield 0
        if name == "goner":
            await info.context["websocket"].close(4409, "enough")
        await asyncio.Event().wait()
    finally:
        info.context["ends"].put((name, "ended"))


@SUBSCRIPTION.field("count")
@SUBSCRIPTION.field("watch")
def number(value: int, info: Any, **_: Any) -> int:
    return value


def refuse_the_unwanted(_: Any, payload: Any) -> None:
    if payload == {"name": "unwanted"}:
        raise ValueError("not you")


def make_graphql(ends: Ends) -> Starlette:
    schema = make_executable_schema(SCHEMA, QUERY, SUBSCRIPTION)

    def context(websocket: Any, _: Any) -> dict[str, Any]:
        return {"websocket": websocket, "ends": ends}

    def speaking(**settings: Any) -> GraphQL:
        handler = GraphQLTransportWSHandler(on_connect=refuse_the_unwanted, **settings)
        return GraphQL(schema, context_value=context, websocket_handler=handler)

    hasty = speaking(connection_init_wait_timeout=timedelta(seconds=0.05))
    return Starlette(routes=[Mount("/hasty", hasty), Mount("/", speaking())])


@pytest.fixture(scope="module", params=[False, True], ids=["bare", "guarded"])
def site(request: pytest.FixtureRequest) -> Generator[Site]:
    with site_of(make_graphql, is_guarded=request.param) as site:
        yield site


@pytest.fixture(scope="module")
def guarded() -> Generator[Site]:
    with site_of(make_graphql) as site:
        yield site


def url_of(site: Site, path: str = "/", query: str | None = None) -> str:
    return f"ws://{site.server.address}{path}?" + (f"token={token()}" if query is None else query)


ECHO = "query ($text: String) { echo(text: $text) }"
WATCH = "subscription ($name: String!) { watch(name: $name) }"


@PROTOCOLS.row("connects with a token, and is known", only=GRAPHQL)
def test_a_token(client: Client, guarded: Site) -> None:
    user = secrets.token_hex()
    with client(url_of(guarded, query=f"token={token(user)}")) as somebody:
        assert somebody.next() == ["connected"]
        (conn,) = guarded.manager.connections(user_id=user)
        report = guarded.server.do(guarded.manager.send_to_connection(conn.id, {"type": "news"}))
        assert report.unsupported == 1
        somebody.do("subscribe", 1, ECHO, {"text": "hello"})
        assert somebody.next() == ["next", 1, {"echo": "hello"}, None]


@PROTOCOLS.row("does not connect without one", only=GRAPHQL)
def test_no_token(client: Client, guarded: Site) -> None:
    with client(url_of(guarded, query="")) as nobody:
        assert nobody.next() == ["refused", "Unexpected server response: 401"]


@PROTOCOLS.row("is turned away by the application", only=GRAPHQL)
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


@PROTOCOLS.row("asks and is answered: acknowledgements, queries", only=GRAPHQL)
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


@PROTOCOLS.row("is sent away later", only=GRAPHQL)
def test_an_end_of_the_application(client: Client, site: Site) -> None:
    with client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        ann.do("subscribe", 1, WATCH, {"name": "goner"})
        while (event := ann.next())[0] == "next":
            pass
        assert event == ["closed", 4409, "enough"]
        assert site.end_of("goner") == "ended"


@PROTOCOLS.row("over the rate limit is closed, by 4029, and comes back by itself", only=GRAPHQL)
def test_too_many_messages(client: Client) -> None:
    with site_of(make_graphql, **HASTE) as site, client(url_of(site)) as ann:
        assert ann.next() == ["connected"]
        events: list[Any] = []
        for number in range(40):
            ann.do("subscribe", number, ECHO, {"text": "again"})
            while events[-1:] != [["complete", number]]:
                events.append(ann.next())
        assert ["closed", 4029, "rate_limited"] in events


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


INIT, SUBSCRIBE = (
    {"type": "connection_init"},
    {"type": "subscribe", "id": "1", "payload": {"query": "{ echo }"}},
)
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
    socket = WebSocketsSocket(url_of(site, path), {}, ["graphql-transport-ws"])
    assert socket.subprotocol == "graphql-transport-ws"
    for message in messages:
        socket.send(json.dumps(message))
    assert end_of(socket)[0] == code
