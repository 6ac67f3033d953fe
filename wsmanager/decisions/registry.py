"""Who is connected, and where to: every index of the process, changed in one synchronous step.

A connection is `add`ed while it still connects, so that it counts against the limits; `open` makes it
reachable; `drain` or `remove` takes it out of every index at once. Nothing here waits, so no
cancellation can leave half a registration behind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final, Generic, Protocol, TypeVar

from ..errors import (
    CloseCode,
    ConnectionLimitReached,
    DuplicateConnectionId,
    InvalidMove,
    RoomLimitReached,
)
from ..messages import AllTenants, ConnectionStatus, RoomKey, Tenant, UserKey
from ..names import require_name

__all__ = ["MOVES", "Member", "Registry", "move"]

MOVES: Final[dict[ConnectionStatus, frozenset[ConnectionStatus]]] = {
    ConnectionStatus.CONNECTING: frozenset({ConnectionStatus.OPEN, ConnectionStatus.CLOSED}),
    ConnectionStatus.OPEN: frozenset({ConnectionStatus.DRAINING, ConnectionStatus.CLOSED}),
    ConnectionStatus.DRAINING: frozenset({ConnectionStatus.CLOSED}),
    ConnectionStatus.CLOSED: frozenset(),
}
"""From which status to which a connection may go. CONNECTING counts against every limit, but nothing is
delivered to it. OPEN is reachable. DRAINING has left every index and flushes what it was given before."""

_OPEN = ConnectionStatus.OPEN


def move(current: ConnectionStatus, target: ConnectionStatus) -> ConnectionStatus:
    """Return `target` when the table allows the move; else raise `InvalidMove`."""
    if target not in MOVES[current]:
        raise InvalidMove(f"a connection cannot go from {current} to {target}")
    return target


class Member(Protocol):
    """What the registry needs of a connection. It alone writes these."""

    id: str
    key: UserKey
    status: ConnectionStatus
    joined: set[str] | None


C = TypeVar("C", bound=Member)


class NodeFull(ConnectionLimitReached):
    """This process holds as many connections as it may; another one may have room."""

    status = 503
    close_code = CloseCode.TOO_MANY_REQUESTS
    default_code = "node_full"


class Registry(Generic[C]):
    """All connections of one process, by id, user, room and tenant."""

    def __init__(
        self,
        *,
        max_connections: int = 50_000,
        max_per_user: int = 20,
        max_per_address: int = 1_000,
        max_per_tenant: int = 10_000,
        max_rooms: int = 128,
        max_name_length: int = 255,
    ) -> None:
        self._max_connections = max_connections
        self._max_per_user = max_per_user
        self._max_per_address = max_per_address
        self._max_per_tenant = max_per_tenant
        self._max_rooms = max_rooms
        self._max_name_length = max_name_length
        self.on_interest: Callable[[UserKey | RoomKey, bool], None] | None = None
        """Called once a user or room has got its first connection (True), or lost its last (False)."""
        self.on_membership: Callable[[C, str, bool], None] | None = None
        """Called once a connection has come into a room (True), or is in it no more (False)."""
        self._arrived = 0
        self._addresses: dict[str, int] = {}
        self._by_id: dict[str, C] = {}
        # Most users have one connection, and no tuple around it.
        self._users: dict[UserKey, C | tuple[C, ...]] = {}
        # Dicts and not sets: a fan-out that walks connections in the order they were made walks memory
        # in that order, too, which a set's order of addresses does not.
        self._rooms: dict[RoomKey, dict[C, None]] = {}
        self._tenants: dict[Tenant, dict[C, None]] = {}

    # --- arrivals: sockets that may not even be authenticated yet

    def arrive(self, address: str | None) -> None:
        """Count one more socket, or refuse it. Every call that returns needs one `depart`."""
        self.require_room()
        if address is not None:
            held = self._addresses.get(address, 0)
            if held >= self._max_per_address:
                raise ConnectionLimitReached("Too many connections from this address.", code="address_limit")
            self._addresses[address] = held + 1
        self._arrived += 1

    def require_room(self) -> None:
        """Raises `NodeFull`, a `Refused`, when nobody else may arrive."""
        if self._arrived >= self._max_connections:
            raise NodeFull("This server is full.", retry_after_ms=1_000)

    def depart(self, address: str | None) -> None:
        """Undo one `arrive`."""
        self._arrived -= 1
        if address is not None:
            left = self._addresses[address] - 1
            if left:
                self._addresses[address] = left
            else:
                del self._addresses[address]

    # --- connections

    def add(self, conn: C, *, max_per_user: int | None = None) -> None:
        """Register a connecting `conn`, or refuse it and change nothing."""
        if conn.id in self._by_id:
            raise DuplicateConnectionId(f"the connection id {conn.id!r} is in use")
        if len(self.of_user(conn.key)) >= self._limit(max_per_user):
            raise ConnectionLimitReached("Too many connections of this user.", code="user_limit")
        self._check_tenant(conn.key.tenant)
        self._insert(conn)

    def rename(self, conn: C, id: str, key: UserKey, *, max_per_user: int | None = None) -> None:
        """Give a connecting `conn` another id or user, within the limits of that user; or refuse it and
        change nothing."""
        if conn.status is not ConnectionStatus.CONNECTING or conn not in self:
            raise InvalidMove("only a connection that is being opened can be renamed")
        if self._by_id.get(id, conn) is not conn:
            raise DuplicateConnectionId(f"the connection id {id!r} is in use")
        if key != conn.key and len(self.of_user(key)) >= self._limit(max_per_user):
            raise ConnectionLimitReached("Too many connections of this user.", code="user_limit")
        if key.tenant != conn.key.tenant:
            self._check_tenant(key.tenant)
        if key == conn.key:
            del self._by_id[conn.id]
            conn.id = id
            self._by_id[id] = conn
            return
        self._forget(conn)
        conn.id, conn.key = id, key
        self._insert(conn)

    def _check_tenant(self, tenant: Tenant) -> None:
        if len(self._tenants.get(tenant, ())) >= self._max_per_tenant:
            raise ConnectionLimitReached("Too many connections of this tenant.", code="tenant_limit")

    def _insert(self, conn: C) -> None:
        self._by_id[conn.id] = conn
        own = self.of_user(conn.key)
        self._users[conn.key] = (*own, conn) if own else conn
        self._tenants.setdefault(conn.key.tenant, {})[conn] = None
        if not own and self.on_interest is not None:
            self.on_interest(conn.key, True)

    def _limit(self, max_per_user: int | None) -> int:
        return self._max_per_user if max_per_user is None else max_per_user

    def open(self, conn: C) -> None:
        """Make an added `conn` reachable."""
        if conn.id not in self._by_id:
            raise InvalidMove("only a registered connection can be opened")
        conn.status = move(conn.status, ConnectionStatus.OPEN)

    def drain(self, conn: C) -> bool:
        """Take `conn` out of every index while it flushes; False when it was no longer open."""
        if conn.status is not _OPEN:
            return self.remove(conn)
        conn.status = ConnectionStatus.DRAINING
        self._forget(conn)
        return True

    def remove(self, conn: C) -> bool:
        """Take `conn` out of every index for good; False when it was closed before."""
        if conn.status is ConnectionStatus.CLOSED:
            return False
        conn.status = ConnectionStatus.CLOSED  # which any other may become
        self._forget(conn)
        return True

    def _forget(self, conn: C) -> None:
        if self._by_id.get(conn.id) is not conn:
            return
        del self._by_id[conn.id]
        key = conn.key
        own = self._users[key]
        left = tuple(other for other in own if other is not conn) if isinstance(own, tuple) else ()
        if left:
            self._users[key] = left[0] if len(left) == 1 else left
        else:
            del self._users[key]
        tenant = self._tenants[key.tenant]
        del tenant[conn]
        if not tenant:
            del self._tenants[key.tenant]
        for room in tuple(conn.joined or ()):
            self.leave(conn, room)
        if not left and self.on_interest is not None:
            self.on_interest(key, False)

    # --- rooms

    def join(self, conn: C, room: str) -> bool:
        """Put an open `conn` into `room` of its own tenant; False when it was there already."""
        require_name("room", room, self._max_name_length)
        if conn.status is not _OPEN:
            raise InvalidMove(f"a connection that is {conn.status} cannot join a room")
        if conn.joined is None:
            conn.joined = set()
        elif room in conn.joined:
            return False
        if len(conn.joined) >= self._max_rooms:
            raise RoomLimitReached(f"A connection may be in {self._max_rooms} rooms.")
        conn.joined.add(room)
        key = RoomKey(conn.key.tenant, room)
        members = self._rooms.get(key)
        if members is None:
            self._rooms[key] = {conn: None}
            if self.on_interest is not None:
                self.on_interest(key, True)
        else:
            members[conn] = None
        # Whoever was told of the room may have closed it meanwhile.
        if self.on_membership is not None and conn in self._rooms.get(key, ()):
            self.on_membership(conn, room, True)
        return True

    def leave(self, conn: C, room: str) -> bool:
        """Take `conn` out of `room`; False when it was not there. An empty room vanishes."""
        if conn.joined is None or room not in conn.joined:
            return False
        conn.joined.discard(room)
        if not conn.joined:
            conn.joined = None
        key = RoomKey(conn.key.tenant, room)
        members = self._rooms[key]
        del members[conn]
        if self.on_membership is not None:
            self.on_membership(conn, room, False)
        # Whoever was told may have brought another in, or the last one out.
        if not members and self._rooms.get(key) is members:
            del self._rooms[key]
            if self.on_interest is not None:
                self.on_interest(key, False)
        return True

    # --- queries; what they return is a snapshot wherever sending to it may change the index

    def get(self, connection_id: str) -> C | None:
        return self._by_id.get(connection_id)

    def of_user(self, key: UserKey) -> tuple[C, ...]:
        """The connections of a user, oldest first."""
        own = self._users.get(key)
        if own is None:
            return ()
        return own if isinstance(own, tuple) else (own,)

    def of_room(self, key: RoomKey) -> tuple[C, ...]:
        return tuple(self._rooms.get(key, ()))

    def of_tenant(self, tenant: Tenant | AllTenants) -> tuple[C, ...]:
        if isinstance(tenant, AllTenants):
            return tuple(self._by_id.values())
        return tuple(self._tenants.get(tenant, ()))

    def find(
        self,
        *,
        user_id: str | None = None,
        room: str | None = None,
        tenant: Tenant | AllTenants = None,
        status: ConnectionStatus | None = None,
        where: Callable[[C], bool] | None = None,
    ) -> Iterator[C]:
        """The connections that fit every condition given."""
        for conn in self._candidates(user_id, room, tenant):
            if user_id is not None and conn.key.user_id != user_id:
                continue
            if status is not None and conn.status is not status:
                continue
            if where is None or where(conn):
                yield conn

    def _candidates(
        self, user_id: str | None, room: str | None, tenant: Tenant | AllTenants
    ) -> Collection[C]:
        if isinstance(tenant, AllTenants):
            everyone = tuple(self._by_id.values())
            return everyone if room is None else [c for c in everyone if c.joined and room in c.joined]
        if room is not None:
            return self.of_room(RoomKey(tenant, room))
        if user_id is not None:
            return self.of_user(UserKey(tenant, user_id))
        return self.of_tenant(tenant)

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, conn: C) -> bool:
        return self._by_id.get(conn.id) is conn

    def __iter__(self) -> Iterator[C]:
        return iter(tuple(self._by_id.values()))

    @property
    def arrived(self) -> int:
        """Sockets that arrived and did not depart, authenticated or not."""
        return self._arrived

    def figures(self) -> dict[str, int]:
        """How many keys each index holds; all zero when nobody is connected."""
        return {
            "arrived": self._arrived,
            "addresses": len(self._addresses),
            "connections": len(self._by_id),
            "users": len(self._users),
            "rooms": len(self._rooms),
            "tenants": len(self._tenants),
        }
