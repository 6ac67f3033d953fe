"""What `wsmanager.servers.uvicorn` brings on a real uvicorn, and what it does where it does not fit."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import sys
import zlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.websockets import auto, websockets_sansio_impl
from websockets.asyncio.client import ClientConnection, connect
from websockets.protocol import Protocol

from wsmanager import Connection, ConnectionManager, MessagePriority, WebSocketConfig
from wsmanager.servers.pipe import Pipe
from wsmanager.servers.sansio import SansIOProtocol
from wsmanager.servers.uvicorn import WebSocketProtocol
from wsmanager.wire.below import wire_of

from .raw import RawClient
from .servers import SERVERS, Process
from .test_servers import ask, dial, hear

NEWS = {"type": "news", "data": "all work and no play " * 100}


@contextlib.asynccontextmanager
async def serving(app: Any, ws: Any = WebSocketProtocol, **options: Any) -> AsyncGenerator[str]:
    """The address of a uvicorn of this process."""
    # The loggers stay as they are: other tests of this process read them.
    config = uvicorn.Config(app, port=0, ws=ws, log_config=None, lifespan="off", **options)
    server = uvicorn.Server(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(
            server, "capture_signals", contextlib.nullcontext
        )
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"ws://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            await task


@contextlib.asynccontextmanager
async def clients(url: str, number: int, **options: Any) -> AsyncGenerator[list[ClientConnection]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect(url, proxy=None, **options)) for _ in range(number)]


def make_manager(**settings: Any) -> ConnectionManager:
    manager = ConnectionManager(WebSocketConfig(drain_on_sigterm=False, **settings))

    @manager.on("echo")
    async def echo(conn: Connection, data: Any) -> Any:
        return data

    return manager


# --- compression


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The window of each compressor that is made."""
    made: list[int] = []
    before = zlib.compressobj

    def counted(**options: Any) -> Any:
        made.append(options["wbits"])
        return before(**options)

    monkeypatch.setattr(zlib, "compressobj", counted)
    return made


def test_a_broadcast_is_compressed_once_for_everybody(compressions: list[int]) -> None:
    async def main() -> None:
        manager = make_manager()
        async with serving(manager.endpoint) as url, clients(url, 5) as five:
            del compressions[:]  # the clients have one each
            await manager.broadcast(NEWS)
            assert [json.loads(await client.recv()) for client in five] == [NEWS] * 5
            assert compressions == [-12]
            (agreed,) = five[0].protocol.extensions
            assert "remote_no_context_takeover=True" in repr(agreed)
            await manager.aclose()

    asyncio.run(main())


def test_each_client_gets_what_it_agreed_on() -> None:
    async def main() -> None:
        manager = make_manager()
        async with serving(manager.endpoint) as url, clients(url, 2) as with_it:
            async with clients(url, 2, compression=None) as without:
                offered = "permessage-deflate; server_max_window_bits=9; server_no_context_takeover"
                headers = f"Sec-WebSocket-Extensions: {offered}\r\n"
                narrow = await RawClient.dial(url, headers=headers)
                await manager.broadcast(NEWS)
                for client in (*with_it, *without):
                    assert json.loads(await client.recv()) == NEWS
                _, payload = await narrow.read_frame()
                inflated = zlib.decompressobj(wbits=-9).decompress(payload + b"\x00\x00\xff\xff")
                assert json.loads(inflated) == NEWS
                narrow.drop()
            await manager.aclose()

    asyncio.run(main())


def test_an_application_that_knows_nothing_of_it_is_compressed_for_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})

    async def main() -> None:
        async with serving(app) as url, clients(url, 1) as (client,):
            for message in ("é" * 10_000, b"\x00" * 10_000, "", b"", "short"):
                await client.send(message)
                assert await client.recv() == message

    asyncio.run(main())


# --- life signs


def test_pings_of_the_protocol_tell_the_latency_of_a_client_that_answers_no_other() -> None:
    async def main() -> None:
        manager = make_manager(heartbeat_interval=1, heartbeat_timeout=1)
        async with serving(manager.endpoint, ws_ping_interval=0.1) as url, clients(url, 1):
            (conn,) = manager.connections()
            latency = None
            async with asyncio.timeout(10):
                while latency is None:
                    await asyncio.sleep(0.05)
                    latency = manager.get_connection_health(conn.user_id).connections[0].latency_ms
            assert 0 < latency < 1_000
            await manager.aclose()

    asyncio.run(main())


# --- order


def test_while_a_peer_stalls_what_matters_overtakes_what_waits() -> None:
    async def main() -> None:
        manager = make_manager(queue_max_messages=10_000, queue_max_bytes=100_000_000)
        async with serving(manager.endpoint) as url:
            peer = await RawClient.dial(url)
            (conn,) = manager.connections()
            number = 0
            while conn.congestion is None:
                await manager.broadcast({"type": "filler", "data": "x" * 10_000})
                await asyncio.sleep(0)
                number += 1
            for _ in range(100):
                await manager.broadcast({"type": "low"}, priority=MessagePriority.LOW)
            await manager.broadcast({"type": "critical"}, priority=MessagePriority.CRITICAL)
            heard = [(await peer.hear())["type"] for _ in range(number + 101)]
            assert heard == ["filler"] * number + ["critical"] + ["low"] * 100
            peer.drop()
            await manager.aclose()

    asyncio.run(main())


def test_how_much_may_wait_in_the_server_is_a_setting() -> None:
    class Deep(Pipe):
        high_water = 1_000_000
        low_water = 500_000

    class Deeper(SansIOProtocol):
        pipe = Deep

    async def held(protocol: Any) -> int:
        manager = make_manager(queue_max_bytes=100_000_000)
        async with serving(manager.endpoint, protocol) as url:
            peer = await RawClient.dial(url)
            (conn,) = manager.connections()
            while conn.congestion is None:
                await manager.broadcast({"type": "filler", "data": "x" * 10_000})
                await asyncio.sleep(0)
            wire = conn.direct or wire_of(conn.receive, conn.send_raw)
            assert wire is not None
            size = wire.get_write_buffer_size()
            peer.drop()
            await manager.aclose()
        return size

    assert asyncio.run(held(SansIOProtocol)) < 60_000
    assert asyncio.run(held(Deeper)) > 900_000


def test_what_two_tasks_send_arrives_whole_whatever_the_peer_does() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def flood(name: str) -> None:
            for number in range(200):
                await send({"type": "websocket.send", "text": json.dumps([name, number, "x" * 5_000])})

        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.gather(*map(flood, "abc"))
        await send({"type": "websocket.close"})

    async def main() -> None:
        async with serving(app) as url:
            peer = await RawClient.dial(url)
            await asyncio.sleep(0.2)
            heard = []
            while isinstance(message := await peer.hear(), list):
                heard.append(tuple(message[:2]))
            peer.drop()
        assert message == 1000
        for name in "abc":
            assert [number for who, number in heard if who == name] == list(range(200))

    asyncio.run(main())


def test_a_peer_that_leaves_frees_whoever_waits_for_it() -> None:
    ended: list[type[BaseException]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 100_000})
        except BaseException as error:
            ended.append(type(error))
            raise

    async def main() -> None:
        async with serving(app) as url:
            peer = await RawClient.dial(url)
            await asyncio.sleep(0.2)
            peer.reset()
            async with asyncio.timeout(5):
                while not ended:  # noqa: ASYNC110 - of a server in this very loop
                    await asyncio.sleep(0.01)

    asyncio.run(main())
    assert issubclass(ended[0], OSError)


# --- where uvicorn is another


@pytest.mark.parametrize("moved", ["send", "handle_pong", "run_asgi"])
def test_where_uvicorn_has_changed_its_own_serves_and_one_warning_says_so(
    moved: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(websockets_sansio_impl.WebSocketsSansIOProtocol, moved)
    assert _chosen(monkeypatch) is auto.AutoWebSocketsProtocol
    (record,) = [record for record in caplog.records if record.name == "wsmanager"]
    assert record.levelno == logging.WARNING
    assert "server.moved" in record.getMessage()
    assert moved in record.getMessage()


def test_where_its_class_is_gone_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(websockets_sansio_impl, "WebSocketsSansIOProtocol")
    assert _chosen(monkeypatch) is auto.AutoWebSocketsProtocol
    assert "WebSocketsSansIOProtocol" in caplog.text


def test_where_its_state_has_another_name_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Renamed(websockets_sansio_impl.WebSocketsSansIOProtocol):
        def __init__(self) -> None:
            self.messages: list[Any] = []

    monkeypatch.setattr(websockets_sansio_impl, "WebSocketsSansIOProtocol", Renamed)
    assert _chosen(monkeypatch) is auto.AutoWebSocketsProtocol
    assert "queue" in caplog.text


def test_where_websockets_has_changed_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def changed(self: Protocol) -> None: ...

    monkeypatch.setattr(Protocol, "__init__", changed)
    assert _chosen(monkeypatch) is auto.AutoWebSocketsProtocol
    assert "parser" in caplog.text


def test_where_uvicorn_has_none_at_all_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(websockets_sansio_impl, "WebSocketsSansIOProtocol")
    monkeypatch.setattr(auto, "AutoWebSocketsProtocol", None)
    with pytest.raises(ImportError, match="pip install websockets"):
        _chosen(monkeypatch)


def test_without_uvicorn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"pip install 'wsmanager\[uvicorn\]'"):
        _chosen(monkeypatch)


def _chosen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What an import for the first time would choose."""
    monkeypatch.delitem(sys.modules, "wsmanager.servers.uvicorn")
    return importlib.import_module("wsmanager.servers.uvicorn").WebSocketProtocol


def test_all_of_a_manager_works_there_by_asgi() -> None:
    moved = SERVERS["uvicorn"]._replace(
        arguments="{app} --port {port} --ws tests.servers.moved:WebSocketProtocol"
    )
    process = Process(moved, {})
    try:
        with dial(process.url()) as first, dial(process.url(user="bob")) as second:
            assert ask(first, "echo", 1)["data"] == 1
            process.ask("/broadcast", NEWS)
            assert [hear(first), hear(second)] == [NEWS, NEWS]
        process.wait_until_empty()
        assert process.output().count("server.moved") == 1
    finally:
        process.kill()
