"""Every check passes parts that keep their obligations, and names the one that a broken part does not."""

from __future__ import annotations

import itertools
import json
import math
import time
import zlib
from collections.abc import Hashable
from typing import Any

import jwt
import msgspec
import pytest

from wsmanager.auth import JWTAuth, read_handshake
from wsmanager.decisions.health import WeightedHealthScorer
from wsmanager.decisions.queue import MessagePriorityQueue
from wsmanager.decisions.rate_limit import AdaptiveRateLimiter
from wsmanager.decisions.validation import SecurityValidator
from wsmanager.errors import AuthenticationError, EncodeError, InvalidMessage
from wsmanager.messages import InboundMessage, MessagePriority
from wsmanager.protocols import Enqueued, Handshake, HealthSample, Identity, RateDecision
from wsmanager.testing import (
    ManualClock,
    check_authenticator,
    check_codec,
    check_health_scorer,
    check_message_queue,
    check_message_validator,
    check_rate_limiter,
    websocket_scope,
)
from wsmanager.wire.codecs import JSONCodec, MessagePackCodec

# --- rate limiters


class Limiter:
    """Keeps the time and cost of everything accepted inside the window."""

    limit = 5
    window = 10.0
    max_keys = 50

    def __init__(self) -> None:
        self.accepted: dict[Hashable, list[tuple[float, int]]] = {}

    def check_rate_limit(
        self, key: Hashable, *, cost: int = 1, factor: float = 1.0, now: float | None = None
    ) -> RateDecision:
        now = time.monotonic() if now is None else now
        limit = self.scaled(factor)
        recent = [entry for entry in self.accepted.pop(key, []) if entry[0] > now - self.window]
        self.accepted[key] = recent
        if len(self.accepted) > self.max_keys:
            del self.accepted[next(iter(self.accepted))]
        left = limit - sum(charged for _, charged in recent)
        if not self.fits(cost, left):
            return self.refuse(recent, cost, left, limit, now)
        recent.append((now, self.charge(cost)))
        return RateDecision(True, left - self.charge(cost), limit)

    def scaled(self, factor: float) -> int:
        return max(1, int(self.limit * factor))

    def fits(self, cost: int, left: int) -> bool:
        return cost <= left

    def charge(self, cost: int) -> int:
        return cost

    def refuse(
        self, recent: list[tuple[float, int]], cost: int, left: int, limit: int, now: float
    ) -> RateDecision:
        return RateDecision(False, left, limit, self.retry(recent, now))

    def retry(self, recent: list[tuple[float, int]], now: float) -> int:
        return math.ceil(1000 * ((recent[0][0] if recent else now) + self.window - now))


class AnswersABool(Limiter):
    def check_rate_limit(self, key: Hashable, **options: Any) -> Any:
        return super().check_rate_limit(key, **options).allowed


class RefusesTheFirst(Limiter):
    def fits(self, cost: int, left: int) -> bool:
        return left < self.limit


class AlwaysTellsToWait(Limiter):
    def check_rate_limit(self, key: Hashable, **options: Any) -> RateDecision:
        return msgspec.structs.replace(super().check_rate_limit(key, **options), retry_after_ms=1)


class TellsTheLimitAsRest(Limiter):
    def check_rate_limit(self, key: Hashable, **options: Any) -> RateDecision:
        decision = super().check_rate_limit(key, **options)
        return msgspec.structs.replace(decision, remaining=decision.limit)


class KeepsTheLastUnit(Limiter):
    def fits(self, cost: int, left: int) -> bool:
        return cost < left


class ChargesOneUnitAlways(Limiter):
    def charge(self, cost: int) -> int:
        return 1


class NeverRefuses(Limiter):
    def fits(self, cost: int, left: int) -> bool:
        return True


class LetsTheLastOneOverdraw(Limiter):
    def fits(self, cost: int, left: int) -> bool:
        return left > 0


class TellsARestThatIsNotThere(Limiter):
    def refuse(self, recent: Any, cost: int, left: int, limit: int, now: float) -> RateDecision:
        return RateDecision(False, left + 1, limit, self.retry(recent, now))


class TellsHalfMilliseconds(Limiter):
    def retry(self, recent: list[tuple[float, int]], now: float) -> Any:
        return super().retry(recent, now) + 0.5


class DoesNotTellWhen(Limiter):
    def retry(self, recent: list[tuple[float, int]], now: float) -> int:
        return 0


class ChargesRefusals(Limiter):
    def refuse(
        self, recent: list[tuple[float, int]], cost: int, left: int, limit: int, now: float
    ) -> RateDecision:
        recent.append((now, cost))
        return super().refuse(recent, cost, left, limit, now)


class PunishesRefusals(Limiter):
    penalty = 0

    def retry(self, recent: list[tuple[float, int]], now: float) -> int:
        self.penalty += 1000
        return super().retry(recent, now) + self.penalty


class KnowsOneKeyOnly(Limiter):
    def check_rate_limit(self, key: Hashable, **options: Any) -> RateDecision:
        return super().check_rate_limit("all", **options)


class ForgetsTenants(Limiter):
    def check_rate_limit(self, key: Hashable, **options: Any) -> RateDecision:
        return super().check_rate_limit(key[-1] if isinstance(key, tuple) else key, **options)


class TellsTooLate(Limiter):
    def retry(self, recent: list[tuple[float, int]], now: float) -> int:
        return 3 * super().retry(recent, now)


class TellsTooEarly(Limiter):
    def retry(self, recent: list[tuple[float, int]], now: float) -> int:
        return super().retry(recent, now) - 1000


class RecoversInPart(Limiter):
    first: float | None = None

    def check_rate_limit(self, key: Hashable, **options: Any) -> RateDecision:
        now: float = options["now"] or 0.0
        if self.first is None:
            self.first = now
        options["cost"] = options.get("cost", 1) + (now > self.first + 2 * self.window)
        return super().check_rate_limit(key, **options)


class IgnoresTheFactor(Limiter):
    def scaled(self, factor: float) -> int:
        return self.limit


class TellsTheFactorOnly(Limiter):
    def check_rate_limit(self, key: Hashable, *, factor: float = 1.0, **options: Any) -> RateDecision:
        decision = super().check_rate_limit(key, factor=factor, **options)
        return decision if factor == 1.0 else msgspec.structs.replace(decision, allowed=True)


class KeepsTheFactor(Limiter):
    largest = 0.0

    def scaled(self, factor: float) -> int:
        self.largest = max(self.largest, factor)
        return super().scaled(self.largest)


class ForgetsNoKey(Limiter):
    max_keys = 1_000_000


@pytest.mark.parametrize("factory", [Limiter, AdaptiveRateLimiter, lambda: AdaptiveRateLimiter(1, 10.0)])
def test_limiters_that_keep_their_obligations_pass(factory: Any) -> None:
    check_rate_limiter(factory)


@pytest.mark.parametrize("factory", [Limiter, lambda: AdaptiveRateLimiter(max_keys=50)])
def test_limiters_that_forget_keys_pass(factory: Any) -> None:
    check_rate_limiter(factory, max_keys=50)


@pytest.mark.parametrize(
    ("broken", "obligation"),
    [
        (AnswersABool, "must answer a RateDecision"),
        (RefusesTheFirst, "the first message of a key must pass"),
        (AlwaysTellsToWait, "retry_after_ms must be 0 when the message may pass"),
        (TellsTheLimitAsRest, "remaining must tell how many units are left"),
        (KeepsTheLastUnit, "as many units as remain must pass"),
        (ChargesOneUnitAlways, "cost must be charged in full"),
        (NeverRefuses, "no more units than the limit may pass at once"),
        (TellsARestThatIsNotThere, "remaining must be 0"),
        (TellsHalfMilliseconds, "retry_after_ms must be a whole number"),
        (DoesNotTellWhen, "a refusal must tell in retry_after_ms"),
        (LetsTheLastOneOverdraw, "a cost above the rest must not pass"),
        (ChargesRefusals, "what was left before it must still pass"),
        (PunishesRefusals, "it must not put off the recovery"),
        (KnowsOneKeyOnly, "keys must be independent"),
        (ForgetsTenants, "keys must be independent"),
        (TellsTooLate, "passed after half of it"),
        (TellsTooEarly, "did not pass after it"),
        (RecoversInPart, "the whole limit must be there again"),
        (IgnoresTheFactor, "factor must scale the limit"),
        (TellsTheFactorOnly, "no more units than the scaled limit"),
        (KeepsTheFactor, "factor must count for its own call only"),
        (ForgetsNoKey, "no more than 50 keys may be kept in mind, not 150"),
    ],
)
def test_a_broken_limiter_is_told_its_obligation(broken: type[Limiter], obligation: str) -> None:
    with pytest.raises(AssertionError, match=obligation):
        check_rate_limiter(broken, max_keys=50)


# --- queues


class Waiting(msgspec.Struct):
    message: Any
    priority: int
    size: int
    end: float
    key: str | None


class Queue:
    """A list, searched anew for every step."""

    def __init__(self, max_messages: int, max_bytes: int, ttl: float) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.ttl = ttl
        self.waiting: list[Waiting] = []
        self.skipped: list[Any] = []

    def __len__(self) -> int:
        return len(self.waiting)

    def enqueue(
        self,
        message: Any,
        priority: MessagePriority = MessagePriority.MEDIUM,
        *,
        size: int | None = None,
        ttl: float | None = None,
        key: str | None = None,
        now: float | None = None,
    ) -> Enqueued:
        now = self.read(now)
        size = len(json.dumps(message)) if size is None else size
        new = Waiting(message, priority, size, now + (self.ttl if ttl is None else ttl), key)
        old = next((entry for entry in self.waiting if key is not None and entry.key == key), None)
        evicted: list[Any] = []
        victims: list[Any] = []
        rest = [entry for entry in self.waiting if entry is not old]
        if self.is_full(rest, new):
            evicted += self.cleanup_expired(now=now)
            rest = [entry for entry in self.waiting if entry is not old]
        while self.is_full(rest, new):
            victim = self.victim(rest, new)
            if victim is None:
                return Enqueued(False, tuple(evicted))
            rest.remove(victim)
            victims.append(victim.message)
        replaced = old.message if old is not None and old in self.waiting else None
        self.waiting = [*rest, new]
        return Enqueued(True, (*evicted, *victims), replaced)

    def read(self, now: float | None) -> float:
        return time.monotonic() if now is None else now

    def is_full(self, rest: list[Waiting], new: Waiting) -> bool:
        held = [*rest, new]
        return len(held) > self.max_messages or sum(entry.size for entry in held) > self.max_bytes

    def victim(self, rest: list[Waiting], new: Waiting) -> Waiting | None:
        lowest = min(rest, key=lambda entry: entry.priority, default=new)
        return None if lowest is new or lowest.priority > new.priority else lowest

    def dequeue(self, *, now: float | None = None) -> Any:
        while self.waiting:
            entry = self.next()
            self.waiting.remove(entry)
            if not self.is_over(entry, self.read(now)):
                return entry.message
            self.skipped.append(entry.message)
        return None

    def next(self) -> Waiting:
        return max(self.waiting, key=lambda entry: entry.priority)

    def is_over(self, entry: Waiting, now: float) -> bool:
        return entry.end <= now

    def cleanup_expired(self, *, now: float | None = None) -> list[Any]:
        over = [entry for entry in self.waiting if self.is_over(entry, self.read(now))]
        self.waiting = [entry for entry in self.waiting if entry not in over]
        told = self.skipped + [entry.message for entry in over]
        self.skipped = []
        return told


class RefusesAll(Queue):
    def enqueue(self, *args: Any, **options: Any) -> Enqueued:
        return Enqueued(False)


class CountsWrong(Queue):
    def __len__(self) -> int:
        return 1


class CountsOneTooMany(Queue):
    def __len__(self) -> int:
        return max(1, len(self.waiting))


class HidesTheLast(Queue):
    def dequeue(self, *, now: float | None = None) -> Any:
        return super().dequeue(now=now) if len(self.waiting) > 1 else None


class MakesUpMessages(Queue):
    def dequeue(self, *, now: float | None = None) -> Any:
        return super().dequeue(now=now) if self.waiting else 0


class IgnoresPriorities(Queue):
    def next(self) -> Waiting:
        return self.waiting[0]


class NewestFirst(Queue):
    def next(self) -> Waiting:
        return max(reversed(self.waiting), key=lambda entry: entry.priority)


class TakesTooMany(Queue):
    def is_full(self, rest: list[Waiting], new: Waiting) -> bool:
        return sum(entry.size for entry in [*rest, new]) > self.max_bytes


class TakesTooMuch(Queue):
    def is_full(self, rest: list[Waiting], new: Waiting) -> bool:
        return len(rest) >= self.max_messages


class TakesTheTooBig(Queue):
    def is_full(self, rest: list[Waiting], new: Waiting) -> bool:
        return bool(rest) and super().is_full(rest, new)


class EvictsNobody(Queue):
    def victim(self, rest: list[Waiting], new: Waiting) -> Waiting | None:
        return None


class EvictsTheNewest(Queue):
    def victim(self, rest: list[Waiting], new: Waiting) -> Waiting | None:
        return super().victim(rest[::-1], new)


class EvictsInSilence(Queue):
    def enqueue(self, *args: Any, **options: Any) -> Enqueued:
        return msgspec.structs.replace(super().enqueue(*args, **options), evicted=())


class EvictsTheMightier(Queue):
    def victim(self, rest: list[Waiting], new: Waiting) -> Waiting | None:
        return min(rest, key=lambda entry: entry.priority, default=None)


class AcceptsWithoutTaking(Queue):
    def enqueue(self, *args: Any, **options: Any) -> Enqueued:
        return msgspec.structs.replace(super().enqueue(*args, **options), accepted=True)


class DropsCriticalInSilence(Queue):
    def enqueue(self, *args: Any, **options: Any) -> Enqueued:
        answer = super().enqueue(*args, **options)
        critical = MessagePriority.CRITICAL in args
        return msgspec.structs.replace(answer, evicted=()) if critical else answer


class IgnoresKeys(Queue):
    def enqueue(self, *args: Any, key: str | None = None, **options: Any) -> Enqueued:
        return super().enqueue(*args, **options)


class ReplacesInSilence(Queue):
    def enqueue(self, *args: Any, **options: Any) -> Enqueued:
        return msgspec.structs.replace(super().enqueue(*args, **options), replaced=None)


class KnowsOneKey(Queue):
    def enqueue(self, *args: Any, key: str | None = None, **options: Any) -> Enqueued:
        answer = super().enqueue(*args, key=None if key is None else "one", **options)
        return msgspec.structs.replace(answer, replaced="old") if key == "k" else answer


class RemembersKeys(Queue):
    def __init__(self, *bounds: Any) -> None:
        super().__init__(*bounds)
        self.last: dict[str, Any] = {}

    def enqueue(self, message: Any, *args: Any, key: str | None = None, **options: Any) -> Enqueued:
        answer = super().enqueue(message, *args, key=key, **options)
        if key is None:
            return answer
        replaced, self.last[key] = self.last.get(key), message
        return msgspec.structs.replace(answer, replaced=replaced)


class HandsOutTheExpired(Queue):
    def dequeue(self, *, now: float | None = None) -> Any:
        return super().dequeue(now=-math.inf)


class ForgetsTheSkipped(Queue):
    def dequeue(self, *, now: float | None = None) -> Any:
        message = super().dequeue(now=now)
        self.skipped.clear()
        return message


class ExpiresEarly(Queue):
    def cleanup_expired(self, *, now: float | None = None) -> list[Any]:
        return super().cleanup_expired(now=self.read(now) + 5)


class CleansNothing(Queue):
    def cleanup_expired(self, *, now: float | None = None) -> list[Any]:
        told, self.skipped = self.skipped, []
        return told


class EvictsTheLiveFirst(Queue):
    def enqueue(self, *args: Any, now: float | None = None, **options: Any) -> Enqueued:
        self.full = True
        answer = super().enqueue(*args, now=now, **options)
        self.full = False
        return answer

    def cleanup_expired(self, *, now: float | None = None) -> list[Any]:
        return [] if getattr(self, "full", False) else super().cleanup_expired(now=now)


class TellsTwice(Queue):
    def cleanup_expired(self, *, now: float | None = None) -> list[Any]:
        told = super().cleanup_expired(now=now)
        return told * 2 if len(told) > 1 else told


class LosesSome(Queue):
    def cleanup_expired(self, *, now: float | None = None) -> list[Any]:
        told = super().cleanup_expired(now=now)
        return told[1:] if len(told) > 1 else told


class HandsOutTwice(Queue):
    count = 0

    def dequeue(self, *, now: float | None = None) -> Any:
        self.count += 1
        before = list(self.waiting)
        message = super().dequeue(now=now)
        if self.count == 150:
            self.waiting = before
        return message


class TakesNoneWithoutATime(Queue):
    def read(self, now: float | None) -> float:
        return math.inf if now is None else now


class ChangesMessages(Queue):
    def dequeue(self, *, now: float | None = None) -> Any:
        message = super().dequeue(now=now)
        return {**message, "seen": True} if isinstance(message, dict) else message


class Displaces(Queue):
    """Only where bytes are short."""

    def victim(self, rest: list[Waiting], new: Waiting) -> Waiting | None:
        return super().victim(rest, new) or (rest[0] if rest and new.size > 1 else None)


class TakesTooManyLater(Queue):
    count = 0

    def is_full(self, rest: list[Waiting], new: Waiting) -> bool:
        self.count += 1
        return super().is_full([] if self.count > 300 and len(rest) == self.max_messages else rest, new)


class TakesTooMuchLater(Queue):
    count = 0

    def is_full(self, rest: list[Waiting], new: Waiting) -> bool:
        self.count += 1
        return super().is_full([] if self.count > 300 and len(rest) < self.max_messages else rest, new)


@pytest.mark.parametrize("factory", [Queue, MessagePriorityQueue])
def test_queues_that_keep_their_obligations_pass(factory: Any) -> None:
    check_message_queue(factory)


@pytest.mark.parametrize(
    ("broken", "obligation"),
    [
        (RefusesAll, "a queue with room must accept"),
        (CountsWrong, "len must tell how many messages wait"),
        (CountsOneTooMany, "an empty queue must have the length 0"),
        (HidesTheLast, "dequeue must answer a message while one waits"),
        (MakesUpMessages, "an empty queue must answer None"),
        (IgnoresPriorities, "the highest priority must leave first"),
        (NewestFirst, "inside one priority the oldest must leave first"),
        (TakesTooMany, "no more than max_messages may wait"),
        (TakesTooMuch, "no more than max_bytes may wait"),
        (TakesTheTooBig, "what exceeds max_bytes must be refused"),
        (EvictsNobody, "must find room among those of a lower priority"),
        (EvictsTheNewest, "the oldest of the lowest priority must give way"),
        (EvictsInSilence, "and be told in evicted"),
        (EvictsTheMightier, "must not displace one of a higher priority"),
        (AcceptsWithoutTaking, "what exceeds max_bytes must be refused"),
        (DropsCriticalInSilence, "a CRITICAL message must never be dropped silently"),
        (IgnoresKeys, "a message of the same key must replace the one that waits"),
        (ReplacesInSilence, "a message of the same key must replace the one that waits, and tell it"),
        (KnowsOneKey, "only the last message of a key may leave, and other keys must stay"),
        (RemembersKeys, "what left the queue already cannot be replaced"),
        (HandsOutTheExpired, "an expired message must not be dequeued"),
        (ForgetsTheSkipped, "cleanup_expired must tell what dequeue skipped"),
        (ExpiresEarly, "no message may expire before its time"),
        (CleansNothing, "cleanup_expired must tell what has expired"),
        (EvictsTheLiveFirst, "expired messages must give way before live ones"),
        (TellsTwice, "every accepted message must leave exactly once"),
        (LosesSome, "no accepted message may be lost"),
        (HandsOutTwice, "an expired message must not be dequeued, and none twice"),
        (TakesNoneWithoutATime, "no message may expire before its time"),
        (ChangesMessages, "a message must leave as it came"),
        (Displaces, "must not displace one of a higher priority"),
        (TakesTooManyLater, "no more than max_messages may wait"),
        (TakesTooMuchLater, "no more than max_bytes may wait"),
    ],
)
def test_a_broken_queue_is_told_its_obligation(broken: type[Queue], obligation: str) -> None:
    with pytest.raises(AssertionError, match=obligation):
        check_message_queue(broken)


# --- validators


class Validator:
    """Looks at every value, without recursion."""

    def validate_message(self, message: InboundMessage, *, raw: Any = None) -> None:
        level: list[Any] = [message.type, message.data]
        for _ in range(32):
            if not level:
                return
            level = [inner for value in level for inner in self.inside(value)]
        self.refuse("too_deep")

    def inside(self, value: Any) -> list[Any]:
        if isinstance(value, str):
            self.look_at(value)
        if isinstance(value, float) and not math.isfinite(value):
            self.refuse("bad_number")
        if isinstance(value, dict):
            return [*value.keys(), *value.values()]
        return list(value) if isinstance(value, list | tuple) else []

    def look_at(self, text: str) -> None:
        if "<script" in text.lower():
            self.refuse("forbidden_pattern")

    def refuse(self, code: str) -> None:
        raise InvalidMessage("This is no message.", code=code)


class RefusesQuestions(Validator):
    def look_at(self, text: str) -> None:
        if "<" in text or ">" in text:
            self.refuse("forbidden_pattern")


class RaisesValueErrors(Validator):
    def refuse(self, code: str) -> None:
        raise ValueError(code)


class RunsOutOfStack(Validator):
    def validate_message(self, message: InboundMessage, *, raw: Any = None) -> None:
        json.dumps(message.data, default=str, skipkeys=True)


class RefusesWithoutACode(Validator):
    def refuse(self, code: str) -> None:
        error = InvalidMessage("This is no message.")
        error.code = ""
        raise error


class CountsInItsCodes(Validator):
    count = itertools.count()

    def refuse(self, code: str) -> None:
        super().refuse(f"{code}_{next(self.count)}")


class TidiesMessages(Validator):
    def inside(self, value: Any) -> list[Any]:
        if isinstance(value, dict):
            value.pop("text", None)
        return super().inside(value)


class TidiesWhatItRefuses(Validator):
    def validate_message(self, message: InboundMessage, *, raw: Any = None) -> None:
        try:
            super().validate_message(message)
        except InvalidMessage:
            if isinstance(message.data, dict):
                message.data.clear()
            raise


class BelievesTheFrame(Validator):
    def validate_message(self, message: InboundMessage, *, raw: Any = None) -> None:
        if raw is None or b"<script" in (raw if isinstance(raw, bytes) else raw.encode()):
            super().validate_message(message)


class SuspectsTheFrame(Validator):
    def validate_message(self, message: InboundMessage, *, raw: Any = None) -> None:
        super().validate_message(message)
        if raw is not None:
            self.look_at(raw if isinstance(raw, str) else raw.decode(errors="replace"))


class TakesItsTime(Validator):
    """As a pattern that tries anew from every sign it begins with, on a clock that nothing else moves."""

    clock = ManualClock()
    exponent = 2.0
    seconds = 1.5e-10

    def look_at(self, text: str) -> None:
        if text.startswith("<<"):
            self.clock.advance(len(text) ** self.exponent * self.seconds)


class IsSlowButLinear(TakesItsTime):
    exponent = 1.0
    seconds = 7e-7


@pytest.fixture
def _no_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsmanager.testing.contracts.message_validator._now", TakesItsTime.clock)


@pytest.mark.usefixtures("_no_real_time")
@pytest.mark.parametrize("factory", [Validator, SecurityValidator, IsSlowButLinear])
def test_validators_that_keep_their_obligations_pass(factory: Any) -> None:
    check_message_validator(factory)


@pytest.mark.parametrize(
    ("broken", "obligation"),
    [
        (
            RefusesQuestions,
            "ordinary messages must pass: .*2 < 3 and 5 > 4.* was refused as 'forbidden_pattern'",
        ),
        (RaisesValueErrors, "must raise nothing but InvalidMessage, not ValueError, for data of type dict"),
        (RunsOutOfStack, "must raise nothing but InvalidMessage, not RecursionError, for data of type list"),
        (RefusesWithoutACode, "validate_message must raise its errors with a code"),
        (CountsInItsCodes, "the verdict on a message must be stable"),
        (TidiesMessages, "a message must not be changed: .*It's 5 o'clock"),
        (TidiesWhatItRefuses, "a message must not be changed, even when it is refused"),
        (BelievesTheFrame, r"the verdict must not depend on whether raw is given: .*u003cscript"),
        (SuspectsTheFrame, r"the verdict must not depend on whether raw is given: .*ignored"),
        (TakesItsTime, "validation must take time linear in the size"),
    ],
)
@pytest.mark.usefixtures("_no_real_time")
def test_a_broken_validator_is_told_its_obligation(broken: type[Validator], obligation: str) -> None:
    with pytest.raises(AssertionError, match=obligation):
        check_message_validator(broken)


# --- scorers


class Scorer:
    def score(self, sample: HealthSample) -> float:
        latency = 0.5 if sample.latency_ms is None else 1 / (1 + sample.latency_ms)
        return (latency + 1 - sample.error_rate + 1 / (1 + sample.idle_for)) / 3


class ScoresInPercent(Scorer):
    def score(self, sample: HealthSample) -> float:
        return 100 * super().score(sample)


class ScoresNothing(Scorer):
    def score(self, sample: HealthSample) -> float:
        return math.nan


class LikesLatency(Scorer):
    def score(self, sample: HealthSample) -> float:
        return 0.7 if sample.latency_ms == 250 else 0.5


class LikesErrors(Scorer):
    def score(self, sample: HealthSample) -> float:
        return sample.error_rate


class LikesSilence(Scorer):
    def score(self, sample: HealthSample) -> float:
        return min(1.0, sample.idle_for / 1000)


class LikesTheUnknown(Scorer):
    def score(self, sample: HealthSample) -> float:
        return 1.0 if sample.latency_ms is None else 0.5


class FearsTheUnknown(Scorer):
    def score(self, sample: HealthSample) -> float:
        return 0.0 if sample.latency_ms is None else 0.5


class ScoresAllAlike(Scorer):
    def score(self, sample: HealthSample) -> float:
        return 0.5


class TiresOfScoring(Scorer):
    patience = 1.0

    def score(self, sample: HealthSample) -> float:
        self.patience -= 1e-13
        return super().score(sample) * self.patience if sample == HealthSample(0.0) else super().score(sample)


@pytest.mark.parametrize("factory", [Scorer, WeightedHealthScorer])
def test_scorers_that_keep_their_obligations_pass(factory: Any) -> None:
    check_health_scorer(factory)


@pytest.mark.parametrize(
    ("broken", "obligation"),
    [
        (ScoresInPercent, "a score must be a number from 0 to 1"),
        (ScoresNothing, "a score must be a number from 0 to 1"),
        (LikesLatency, "more latency must never raise the score"),
        (LikesErrors, "more errors must never raise the score"),
        (LikesSilence, "a longer silence must never raise the score"),
        (LikesTheUnknown, "an unknown latency must be neutral"),
        (FearsTheUnknown, "an unknown latency must be neutral"),
        (ScoresAllAlike, "must score above one that is dead"),
        (TiresOfScoring, "the same sample must always get the same score"),
    ],
)
def test_a_broken_scorer_is_told_its_obligation(broken: type[Scorer], obligation: str) -> None:
    with pytest.raises(AssertionError, match=obligation):
        check_health_scorer(broken)


# --- authenticators

GOOD = Handshake(scope={}, headers={"x-user": "ann"}, query={}, cookies={}, subprotocols=())
BAD = [
    Handshake(scope={}, headers={"x-user": "nobody"}, query={}, cookies={}, subprotocols=()),
    Handshake(scope={}, headers={"cookie": "a=1"}, query={}, cookies={}, subprotocols=()),
]


class Authenticates:
    """Knows one user, by a header; and asks who shows nothing for a first message."""

    async def authenticate(self, handshake: Handshake) -> Any:
        if not handshake.headers and handshake.message is None:
            return None
        if handshake.headers.get("x-user") == "ann":
            return self.identity(handshake)
        return self.refuse()

    def identity(self, handshake: Handshake) -> Any:
        return Identity("ann")

    def refuse(self) -> Any:
        raise AuthenticationError("Who is that?", code="unknown_user")


class AnswersAName(Authenticates):
    def identity(self, handshake: Handshake) -> Any:
        return "ann"


class AnswersANumber(Authenticates):
    def identity(self, handshake: Handshake) -> Any:
        return Identity(5)  # type: ignore[arg-type]  # this is what is broken


class AnswersNobody(Authenticates):
    def identity(self, handshake: Handshake) -> Any:
        return Identity("")


class AnswersAListOfScopes(Authenticates):
    def identity(self, handshake: Handshake) -> Any:
        return Identity("ann", scopes=["read"])  # type: ignore[arg-type]  # this is what is broken


class AnswersAnotherUserEachTime(Authenticates):
    count = itertools.count()

    def identity(self, handshake: Handshake) -> Any:
        return Identity(f"ann-{next(self.count)}")


class TakesTheCredentialsAway(Authenticates):
    def identity(self, handshake: Handshake) -> Any:
        handshake.headers["seen"] = "yes"  # type: ignore[index]  # this is what is broken
        return Identity("ann")


class LetsEverybodyIn(Authenticates):
    def refuse(self) -> Any:
        return Identity("somebody")


class AsksTheBadAgain(Authenticates):
    async def authenticate(self, handshake: Handshake) -> Any:
        return (
            None if handshake.message is None and handshake != GOOD else await super().authenticate(handshake)
        )


class ChangesItsCodes(Authenticates):
    count = itertools.count()

    def refuse(self) -> Any:
        raise AuthenticationError("Who is that?", code=f"unknown_{next(self.count)}")


class RefusesWithoutCode(Authenticates):
    def refuse(self) -> Any:
        error = AuthenticationError("Who is that?")
        error.code = ""
        raise error


class StumblesOverMissingHeaders(Authenticates):
    async def authenticate(self, handshake: Handshake) -> Any:
        return self.identity(handshake) if handshake.headers["x-user"] == "ann" else self.refuse()


class StumblesOverFirstMessages(Authenticates):
    async def authenticate(self, handshake: Handshake) -> Any:
        if handshake.message is not None:
            handshake.message.data["token"].encode()
        return await super().authenticate(handshake)


class AsksForAnotherMessage(Authenticates):
    async def authenticate(self, handshake: Handshake) -> Any:
        return await super().authenticate(handshake) if handshake.headers else None


class BelievesAnyMessage(Authenticates):
    async def authenticate(self, handshake: Handshake) -> Any:
        believed = handshake.message is not None
        return Identity("ann") if believed else await super().authenticate(handshake)


@pytest.mark.anyio
async def test_an_authenticator_that_keeps_its_obligations_passes() -> None:
    await check_authenticator(Authenticates, GOOD, BAD)


@pytest.mark.anyio
@pytest.mark.parametrize("sources", [("header",), ("header", "message")])
async def test_the_jwt_authenticator_keeps_its_obligations(sources: Any) -> None:
    key = "k" * 32

    def handshake(token: str) -> Handshake:
        return read_handshake(websocket_scope(headers=[("authorization", f"Bearer {token}")]))

    def token(expires_in: float) -> str:
        return jwt.encode({"sub": "ann", "exp": time.time() + expires_in}, key, "HS256")

    bad = [handshake(token(-60)), handshake("no.token.atall"), handshake(token(60)[:-4] + "AAAA")]
    await check_authenticator(
        lambda: JWTAuth(key, algorithms=["HS256"], sources=sources), handshake(token(60)), bad
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("broken", "obligation"),
    [
        (AnswersAName, "good credentials must be answered with an Identity"),
        (AnswersANumber, "user_id must be a text"),
        (AnswersNobody, "user_id must not be empty"),
        (AnswersAListOfScopes, "scopes must be a frozenset"),
        (AnswersAnotherUserEachTime, "the same credentials must always name the same user"),
        (TakesTheCredentialsAway, "a handshake must not be changed"),
        (LetsEverybodyIn, "bad credentials must be refused with AuthenticationError"),
        (AsksTheBadAgain, "bad credentials must be refused with AuthenticationError"),
        (ChangesItsCodes, "the code of a refusal must be stable"),
        (RefusesWithoutCode, "authenticate must raise its errors with a code"),
        (StumblesOverMissingHeaders, "nothing but AuthenticationError, not KeyError"),
        (StumblesOverFirstMessages, "nothing but AuthenticationError, not TypeError"),
        (AsksForAnotherMessage, "None is no answer any more"),
        (BelievesAnyMessage, "no first message may make bad credentials good"),
    ],
)
async def test_a_broken_authenticator_is_told_its_obligation(
    broken: type[Authenticates], obligation: str
) -> None:
    good = msgspec.structs.replace(GOOD, headers=dict(GOOD.headers))
    with pytest.raises(AssertionError, match=obligation):
        await check_authenticator(broken, good, BAD)


# --- codecs


class Codec:
    subprotocol = "test.json"
    transparent: Any = True

    def encode(self, message: Any) -> Any:
        try:
            return msgspec.json.encode(message).decode()
        except (TypeError, ValueError, RecursionError) as error:
            return self.cannot_encode(message, error)

    def cannot_encode(self, message: Any, error: Exception) -> Any:
        raise EncodeError(str(error)) from None

    def decode(self, frame: Any) -> Any:
        try:
            return msgspec.json.decode(frame, type=InboundMessage)
        except Exception as error:  # of a class that is a matter of msgspec's release
            return self.cannot_decode(frame, error)

    def cannot_decode(self, frame: Any, error: Exception) -> Any:
        raise InvalidMessage("No message.", code="not_json") from None


class NamesItselfWithASpace(Codec):
    subprotocol = "test json"


class Compresses(Codec):
    transparent = False

    def encode(self, message: Any) -> Any:
        return zlib.compress(super().encode(message).encode())

    def decode(self, frame: Any) -> Any:
        try:
            return super().decode(zlib.decompress(frame))
        except (TypeError, zlib.error) as error:
            return self.cannot_decode(frame, error)


class CompressesInSecret(Compresses):
    transparent = True


class TakesSingleQuotesInSecret(Codec):
    def cannot_decode(self, frame: Any, error: Exception) -> Any:
        if frame == "{'type':'a'}":
            return InboundMessage("a")
        return super().cannot_decode(frame, error)


class DoesNotSayWhetherItIsTransparent(Codec):
    transparent = None


class EncodesToByteArrays(Codec):
    def encode(self, message: Any) -> Any:
        return bytearray(super().encode(message), "utf-8")


class MakesNumbersFloats(Codec):
    def decode(self, frame: Any) -> Any:
        message = super().decode(frame)
        return InboundMessage(message.type, float(message.data), message.id) if message.data == 1 else message


class ForgetsFalsyIds(Codec):
    def decode(self, frame: Any) -> Any:
        message = super().decode(frame)
        return InboundMessage(message.type, message.data, message.id or None)


class KnowsLatinOnly(Codec):
    def encode(self, message: Any) -> Any:
        return super().encode(message).encode("latin-1", "replace").decode("latin-1")


class RefusesUnknownFields(Codec):
    def decode(self, frame: Any) -> Any:
        if "unheard" in str(frame):
            return InboundMessage("reply")
        return super().decode(frame)


class LeaksTypeErrors(Codec):
    def cannot_encode(self, message: Any, error: Exception) -> Any:
        raise error


class SendsReprs(Codec):
    def cannot_encode(self, message: Any, error: Exception) -> Any:
        return super().encode({"type": "repr", "data": repr(message)})


class LeaksDecodeErrors(Codec):
    def cannot_decode(self, frame: Any, error: Exception) -> Any:
        raise error


class LeaksRecursionErrors(Codec):
    def cannot_decode(self, frame: Any, error: Exception) -> Any:
        if isinstance(error, RecursionError):
            raise error
        raise InvalidMessage("No message.")


class DecodesWithoutACode(Codec):
    def cannot_decode(self, frame: Any, error: Exception) -> Any:
        refusal = InvalidMessage("No message.")
        refusal.code = ""
        raise refusal


class TakesAnythingForAMessage(Codec):
    def cannot_decode(self, frame: Any, error: Exception) -> Any:
        return InboundMessage("text", None, {"no": "id"})  # type: ignore[arg-type]  # this is what is broken


class LetsSurrogatesIn(Codec):
    def cannot_decode(self, frame: Any, error: Exception) -> Any:
        if "ud800" in str(frame):
            return InboundMessage("chat", "\ud800")
        return super().cannot_decode(frame, error)


class RemembersFailures(Codec):
    transparent = False
    failed = False

    def cannot_decode(self, frame: Any, error: Exception) -> Any:
        self.failed = True
        return super().cannot_decode(frame, error)

    def decode(self, frame: Any) -> Any:
        message = super().decode(frame)
        return InboundMessage("failed before") if self.failed else message


@pytest.mark.parametrize("factory", [Codec, Compresses, JSONCodec, MessagePackCodec])
def test_codecs_that_keep_their_obligations_pass(factory: Any) -> None:
    check_codec(factory)


@pytest.mark.parametrize(
    ("broken", "obligation"),
    [
        (NamesItselfWithASpace, "subprotocol must be a token"),
        (DoesNotSayWhetherItIsTransparent, "transparent must be true or false"),
        (CompressesInSecret, "what a transparent codec reads must stand in the frame as JSON or MessagePack"),
        (TakesSingleQuotesInSecret, "must stand in the frame as JSON or MessagePack: .*'type':'a'"),
        (EncodesToByteArrays, "encode must answer a text or binary frame"),
        (MakesNumbersFloats, "must be decoded unchanged: .*data=True"),
        (ForgetsFalsyIds, "must be decoded unchanged: .*id=''"),
        (KnowsLatinOnly, "must be decoded unchanged"),
        (RefusesUnknownFields, "decode must ignore fields that a message does not have"),
        (LeaksTypeErrors, "encode must raise EncodeError, not TypeError"),
        (SendsReprs, "encode must raise EncodeError for what it cannot express, such as <object"),
        (LeaksDecodeErrors, "decode must raise nothing but InvalidMessage, not DecodeError"),
        (LeaksRecursionErrors, "decode must raise nothing but InvalidMessage, not RecursionError"),
        (DecodesWithoutACode, "decode must raise its errors with a code"),
        (TakesAnythingForAMessage, "decode must refuse what is no message"),
        (LetsSurrogatesIn, "what decode accepts, encode must be able to send on"),
        (RemembersFailures, "must be decoded unchanged"),
    ],
)
def test_a_broken_codec_is_told_its_obligation(broken: type[Codec], obligation: str) -> None:
    with pytest.raises(AssertionError, match=obligation):
        check_codec(broken)
