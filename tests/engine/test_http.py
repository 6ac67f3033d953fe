"""What the manager tells over HTTP, and to whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import jwt
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

import wsmanager
from tests.engine.conftest import ByQuery, MakeManager
from tests.engine.connections.test_heartbeat import stall
from wsmanager import ConfigurationError, ConnectionManager, HealthStatus, JWTAuth, WebSocketConfig
from wsmanager.http import endpoints
from wsmanager.protocols import Handshake, Identity
from wsmanager.testing import HandshakeRefused, connect

pytestmark = pytest.mark.anyio

SECRET = "a secret of at least 32 characters"
OPERATORS = ("/health", "/analytics")
Ask = Callable[..., Awaitable[httpx2.Response]]


def sign(**claims: Any) -> str:
    return jwt.encode({"sub": "ann", "exp": int(time.time()) + 600, **claims}, SECRET, algorithm="HS256")


def bearer(**claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {sign(**claims)}"}


OPERATOR = bearer(sub="olga", scope="chat wsmanager.operator")


def jwt_auth(**options: Any) -> JWTAuth:
    return JWTAuth(SECRET, algorithms=["HS256"], **options)


async def ask(app: Any, path: str, *, method: str = "GET", **options: Any) -> httpx2.Response:
    transport = httpx2.ASGITransport(app, client=("10.0.0.1", 1234))
    async with httpx2.AsyncClient(transport=transport, base_url="http://status.example") as client:
        return await client.request(method, path, **options)


def code_of(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


# --- for everybody


@pytest.mark.parametrize("auth", [None, jwt_auth()], ids=["anonymous", "jwt"])
async def test_life_and_readiness_are_for_everybody(make_manager: MakeManager, auth: Any) -> None:
    app = endpoints(make_manager(auth=auth))
    assert (await ask(app, "/live")).json() == {"status": "live"}
    assert (await ask(app, "/ready")).json() == {"status": "ready"}


async def test_a_manager_that_shuts_down_lives_and_is_not_ready(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with manager:
        assert (await ask(endpoints(manager), "/ready")).status_code == 200
    response = await ask(endpoints(manager), "/ready")
    assert code_of(response) == (503, "shutting_down")
    assert response.headers["retry-after"] in {"1", "2"}
    assert (await ask(endpoints(manager), "/live")).status_code == 200


async def test_a_full_manager_is_not_ready(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(max_connections=1))
    async with connect(manager.endpoint):
        assert code_of(await ask(endpoints(manager), "/ready")) == (503, "node_full")
    assert (await ask(endpoints(manager), "/ready")).status_code == 200


# --- for operators


@pytest.mark.parametrize("path", OPERATORS)
@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ({}, (401, "token_missing")),
        ({"authorization": "Bearer x.y.z"}, (401, "token_malformed")),
        (bearer(exp=1), (401, "token_expired")),
        (bearer(), (403, "not_an_operator")),
        (bearer(scope="wsmanager"), (403, "not_an_operator")),
    ],
)
async def test_figures_are_for_operators(
    make_manager: MakeManager, path: str, headers: dict[str, str], refusal: tuple[int, str]
) -> None:
    response = await ask(endpoints(make_manager(auth=jwt_auth())), path, headers=headers)
    assert code_of(response) == refusal
    assert ("www-authenticate" in response.headers) == (refusal[0] == 401)


@pytest.mark.parametrize("path", OPERATORS)
async def test_without_an_authenticator_nobody_is_an_operator(make_manager: MakeManager, path: str) -> None:
    assert code_of(await ask(endpoints(make_manager()), path)) == (403, "no_authenticator")


@pytest.mark.parametrize("auth", [None, jwt_auth()], ids=["anonymous", "jwt"])
@pytest.mark.parametrize("path", OPERATORS)
async def test_they_are_for_everybody_where_that_is_said(
    make_manager: MakeManager, path: str, auth: Any
) -> None:
    assert (await ask(endpoints(make_manager(auth=auth), public=True), path)).status_code == 200


async def test_an_application_says_who_is_an_operator(make_manager: MakeManager) -> None:
    app = endpoints(make_manager(auth=jwt_auth()), is_operator=lambda who: who.user_id == "ann")
    assert (await ask(app, "/analytics", headers=bearer())).status_code == 200
    assert (await ask(app, "/analytics", headers=OPERATOR)).status_code == 403


async def _says_no(_: Identity) -> bool:
    return False


class SaysNo:
    async def __call__(self, _: Identity) -> bool:
        return False


@pytest.mark.parametrize("wrong", [_says_no, "admin", None])
def test_what_cannot_say_who_is_an_operator_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="is_operator"):
        endpoints(ConnectionManager(), is_operator=wrong)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_only_true_makes_an_operator(make_manager: MakeManager) -> None:
    says: Any = SaysNo()
    app = endpoints(make_manager(auth=jwt_auth()), is_operator=says)
    assert code_of(await ask(app, "/analytics", headers=bearer())) == (403, "not_an_operator")


async def test_a_bug_is_answered_in_json_and_tells_nothing(make_manager: MakeManager) -> None:
    def buggy(_: Identity) -> bool:
        raise LookupError("a bug with a secret in it")

    app = endpoints(make_manager(auth=jwt_auth()), is_operator=buggy)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://status.example") as client:
        response = await client.get("/health", headers=bearer())
    assert code_of(response) == (500, "server_error")
    assert response.headers["cache-control"] == "no-store"
    assert "secret" not in response.text


async def test_analytics_are_the_managers_figures(make_manager: MakeManager) -> None:
    manager = make_manager(auth=jwt_auth())
    async with connect(manager.endpoint, query=f"token={sign()}"):
        figures = (await ask(endpoints(manager), "/analytics", headers=OPERATOR)).json()
    assert figures["indexes"]["connections"] == 1
    assert figures["messages"]["total"]["count_in"] == 0


async def test_an_overview_tells_how_the_process_does(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(max_connections=7), auth=jwt_auth())
    async with connect(manager.endpoint, query=f"token={sign()}"):
        overview = (await ask(endpoints(manager), "/health", headers=OPERATOR)).json()
    assert overview["status"] == "healthy"
    assert overview["reasons"] == []
    assert overview["version"] == wsmanager.__version__
    assert overview["connections"] == {"open": 1}
    assert overview["max_connections"] == 7
    assert overview["health"] == {"healthy": 1}
    assert overview["tasks"]["heartbeat"]["state"] == "running"


async def test_a_manager_that_lets_nobody_in_is_unhealthy(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with manager:
        pass
    overview = (await ask(endpoints(manager, public=True), "/health")).json()
    assert (overview["status"], overview["reasons"]) == ("unhealthy", ["shutting_down"])


class Gloomy:
    """Scores every connection as `value`."""

    value = 1.0

    def score(self, sample: Any) -> float:
        return self.value


@pytest.mark.parametrize(
    ("value", "status", "reasons"),
    [
        (0.9, "healthy", []),
        (0.5, "degraded", ["connections_degraded"]),
        (0.0, "unhealthy", ["connections_unhealthy"]),
    ],
)
async def test_connections_that_do_badly_show(
    make_manager: MakeManager, value: float, status: str, reasons: list[str]
) -> None:
    scorer = Gloomy()
    manager = make_manager(WebSocketConfig(health_check_interval=10), health=scorer)
    async with connect(manager.endpoint), connect(manager.endpoint):
        scorer.value = value
        await asyncio.sleep(25)
        overview = (await ask(endpoints(manager, public=True), "/health")).json()
    assert (overview["status"], overview["reasons"]) == (status, reasons)


class Strict:
    """Scores a connection that made an error as `value`."""

    def __init__(self, value: float) -> None:
        self.value = value

    def score(self, sample: Any) -> float:
        return self.value if sample.error_rate else 1.0


@pytest.mark.parametrize(
    ("value", "bad", "status"),
    [(0.5, 1, "healthy"), (0.5, 2, "degraded"), (0.0, 2, "degraded"), (0.0, 3, "unhealthy")],
)
async def test_the_share_of_connections_that_do_badly_decides(
    make_manager: MakeManager, value: float, bad: int, status: str
) -> None:
    manager = make_manager(WebSocketConfig(health_check_interval=10), health=Strict(value))
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(connect(manager.endpoint)) for _ in range(4)]
        for peer in peers[:bad]:
            await peer.send_text("nonsense")
        await asyncio.sleep(25)
        overview = (await ask(endpoints(manager, public=True), "/health")).json()
    assert sum(overview["health"].values()) == 4
    assert overview["status"] == status, overview["health"]


async def test_a_loop_that_is_late_shows(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with connect(manager.endpoint):
        await asyncio.sleep(2.5)
        stall(5)
        await asyncio.sleep(0.1)
        overview = (await ask(endpoints(manager, public=True), "/health")).json()
    assert (overview["status"], overview["reasons"]) == ("degraded", ["loop_late"])
    assert overview["loop_lag"] > 4
    assert overview["uptime"] > 7
    assert overview["loop_stalls"] == 1


async def test_a_task_that_crashed_shows(make_manager: MakeManager) -> None:
    async def crash() -> None:
        raise LookupError

    manager = make_manager()
    async with manager:
        manager.engine.supervisor.keep_alive("errand", crash)
        await asyncio.sleep(0.1)
        overview = (await ask(endpoints(manager, public=True), "/health")).json()
    assert (overview["status"], overview["reasons"]) == ("degraded", ["task_crashed: errand"])


async def test_an_overview_holds_the_managers_figures_of_every_tenant(make_manager: MakeManager) -> None:
    manager = make_manager(WebSocketConfig(queue_max_messages=3), auth=ByQuery())
    app = endpoints(manager, public=True)
    async with connect(manager.endpoint, query="tenant=acme", window=1_000, stalled=True) as peer:
        (conn,) = manager.connections(tenant="acme")
        for _ in range(8):
            await manager.send_to_connection(conn.id, {"type": "x", "data": "x" * 2_000})
        await manager.send_personal_message("nobody", {"type": "x"})
        overview = (await ask(app, "/health")).json()
        figures = (await ask(app, "/analytics")).json()
        peer.resume()
        await asyncio.sleep(1)
    assert overview["connections"] == {"open": 1}
    assert (overview["arrived"], overview["congested"], overview["kept"]) == (1, 1, 1)
    assert overview["waiting"] == figures["waiting"] > 0
    assert overview["drops"] == figures["drops"] != {}


async def test_an_overview_counts_who_was_refused_and_who_left(make_manager: MakeManager) -> None:
    manager = make_manager(auth=jwt_auth())
    with pytest.raises(HandshakeRefused):
        async with connect(manager.endpoint, query="token=x.y.z"):
            pass
    async with connect(manager.endpoint, query=f"token={sign()}") as peer:
        await peer.close(4321)
    overview = (await ask(endpoints(manager, public=True), "/health")).json()
    assert overview["refused"] == {"token_malformed": 1}
    assert overview["closed"] == {"4321": 1}
    assert overview["arrived"] == 0


# --- for users


async def test_a_user_sees_their_own_connections_and_nobody_elses(make_manager: MakeManager) -> None:
    manager = make_manager(auth=jwt_auth())
    async with (
        connect(manager.endpoint, query=f"token={sign(tenant='acme')}"),
        connect(manager.endpoint, query=f"token={sign()}"),
        connect(manager.endpoint, query=f"token={sign(sub='bob')}"),
    ):
        (own,) = manager.connections(user_id="ann", tenant="acme")
        mine = (await ask(endpoints(manager), "/me", headers=bearer(tenant="acme"))).json()
    assert (mine["user_id"], mine["tenant"], mine["worst"]) == ("ann", "acme", HealthStatus.HEALTHY)
    assert [one["connection_id"] for one in mine["connections"]] == [own.id]


async def test_a_user_who_is_not_connected_has_no_connections(make_manager: MakeManager) -> None:
    mine = (await ask(endpoints(make_manager(auth=jwt_auth())), "/me", headers=bearer())).json()
    assert (mine["worst"], mine["connections"]) == (None, [])


async def test_nobody_is_anybody_without_an_authenticator(make_manager: MakeManager) -> None:
    app = endpoints(make_manager(), public=True)
    assert code_of(await ask(app, "/me")) == (403, "no_authenticator")


async def test_a_cookie_will_do_and_a_page_of_another_site_will_not(make_manager: MakeManager) -> None:
    app = endpoints(make_manager(auth=jwt_auth()))
    cookie = {"cookie": f"access_token={sign()}"}
    assert (await ask(app, "/me", headers=cookie)).status_code == 200
    foreign = await ask(app, "/me", headers={**cookie, "origin": "https://evil.example"})
    assert code_of(foreign) == (403, "origin_refused")


async def test_over_tls_a_page_without_tls_is_of_another_site(make_manager: MakeManager) -> None:
    transport = httpx2.ASGITransport(endpoints(make_manager(auth=jwt_auth())))
    async with httpx2.AsyncClient(transport=transport, base_url="https://status.example") as client:
        for scheme, status in (("https", 200), ("http", 403)):
            headers = {"cookie": f"access_token={sign()}", "origin": f"{scheme}://status.example"}
            assert (await client.get("/me", headers=headers)).status_code == status


async def test_a_name_that_no_handshake_takes_is_refused(make_manager: MakeManager) -> None:
    app = endpoints(make_manager(WebSocketConfig(max_name_length=16), auth=jwt_auth()))
    assert code_of(await ask(app, "/me", headers=bearer(sub="a" * 17))) == (401, "bad_name")


async def test_a_token_in_the_query_does_not_reach_the_servers_log(make_manager: MakeManager) -> None:
    logged: list[bytes] = []
    app = endpoints(make_manager(auth=jwt_auth()))

    async def server(scope: Any, receive: Any, send: Any) -> None:
        async def send_and_log(event: Any) -> None:
            logged.append(scope["query_string"])
            await send(event)

        await app(scope, receive, send_and_log)

    assert (await ask(server, f"/me?token={sign()}&x=1")).status_code == 200
    assert set(logged) == {b"token=REDACTED&x=1"}


async def test_nor_does_it_when_the_answer_crashes(make_manager: MakeManager) -> None:
    logged: list[bytes] = []

    def crash(identity: Identity) -> bool:
        raise LookupError("a bug")

    app = endpoints(make_manager(auth=jwt_auth()), is_operator=crash)

    async def server(scope: Any, receive: Any, send: Any) -> None:
        async def send_and_log(event: Any) -> None:
            logged.append(scope["query_string"])
            await send(event)

        await app(scope, receive, send_and_log)

    with pytest.raises(LookupError):
        await ask(server, f"/health?token={sign()}")
    assert set(logged) == {b"token=REDACTED"}


async def test_guessing_is_as_slow_as_at_a_handshake(make_manager: MakeManager) -> None:
    app = endpoints(make_manager(WebSocketConfig(handshake_rate=60, handshake_burst=3), auth=jwt_auth()))
    codes = [code_of(await ask(app, "/me", headers={"authorization": "Bearer x"})) for _ in range(4)]
    assert codes[:3] == [(401, "token_malformed")] * 3
    assert codes[3][0] == 429
    assert (await ask(app, "/live")).status_code == 200


class Broken:
    async def authenticate(self, handshake: Handshake) -> Identity | None:
        raise LookupError("a bug with a secret in it")


async def test_an_authenticator_that_fails_tells_nothing(make_manager: MakeManager) -> None:
    response = await ask(endpoints(make_manager(auth=Broken())), "/me")
    assert code_of(response) == (503, "server_error")
    assert "secret" not in response.text


# --- as an application


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_it_is_mounted_where_the_application_likes(make_manager: MakeManager, framework: Any) -> None:
    app = framework()
    app.router.routes.append(Mount("/status", app=endpoints(make_manager(auth=jwt_auth()))))
    assert (await ask(app, "/status/live")).json() == {"status": "live"}
    assert (await ask(app, "/status/me", headers=bearer())).json()["user_id"] == "ann"
    assert code_of(await ask(app, "/status/nothing")) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "refusal"),
    [
        ("GET", "/", (404, "not_found")),
        ("GET", "/live/", (404, "not_found")),
        ("POST", "/live", (405, "method_not_allowed")),
        ("DELETE", "/me", (405, "method_not_allowed")),
    ],
)
async def test_what_is_not_there_says_so_in_json(
    make_manager: MakeManager, method: str, path: str, refusal: tuple[int, str]
) -> None:
    response = await ask(endpoints(make_manager()), path, method=method)
    assert code_of(response) == refusal
    assert (response.headers.get("allow") is not None) == (refusal[0] == 405)


async def test_a_head_is_an_answer_without_its_body(make_manager: MakeManager) -> None:
    response = await ask(endpoints(make_manager()), "/ready", method="HEAD")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/analytics", "/me", "/nothing"])
async def test_nobody_on_the_way_keeps_an_answer(make_manager: MakeManager, path: str) -> None:
    for manager in (make_manager(), make_manager(auth=jwt_auth())):
        response = await ask(endpoints(manager), path, headers=OPERATOR)
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_manager_of_another_loop_is_asked_without_harm() -> None:
    manager = ConnectionManager()
    await asyncio.to_thread(asyncio.run, _use(manager))
    assert (await ask(endpoints(manager, public=True), "/health")).status_code == 200


async def _use(manager: ConnectionManager) -> None:
    async with manager:
        pass


# --- what changes something


async def test_an_operator_may_drain(make_manager: MakeManager) -> None:
    manager = make_manager(auth=jwt_auth())
    app = endpoints(manager)
    async with connect(manager.endpoint, headers=bearer().items()) as peer:
        response = await ask(app, "/drain", method="POST", headers=OPERATOR)
        assert (response.status_code, response.json()) == (200, {"status": "drained"})
        assert await peer.wait_closed(1) == (1012, "shutdown")
    assert code_of(await ask(app, "/ready")) == (503, "shutting_down")


@pytest.mark.parametrize("public", [False, True])
async def test_nobody_else_may(make_manager: MakeManager, public: bool) -> None:
    app = endpoints(make_manager(auth=jwt_auth(sources=("header", "cookie"))), public=public)
    assert code_of(await ask(app, "/drain", headers=OPERATOR)) == (405, "method_not_allowed")
    assert code_of(await ask(app, "/drain", method="POST", headers=bearer())) == (403, "not_an_operator")
    assert code_of(await ask(app, "/drain", method="POST")) == (401, "token_missing")
    # A page of another site sends the cookie along, and no page need be shown the answer to do harm.
    cookie = {"cookie": f"access_token={sign(scope='wsmanager.operator')}"}
    assert code_of(await ask(app, "/drain", method="POST", headers=cookie)) == (403, "origin_refused")
    foreign = {**cookie, "origin": "https://evil.example"}
    assert code_of(await ask(app, "/drain", method="POST", headers=foreign)) == (403, "origin_refused")
    assert (await ask(app, "/ready")).status_code == 200
    own = {**cookie, "origin": "http://status.example"}
    assert (await ask(app, "/drain", method="POST", headers=own)).status_code == 200


async def test_without_an_authenticator_nobody_may_drain(make_manager: MakeManager) -> None:
    app = endpoints(make_manager(), public=True)
    assert code_of(await ask(app, "/drain", method="POST")) == (403, "no_authenticator")
