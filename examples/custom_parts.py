"""Parts of one's own in the manager's place: a limiter, a validator and a scorer.

By protocol, where a class has the right methods and nothing else in common with the built-in one; or by
subclass, where it changes one thing. `wsmanager.testing` has a contract check for each seam; the tests of
this example run them. Start it with ``python -m examples.custom_parts``, or with ``PARTS=subclass`` before.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from wsmanager import (
    AdaptiveRateLimiter,
    Connection,
    ConnectionManager,
    InboundMessage,
    InvalidMessage,
    SecurityValidator,
    WebSocketConfig,
    WeightedHealthScorer,
)
from wsmanager.messages import Frame, UserKey
from wsmanager.protocols import HealthSample, RateDecision

# --- by protocol


class Pace:
    """A limiter by protocol: one unit per `interval` and key, with a reserve of `burst` (GCRA).

    Of each key it keeps one number, the moment at which its reserve is whole again.
    """

    def __init__(self, interval: float = 1.0, burst: int = 5, *, max_keys: int = 10_000) -> None:
        self._interval = interval
        self._burst = burst
        self._max_keys = max_keys
        self._whole_at: OrderedDict[Hashable, float] = OrderedDict()

    def check_rate_limit(
        self, key: Hashable, *, cost: int = 1, factor: float = 1.0, now: float | None = None
    ) -> RateDecision:
        now = time.monotonic() if now is None else now
        interval, burst = self._interval / factor, max(1, round(self._burst * factor))
        whole_at = max(self._whole_at.get(key, now), now)
        late = whole_at + cost * interval - (now + burst * interval)
        if late > 1e-9:
            return RateDecision(False, self._left(whole_at - now, interval, burst), burst, _ms(late))
        self._whole_at[key] = whole_at + cost * interval
        self._whole_at.move_to_end(key)
        if len(self._whole_at) > self._max_keys:
            self._whole_at.popitem(last=False)
        return RateDecision(True, self._left(self._whole_at[key] - now, interval, burst), burst)

    @staticmethod
    def _left(used: float, interval: float, burst: int) -> int:
        return max(0, int(burst - used / interval + 1e-9))


def _ms(seconds: float) -> int:
    return int(seconds * 1000) + 1


class NoLinks:
    """A validator by protocol. It stands alone: what the built-in one looks for is not looked for here."""

    def validate_message(self, message: InboundMessage, *, raw: Frame | None = None) -> None:
        del raw  # a cheap first look, for who wants one
        waiting = [message.data]
        while waiting:  # not by recursion: a client chooses the depth
            value = waiting.pop()
            if isinstance(value, str) and "://" in value:
                raise InvalidMessage("Please send no links.", code="link")
            if isinstance(value, dict):
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value


class LatencyScorer:
    """A scorer by protocol, for a game: only the round trip counts. Unknown is well."""

    def __init__(self, playable_ms: float = 150.0) -> None:
        self._playable_ms = playable_ms

    def score(self, sample: HealthSample) -> float:
        if sample.latency_ms is None:
            return 1.0
        return max(0.0, 1.0 - sample.latency_ms / (2 * self._playable_ms))


# --- by subclass


class FairLimiter(AdaptiveRateLimiter):
    """Users that are named as robots get a tenth."""

    def check_rate_limit(
        self, key: Hashable, *, cost: int = 1, factor: float = 1.0, now: float | None = None
    ) -> RateDecision:
        is_robot = isinstance(key, UserKey) and key.user_id.startswith("robot-")
        return super().check_rate_limit(key, cost=cost, factor=factor / 10 if is_robot else factor, now=now)


class PoliteValidator(SecurityValidator):
    """Nobody shouts, and all that the built-in one refuses stays refused."""

    def validate_message(self, message: Any, *, raw: Frame | None = None) -> None:
        super().validate_message(message, raw=raw)
        data = message.data if isinstance(message, InboundMessage) else message
        text = data.get("text") if isinstance(data, dict) else None
        if isinstance(text, str) and len(text) > 10 and text.isupper():
            raise InvalidMessage("Please do not shout.", code="shouting")


class PatientScorer(WeightedHealthScorer):
    """Silence is no fault: readers are welcome."""

    def score(self, sample: HealthSample) -> float:
        return super().score(msgspec.structs.replace(sample, idle_for=0.0))


PARTS: dict[str, dict[str, Any]] = {
    "protocol": {"limiter": Pace(0.5, burst=10), "validator": NoLinks(), "health": LatencyScorer()},
    "subclass": {
        "limiter": FairLimiter(limit=10, window=5.0),
        "validator": PoliteValidator(max_depth=8),
        "health": PatientScorer(max_latency_ms=300.0),
    },
}
manager = ConnectionManager(WebSocketConfig.from_env(), **PARTS[os.environ.get("PARTS", "protocol")])


@manager.on("say")
async def say(conn: Connection, data: dict[str, str]) -> dict[str, float]:
    (own,) = manager.get_connection_health(conn.user_id).connections
    return {"heard": len(data["text"]), "score": own.score}


app = Starlette(routes=[WebSocketRoute("/ws", manager.endpoint)], lifespan=manager.lifespan)


def main() -> None:
    parser = argparse.ArgumentParser(description="A manager with parts of one's own.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    import uvicorn

    uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
