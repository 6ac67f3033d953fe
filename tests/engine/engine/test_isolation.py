"""No frame ever reaches a peer that it was not meant for, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from starlette.websockets import WebSocket, WebSocketDisconnect

from wsmanager import ALL, Connection, ConnectionManager, ConnectionStatus, WebSocketConfig
from wsmanager.errors import ConnectionClosed, DuplicateConnectionId
from wsmanager.messages import Delivery, UserKey
from wsmanager.testing import DAPHNE, GRANIAN, HYPERCORN, UVICORN, Peer, VirtualTimeLoop, connect

from ...profiles import examples
from ..conftest import ByQuery, assert_empty
from ..devices import MSGPACK, decoded

KEYS = [UserKey(tenant, user) for tenant in (None, "red") for user in ("ann", "ben")]
keys = st.sampled_from(KEYS)
rooms = st.sampled_from(["tea", "coffee"])
tenants = st.sampled_from([None, "red"])
senders = st.sampled_from(["app", "job"])
bursts = st.integers(1, 6)


class Device:
    """One client, from its handshake to its end."""

    def __init__(self, key: UserKey) -> None:
        self.key = key
        self.stack = AsyncExitStack()
        self.peer: Peer | None = None
        self.conn: Connection | None = None
        self.websocket: WebSocket | None = None

    @property
    def is_open(self) -> bool:
        return self.conn is not None and self.conn.status is ConnectionStatus.OPEN

    def heard(self) -> list[Any]:
        """The marks of all messages of the application that came, in order."""
        assert self.peer is not None
        messages = [decoded(frame) for frame in self.peer.frames]
        return [Mark(*message["data"]) for message in messages if message["type"] in ("news", "reply")]


class Mark(NamedTuple):
    """What a message carries: by it the model knows whose it is."""

    sender: str
    stream: str
    number: int


class Isolation(RuleBasedStateMachine):
    """A model that notes for each message who may see it, next to a real manager."""

    devices = Bundle("devices")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.numbers = 0
        self.audience: dict[int, Callable[[Device], bool]] = {}
        self.everyone: list[Device] = []
        self.shared: set[UserKey] = set()
        self.run(self.start())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    async def start(self) -> None:
        clock = asyncio.get_running_loop().time
        config = WebSocketConfig(rate_limit_max=100_000, handshake_rate=1e9, queue_max_messages=50)
        manager = self.manager = ConnectionManager(config, auth=ByQuery(), clock=clock)

        @manager.on("echo")
        async def echo(conn: Connection, data: Any) -> Any:
            return data

        @manager.on("tell")
        async def tell(conn: Connection, data: Any) -> None:
            await manager.send_to_session(data["room"], mark(data["mark"]), sender=conn)

    # --- what the model knows

    def note(self, sender: str, stream: str, may_see: Callable[[Device], bool]) -> Mark:
        self.numbers += 1
        self.audience[self.numbers] = may_see
        return Mark(sender, stream, self.numbers)

    def among(self, devices: list[Device]) -> Callable[[Device], bool]:
        return lambda device: device in devices

    def open_ones(self, condition: Callable[[Device], bool] = lambda device: True) -> list[Device]:
        return [device for device in self.everyone if device.is_open and condition(device)]

    def members(self, tenant: str | None, room: str) -> list[Device]:
        return self.open_ones(
            lambda device: (
                device.key.tenant == tenant and device.conn is not None and room in device.conn.rooms
            )
        )

    # --- coming and going

    @initialize(target=devices, stalled=st.lists(st.booleans(), min_size=5, max_size=5))
    def first_devices(self, stalled: list[bool]) -> Any:
        """Namesakes in two tenants, and a user with two devices, all in a room."""
        came = []
        for key, reads_nothing in zip([*KEYS, KEYS[0]], stalled, strict=True):
            came.append(self.come(key, None, server=UVICORN, window=1, stalled=reads_nothing, protocols=[]))
            self.join(came[-1], "tea")
        return multiple(*came)

    @rule(
        target=devices,
        key=keys,
        server=st.sampled_from([UVICORN, UVICORN, HYPERCORN, GRANIAN, DAPHNE]),
        window=st.sampled_from([1, 200, 65_536]),
        stalled=st.booleans(),
        protocols=st.sampled_from([[], [], [MSGPACK]]),
        given_id=st.sampled_from([None, None, "one", "two"]),
    )
    def come(self, key: UserKey, given_id: str | None, **options: Any) -> Any:
        device = Device(key)
        if self.open_ones(lambda other: other.key == key):
            self.shared.add(key)
        self.everyone.append(device)
        if not self.run(self.enter(device, given_id, options)):
            self.everyone.remove(device)
            return multiple()
        return device

    async def enter(self, device: Device, given_id: str | None, options: dict[str, Any]) -> bool:
        tenant, user = device.key
        query = f"user={user}" + (f"&tenant={tenant}" if tenant else "")
        in_use = given_id is not None and self.manager.get_connection(given_id) is not None

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            websocket = WebSocket(scope, receive, send)
            async with self.manager.connect(
                websocket, user_id=user, tenant=tenant, connection_id=given_id
            ) as conn:
                device.conn, device.websocket = conn, websocket
                while True:
                    message = await websocket.receive()
                    if message["type"] == "websocket.disconnect":
                        return
                    await self.manager.dispatch(conn, message.get("text") or message["bytes"])

        known = set(self.manager.connections(tenant=ALL))
        app: Any = self.manager.endpoint if given_id is None else serve
        context = connect(app, query=query, subprotocols=options.pop("protocols"), **options)
        try:
            device.peer = await device.stack.enter_async_context(context)
        except DuplicateConnectionId:
            assert in_use
            return False
        assert not in_use
        if device.conn is None:
            (device.conn,) = set(self.manager.connections(tenant=ALL)) - known
        await asyncio.sleep(0.01)
        return True

    @rule(device=devices)
    def stall(self, device: Device) -> None:
        assert device.peer is not None
        device.peer.stall()

    @rule(device=devices)
    def resume(self, device: Device) -> None:
        assert device.peer is not None
        device.peer.resume()

    @rule(device=devices, soon=st.booleans())
    def close(self, device: Device, soon: bool) -> None:
        async def close() -> None:
            assert device.conn is not None
            device.conn.close_soon(4000, "closed", flush=soon)

        self.run(close())

    @rule(device=consumes(devices), how=st.sampled_from(["reset", "close", "forget"]))
    def go(self, device: Device, how: str) -> None:
        self.run(self.leave(device, how))

    async def leave(self, device: Device, how: str) -> None:
        assert device.peer is not None
        self.check(device)
        if how == "reset":
            device.peer.reset()
        elif how == "close" and not device.peer.closed:
            await device.peer.close()
        await device.stack.aclose()
        self.everyone.remove(device)

    @rule(seconds=st.sampled_from([0, 0, 0, 0.5, 7, 35]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    # --- rooms

    @rule(device=devices, room=rooms)
    def join(self, device: Device, room: str) -> None:
        if device.is_open:
            assert device.conn is not None
            self.run(self.manager.join_session(device.conn, room))

    @rule(device=devices, room=rooms)
    def leave_room(self, device: Device, room: str) -> None:
        assert device.conn is not None
        self.run(self.manager.leave_session(device.conn, room))

    # --- sending

    @rule(key=keys, sender=senders, delivery=st.sampled_from(Delivery), burst=bursts)
    def send_to_user(self, key: UserKey, sender: str, delivery: Delivery, burst: int) -> None:
        tenant, user = key
        for _ in range(burst):
            message = self.note(sender, f"{delivery} personal", lambda device: device.key == key)
            self.run(
                self.manager.send_personal_message(user, mark(message), tenant=tenant, delivery=delivery)
            )

    @rule(tenant=tenants, room=rooms, sender=senders, burst=bursts)
    def send_to_room(self, tenant: str | None, room: str, sender: str, burst: int) -> None:
        for _ in range(burst):
            message = self.note(sender, "volatile", self.among(self.members(tenant, room)))
            self.run(self.manager.send_to_session(room, mark(message), tenant=tenant))

    @rule(tenant=st.sampled_from([None, "red", ALL]), sender=senders, burst=bursts)
    def broadcast(self, tenant: Any, sender: str, burst: int) -> None:
        for _ in range(burst):
            audience = self.open_ones(lambda device: tenant is ALL or device.key.tenant == tenant)
            message = self.note(sender, "volatile", self.among(audience))
            self.run(self.manager.broadcast(mark(message), tenant=tenant))

    @rule(device=devices, sender=senders, burst=bursts)
    def broadcast_to_others(self, device: Device, sender: str, burst: int) -> None:
        for _ in range(burst):
            audience = self.open_ones(
                lambda other: other.key.tenant == device.key.tenant and other is not device
            )
            message = self.note(sender, "volatile", self.among(audience))
            self.run(self.manager.broadcast(mark(message), tenant=device.key.tenant, exclude=device.conn))

    @rule(device=devices, sender=senders, burst=bursts)
    def send_to_connection(self, device: Device, sender: str, burst: int) -> None:
        """By its id, which another connection may have by now."""
        assert device.conn is not None
        for _ in range(burst):
            holder = [other for other in self.open_ones() if other.conn and other.conn.id == device.conn.id]
            message = self.note(sender, "volatile", self.among(holder))
            self.run(self.manager.send_to_connection(device.conn.id, mark(message)))

    @rule(device=devices, sender=senders)
    def send_on_connection(self, device: Device, sender: str) -> None:
        message = self.note(sender, "volatile", self.among([device]))

        async def send() -> None:
            assert device.conn is not None
            with suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(0.1):
                    await device.conn.send(mark(message))

        self.run(send())

    @rule(device=devices, sender=senders)
    def send_by_the_endpoint(self, device: Device, sender: str) -> None:
        if device.websocket is None:
            return
        message = self.note(sender, "own", self.among([device]))

        async def send() -> None:
            assert device.websocket is not None
            assert device.conn is not None
            frame = device.conn.codec.encode(mark(message))
            event = {"type": "websocket.send", "text" if isinstance(frame, str) else "bytes": frame}
            with suppress(WebSocketDisconnect, TimeoutError, RuntimeError):
                async with asyncio.timeout(0.1):
                    await device.websocket.send(event)

        self.run(send())

    # --- clients speak

    @rule(device=devices)
    def ask(self, device: Device) -> None:
        if device.is_open:
            message = self.note("client", "reply", self.among([device]))
            self.run(self.say(device, {"type": "echo", "id": 1, "data": message}))

    @rule(device=devices, room=rooms)
    def tell_a_room(self, device: Device, room: str) -> None:
        if device.is_open:
            audience = self.members(device.key.tenant, room)
            message = self.note("client", "told", self.among(audience))
            self.run(self.say(device, {"type": "tell", "data": {"room": room, "mark": message}}))

    async def say(self, device: Device, message: Any) -> None:
        assert device.peer is not None
        assert device.conn is not None
        if device.peer.closed:
            return
        frame = device.conn.codec.encode(message)
        if isinstance(frame, str):
            await device.peer.send_text(frame)
        else:
            await device.peer.send_bytes(frame)
        await asyncio.sleep(0.01)

    # --- what must hold

    @invariant()
    def nobody_sees_what_is_not_meant_for_it(self) -> None:
        for device in self.everyone:
            self.check(device)

    def check(self, device: Device) -> None:
        heard = device.heard()
        last: dict[tuple[str, str], int] = {}
        for message in heard:
            assert self.audience[message.number](device), (device.key, message)
            if message.stream == "durable personal" and device.key in self.shared:
                continue  # what waited for one device may come to another, after what both got
            assert last.get(message[:2], 0) < message.number, (device.key, heard)
            last[message[:2]] = message.number

    def teardown(self) -> None:
        try:
            self.run(self.end())
        finally:
            self.runner.close()

    async def end(self) -> None:
        for device in self.everyone:
            assert device.peer is not None
            device.peer.resume()
        await asyncio.sleep(1)
        for device in list(self.everyone):
            await self.leave(device, "close")
        await asyncio.sleep(60)
        assert_empty(self.manager)


def mark(message: Any) -> dict[str, Any]:
    return {"type": "news", "data": list(message)}


TestIsolation = Isolation.TestCase
TestIsolation.settings = settings(examples(150), stateful_step_count=40)
