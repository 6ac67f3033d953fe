"""An application behaves exactly as without the guard: whatever it does, and whatever its client does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.profiles import examples
from wsmanager import ConnectionManager, WebSocketConfig, WebSocketMiddleware
from wsmanager.testing import (
    DAPHNE,
    GRANIAN,
    HYPERCORN,
    UVICORN,
    HandshakeRefused,
    Peer,
    PeerClosed,
    Server,
    VirtualTimeLoop,
    connect,
    websocket_scope,
)

Act: TypeAlias = tuple[Any, ...]
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
ModeName: TypeAlias = Literal["opaque", "json", "envelope"]

SERVERS = (UVICORN, HYPERCORN, GRANIAN, DAPHNE)
PATIENCE = 50.0
STORY = 4 * PATIENCE
# Between two acts of the client: no sum of these meets a pause of the application, which are whole seconds.
STEP = 0.137

# The one thing that differs: where a server would take in silence what is sent to a client that is gone, an
# application that does not read learns of that within a heartbeat.
TOLD = (ConnectionResetError, "the WebSocket is closed")

# --- what an application does

PAUSES = st.integers(0, 30)
TEXTS = st.sampled_from(
    ['{"type": "x"}', '{"type": "chat", "data": [1, "é"], "id": 7}', '{"type":"y","data":null}']
)
ANY_TEXT = TEXTS | st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)
ANY_BYTES = st.binary(min_size=1, max_size=9)
CODES = st.sampled_from([1000, 1001, 1011, 3000, 4000, 4999])
REASONS = st.sampled_from(["", "enough", "ä"])

ACCEPTS = st.builds(
    lambda subprotocol, headers: ("accept", subprotocol, headers),
    st.sampled_from([None, "chat.v1"]),
    st.sampled_from([(), ((b"x-app", b"1"),)]),
)
CLOSES = st.builds(lambda code, reason: ("close", code, reason), CODES, REASONS)
WRITES = st.one_of(
    st.builds(lambda text: ("send", {"text": text}), ANY_TEXT),
    st.builds(lambda data: ("send", {"bytes": data}), ANY_BYTES),
    st.builds(lambda size: ("fill", size), st.sampled_from([3_000, 70_000])),
    st.builds(lambda pause: ("sleep", pause), PAUSES),
    CLOSES,
    st.just(("raise",)),
)
# One task receives; a second one, where there is one, only writes.
TALKS = st.lists(WRITES | st.just(("receive",)) | st.just(("receive",)), max_size=8)
NOTHING: st.SearchStrategy[list[Act]] = st.just([])
ASIDES = NOTHING | st.lists(WRITES, max_size=6).map(lambda acts: [("sleep", 0.041), *acts])
OPENINGS = st.one_of(
    st.builds(lambda accept: [("receive",), accept], ACCEPTS),
    st.builds(lambda accept: [("receive",), accept], ACCEPTS),
    st.builds(lambda accept, pause: [("receive",), ("sleep", pause), accept], ACCEPTS, PAUSES),
    st.builds(lambda accept: [accept, ("receive",)], ACCEPTS),
    st.builds(
        lambda status: [("receive",), ("deny", status, b"no ", b"way")], st.sampled_from([401, 404, 503])
    ),
    st.builds(lambda close: [("receive",), close], CLOSES),
    st.just([("raise",)]),
    st.just([("receive",), ("raise",)]),
    st.just([]),
)

# --- and a client


def frames_of(mode: ModeName) -> st.SearchStrategy[Act]:
    """What a client says that no guard refuses."""
    if mode == "envelope":
        return TEXTS.map(lambda text: ("text", text))
    texts, data = (ANY_TEXT, ANY_BYTES) if mode == "opaque" else (TEXTS, TEXTS.map(str.encode))
    return texts.map(lambda text: ("text", text)) | data.map(lambda frame: ("bytes", frame))


def client_acts(mode: ModeName) -> st.SearchStrategy[list[Act]]:
    act = st.one_of(
        frames_of(mode),
        frames_of(mode),
        PAUSES.map(lambda pause: ("sleep", pause)),
        st.sampled_from([("stall",), ("resume",)]),
    )
    end = st.one_of(
        NOTHING,
        st.builds(lambda code, reason: [("leave", code, reason)], CODES, REASONS),
        st.just([("reset",)]),
    )
    return st.builds(lambda acts, end: acts + end, st.lists(act, max_size=8), end)


class Trace:
    """What was seen, and when."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, str, Any]] = []

    def note(self, who: str, what: Any) -> None:
        self.entries.append((round(asyncio.get_running_loop().time(), 3), who, what))


def application(scripts: list[list[Act]], trace: Trace, *, stubborn: bool) -> App:
    """An application that does what its scripts say: the first alone, what follows side by side. A stubborn
    one goes on after an exception."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        opening, *others = scripts
        await play("app", opening, receive, send)
        async with asyncio.TaskGroup() as tasks:
            for number, script in enumerate(others):
                tasks.create_task(play(f"app {number}", script, receive, send))

    async def play(who: str, script: list[Act], receive: Any, send: Any) -> None:
        for act in script:
            try:
                trace.note(who, await perform(act, receive, send))
            except Exception as error:
                trace.note(who, (type(error), str(error)))
                if act == ("raise",) or not stubborn:
                    raise

    return app


async def perform(act: Act, receive: Any, send: Any) -> Any:
    match act:
        case ("receive",):
            async with asyncio.timeout(PATIENCE):
                return dict(await receive())
        case ("sleep", pause):
            await asyncio.sleep(pause)
        case ("accept", subprotocol, headers):
            await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": list(headers)})
        case ("send", frame):
            async with asyncio.timeout(PATIENCE):
                await send({"type": "websocket.send", **frame})
        case ("fill", size):
            return await perform(("send", {"text": "x" * size}), receive, send)
        case ("close", code, reason):
            async with asyncio.timeout(PATIENCE):
                await send({"type": "websocket.close", "code": code, "reason": reason})
        case ("deny", status, *body):
            await send({"type": "websocket.http.response.start", "status": status, "headers": []})
            for part in body:
                await send({"type": "websocket.http.response.body", "body": part, "more_body": True})
            await send({"type": "websocket.http.response.body", "body": b""})
        case _:
            raise LookupError("a fault of the application")
    return act[0]


class Client:
    """Does what its script says, and hears what comes while it does not stall."""

    def __init__(self, peer: Peer, trace: Trace) -> None:
        self._peer = peer
        self._trace = trace
        self._listening = asyncio.create_task(self._listen())

    async def play(self, acts: list[Act]) -> None:
        for act in acts:
            await asyncio.sleep(STEP)
            try:
                await self._perform(act)
            except PeerClosed as error:
                self._trace.note("client", (error.code, error.reason))

    async def _perform(self, act: Act) -> None:
        peer = self._peer
        match act:
            case ("text", text):
                await peer.send_text(text)
            case ("bytes", data):
                await peer.send_bytes(data)
            case ("sleep", pause):
                await asyncio.sleep(pause)
            case ("stall",):
                await self.stop()
                peer.stall()
            case ("resume",):
                await self.stop()
                peer.resume()
                self._listening = asyncio.create_task(self._listen())
            case ("leave", code, reason):
                await peer.close(code, reason)
            case _:
                peer.reset()

    async def stop(self) -> None:
        self._listening.cancel()
        await asyncio.wait({self._listening})

    async def _listen(self) -> None:
        try:
            while True:
                self._trace.note("client", await self._peer.receive(timeout=None))
        except PeerClosed as error:
            self._trace.note("client", (error.code, error.reason))


async def trace_of(app: App, trace: Trace, server: Server, acts: list[Act]) -> Trace:
    """Everything that the application and its client see of each other."""
    try:
        async with connect(app, server=server, subprotocols=["chat.v1"], timeout=500.0) as peer:
            trace.note("client", ("open", peer.accepted_subprotocol, peer.accept_headers))
            client = Client(peer, trace)
            await client.play(acts)
            await asyncio.sleep(STORY)
            await client.stop()
    except HandshakeRefused as refusal:
        trace.note("client", (refusal.status, refusal.headers, refusal.body))
    except Exception as error:
        trace.note("server", repr(error))
    return trace


def run(
    scripts: list[list[Act]], acts: list[Act], server: Server, mode: ModeName | None, *, stubborn: bool
) -> list[Any]:
    async def main() -> list[Any]:
        trace = Trace()
        app = application(scripts, trace, stubborn=stubborn)
        if mode is None:
            return (await trace_of(app, trace, server, acts)).entries
        manager = ConnectionManager(PATIENT, clock=asyncio.get_running_loop().time)
        await trace_of(WebSocketMiddleware(app, manager, mode), trace, server, acts)
        await asyncio.sleep(1)
        assert set(manager.get_analytics().indexes.values()) == {0}
        await manager.aclose()
        return trace.entries

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


# Under these settings no guard has anything to say.
PATIENT = WebSocketConfig(
    rate_limit_max=10_000, send_timeout=1_000.0, slow_timeout=2_000.0, close_timeout=1_000.0
)


@st.composite
def encounters(draw: st.DrawFn) -> tuple[ModeName, list[list[Act]], list[Act]]:
    mode: ModeName = draw(st.sampled_from(["opaque", "json", "envelope"]))
    scripts = [draw(OPENINGS), draw(TALKS), draw(ASIDES)]
    return mode, scripts, draw(client_acts(mode))


@given(encounter=encounters(), server=st.sampled_from(SERVERS), stubborn=st.booleans())
@examples(1_000)
def test_a_guarded_application_lives_the_same_life(
    encounter: tuple[ModeName, list[list[Act]], list[Act]], server: Server, stubborn: bool
) -> None:
    mode, scripts, acts = encounter
    bare = run(scripts, acts, server, None, stubborn=stubborn)
    guarded = run(scripts, acts, server, mode, stubborn=stubborn)
    told = next((place for place, entry in enumerate(guarded) if entry[2] == TOLD), None)
    if told is not None and server.after_disconnect == "silent":
        # By its own act, or when the story is over.
        assert acts[-1][0] in ("leave", "reset") or guarded[told][0] >= STORY
        bare, guarded = bare[:told], guarded[:told]
    assert by_witness(guarded) == by_witness(bare)


def by_witness(entries: list[Any]) -> dict[str, list[Any]]:
    """Each one's own story, in order and to the millisecond: who of two at the same instant is asked first
    is the event loop's business."""
    return {who: [entry for entry in entries if entry[1] == who] for _, who, _ in entries}


# --- the bare protocol: every kind of scope, and events that no framework would send

EVENTS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "http": {
        "in": [
            {"type": "http.request", "body": b"x", "more_body": True},
            {"type": "http.request", "body": b""},
            {"type": "http.disconnect"},
        ],
        "out": [
            {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]},
            {"type": "http.response.body", "body": b"x", "more_body": True},
            {"type": "http.response.body"},
        ],
    },
    "lifespan": {
        "in": [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}],
        "out": [
            {"type": "lifespan.startup.complete"},
            {"type": "lifespan.startup.failed", "message": "no"},
            {"type": "lifespan.shutdown.complete"},
            {"type": "lifespan.shutdown.failed", "message": "no"},
        ],
    },
    "websocket": {
        "in": [
            {"type": "websocket.receive", "text": "x"},
            {"type": "websocket.receive", "bytes": b"x", "text": None},
            {"type": "websocket.disconnect", "code": 1001},
            {"type": "websocket.disconnect", "code": 1005, "reason": None},
        ],
        "out": [
            {"type": "websocket.accept"},
            {"type": "websocket.accept", "subprotocol": None, "headers": []},
            {"type": "websocket.send", "text": "x"},
            {"type": "websocket.send", "bytes": b"x", "text": None},
            {"type": "websocket.send"},
            {"type": "websocket.close"},
            {"type": "websocket.close", "code": 4000, "reason": None},
            {"type": "websocket.http.response.start", "status": 418, "headers": []},
            {"type": "websocket.http.response.body", "body": b"x"},
            {"type": "nonsense"},
            {},
        ],
    },
}
FAULTS = st.dictionaries(st.integers(0, 9), st.sampled_from([OSError, RuntimeError, ConnectionResetError]))


class Script:
    """A server that gives what is written down, and raises where that is written down. A client that it has
    lost stays lost."""

    def __init__(self, incoming: list[dict[str, Any]], faults: dict[int, type[Exception]]) -> None:
        self.sent: list[dict[str, Any]] = []
        self._incoming = iter(incoming)
        self._faults = faults
        self._lost: type[Exception] | None = None

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        event = next(self._incoming, None)
        if event is None:
            raise EOFError("nothing more is written down")
        return event

    async def send(self, event: MutableMapping[str, Any]) -> None:
        self.sent.append(dict(event))
        fault = self._lost or self._faults.get(len(self.sent))
        if fault is not None:
            self._lost = fault if issubclass(fault, OSError) else None
            raise fault("written down")


def recite(
    kind: str,
    incoming: list[dict[str, Any]],
    acts: list[Any],
    faults: dict[int, type[Exception]],
    *,
    guard: bool,
) -> tuple[list[Any], list[Any]]:
    """What the application saw, and what the server did."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for act in acts:
            try:
                seen.append(await (receive() if act is None else send(dict(act))))
            except Exception as error:
                seen.append((type(error), str(error)))
        raise LookupError("the end")

    async def main() -> tuple[list[Any], list[Any]]:
        manager = ConnectionManager(clock=asyncio.get_running_loop().time)
        script = Script(incoming, faults)
        scope = websocket_scope() if kind == "websocket" else {"type": kind, "path": "/", "headers": []}
        asked: App = WebSocketMiddleware(app, manager) if guard else app
        with pytest.raises(LookupError, match="the end"):
            await asked(scope, script.receive, script.send)
        assert set(manager.get_analytics().indexes.values()) == {0}
        await manager.aclose()
        return seen, script.sent

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


@st.composite
def recitals(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]], list[Any]]:
    kind = draw(st.sampled_from(sorted(EVENTS)))
    incoming = draw(st.lists(st.sampled_from(EVENTS[kind]["in"]), max_size=6))
    if kind == "websocket":
        incoming.insert(0, {"type": "websocket.connect"})
    acts = draw(st.lists(st.none() | st.sampled_from(EVENTS[kind]["out"]), max_size=10))
    return kind, incoming, acts


@given(recital=recitals(), faults=FAULTS)
@examples(1_000)
def test_every_event_passes_as_it_is(
    recital: tuple[str, list[dict[str, Any]], list[Any]], faults: dict[int, type[Exception]]
) -> None:
    assert recite(*recital, faults, guard=True) == recite(*recital, faults, guard=False)
