"""FastAPI's own markers as dependencies of a handler; FastAPI itself is never imported by the package."""

from __future__ import annotations

from typing import Annotated, Any

import fastapi
import pytest

from wsmanager import ConfigurationError, Connection, InboundMessage
from wsmanager.testing import connect

from ..conftest import MakeManager

pytestmark = pytest.mark.anyio


class Session:
    def __init__(self, url: str = "db") -> None:
        self.url = url


def get_url(conn: Connection, message: InboundMessage) -> str:
    return f"{message.type} of {conn.user_id[:4]}"


async def get_session(url: Annotated[str, fastapi.Depends(get_url)]) -> Session:
    return Session(url)


async def test_depends_is_understood_as_annotation_and_as_default(make_manager: MakeManager) -> None:
    manager = make_manager()

    @manager.on("x")
    async def handler(
        conn: Connection,
        one: Annotated[Session, fastapi.Depends(get_session)],
        two: str = fastapi.Depends(get_url),
        three: Annotated[Session, fastapi.Depends()] = None,  # type: ignore[assignment]  # filled
    ) -> list[str]:
        return [one.url, two, three.url]

    async with connect(manager.endpoint) as peer:
        await peer.send_json({"type": "x", "id": 1})
        assert (await peer.receive_json())["data"] == ["x of anon", "x of anon", "db"]


def _reads_a_header(token: str = fastapi.Header("")) -> None: ...


def _limited() -> Any:
    """`fastapi.Depends(get_url, max_concurrency=1)`, with releases that have no such option, too."""
    marker = fastapi.Depends(get_url)
    object.__setattr__(marker, "max_concurrency", 1)
    return marker


@pytest.mark.parametrize(
    ("marker", "why"),
    [
        (fastapi.Depends(_reads_a_header), "'token' asks for a part of an HTTP request"),
        (fastapi.Security(get_url, scopes=["admin"]), "asks for scopes="),
        (_limited(), "asks for max_concurrency="),
        (fastapi.Header(), "asks for a part of an HTTP request"),
    ],
)
async def test_what_a_socket_cannot_give_is_refused_at_once(
    make_manager: MakeManager, marker: Any, why: str
) -> None:
    def handler(conn: Connection, needed: Any) -> None: ...

    handler.__annotations__["needed"] = Annotated[Any, marker]
    with pytest.raises(ConfigurationError, match=why):
        make_manager().on("x")(handler)
