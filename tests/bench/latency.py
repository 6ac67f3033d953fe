"""Latencies in an open loop: what is asked for does not wait for what was answered."""

from __future__ import annotations

import select
import statistics
import time
from collections import defaultdict
from typing import ClassVar

from .swarm import PATIENCE, Stalled, Swarm

__all__ = ["OpenLoop"]

ECHOES = 50
SPEAKER = 50
ROOM = range(60, 70)
LAST = 99
COMMANDS = (("personal", f"user-{LAST}", 1), ("room", None, len(ROOM)), ("fan", 1, LAST + 1))
INTERVAL = 0.01
"""Seconds between two commands; the echoes are the load."""
# Each message begins `{"type":"`, behind two bytes of frame head.
_KIND = slice(11, 13)
_NAMES = {b"pe": 0, b"ro": 1, b"ch": 2}


class OpenLoop:
    """Echoes at a fixed rate by the first clients, and now and then a message to one, ten or all.

    A latency begins when its message was due, not when the load generator came to send it, and ends with
    its last recipient.
    """

    CLIENTS: ClassVar = LAST + 1

    def __init__(self, swarm: Swarm, rate: float) -> None:
        self.busy = 0.0
        """The share of its core that the load generator needed; in the rest of the time it looked around."""
        self._rate = rate
        self._sockets = {sock.fileno(): sock for sock in swarm.sockets}
        self._senders = [sock.send for sock in swarm.sockets]
        self._places = {descriptor: place for place, descriptor in enumerate(self._sockets)}
        self._echo = swarm.dialect.echo()
        self._commands = [swarm.dialect.command(name, data) for name, data, _ in COMMANDS]
        self._epoll = select.epoll()
        for sock in swarm.sockets:
            self._epoll.register(sock, select.EPOLLIN)
        for place in ROOM:
            swarm.sockets[place].sendall(swarm.dialect.command("join"))

    def run(self, seconds: float) -> None:
        """Send for so long, and wait for the rest. What an earlier run measured is forgotten."""
        self._echoes: list[float] = []
        self._answers = [0] * len(self._senders)
        self._told: list[list[float]] = [[] for _ in COMMANDS]
        self._left: list[list[int]] = [[] for _ in COMMANDS]
        self._heard: dict[tuple[int, int], int] = defaultdict(int)
        self._rests = dict.fromkeys(self._sockets, b"")
        self._asked, self._commanded = 0, 0
        self._started = time.perf_counter()
        idle = self._spin(int(seconds * self._rate), int(seconds / INTERVAL))
        self.busy = 1 - idle / (time.perf_counter() - self._started)

    def latencies(self) -> dict[str, float]:
        """Seconds, of the last run."""
        cuts = statistics.quantiles(self._echoes, n=100)
        personal, room, everybody = (statistics.median(times) for times in self._told)
        return {
            "latency of an echo, median": cuts[49],
            "latency of an echo, p99": cuts[98],
            "latency of a personal message": personal,
            "latency to a room of 10": room,
            "latency of a broadcast to 100": everybody,
        }

    # --- out

    def _spin(self, echoes: int, commands: int) -> float:
        """Send what is due, and read what came, until all is done; returns the seconds without work."""
        idle = 0.0
        while len(self._echoes) < echoes or sum(map(len, self._told)) < commands:
            now = time.perf_counter()
            sent = self._send(min(echoes, int((now - self._started) * self._rate)))
            sent |= self._command(min(commands, int((now - self._started) / INTERVAL)))
            ready = self._epoll.poll(0)
            for descriptor, _ in ready:
                self._receive(descriptor)
            if not sent and not ready:
                idle += time.perf_counter() - now
                if now - self._started > echoes / self._rate + PATIENCE:
                    raise Stalled(f"{len(self._echoes)} of {echoes} echoes came")
        return idle

    def _send(self, due: int) -> bool:
        """Send the echoes that are due: a few, so that the answers are not kept waiting."""
        first = self._asked
        self._asked = min(due, first + 8)
        for number in range(first, self._asked):
            self._senders[number % ECHOES](self._echo)
        return self._asked > first

    def _command(self, due: int) -> bool:
        if self._commanded >= due:
            return False
        kind = self._commanded % len(COMMANDS)
        self._left[kind].append(COMMANDS[kind][2])
        self._senders[SPEAKER](self._commands[kind])
        self._commanded += 1
        return True

    # --- in

    def _receive(self, descriptor: int) -> None:
        received = self._rests[descriptor] + self._sockets[descriptor].recv(65_536)
        now = time.perf_counter() - self._started
        place = self._places[descriptor]
        start = 0
        while len(received) > start + 1 and (end := start + 2 + received[start + 1]) <= len(received):
            kind = received[start + _KIND.start : start + _KIND.stop]
            if kind == b"re":
                self._answered(place, now)
            else:
                self._delivered(_NAMES[kind], place, now)
            start = end
        self._rests[descriptor] = received[start:]

    def _answered(self, place: int, now: float) -> None:
        """The answers of a client come in the order of its questions: every `ECHOES`-th is its own."""
        number = self._answers[place] * ECHOES + place
        self._answers[place] += 1
        self._echoes.append(now - (number + 1) / self._rate)

    def _delivered(self, kind: int, place: int, now: float) -> None:
        number = self._heard[kind, place]
        self._heard[kind, place] += 1
        self._left[kind][number] -= 1
        if not self._left[kind][number]:
            due = (number * len(COMMANDS) + kind + 1) * INTERVAL
            self._told[kind].append(now - due)
