"""What a contestant is asked to do, and the figures that come of it."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .contestants.messages import BURST
from .hosts import Host
from .latency import OpenLoop
from .lineup import BARE, OURS, OWN_TRANSPORT
from .swarm import Swarm

__all__ = ["FIGURES", "WORKLOADS", "Figure", "Sample", "Workload"]

TALKERS = 50


class Figure(NamedTuple):
    unit: str
    more_is_better: bool = True


FIGURES: Mapping[str, Figure] = {
    "echo": Figure("messages/s"),
    "fan-out to 100": Figure("deliveries/s"),
    "fan-out to 1,000": Figure("deliveries/s"),
    "fan-out to 5,000": Figure("deliveries/s"),
    "bursts to 1,000": Figure("deliveries/s"),
    "one broadcast to 1,000": Figure("ms", more_is_better=False),
    "accepts": Figure("connections/s"),
    "idle connection": Figure("KiB", more_is_better=False),
    "latency of an echo, median": Figure("µs", more_is_better=False),
    "latency of an echo, p99": Figure("µs", more_is_better=False),
    "latency of a personal message": Figure("µs", more_is_better=False),
    "latency to a room of 10": Figure("µs", more_is_better=False),
    "latency of a broadcast to 100": Figure("µs", more_is_better=False),
}


class Sample(NamedTuple):
    """A figure of one run, and what share of their cores the load generator and the server had for it."""

    value: float
    client: float = 0.0
    server: float = 0.0


@dataclass
class _Clock:
    wall: float = 0.0
    client: float = 0.0
    server: float = 0.0

    def sample(self, value: float) -> Sample:
        return Sample(value, self.client / self.wall, self.server / self.wall)


@contextlib.contextmanager
def _clocked(host: Host) -> Generator[_Clock]:
    clock = _Clock()
    server, client, wall = host.seconds(), time.process_time(), time.perf_counter()
    yield clock
    clock.wall = time.perf_counter() - wall
    clock.client = time.process_time() - client
    clock.server = host.seconds() - server


Measured = dict[str, Sample]


def echo(host: Host, seconds: float) -> Measured:
    with host.swarm(TALKERS) as swarm:
        swarm.watch()
        swarm.converse(seconds / 5)
        with _clocked(host) as clock:
            answers = swarm.converse(seconds)
    return {"echo": clock.sample(answers / clock.wall)}


def _deliver(swarm: Swarm, command: str, rounds: int, expected: int) -> float:
    """Seconds that it takes from the command to the last byte."""
    started = time.perf_counter()
    swarm.say(command, rounds)
    swarm.sweep(expected)
    return time.perf_counter() - started


def _deliveries(host: Host, count: int, command: str, at_once: int, seconds: float) -> Sample:
    """Deliveries a second to so many subscribers, in about as many seconds."""
    with host.swarm(count) as swarm:
        a_round = swarm.length_of("fan", 1) * count * at_once
        rounds, elapsed = 1, _deliver(swarm, command, 1, a_round)
        while elapsed < seconds / 10:  # until it is clear how many rounds are enough
            rounds *= 4
            elapsed = _deliver(swarm, command, rounds, rounds * a_round)
        rounds = max(1, int(rounds * seconds / elapsed))
        with _clocked(host) as clock:
            _deliver(swarm, command, rounds, rounds * a_round)
    return clock.sample(rounds * at_once * count / clock.wall)


def fan_out(host: Host, seconds: float) -> Measured:
    return {
        f"fan-out to {count:,}": _deliveries(host, count, "fan", 1, seconds) for count in (100, 1_000, 5_000)
    }


def bursts(host: Host, seconds: float) -> Measured:
    return {"bursts to 1,000": _deliveries(host, 1_000, "burst", BURST, seconds)}


def one_broadcast(host: Host, seconds: float) -> Measured:
    """Until the last of 1,000 has it."""
    with host.swarm(1_000) as swarm:
        everything = swarm.length_of("fan", 1) * 1_000
        swarm.watch()
        times: list[float] = []
        with _clocked(host) as clock:
            while sum(times) < seconds:
                started = time.perf_counter()
                swarm.say("fan", 1)
                swarm.hear(everything)
                times.append(time.perf_counter() - started)
    return {"one broadcast to 1,000": clock.sample(statistics.median(times) * 1e3)}


def accepts(host: Host, seconds: float) -> Measured:
    """Every client brings a token; those that check none have less to do."""
    count = int(2_000 * seconds)
    for last in (False, True):  # the first time, only to be warm
        with Swarm(host.port, host.dialect) as swarm, _clocked(host) as clock:
            elapsed = swarm.dial(count if last else count // 10)
        host.settle()
    return {"accepts": clock.sample(count / elapsed)}


def idle(host: Host, seconds: float) -> Measured:
    count = int(2_000 * seconds)
    with host.swarm(count // 20):
        pass  # what the first connections bring along is not counted
    before = host.kibibytes()
    with host.swarm(count):
        return {"idle connection": Sample((host.kibibytes() - before) / count)}


@dataclass
class Latency:
    """While as many echoes are asked for as half of those that the bare loop could answer."""

    rate: float = field(default=0.0)

    def __call__(self, host: Host, seconds: float) -> Measured:
        if host.name == BARE:
            self.rate = echo(host, seconds)["echo"].value / 2
        with host.swarm(OpenLoop.CLIENTS) as swarm:
            loop = OpenLoop(swarm, self.rate)
            loop.run(seconds / 5)
            loop.run(3 * seconds)
        share = loop.busy
        return {name: Sample(value * 1e6, share) for name, value in loop.latencies().items()}


@dataclass(frozen=True)
class Workload:
    measure: Callable[[Host, float], Measured]
    contestants: tuple[str, ...] = ()
    """All, if none is named."""
    afresh: bool = False
    """Whether each run needs a process that has done nothing yet."""


WORKLOADS: Mapping[str, Workload] = {
    "echo": Workload(echo),
    "fanout": Workload(fan_out),
    "bursts": Workload(bursts),
    "once": Workload(one_broadcast),
    "accepts": Workload(accepts),
    "idle": Workload(idle, afresh=True),
    "latency": Workload(Latency(), contestants=(BARE, OURS, OWN_TRANSPORT)),
}
