from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from wsmanager import ALL, ConnectionStatus
from wsmanager.decisions.registry import Registry
from wsmanager.errors import (
    ConnectionLimitReached,
    DuplicateConnectionId,
    InvalidMove,
    InvalidName,
    RoomLimitReached,
)
from wsmanager.messages import RoomKey, Tenant, UserKey

from ...profiles import examples

EMPTY = {"arrived": 0, "addresses": 0, "connections": 0, "users": 0, "rooms": 0, "tenants": 0}


class Socket:
    """The least that the registry accepts."""

    def __init__(self, id: str, user: str = "alice", tenant: Tenant = None) -> None:
        self.id = id
        self.key = UserKey(tenant, user)
        self.status = ConnectionStatus.CONNECTING
        self.joined: set[str] | None = None


def opened(registry: Registry[Socket], id: str, user: str = "alice", tenant: Tenant = None) -> Socket:
    conn = Socket(id, user, tenant)
    registry.add(conn)
    registry.open(conn)
    return conn


def test_a_connection_is_found_by_id_user_room_and_tenant() -> None:
    registry: Registry[Socket] = Registry()
    conn = opened(registry, "1")
    registry.join(conn, "general")
    assert registry.get("1") is conn
    assert registry.of_user(conn.key) == (conn,)
    assert registry.of_room(RoomKey(None, "general")) == (conn,)
    assert registry.of_tenant(None) == registry.of_tenant(ALL) == (conn,)
    assert conn in registry
    assert list(registry) == [conn]


@pytest.mark.parametrize("leave", ["remove", "drain"])
def test_a_connection_that_leaves_is_in_no_index(leave: str) -> None:
    registry: Registry[Socket] = Registry()
    conn = opened(registry, "1")
    registry.join(conn, "general")
    assert getattr(registry, leave)(conn)
    assert registry.figures() == EMPTY
    assert conn.joined is None
    assert conn not in registry


def test_the_connections_of_a_user_are_kept_oldest_first() -> None:
    registry: Registry[Socket] = Registry()
    first, second, third = (opened(registry, str(n)) for n in range(3))
    registry.remove(second)
    assert registry.of_user(first.key) == (first, third)
    registry.remove(first)
    assert registry.of_user(first.key) == (third,)


def test_removing_twice_changes_nothing() -> None:
    registry: Registry[Socket] = Registry()
    conn = opened(registry, "1")
    assert registry.drain(conn)
    assert registry.remove(conn)
    assert not registry.remove(conn)
    assert not registry.drain(conn)


def test_a_connection_that_never_opened_is_removed_by_drain() -> None:
    registry: Registry[Socket] = Registry()
    conn = Socket("1")
    registry.add(conn)
    assert registry.drain(conn)
    assert conn.status is ConnectionStatus.CLOSED


def test_an_id_in_use_is_refused_and_the_holder_stays() -> None:
    registry: Registry[Socket] = Registry()
    conn = opened(registry, "1")
    with pytest.raises(DuplicateConnectionId):
        registry.add(Socket("1", "mallory"))
    assert registry.get("1") is conn
    assert registry.of_user(UserKey(None, "mallory")) == ()


def test_the_departure_of_a_stranger_with_the_same_id_removes_nobody() -> None:
    registry: Registry[Socket] = Registry()
    conn = opened(registry, "1")
    registry.remove(Socket("1"))
    assert registry.get("1") is conn


def test_only_a_registered_connection_opens() -> None:
    registry: Registry[Socket] = Registry()
    with pytest.raises(InvalidMove):
        registry.open(Socket("1"))


def test_only_an_open_connection_joins() -> None:
    registry: Registry[Socket] = Registry()
    conn = Socket("1")
    registry.add(conn)
    with pytest.raises(InvalidMove):
        registry.join(conn, "general")
    assert registry.figures()["rooms"] == 0


def test_joining_and_leaving_answer_whether_anything_changed() -> None:
    registry: Registry[Socket] = Registry()
    conn = opened(registry, "1")
    assert registry.join(conn, "a")
    assert not registry.join(conn, "a")
    assert registry.leave(conn, "a")
    assert not registry.leave(conn, "a")
    assert registry.figures()["rooms"] == 0


def test_a_room_outlives_a_member_while_others_are_in_it() -> None:
    registry: Registry[Socket] = Registry()
    one, two = opened(registry, "1"), opened(registry, "2", "bob")
    for conn in (one, two):
        registry.join(conn, "a")
        registry.join(conn, "b")
    registry.leave(one, "a")
    assert registry.of_room(RoomKey(None, "a")) == (two,)
    assert one.joined == {"b"}


@pytest.mark.parametrize("room", ["", "x" * 300, "a\nb"])
def test_a_bad_room_name_is_refused(room: str) -> None:
    registry: Registry[Socket] = Registry()
    with pytest.raises(InvalidName):
        registry.join(opened(registry, "1"), room)


def test_the_rooms_of_a_connection_are_capped() -> None:
    registry: Registry[Socket] = Registry(max_rooms=2)
    conn = opened(registry, "1")
    registry.join(conn, "a")
    registry.join(conn, "b")
    with pytest.raises(RoomLimitReached):
        registry.join(conn, "c")
    assert conn.joined == {"a", "b"}


def test_each_limit_refuses_with_a_code_of_its_own() -> None:
    registry: Registry[Socket] = Registry(
        max_connections=3, max_per_user=1, max_per_address=2, max_per_tenant=2
    )
    codes = []

    def refused(attempt: object, *arguments: object) -> None:
        with pytest.raises(ConnectionLimitReached) as caught:
            attempt(*arguments)  # type: ignore[operator]  # a method of the registry
        codes.append(caught.value.code)

    registry.arrive("10.0.0.1")
    registry.arrive("10.0.0.1")
    refused(registry.arrive, "10.0.0.1")
    registry.arrive(None)
    refused(registry.arrive, "10.0.0.2")
    opened(registry, "1")
    refused(registry.add, Socket("2"))
    opened(registry, "3", "bob")
    refused(registry.add, Socket("4", "carol"))
    registry.add(Socket("5", "carol", "another tenant"))
    assert codes == ["address_limit", "node_full", "user_limit", "tenant_limit"]


def test_an_address_is_forgotten_with_its_last_departure() -> None:
    registry: Registry[Socket] = Registry()
    registry.arrive("10.0.0.1")
    registry.arrive("10.0.0.1")
    registry.arrive(None)
    registry.depart("10.0.0.1")
    assert registry.figures()["addresses"] == 1
    assert registry.arrived == 2
    registry.depart("10.0.0.1")
    registry.depart(None)
    assert registry.figures() == EMPTY


def test_the_limit_of_a_user_can_be_raised_for_one_connection() -> None:
    registry: Registry[Socket] = Registry(max_per_user=1)
    opened(registry, "1")
    registry.add(Socket("2"), max_per_user=2)
    assert len(registry) == 2


def test_a_query_fits_every_condition_given() -> None:
    registry: Registry[Socket] = Registry()
    alice, bob = opened(registry, "1"), opened(registry, "2", "bob")
    other = opened(registry, "3", "alice", "t")
    late = Socket("4", "bob")
    registry.add(late)
    registry.join(alice, "a")
    registry.join(other, "a")
    assert list(registry.find(user_id="alice")) == [alice]
    assert list(registry.find(room="a")) == [alice]
    assert list(registry.find(room="a", user_id="bob")) == []
    assert list(registry.find(tenant="t")) == [other]
    assert set(registry.find(tenant=ALL, room="a")) == {alice, other}
    assert set(registry.find(tenant=ALL, user_id="alice")) == {alice, other}
    assert list(registry.find(status=ConnectionStatus.CONNECTING)) == [late]
    assert list(registry.find(where=lambda conn: conn.id == "2")) == [bob]


def test_a_connecting_socket_may_be_given_another_id_and_user() -> None:
    registry: Registry[Socket] = Registry()
    conn = Socket("1")
    registry.add(conn)
    registry.rename(conn, "2", UserKey("t", "bob"))
    assert (conn.id, conn.key) == ("2", UserKey("t", "bob"))
    assert registry.get("1") is None
    assert registry.get("2") is conn
    assert registry.of_user(UserKey(None, "alice")) == registry.of_tenant(None) == ()
    assert registry.of_user(conn.key) == registry.of_tenant("t") == (conn,)


@pytest.mark.parametrize(
    ("id", "key", "refusal"),
    [
        ("other", UserKey(None, "alice"), DuplicateConnectionId),
        ("1", UserKey(None, "bob"), ConnectionLimitReached),
        ("1", UserKey("t", "carol"), ConnectionLimitReached),
    ],
)
def test_a_new_name_that_is_refused_changes_nothing(id: str, key: UserKey, refusal: type[Exception]) -> None:
    registry: Registry[Socket] = Registry(max_per_user=1, max_per_tenant=2)
    opened(registry, "other", "bob")
    for number in range(2):
        opened(registry, f"t{number}", f"user {number}", "t")
    conn = Socket("1")
    registry.add(conn)
    with pytest.raises(refusal):
        registry.rename(conn, id, key)
    assert (conn.id, conn.key) == ("1", UserKey(None, "alice"))
    assert registry.get("1") is conn
    registry.rename(conn, "1", conn.key)  # its own place is no other's


@pytest.mark.parametrize("state", ["unknown", "open"])
def test_only_a_connecting_socket_is_renamed(state: str) -> None:
    registry: Registry[Socket] = Registry()
    conn = Socket("1") if state == "unknown" else opened(registry, "1")
    with pytest.raises(InvalidMove):
        registry.rename(conn, "2", conn.key)


USERS = st.sampled_from(["alice", "bob"])
TENANTS = st.sampled_from([None, "t"])
ROOMS = st.sampled_from(["a", "b", "c"])


class RegistryMachine(RuleBasedStateMachine):
    """Connect, join, leave and end in any order: the indexes agree with a plain list of sockets."""

    sockets = Bundle("sockets")

    def __init__(self) -> None:
        super().__init__()
        self.registry: Registry[Socket] = Registry(max_per_user=3, max_per_tenant=5, max_rooms=2)
        self.alive: list[Socket] = []
        self.ids = itertools.count()
        self.wanted: set[UserKey | RoomKey] = set()
        self.members: set[tuple[Socket, str]] = set()
        self.registry.on_interest = self.be_told_of_interest
        self.registry.on_membership = self.be_told_of_membership

    def be_told_of_interest(self, key: UserKey | RoomKey, wanted: bool) -> None:
        assert (key in self.wanted) is not wanted, "told once, and in turn"
        (self.wanted.add if wanted else self.wanted.remove)(key)

    def be_told_of_membership(self, conn: Socket, room: str, joined: bool) -> None:
        assert ((conn, room) in self.members) is not joined
        (self.members.add if joined else self.members.remove)((conn, room))

    @rule(target=sockets, user=USERS, tenant=TENANTS, open_it=st.booleans())
    def connect(self, user: str, tenant: Tenant, open_it: bool) -> Socket:
        conn = Socket(str(next(self.ids)), user, tenant)
        try:
            self.registry.add(conn)
        except (ConnectionLimitReached, DuplicateConnectionId):
            return conn
        self.alive.append(conn)
        if open_it:
            self.registry.open(conn)
        return conn

    @rule(conn=sockets, id=st.sampled_from("01x"), user=USERS, tenant=TENANTS)
    def rename(self, conn: Socket, id: str, user: str, tenant: Tenant) -> None:
        before = (conn.id, conn.key)
        try:
            self.registry.rename(conn, id, UserKey(tenant, user))
        except (InvalidMove, DuplicateConnectionId, ConnectionLimitReached):
            assert (conn.id, conn.key) == before
            return
        self.alive = [*(other for other in self.alive if other is not conn), conn]

    @rule(conn=sockets, room=ROOMS)
    def join(self, conn: Socket, room: str) -> None:
        before = set(conn.joined or ())
        try:
            self.registry.join(conn, room)
        except (InvalidMove, RoomLimitReached):
            assert set(conn.joined or ()) == before

    @rule(conn=sockets, room=ROOMS)
    def leave(self, conn: Socket, room: str) -> None:
        self.registry.leave(conn, room)

    @rule(conn=consumes(sockets))
    def drain(self, conn: Socket) -> None:
        self.registry.drain(conn)
        self.alive = [other for other in self.alive if other is not conn]

    @rule(conn=sockets)
    def crash(self, conn: Socket) -> None:
        self.registry.remove(conn)
        self.alive = [other for other in self.alive if other is not conn]

    @invariant()
    def indexes_agree(self) -> None:
        registry, alive = self.registry, self.alive
        assert list(registry) == alive
        for user, tenant in itertools.product(("alice", "bob"), (None, "t")):
            key = UserKey(tenant, user)
            assert registry.of_user(key) == tuple(conn for conn in alive if conn.key == key)
        for room, tenant in itertools.product("abc", (None, "t")):
            members = {conn for conn in alive if room in (conn.joined or ()) and conn.key.tenant == tenant}
            assert set(registry.of_room(RoomKey(tenant, room))) == members
        for tenant in (None, "t"):
            assert set(registry.of_tenant(tenant)) == {conn for conn in alive if conn.key.tenant == tenant}

    @invariant()
    def what_it_told_is_what_there_is(self) -> None:
        rooms = {RoomKey(conn.key.tenant, room) for conn in self.alive for room in conn.joined or ()}
        assert self.wanted == {conn.key for conn in self.alive} | rooms
        assert self.members == {(conn, room) for conn in self.alive for room in conn.joined or ()}

    @invariant()
    def nothing_is_left_behind(self) -> None:
        sizes = self.registry.figures()
        assert sizes["users"] == len({conn.key for conn in self.alive})
        assert sizes["tenants"] == len({conn.key.tenant for conn in self.alive})
        assert sizes["rooms"] == len(
            {(conn.key.tenant, room) for conn in self.alive for room in conn.joined or ()}
        )

    def teardown(self) -> None:
        for conn in self.alive:
            self.registry.remove(conn)
        assert self.registry.figures() == EMPTY


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(examples(40), stateful_step_count=25)
