"""The load generator: many raw sockets, and as little Python for each message as there can be.

It counts bytes instead of parsing: all messages of a run have the length of the first.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, Self

from .dialects import Dialect, split

__all__ = ["Stalled", "Swarm"]

IN_FLIGHT = 50
BUFFER = 1 << 20
PATIENCE = 60.0
"""Seconds in which a server must do what it was asked for."""
MOMENT, PAUSE = 0.0005, 0.015
_LINGER = struct.pack("ii", 1, 0)


class Stalled(Exception):
    """Less came than should."""


class _Handshake:
    """A socket that is not ready yet."""

    def __init__(self, sock: socket.socket, dialect: Dialect) -> None:
        self._sock = sock
        self._dialect = dialect
        self._received = b""
        self._greeted = False

    def advance(self) -> bool:
        """Read what came; returns whether the server has said everything."""
        more = self._sock.recv(4_096)
        self._received += more
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not more or (end and not head.startswith(b"HTTP/1.1 101")):
            raise ConnectionRefusedError(self._received.decode())
        if end and not self._greeted:
            self._greeted = True
            self._sock.sendall(self._dialect.greeting)
        return bool(end) and len(split(rest)[0]) >= self._dialect.greetings


class Swarm:
    """Clients of one server. Whoever says something is the first of them."""

    def __init__(self, port: int, dialect: Dialect) -> None:
        self.sockets: list[socket.socket] = []
        self.dialect = dialect
        self._port = port
        self._epoll = select.epoll()
        self._buffer = bytearray(BUFFER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave without a farewell, so that no port waits for a last packet."""
        self._epoll.close()
        for sock in self.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            sock.close()

    # --- in

    def dial(self, count: int) -> float:
        """Connect as users ``user-0``, ``user-1``, ..., some at a time; returns the seconds it took."""
        # The tokens are made before the clock runs.
        requests = iter([self.dialect.request(self._port, f"user-{number}") for number in range(count)])
        started = time.perf_counter()
        waiting = dict(self._knock(islice(requests, IN_FLIGHT)))
        while waiting:
            for descriptor, _ in self._ready():
                if waiting[descriptor].advance():
                    del waiting[descriptor]
                    self._epoll.unregister(descriptor)
                    waiting.update(self._knock(islice(requests, 1)))
        return time.perf_counter() - started

    def _knock(self, requests: Iterator[bytes]) -> Iterator[tuple[int, _Handshake]]:
        for request in requests:
            sock = socket.create_connection(("127.0.0.1", self._port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(request)
            sock.setblocking(False)
            self.sockets.append(sock)
            self._epoll.register(sock, select.EPOLLIN)
            yield sock.fileno(), _Handshake(sock, self.dialect)

    def watch(self) -> None:
        """Be woken by every message. Else sockets are swept, which costs either side less."""
        for sock in self.sockets:
            self._epoll.register(sock, select.EPOLLIN)

    def _ready(self, patience: float = PATIENCE) -> list[tuple[int, int]]:
        ready = self._epoll.poll(patience)
        if not ready:
            raise Stalled(f"nothing came for {patience} seconds")
        return ready

    # --- one says, all hear

    def say(self, command: str, data: Any = None) -> None:
        self.sockets[0].sendall(self.dialect.command(command, data))

    def length_of(self, command: str, data: Any) -> int:
        """Let the server send everybody one message; returns its length."""
        self.say(command, data)
        received = b""
        first = self.sockets[0]
        first.settimeout(PATIENCE)
        while not (frames := split(received)[0]):
            received += first.recv(4_096)
        first.setblocking(False)
        self.sweep(len(frames[0]) * len(self.sockets) - len(received))
        return len(frames[0])

    def sweep(self, expected: int) -> None:
        """Read from everybody, now and then, until so many bytes have come."""
        receivers = [sock.recv_into for sock in self.sockets]
        buffer, left = self._buffer, expected
        started = time.perf_counter()
        while left > 0:
            for receive in receivers:
                try:
                    left -= receive(buffer)
                except BlockingIOError:
                    continue
            _pause(time.perf_counter() - started, left, expected)
        if left < 0:
            raise Stalled(f"{-left} bytes more came than were expected")

    def hear(self, expected: int) -> None:
        """Read as soon as anything comes, until so many bytes have come: of those that are watched."""
        receivers = {sock.fileno(): sock.recv_into for sock in self.sockets}
        buffer, left = self._buffer, expected
        while left > 0:
            for descriptor, _ in self._ready():
                got = receivers[descriptor](buffer)
                if not got:
                    raise Stalled("the server has closed a connection")
                left -= got

    # --- each says, and is answered

    def converse(self, seconds: float) -> int:
        """Echo on every socket, one message at a time; returns how many answers came."""
        frame = self.dialect.echo()
        length = self._length_of_answer(frame)
        peers = {sock.fileno(): (sock.recv_into, sock.send) for sock in self.sockets}
        missing = dict.fromkeys(peers, length)
        buffer, answers = self._buffer, 0
        for _, send in peers.values():
            send(frame)
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            for descriptor, _ in self._ready():
                receive, send = peers[descriptor]
                left = missing[descriptor] - receive(buffer)
                missing[descriptor] = left or length
                if not left:
                    answers += 1
                    send(frame)
        self.hear(sum(missing.values()))
        return answers

    def _length_of_answer(self, frame: bytes) -> int:
        self.sockets[0].sendall(frame)
        received = b""
        while not (frames := split(received)[0]):
            self._ready()
            received += self.sockets[0].recv(4_096)
        return len(frames[0])


def _pause(elapsed: float, left: int, expected: int) -> None:
    """Sleep for half of what the rest may take: the client stays cheap, and the end is not missed."""
    if elapsed > PATIENCE:
        raise Stalled(f"{left} of {expected} bytes did not come")
    if left > 0:
        rest = elapsed * left / max(1, expected - left)
        time.sleep(min(PAUSE, max(MOMENT, rest / 2)))
