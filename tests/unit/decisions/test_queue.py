import gc
import tracemalloc
import weakref
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.decisions.queue import MessagePriorityQueue
from wsmanager.errors import ConfigurationError, EncodeError
from wsmanager.messages import MessagePriority
from wsmanager.protocols import Enqueued, MessageQueue

from ...profiles import examples

LOW, MEDIUM, HIGH, CRITICAL = MessagePriority


def drained(queue: MessageQueue[str], *, now: float = 0.0) -> list[str]:
    messages: list[str] = []
    while (message := queue.dequeue(now=now)) is not None:
        messages.append(message)
    return messages


def full_of(priority: MessagePriority, *messages: str) -> MessagePriorityQueue[str]:
    queue = MessagePriorityQueue[str](max_messages=len(messages), ttl=100.0)
    for message in messages:
        assert queue.enqueue(message, priority, now=0.0)
    return queue


# --- order


def test_an_empty_queue_has_nothing_to_give() -> None:
    queue = MessagePriorityQueue[str]()
    assert queue.dequeue(now=0.0) is None
    assert (len(queue), queue.bytes_waiting) == (0, 0)


def test_higher_priorities_come_out_first() -> None:
    queue = MessagePriorityQueue[str]()
    for priority in (MEDIUM, LOW, CRITICAL, HIGH):
        queue.enqueue(priority.name, priority, now=0.0)
    assert drained(queue) == ["CRITICAL", "HIGH", "MEDIUM", "LOW"]


def test_one_priority_is_first_in_first_out() -> None:
    queue = MessagePriorityQueue[str]()
    for message in "abc":
        queue.enqueue(message, now=0.0)
    assert drained(queue) == ["a", "b", "c"]


def test_counts_and_sizes_tell_what_waits() -> None:
    queue = MessagePriorityQueue[str]()
    queue.enqueue("abc", HIGH, now=0.0)
    queue.enqueue("de", HIGH, now=0.0)
    queue.enqueue("f", now=0.0)
    assert (len(queue), queue.bytes_waiting) == (3, 6)
    assert queue.counts == {LOW: 0, MEDIUM: 1, HIGH: 2, CRITICAL: 0}


def test_the_monotonic_clock_is_the_default() -> None:
    queue = MessagePriorityQueue[str]()
    queue.enqueue("gone", ttl=0.0)
    queue.enqueue("here")
    assert queue.cleanup_expired() == ["gone"]
    assert queue.dequeue() == "here"


# --- sizes


@pytest.mark.parametrize(
    ("message", "size"),
    [("abc", 3), ("äöü", 6), (b"\x00\xff", 2), ({"type": "x"}, 12), (None, 4)],
)
def test_the_size_is_that_of_the_encoded_message(message: Any, size: int) -> None:
    queue = MessagePriorityQueue[Any]()
    queue.enqueue(message, now=0.0)
    assert queue.bytes_waiting == size


def test_a_given_size_is_taken_as_it_is() -> None:
    queue = MessagePriorityQueue[object]()
    queue.enqueue(object(), size=42, now=0.0)
    assert queue.bytes_waiting == 42


@pytest.mark.parametrize("message", [object(), "\ud800", {"n": 1j}])
def test_a_message_that_cannot_be_encoded_is_an_error_and_changes_nothing(message: Any) -> None:
    queue = MessagePriorityQueue[Any]()
    with pytest.raises(EncodeError):
        queue.enqueue(message, now=0.0)
    assert (len(queue), queue.bytes_waiting) == (0, 0)


@pytest.mark.parametrize("bounds", [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0), (1, 1, float("nan"))])
def test_bounds_that_let_nothing_in_are_refused(bounds: tuple[int, int, float]) -> None:
    with pytest.raises(ConfigurationError):
        MessagePriorityQueue[str](*bounds)


# --- expiry


def test_a_message_expires_when_its_time_is_over() -> None:
    queue = MessagePriorityQueue[str](ttl=10.0)
    queue.enqueue("a", now=0.0)
    queue.enqueue("b", ttl=5.0, now=0.0)
    queue.enqueue("c", ttl=20.0, now=0.0)
    assert queue.cleanup_expired(now=4.9) == []
    assert queue.cleanup_expired(now=10.0) == ["b", "a"]
    assert drained(queue, now=19.9) == ["c"]


def test_what_dequeue_skips_as_expired_is_reported_by_the_next_cleanup() -> None:
    queue = MessagePriorityQueue[str](ttl=10.0)
    queue.enqueue("old", now=0.0)
    queue.enqueue("new", now=5.0)
    assert queue.dequeue(now=10.0) == "new"
    assert (len(queue), queue.bytes_waiting) == (0, 0)
    assert queue.cleanup_expired(now=10.0) == ["old"]
    assert queue.cleanup_expired(now=10.0) == []


def test_what_was_skipped_counts_until_it_is_reported() -> None:
    queue = MessagePriorityQueue[str](max_messages=2, ttl=1.0)
    queue.enqueue("a", now=0.0)
    queue.enqueue("b", now=0.0)
    assert queue.dequeue(now=1.0) is None
    assert queue.enqueue("c", now=1.0) == Enqueued(True, ("a", "b"))
    assert queue.cleanup_expired(now=1.0) == []


# --- overflow


def test_a_full_queue_evicts_the_oldest_of_the_lowest_priority() -> None:
    queue = MessagePriorityQueue[str](max_messages=3)
    queue.enqueue("high", HIGH, now=0.0)
    queue.enqueue("low 1", LOW, now=0.0)
    queue.enqueue("low 2", LOW, now=0.0)
    assert queue.enqueue("medium", MEDIUM, now=0.0) == Enqueued(True, ("low 1",))
    assert drained(queue) == ["high", "medium", "low 2"]


@pytest.mark.parametrize("priority", [LOW, MEDIUM, HIGH])
def test_a_queue_full_of_one_priority_drops_its_oldest(priority: MessagePriority) -> None:
    queue = full_of(priority, "a", "b")
    assert queue.enqueue("c", priority, now=0.0) == Enqueued(True, ("a",))
    assert drained(queue) == ["b", "c"]


@pytest.mark.parametrize("priority", MessagePriority)
def test_a_queue_full_of_critical_refuses_everything(priority: MessagePriority) -> None:
    queue = full_of(CRITICAL, "a", "b")
    assert queue.enqueue("c", priority, now=0.0) == Enqueued(False)
    assert drained(queue) == ["a", "b"]


def test_nothing_gives_way_to_a_lower_priority() -> None:
    queue = full_of(HIGH, "a", "b")
    assert queue.enqueue("c", MEDIUM, now=0.0) == Enqueued(False)
    assert drained(queue) == ["a", "b"]


def test_expired_messages_give_way_before_any_other() -> None:
    queue = MessagePriorityQueue[str](max_messages=2)
    queue.enqueue("low", LOW, now=0.0)
    queue.enqueue("critical", CRITICAL, ttl=1.0, now=0.0)
    assert queue.enqueue("medium", now=1.0) == Enqueued(True, ("critical",))
    assert drained(queue, now=1.0) == ["medium", "low"]


def test_as_many_give_way_as_the_bytes_need() -> None:
    queue = MessagePriorityQueue[str](max_bytes=10)
    queue.enqueue("aaa", LOW, now=0.0)
    queue.enqueue("bbb", MEDIUM, now=0.0)
    queue.enqueue("cccc", LOW, now=0.0)
    assert queue.enqueue("d" * 8, HIGH, now=0.0) == Enqueued(True, ("aaa", "cccc", "bbb"))
    assert queue.bytes_waiting == 8


def test_a_refused_message_evicts_nothing_that_still_waits() -> None:
    queue = MessagePriorityQueue[str](max_bytes=10)
    queue.enqueue("low", LOW, now=0.0)
    queue.enqueue("gone", LOW, ttl=1.0, now=0.0)
    queue.enqueue("hig", HIGH, now=0.0)
    assert queue.enqueue("m" * 8, MEDIUM, now=1.0) == Enqueued(False, ("gone",))
    assert drained(queue, now=1.0) == ["hig", "low"]


def test_a_message_larger_than_the_queue_is_refused_at_once() -> None:
    queue = MessagePriorityQueue[str](max_bytes=3)
    queue.enqueue("abc", LOW, ttl=1.0, now=0.0)
    assert queue.enqueue("abcd", CRITICAL, now=1.0) == Enqueued(False)
    assert queue.cleanup_expired(now=1.0) == ["abc"]


class CountingTime(float):
    """A moment that counts how often it is compared."""

    comparisons = 0

    def __ge__(self, other: float) -> bool:
        CountingTime.comparisons += 1
        return super().__ge__(other)


def test_making_room_does_not_look_at_everything_that_waits() -> None:
    queue = full_of(MEDIUM, *map(str, range(500)))
    CountingTime.comparisons = 0
    assert queue.enqueue("new", now=CountingTime(1.0)).evicted == ("0",)
    assert 1 <= CountingTime.comparisons < 5


# --- conflation


def test_a_message_of_the_same_key_takes_the_place_of_the_one_that_waits() -> None:
    queue = MessagePriorityQueue[str]()
    queue.enqueue("price 1", key="price", now=0.0)
    queue.enqueue("other", now=0.0)
    assert queue.enqueue("price 22", key="price", now=0.0) == Enqueued(True, (), "price 1")
    assert queue.bytes_waiting == len("price 22") + len("other")
    assert drained(queue) == ["price 22", "other"]


def test_with_another_priority_it_goes_to_the_end_of_that() -> None:
    queue = MessagePriorityQueue[str]()
    queue.enqueue("low", LOW, key="k", now=0.0)
    queue.enqueue("first", HIGH, now=0.0)
    assert queue.enqueue("second", HIGH, key="k", now=0.0).replaced == "low"
    assert drained(queue) == ["first", "second"]


def test_a_key_is_free_again_when_its_message_has_left() -> None:
    queue = MessagePriorityQueue[str]()
    queue.enqueue("1", key="k", now=0.0)
    queue.dequeue(now=0.0)
    assert queue.enqueue("2", key="k", now=0.0) == Enqueued(True)


def test_the_new_message_lives_as_long_as_it_says() -> None:
    queue = MessagePriorityQueue[str]()
    queue.enqueue("1", key="k", ttl=1.0, now=0.0)
    queue.enqueue("2", key="k", ttl=5.0, now=0.0)
    assert queue.cleanup_expired(now=4.9) == []
    assert queue.cleanup_expired(now=5.0) == ["2"]


def test_a_full_queue_conflates_without_evicting() -> None:
    queue = MessagePriorityQueue[str](max_messages=2)
    queue.enqueue("a", now=0.0)
    queue.enqueue("1", key="k", now=0.0)
    assert queue.enqueue("2", key="k", now=0.0) == Enqueued(True, (), "1")
    assert drained(queue) == ["a", "2"]


def test_the_room_of_the_old_message_is_room_for_the_new_one() -> None:
    queue = MessagePriorityQueue[str](max_bytes=4)
    queue.enqueue("a", now=0.0)
    queue.enqueue("111", key="k", now=0.0)
    assert queue.enqueue("222", key="k", now=0.0) == Enqueued(True, (), "111")
    assert drained(queue) == ["a", "222"]


def test_a_critical_message_may_be_superseded_by_its_own_key_only() -> None:
    queue = full_of(CRITICAL, "a")
    assert queue.enqueue("b", CRITICAL, key="k", now=0.0) == Enqueued(False)
    queue.dequeue(now=0.0)
    queue.enqueue("b", CRITICAL, key="k", now=0.0)
    assert queue.enqueue("c", CRITICAL, key="k", now=0.0) == Enqueued(True, (), "b")


def test_what_is_superseded_is_never_evicted_as_well() -> None:
    queue = MessagePriorityQueue[str](max_bytes=4)
    queue.enqueue("1", key="k", now=0.0)
    queue.enqueue("aa", now=0.0)
    assert queue.enqueue("222", key="k", now=0.0) == Enqueued(True, ("aa",), "1")
    assert drained(queue) == ["222"]


def test_a_refused_message_leaves_the_one_of_its_key_in_place() -> None:
    queue = MessagePriorityQueue[str](max_bytes=4)
    queue.enqueue("1", LOW, key="k", now=0.0)
    queue.enqueue("aa", HIGH, now=0.0)
    assert queue.enqueue("222", LOW, key="k", now=0.0) == Enqueued(False)
    assert drained(queue) == ["aa", "1"]


# --- memory


class Message:
    """Something that can be watched being freed."""


def test_nothing_that_left_is_held() -> None:
    queue = MessagePriorityQueue[Message](max_messages=4)
    watched: list[weakref.ref[Message]] = []
    for number in range(40):
        message = Message()
        watched.append(weakref.ref(message))
        queue.enqueue(message, MessagePriority(number % 3), size=1, key=f"{number % 7}", now=0.0)
        del message
    for _ in range(4):
        queue.dequeue(now=0.0)
    gc.collect()
    assert [alive for alive in watched if alive() is not None] == []


def test_a_queue_does_not_grow_with_what_passes_through() -> None:
    queue = MessagePriorityQueue[str]()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(1_000):
        queue.enqueue("a", key="k", now=0.0)
        queue.enqueue("b", HIGH, key="k", now=0.0)
        queue.enqueue("c", LOW, now=0.0)
        queue.dequeue(now=0.0)
        queue.dequeue(now=0.0)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 32_768


# --- against a model


@dataclass
class Item:
    message: str
    priority: int
    size: int
    expires_at: int
    key: str | None
    place: int


@dataclass
class Model:
    """The rules once more, on one list that is sorted whenever its order matters."""

    max_messages: int
    max_bytes: int
    waiting: list[Item] = field(default_factory=list[Item])
    skipped: list[Item] = field(default_factory=list[Item])

    def fits(self, held: list[Item], item: Item) -> bool:
        return len(held) < self.max_messages and sum(i.size for i in held) + item.size <= self.max_bytes

    def of_key(self, item: Item) -> Item | None:
        return next((i for i in self.waiting if i.key == item.key is not None), None)

    def enqueue(self, item: Item, now: int) -> Enqueued:
        if item.size > self.max_bytes:
            return Enqueued(False)
        expired: list[str] = []
        if not self.fits([i for i in self.skipped + self.waiting if i is not self.of_key(item)], item):
            expired = self.cleanup_expired(now)
        old = self.of_key(item)
        kept = [i for i in self.waiting if i is not old]
        candidates = [i for i in kept if i.priority <= item.priority and i.priority < CRITICAL]
        victims: list[str] = []
        for victim in sorted(candidates, key=lambda i: (i.priority, i.place)):
            if not self.fits(self.skipped + kept, item):
                kept.remove(victim)
                victims.append(victim.message)
        if not self.fits(self.skipped + kept, item):
            return Enqueued(False, tuple(expired))
        if old and old.priority == item.priority:
            item.place = old.place
        self.waiting = [*kept, item]
        return Enqueued(True, tuple(expired + victims), old and old.message)

    def dequeue(self, now: int) -> str | None:
        for item in sorted(self.waiting, key=lambda i: (-i.priority, i.place)):
            self.waiting.remove(item)
            if item.expires_at > now:
                return item.message
            self.skipped.append(item)
        return None

    def cleanup_expired(self, now: int) -> list[str]:
        expired = [i for i in self.waiting if i.expires_at <= now]
        expired.sort(key=lambda i: (i.expires_at, i.place))
        reported = self.skipped + expired
        self.skipped, self.waiting = [], [i for i in self.waiting if i not in expired]
        return [i.message for i in reported]


class Put(msgspec.Struct, frozen=True):
    priority: MessagePriority
    size: int
    ttl: int
    key: str | None


PUTS = st.builds(
    Put,
    st.sampled_from(MessagePriority),
    st.integers(0, 7),
    st.integers(0, 9),
    st.sampled_from([None, "a", "b"]),
)
STEPS = st.lists(st.one_of(PUTS, PUTS, st.sampled_from(["get", "get", "wait", "clean"])), max_size=40)


@examples(100)
@given(STEPS, st.integers(1, 5), st.integers(3, 20))
def test_it_does_what_a_sorted_list_would_do(
    steps: list[Put | str], max_messages: int, max_bytes: int
) -> None:
    queue = MessagePriorityQueue[str](max_messages, max_bytes)
    model = Model(max_messages, max_bytes)
    accepted: list[str] = []
    left: list[str] = []
    now = 0
    for number, step in enumerate(steps):
        if isinstance(step, Put):
            item = Item(str(number), step.priority, step.size, now + step.ttl, step.key, number)
            result = queue.enqueue(
                item.message, step.priority, size=step.size, ttl=step.ttl, key=step.key, now=now
            )
            assert result == model.enqueue(item, now)
            accepted += [item.message] * result.accepted
            left += [*result.evicted, *([result.replaced] if result.replaced else [])]
        elif step == "get":
            message = queue.dequeue(now=now)
            assert message == model.dequeue(now)
            left += [message] if message else []
        elif step == "clean":
            cleaned = queue.cleanup_expired(now=now)
            assert cleaned == model.cleanup_expired(now)
            left += cleaned
        else:
            now += 2
        assert len(queue) == len(model.waiting) <= max_messages
        assert queue.bytes_waiting == sum(item.size for item in model.waiting) <= max_bytes
    left += drained(queue, now=now) + queue.cleanup_expired(now=now)
    assert sorted(left) == sorted(accepted)
    assert (len(queue), queue.bytes_waiting) == (0, 0)
