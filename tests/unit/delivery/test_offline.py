import math
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.delivery.offline import Kept, OfflineMessages, StoredMessage
from wsmanager.errors import ConfigurationError
from wsmanager.messages import MessagePriority, UserKey

from ...profiles import examples

ANN = UserKey(None, "ann")
BEN = UserKey(None, "ben")
CID = UserKey(None, "cid")


def stored(payload: str, *, expires_at: float = 100.0) -> StoredMessage:
    return StoredMessage(payload.encode(), "note", MessagePriority.MEDIUM, expires_at)


def numbered(sequence: int, type: str = "restored") -> StoredMessage:
    return StoredMessage(b"x", type, MessagePriority.MEDIUM, 100.0, sequence)


def payloads(messages: list[StoredMessage] | tuple[StoredMessage, ...]) -> list[str]:
    return [message.payload.decode() for message in messages]


def holding(
    *texts: str, key: UserKey = ANN, max_messages: int = 1_000, max_bytes: int = 1_000
) -> OfflineMessages:
    offline = OfflineMessages(max_messages, max_bytes)
    for text in texts:
        assert offline.keep(key, stored(text), now=0.0)
    return offline


# --- keeping and taking


def test_messages_are_taken_oldest_first_and_once() -> None:
    offline = holding("a", "b", "c")
    assert payloads(offline.take(ANN, now=1.0)) == ["a", "b", "c"]
    assert offline.take(ANN, now=1.0) == []


def test_a_few_may_be_taken_first() -> None:
    offline = holding("a", "b", "c", "d")
    assert payloads(offline.take(ANN, 1, now=1.0)) == ["a"]
    assert (offline.count(ANN), offline.bytes_waiting) == (3, 3)
    assert payloads(offline.take(ANN, 2, now=1.0)) == ["b", "c"]
    assert payloads(offline.take(ANN, 2, now=1.0)) == ["d"]
    assert (offline.users, offline.bytes_waiting) == (0, 0)
    assert offline.take(ANN, 1, now=1.0) == []


def test_what_has_expired_is_not_among_the_few() -> None:
    offline = OfflineMessages()
    offline.keep(ANN, stored("short", expires_at=5.0), now=0.0)
    offline.keep(ANN, stored("long", expires_at=9.0), now=0.0)
    offline.keep(ANN, stored("longer", expires_at=10.0), now=0.0)
    assert payloads(offline.take(ANN, 1, now=5.0)) == ["long"]
    assert payloads(offline.take(ANN, 1, now=10.0)) == []
    assert offline.users == 0
    assert offline.cleanup_expired(now=10.0) == 2


def test_nobody_gets_what_is_kept_for_another_user_or_tenant() -> None:
    offline = holding("for ann")
    offline.keep(UserKey("acme", "ann"), stored("for acme's ann"), now=0.0)
    assert offline.take(BEN, now=0.0) == []
    assert offline.take(UserKey("acme", "ben"), now=0.0) == []
    assert payloads(offline.take(UserKey("acme", "ann"), now=0.0)) == ["for acme's ann"]
    assert payloads(offline.take(ANN, now=0.0)) == ["for ann"]


def test_counts_and_sizes_tell_what_waits() -> None:
    offline = holding("a", "bcd")
    offline.keep(BEN, stored("ef"), now=0.0)
    assert (offline.count(ANN), offline.count(BEN), offline.count(CID)) == (2, 1, 0)
    assert (offline.users, offline.messages, offline.bytes_waiting) == (2, 3, 6)


def test_a_user_without_messages_vanishes() -> None:
    offline = holding("a")
    offline.take(ANN, now=0.0)
    assert (offline.users, offline.messages, offline.bytes_waiting) == (0, 0, 0)


def test_a_purge_forgets_one_users_messages() -> None:
    offline = holding("a", "b")
    offline.keep(BEN, stored("c"), now=0.0)
    assert (offline.purge(ANN), offline.purge(ANN)) == (2, 0)
    assert (offline.users, offline.count(BEN)) == (1, 1)


# --- time to live


def test_a_stamped_message_lives_as_long_as_configured() -> None:
    offline = OfflineMessages(ttl=10.0)
    message = offline.stamp(b"abc", type="note", priority=MessagePriority.HIGH, now=5.0)
    assert message == StoredMessage(b"abc", "note", MessagePriority.HIGH, 15.0)
    assert message.size == 3


def test_a_message_may_have_a_time_to_live_of_its_own() -> None:
    message = OfflineMessages(ttl=10.0).stamp(b"", type="note", ttl=60.0, now=5.0)
    assert (message.expires_at, message.priority) == (65.0, MessagePriority.MEDIUM)


def test_expired_messages_are_not_handed_over_but_counted() -> None:
    offline = OfflineMessages()
    offline.keep(ANN, stored("short", expires_at=5.0), now=0.0)
    offline.keep(ANN, stored("long", expires_at=9.0), now=0.0)
    assert payloads(offline.take(ANN, now=5.0)) == ["long"]
    assert offline.cleanup_expired(now=5.0) == 1
    assert offline.cleanup_expired(now=5.0) == 0


def test_a_cleanup_removes_what_has_expired_and_users_left_with_nothing() -> None:
    offline = OfflineMessages()
    offline.keep(ANN, stored("a", expires_at=5.0), now=0.0)
    offline.keep(BEN, stored("b", expires_at=5.0), now=0.0)
    offline.keep(BEN, stored("c", expires_at=9.0), now=0.0)
    assert offline.cleanup_expired(now=4.9) == 0
    assert offline.cleanup_expired(now=5.0) == 2
    assert (offline.users, offline.count(BEN), offline.bytes_waiting) == (1, 1, 1)


def test_the_monotonic_clock_is_the_default() -> None:
    offline = OfflineMessages()
    offline.keep(ANN, offline.stamp(b"gone", type="note", ttl=0.0))
    offline.keep(ANN, offline.stamp(b"here", type="note"))
    assert offline.cleanup_expired() == 1
    taken = offline.take(ANN)
    assert payloads(taken) == ["here"]
    assert offline.restore(ANN, taken)


# --- bounds


def test_the_oldest_gives_way_when_there_are_too_many() -> None:
    offline = holding("a", "b", max_messages=2)
    assert offline.keep(ANN, stored("c"), now=0.0) == Kept(True, (stored("a"),))
    assert payloads(offline.take(ANN, now=0.0)) == ["b", "c"]


def test_as_many_give_way_as_the_bytes_need() -> None:
    offline = holding("aaa", "bbb", "ccc", max_bytes=10)
    assert payloads(offline.keep(ANN, stored("ddddd"), now=0.0).evicted) == ["aaa", "bbb"]
    assert offline.bytes_waiting == 8


def test_expired_messages_give_way_before_the_oldest() -> None:
    offline = holding("a", max_messages=2)
    offline.keep(ANN, stored("short", expires_at=5.0), now=0.0)
    assert payloads(offline.keep(ANN, stored("c"), now=5.0).evicted) == ["short"]
    assert payloads(offline.take(ANN, now=5.0)) == ["a", "c"]


def test_one_users_overflow_is_no_other_users_loss() -> None:
    offline = holding("a", "b", max_messages=2)
    for text in "cdef":
        offline.keep(BEN, stored(text), now=0.0)
    assert payloads(offline.take(ANN, now=0.0)) == ["a", "b"]


def test_a_message_larger_than_an_inbox_is_refused_and_evicts_nothing() -> None:
    offline = holding("a", max_bytes=3)
    assert offline.keep(ANN, stored("bbbb"), now=0.0) == Kept(False)
    assert not offline.keep(BEN, stored("bbbb"), now=0.0)
    assert (offline.users, offline.messages) == (1, 1)


def test_the_first_message_of_one_user_too_many_is_refused() -> None:
    offline = OfflineMessages(max_users=2)
    assert offline.keep(ANN, stored("a"), now=0.0)
    assert offline.keep(BEN, stored("b"), now=0.0)
    assert offline.keep(CID, stored("c"), now=0.0) == Kept(False)
    assert offline.keep(BEN, stored("d"), now=0.0)
    offline.take(ANN, now=0.0)
    assert offline.keep(CID, stored("c"), now=0.0)


def test_users_whose_messages_have_all_expired_make_way_for_another() -> None:
    offline = OfflineMessages(max_users=2)
    offline.keep(ANN, stored("a", expires_at=5.0), now=0.0)
    offline.keep(ANN, stored("b", expires_at=9.0), now=0.0)
    offline.keep(BEN, stored("c", expires_at=7.0), now=0.0)
    assert not offline.keep(CID, stored("d"), now=6.9)
    assert offline.keep(CID, stored("d"), now=7.0)
    assert (offline.count(ANN), offline.count(BEN)) == (2, 0)
    assert not offline.keep(BEN, stored("e"), now=8.9)
    assert offline.keep(BEN, stored("e"), now=9.0)
    assert offline.cleanup_expired(now=9.0) == 3


def test_a_user_makes_way_as_soon_as_what_is_left_has_expired() -> None:
    offline = OfflineMessages(max_messages=1, max_users=1)
    offline.keep(ANN, stored("long", expires_at=90.0), now=0.0)
    offline.keep(ANN, stored("short", expires_at=5.0), now=0.0)
    assert offline.keep(BEN, stored("b"), now=5.0)


def test_a_user_who_came_back_keeps_the_place_until_the_new_messages_expire() -> None:
    offline = OfflineMessages(max_users=1)
    offline.keep(ANN, stored("a", expires_at=5.0), now=0.0)
    offline.take(ANN, now=0.0)
    offline.keep(ANN, stored("b", expires_at=9.0), now=0.0)
    assert not offline.keep(BEN, stored("c"), now=8.9)
    assert offline.keep(BEN, stored("c"), now=9.0)


class CountingTime(float):
    """A moment that counts how often it is compared."""

    comparisons = 0

    def __ge__(self, other: float) -> bool:
        CountingTime.comparisons += 1
        return super().__ge__(other)


def test_refusing_a_user_does_not_look_at_all_the_others() -> None:
    offline = OfflineMessages(max_users=200)
    for number in range(200):
        offline.keep(UserKey(None, str(number)), stored("a", expires_at=10.0 + number), now=0.0)
    CountingTime.comparisons = 0
    assert not offline.keep(ANN, stored("a"), now=CountingTime(1.0))
    assert offline.keep(ANN, stored("a"), now=CountingTime(10.0))
    assert 1 <= CountingTime.comparisons < 10


def test_it_does_not_grow_with_the_users_that_come_and_go() -> None:
    offline = OfflineMessages()
    message = stored("a", expires_at=math.inf)
    short = stored("b", expires_at=9.0)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(1_000):
        key = UserKey("acme", str(number))
        offline.keep(key, message, now=0.0)
        offline.keep(key, short, now=0.0)
        offline.take(key, now=0.0)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 32_768


@pytest.mark.parametrize(
    "bounds", [(0, 1, 1.0, 1), (1, 0, 1.0, 1), (1, 1, 0.0, 1), (1, 1, math.nan, 1), (1, 1, 1.0, 0)]
)
def test_bounds_that_let_nothing_in_are_refused(bounds: tuple[int, int, float, int]) -> None:
    with pytest.raises(ConfigurationError):
        OfflineMessages(*bounds)


# --- restoring


def test_what_is_restored_comes_before_what_came_since() -> None:
    offline = holding("a", "b")
    taken = offline.take(ANN, now=0.0)
    offline.keep(ANN, stored("c"), now=0.0)
    assert offline.restore(ANN, taken, now=0.0) == Kept(True)
    assert payloads(offline.take(ANN, now=0.0)) == ["a", "b", "c"]


def test_what_is_restored_takes_its_place_by_its_number() -> None:
    offline = OfflineMessages()
    for number in (2, 4, 4, 6):
        offline.keep(ANN, numbered(number, "kept"), now=0.0)
    assert offline.restore(ANN, [numbered(1), numbered(4), numbered(7)], now=0.0)
    taken = [(message.sequence, message.type) for message in offline.take(ANN, now=0.0)]
    assert taken == [
        (1, "restored"),
        (2, "kept"),
        (4, "restored"),
        (4, "kept"),
        (4, "kept"),
        (6, "kept"),
        (7, "restored"),
    ]


def test_restored_messages_are_the_oldest_and_give_way_first() -> None:
    offline = holding("a", "b", max_messages=2)
    taken = offline.take(ANN, now=0.0)
    offline.keep(ANN, stored("c"), now=0.0)
    assert payloads(offline.restore(ANN, taken, now=0.0).evicted) == ["a"]
    assert payloads(offline.take(ANN, now=0.0)) == ["b", "c"]


def test_restoring_nothing_makes_no_user() -> None:
    offline = OfflineMessages()
    assert offline.restore(ANN, [], now=0.0)
    assert offline.users == 0


def test_a_user_who_lost_the_place_gets_nothing_restored() -> None:
    offline = OfflineMessages(max_users=1)
    offline.keep(ANN, stored("a"), now=0.0)
    taken = offline.take(ANN, now=0.0)
    offline.keep(BEN, stored("b"), now=0.0)
    assert offline.restore(ANN, taken, now=0.0) == Kept(False)
    assert (offline.count(ANN), offline.count(BEN)) == (0, 1)


def test_restoring_only_what_must_give_way_makes_no_user() -> None:
    offline = OfflineMessages(max_messages=1)
    expired = [stored("a", expires_at=1.0), stored("b", expires_at=1.0)]
    assert payloads(offline.restore(ANN, expired, now=1.0).evicted) == ["a", "b"]
    assert offline.users == 0


# --- against a model


class Model:
    """The rules once more, on plain lists that are searched whole."""

    def __init__(self, max_messages: int, max_bytes: int, max_users: int) -> None:
        self.bounds = max_messages, max_bytes, max_users
        self.inboxes: dict[UserKey, list[StoredMessage]] = {}
        self.expired = 0

    def add(self, key: UserKey, older: list[StoredMessage], newer: list[StoredMessage], now: int) -> Kept:
        _, max_bytes, max_users = self.bounds
        if any(message.size > max_bytes for message in newer):
            return Kept(False)
        if key not in self.inboxes and len(self.inboxes) >= max_users:
            for other in list(self.inboxes):
                if all(message.expires_at <= now for message in self.inboxes[other]):
                    self.expired += len(self.inboxes.pop(other))
            if len(self.inboxes) >= max_users:
                return Kept(False)
        inbox = older + self.inboxes.get(key, []) + newer
        evicted: list[StoredMessage] = []
        if self.too_much(inbox):
            evicted = [message for message in inbox if message.expires_at <= now]
            inbox = [message for message in inbox if message.expires_at > now]
        while self.too_much(inbox):
            evicted.append(inbox.pop(0))
        self.put(key, inbox)
        return Kept(True, tuple(evicted))

    def too_much(self, inbox: list[StoredMessage]) -> bool:
        return len(inbox) > self.bounds[0] or sum(message.size for message in inbox) > self.bounds[1]

    def put(self, key: UserKey, inbox: list[StoredMessage]) -> None:
        self.inboxes.pop(key, None)
        if inbox:
            self.inboxes[key] = inbox

    def take(self, key: UserKey, now: int) -> list[StoredMessage]:
        inbox = self.inboxes.pop(key, [])
        live = [message for message in inbox if message.expires_at > now]
        self.expired += len(inbox) - len(live)
        return live

    def cleanup_expired(self, now: int) -> int:
        for key in list(self.inboxes):
            self.put(key, self.take(key, now))
        expired, self.expired = self.expired, 0
        return expired


class Step(msgspec.Struct, frozen=True):
    act: str
    key: UserKey
    size: int
    ttl: int


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["keep", "keep", "keep", "take", "restore", "purge", "clean", "wait"]),
        st.sampled_from([ANN, BEN, CID, UserKey("acme", "ann")]),
        st.integers(1, 5),
        st.integers(0, 9),
    ),
    max_size=40,
)


@examples(100)
@given(STEPS, st.integers(1, 4), st.integers(4, 12), st.integers(1, 3))
def test_it_does_what_plain_lists_would_do_and_loses_nothing(
    steps: list[Step], max_messages: int, max_bytes: int, max_users: int
) -> None:
    offline = OfflineMessages(max_messages, max_bytes, max_users=max_users)
    model = Model(max_messages, max_bytes, max_users)
    taken: dict[UserKey, list[StoredMessage]] = {}
    inside = now = 0
    for number, step in enumerate(steps):
        if step.act == "keep":
            payload = f"{number:02}".encode().ljust(step.size, b".")
            message = StoredMessage(payload, step.key.user_id, MessagePriority.LOW, now + step.ttl)
            kept = offline.keep(step.key, message, now=now)
            assert kept == model.add(step.key, [], [message], now)
            inside += kept.accepted - len(kept.evicted)
        elif step.act == "take":
            messages = offline.take(step.key, now=now)
            assert messages == model.take(step.key, now)
            inside -= len(messages)
            taken[step.key] = messages
        elif step.act == "restore":
            messages = taken.pop(step.key, [])
            kept = offline.restore(step.key, messages, now=now)
            assert kept == (model.add(step.key, messages, [], now) if messages else Kept(True))
            inside += len(messages) * kept.accepted - len(kept.evicted)
        elif step.act == "purge":
            purged = offline.purge(step.key)
            assert purged == len(model.inboxes.pop(step.key, []))
            inside -= purged
        elif step.act == "clean":
            expired = offline.cleanup_expired(now=now)
            assert expired == model.cleanup_expired(now)
            inside -= expired
        else:
            now += 2
        assert offline.users == len(model.inboxes) <= max_users
        assert offline.messages + model.expired == inside
        for key, inbox in model.inboxes.items():
            assert offline.count(key) == len(inbox) <= max_messages
        assert offline.bytes_waiting == sum(m.size for inbox in model.inboxes.values() for m in inbox)
    for key in list(model.inboxes):
        messages = offline.take(key, now=now)
        assert messages == model.take(key, now)
        inside -= len(messages)
    assert offline.cleanup_expired(now=now) == inside
