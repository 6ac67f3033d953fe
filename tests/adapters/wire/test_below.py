"""What is found below ASGI in a server's own callables, and what is left alone."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import logging
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from wsmanager.wire import below
from wsmanager.wire.below import advice_for, never_waits, server_of, wire_of
from wsmanager.wire.stepping import transport_for


class AsyncioTransport:
    aborted = False

    def get_write_buffer_size(self) -> int:
        return 7

    def abort(self) -> None:
        self.aborted = True


class TwistedTransport:
    def __init__(self, **state: Any) -> None:
        self.aborted = False
        self.__dict__.update(state)

    def abortConnection(self) -> None:  # noqa: N802 - theirs
        self.aborted = True


class Thing:
    """Has what it is given, and can be called as ``receive`` and ``send`` are."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    async def asgi(self, *_: Any) -> None: ...


def of(module: str, name: str = "Protocol", **attributes: Any) -> Any:
    """An object of a server's."""
    return type(name, (Thing,), {"__module__": module})(**attributes)


@pytest.fixture
def transport() -> AsyncioTransport:
    return AsyncioTransport()


@pytest.fixture
def protocol(transport: AsyncioTransport) -> Any:
    return of("uvicorn.protocols.websockets", transport=transport)


# --- where it is found


def wrapped(send: Any) -> Any:
    async def wrapper(event: Any) -> None:
        await send(event)

    return wrapper


def wrapped_late(send: Any) -> Any:
    """With a variable beside it that has no value."""

    async def wrapper(event: Any) -> None:
        await send(event)
        assert later is None

    if not send:
        later = None
    return wrapper


WRAPPERS = [
    lambda send: send,
    wrapped,
    wrapped_late,
    lambda send: wrapped(wrapped(send)),
    functools.partial,
    lambda send: functools.partial(wrapped(print), send),
    lambda send: wrapped(functools.partial(send)),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_transport_is_found_however_the_send_is_wrapped(
    wrap: Any, protocol: Any, transport: AsyncioTransport
) -> None:
    assert wire_of(wrap(protocol.asgi)) is transport
    assert server_of(wrap(protocol.asgi)) == "uvicorn"


def test_it_is_found_behind_either_callable(protocol: Any, transport: AsyncioTransport) -> None:
    assert wire_of(asyncio.Queue[None]().get, protocol.asgi) is transport
    assert wire_of(protocol.asgi, asyncio.Queue[None]().get) is transport
    assert server_of(asyncio.Queue[None]().get, protocol.asgi) == "uvicorn"


def hypercorns(transport: Any, connection: str = "H11Protocol", writer: str = "writer") -> Any:
    """The `send` of a socket on hypercorn."""
    server = of("hypercorn.asyncio.tcp_server", "TCPServer", **{writer: Thing(transport=transport)})
    lower = of("hypercorn.protocol", connection, send=server.asgi)
    return of("hypercorn.protocol.ws_stream", "WSStream", send=lower.asgi).asgi


def test_it_is_found_where_hypercorn_keeps_it(transport: AsyncioTransport) -> None:
    assert wire_of(hypercorns(transport)) is transport


@pytest.mark.parametrize("name", ["H2Protocol", "H3Protocol", "H4Protocol"])
def test_a_connection_that_may_carry_other_streams_is_left_alone(
    name: str, transport: AsyncioTransport
) -> None:
    send = hypercorns(transport, name)
    assert wire_of(send) is None
    assert server_of(send) == "hypercorn"


def test_of_two_sockets_it_is_the_nearer(protocol: Any, transport: AsyncioTransport) -> None:
    other = of("uvicorn.protocols", transport=AsyncioTransport())
    near, far = protocol.asgi, wrapped(other.asgi)

    async def bridge(event: Any) -> None:
        await near(event)
        await far(event)

    async def reversed_bridge(event: Any) -> None:
        await z_far(event)
        await b_near(event)

    b_near, z_far = near, far
    assert wire_of(bridge) is transport
    assert wire_of(reversed_bridge) is transport


def test_an_asyncio_transport_is_used_as_it_is(protocol: Any, transport: AsyncioTransport) -> None:
    wire = wire_of(protocol.asgi)
    assert wire is not None
    wire.abort()
    assert (wire.get_write_buffer_size(), transport.aborted) == (7, True)


# --- Twisted's


@pytest.mark.parametrize(
    ("state", "size"),
    [
        ({}, 0),
        ({"dataBuffer": b"12345", "offset": 2, "_tempDataLen": 10}, 13),
        ({"dataBuffer": b"12345", "offset": 2, "_tempDataLen": 10, "disconnected": 0}, 13),
        ({"dataBuffer": b"12345", "offset": 2, "_tempDataLen": 10, "disconnected": 1}, 0),
        ({"dataBuffer": b"12345", "offset": 2}, 0),
    ],
)
def test_what_a_transport_of_twisted_still_has_to_write(state: dict[str, Any], size: int) -> None:
    wire = wire_of(of("daphne.ws_protocol", transport=TwistedTransport(**state)).asgi)
    assert wire is not None
    assert wire.get_write_buffer_size() == size


def test_a_transport_of_twisted_can_be_aborted() -> None:
    transport = TwistedTransport()
    wire = wire_of(of("daphne.ws_protocol", transport=transport).asgi)
    assert wire is not None
    wire.abort()
    assert transport.aborted


# --- where nothing is found


async def plain(event: Any) -> None: ...


class AnswersEverything:
    def __getattr__(self, name: str) -> Any:
        return AnswersEverything()


@pytest.mark.parametrize(
    "send",
    [
        plain,
        wrapped(plain),
        Thing(transport=AsyncioTransport()).asgi,
        wrapped(Thing(transport=AsyncioTransport()).asgi),
        MagicMock(),
        AsyncMock(),
        MagicMock().send,
        wrapped(MagicMock()),
        AnswersEverything(),
        wrapped(AnswersEverything()),
        None,
    ],
)
def test_what_is_no_servers_has_no_wire(send: Any) -> None:
    assert wire_of(send) is None
    assert server_of(send) == ""


@pytest.mark.parametrize("transport", [None, Thing(), Thing(abort=plain), Thing(get_write_buffer_size=plain)])
def test_a_transport_that_lacks_what_is_needed_is_none(transport: Any) -> None:
    send = of("granian.asgi", transport=transport).asgi
    assert wire_of(send) is None
    assert server_of(send) == "granian"


def test_a_circle_and_a_long_way_come_to_an_end(transport: AsyncioTransport) -> None:
    one, other = of("hypercorn.a", "WSStream"), of("hypercorn.b", "H11Protocol")
    one.send, other.send = other.asgi, one.asgi
    assert wire_of(one.asgi) is None
    far = of("uvicorn.protocols", transport=transport).asgi
    for _ in range(100):
        far = wrapped(far)
    assert wire_of(far) is None


def test_a_name_that_only_begins_like_a_servers_is_another() -> None:
    assert server_of(of("uvicornish.protocols").asgi) == ""


# --- a server that moved it


@pytest.fixture
def moved(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The warnings that a transport is not found where it was."""
    monkeypatch.setattr(below, "_looked_into", set[str]())
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if getattr(record, "event", "") == "wire.moved" and record.levelno == logging.WARNING
    ]


KNOWN_TWISTED = {"dataBuffer": b"", "offset": 0, "_tempDataLen": 0}


@pytest.mark.parametrize(
    ("server", "send"),
    [
        ("uvicorn", of("uvicorn.protocols", sock=AsyncioTransport()).asgi),
        ("uvicorn", of("uvicorn.protocols", transport=Thing(kill=plain)).asgi),
        ("hypercorn", hypercorns(AsyncioTransport(), writer="stream_writer")),
        ("hypercorn", hypercorns(AsyncioTransport(), "HTTP1Protocol")),
        ("daphne", of("daphne.ws_protocol", transport=TwistedTransport(buffer=b"")).asgi),
    ],
)
def test_a_server_whose_first_socket_shows_no_transport_is_warned_of_once(
    server: str, send: Any, moved: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {server: "9.9.9"}.__getitem__)
    for _ in range(3):
        transport_for(send)
    (warning,) = moved()
    assert f"server={server} version=9.9.9" in warning
    assert advice_for(server) in warning


@pytest.mark.parametrize(
    "send",
    [
        of("uvicorn.protocols", transport=AsyncioTransport()).asgi,
        hypercorns(AsyncioTransport()),
        of("daphne.ws_protocol", transport=TwistedTransport(**KNOWN_TWISTED)).asgi,
        of("granian.asgi").asgi,
        plain,
    ],
)
def test_where_the_transport_is_as_expected_or_none_is_nothing_is_said(
    send: Any, moved: Callable[[], list[str]]
) -> None:
    transport_for(send)
    assert moved() == []


def test_a_socket_that_shares_its_transport_tells_nothing_of_others(
    moved: Callable[[], list[str]],
) -> None:
    transport_for(hypercorns(AsyncioTransport(), "H2Protocol"))
    assert moved() == []
    transport_for(hypercorns(None))
    assert len(moved()) == 1


def test_a_server_that_is_installed_in_another_way_is_warned_of_too(
    moved: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    transport_for(of("uvicorn.protocols").asgi)
    (warning,) = moved()
    assert "version=unknown" in warning


# --- servers


@pytest.mark.parametrize(
    ("server", "version", "waits_not"),
    [
        ("uvicorn", "0.49.9", False),
        ("uvicorn", "0.50.0", True),
        ("uvicorn", "0.52.0", True),
        ("uvicorn", "0.52.1", False),
        ("uvicorn", "1.0.0", False),
        ("uvicorn", "unknown", False),
        ("uvicorn", None, False),
        ("daphne", "4.2.3", True),
        ("hypercorn", "0.50.0", False),
        ("", "", False),
    ],
)
def test_which_servers_take_frames_without_end(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    server: str,
    version: str | None,
    waits_not: bool,
) -> None:
    module: Any = types.ModuleType(server or "none")
    if version is not None:
        module.__version__ = version
    monkeypatch.setitem(sys.modules, server, module)
    never_waits.cache_clear()
    assert [never_waits(server) for _ in range(3)] == [waits_not] * 3
    never_waits.cache_clear()
    warned = [record for record in caplog.records if getattr(record, "event", "") == "server.outdated"]
    assert [record.levelno for record in warned] == [logging.WARNING] * (waits_not and server == "uvicorn")


@pytest.mark.parametrize(
    ("server", "words"),
    [("uvicorn", "--ws-ping-timeout"), ("daphne", "--ping-timeout"), ("granian", "proxy"), ("", "proxy")],
)
def test_each_server_has_its_own_remedy(server: str, words: str) -> None:
    assert words in advice_for(server)
