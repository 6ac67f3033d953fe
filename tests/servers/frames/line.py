"""A client that is one raw socket: it writes exact bytes in exact segments, and keeps every byte it hears."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncGenerator, Callable
from typing import Any, Self, cast

import uvicorn

from .wire import frames_of, request

__all__ = ["Line", "until"]

_ROUNDS = 10
_NARROW = 65_536
_BYTES_RECEIVED = 128  # of `struct tcp_info`, linux/tcp.h


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds, of which nothing tells."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


class Line:
    """Reads only when it is told to."""

    def __init__(self, sock: socket.socket, server: uvicorn.Server, cue: asyncio.Event) -> None:
        self._sock = sock
        self._server = server
        self._sent = 0
        self.port: int = sock.getsockname()[1]
        self.cue = cue
        """Tells the application to go on."""
        self.heard = bytearray()
        self.end = ""
        """How the server ended it: FIN or RST. Empty while it has not."""

    @classmethod
    @contextlib.asynccontextmanager
    async def dialed(cls, server: uvicorn.Server, cue: asyncio.Event) -> AsyncGenerator[Self]:
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            port = server.servers[0].sockets[0].getsockname()[1]
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            line = cls(sock, server, cue)
            await until(lambda: line._transport() is not None)
            yield line

    def narrow(self) -> None:
        """Let the sockets of both sides hold little: what they would by themselves depends on the machine."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NARROW)
        server = self._transport().get_extra_info("socket")
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _NARROW)

    # --- out

    async def shake_hands(self, *headers: str) -> None:
        await self.ask(*headers)
        await self.hear_the_answer()

    async def ask(self, *headers: str) -> None:
        """Begin the handshake."""
        await self.put(request(*headers))

    def put_at_once(self, data: bytes) -> None:
        """Send, and go on before the server has read it."""
        self._sent += self._sock.send(data)

    async def put(self, *segments: bytes) -> None:
        """Send each as a segment of its own: the server has done what it does before the next one leaves."""
        for segment in segments:
            with contextlib.suppress(ConnectionError):  # which is heard, too
                await asyncio.get_running_loop().sock_sendall(self._sock, segment)
            self._sent += len(segment)
            await self.settle()

    async def drip(self, data: bytes) -> None:
        """Send byte by byte."""
        await self.put(*(bytes([byte]) for byte in data))

    async def half_close(self) -> None:
        """Send nothing more, and still listen."""
        with contextlib.suppress(OSError):  # the server has ended it
            self._sock.shutdown(socket.SHUT_WR)
        self._sent += 1  # a FIN counts
        await self.settle()

    async def reset(self) -> None:
        """Die."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()
        self.end = "died"
        await until(lambda: self._transport() is None)

    # --- in

    async def hear_the_answer(self) -> None:
        """Wait until the handshake is answered."""
        await self._hear_until(lambda: b"\r\n\r\n" in self.heard)

    async def hear(self, number: int) -> bytes:
        """Wait until so many frames have come. Returns the payload of the last of these."""
        await self._hear_until(lambda: len(self.frames) >= number)
        return self.frames[number - 1][1]

    async def hears_more(self) -> bool:
        """Whether anything is there to be heard."""
        await self.settle()
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    async def hear_bytes(self, number: int) -> None:
        """Wait until so many have come after the handshake."""
        await self.hear_the_answer()
        start = self.heard.index(b"\r\n\r\n") + 4
        await self._hear_until(lambda: len(self.heard) - start >= number)

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """All that came so far."""
        wire = bytes(self.heard).partition(b"\r\n\r\n")[2]
        return [each for each in frames_of(wire) if each[0] != -1]

    async def hear_the_rest(self) -> None:
        while not self.end:
            await self._hear_more()

    async def _hear_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert not self.end, f"{self.end} after {bytes(self.heard)!r}"
            await self._hear_more()

    async def _hear_more(self) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._sock, 262_144)
        except ConnectionError:
            self.end = "RST"
        else:
            self.heard += data
            self.end = "" if data else "FIN"

    # --- the other side, which is in this process

    async def shut_down(self) -> None:
        """Do what a SIGTERM does to uvicorn, and wait until it has told this connection."""
        self._server.should_exit = True
        await until(self._is_over)

    async def settle(self) -> None:
        """Wait until the server has read what was sent, unless it reads no more, and has done its part."""
        await until(lambda: self._is_over() or self._is_read())
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)

    def _is_over(self) -> bool:
        transport = self._transport()
        return transport is None or transport.is_closing()

    def _is_read(self) -> bool:
        transport = self._transport()
        sock = transport.get_extra_info("socket")
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
        if struct.unpack_from("Q", info, _BYTES_RECEIVED)[0] < self._sent:
            return False
        unread = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4))
        return not transport.is_reading() or not any(unread)

    def _transport(self) -> Any:
        """The server's end of it; None when there is none."""
        for connection in cast("set[Any]", self._server.server_state.connections):
            if connection.client[1] == self.port:
                return connection.transport
        return None
