"""The machinery behind the manager: every part in its place, and what connections ask of it."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeAlias

from ..auth.gate import Gate
from ..config import WebSocketConfig
from ..connections.appearances import Appearances
from ..connections.connection import Connection
from ..connections.ending import end
from ..connections.heartbeat import Heartbeat
from ..connections.residents import Resident, Residents
from ..connections.seams import Waiting
from ..connections.sending import Sender
from ..decisions.analytics import MessageAnalytics
from ..decisions.registry import Registry
from ..errors import ConfigurationError, FailureKind
from ..handlers.dispatch import Dispatch
from ..handlers.faults import Faults
from ..handlers.hooks import Hooks
from ..handlers.inspection import Inspection
from ..handlers.router import Router
from ..handlers.system_messages import SystemMessages
from ..logs import Journal
from ..messages import ConnectionStatus
from ..tasks.calls import Runs
from ..tasks.supervision import Supervisor
from ..wire.below import advice_for, server_of
from ..wire.encodings import Encodings
from ..wire.outgoing import Outgoing
from .admission import Admission
from .drain import Drain
from .life import Life
from .parts import Parts, plain_limiter

__all__ = ["Engine", "Tower"]

_CODES: Final = range(1000, 5000)
_MAX_CODES: Final = 100


class Engine:
    """Holds the parts of one manager together. Implements `wsmanager.connections.seams.Owner`.

    Towers meet it here: they register with `system`, `dispatch.around` and `supervisor`, reach connections
    through `sender` and `registry`, and watch them as residents.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        parts: Parts,
        analytics: MessageAnalytics,
        towers: Iterable[Tower] = (),
    ) -> None:
        self.config = config
        self.parts = parts
        self.analytics = analytics
        self.now = parts.clock
        self.new_queue = parts.queue
        self.journal = Journal(parts.clock, parts.observer)
        self.note = self.journal.note
        self.drops: Counter[str] = Counter()
        """Messages that did not go out, by reason; the reasons are this package's own."""
        self.closed: Counter[int] = Counter()
        """Closed connections, by code."""
        self.residents = Residents()
        self.registry: Registry[Connection] = _registry_of(config)
        self.encodings = Encodings(parts.codecs)
        self.supervisor = Supervisor(note=self.note)
        self.runs = Runs(config.handler_timeout, config.close_timeout, self.note)
        self.appearances = Appearances(config.max_waiting_sends)
        self.sender = Sender(
            self.registry, self.encodings, analytics, self.now, max_report_ids=config.max_report_ids
        )
        self.heartbeat = Heartbeat(config, self.registry, self.now, self.journal, sweep=self._sweep)
        self.gate = Gate(config, parts.auth, self.encodings, self.now, self.journal)
        self._make_handlers()
        self._make_life()
        self._leaving: set[Connection] = set()
        self._advised: set[str] = set()
        self._settle(tuple(tower(self) for tower in towers))

    def _make_handlers(self) -> None:
        config, parts, now = self.config, self.parts, self.now
        self.system = SystemMessages(
            self.registry, parts.authorizer, now, self.runs, max_name_length=config.max_name_length
        )
        self.router = Router(Connection, self.system.reserved)
        self.faults = Faults(self.router, self.system.answers, self.analytics, now, self.journal)
        self.system.fail = self.faults.fail
        tenant_limit = config.tenant_rate_limit_max
        self.inspection = Inspection(
            config,
            limiter=parts.limiter,
            system_limiter=plain_limiter(config, config.system_rate_limit_max),
            tenant_limiter=None if tenant_limit is None else plain_limiter(config, tenant_limit),
            validator=parts.validator,
            analytics=self.analytics,
            system=self.system,
            faults=self.faults,
            clock=now,
        )
        self.dispatch = Dispatch(
            config,
            inspection=self.inspection,
            faults=self.faults,
            router=self.router,
            analytics=self.analytics,
            runs=self.runs,
            clock=now,
        )
        self.hooks = Hooks(self.dispatch, self.journal)

    def _make_life(self) -> None:
        self.life = Life(
            self.config,
            self.supervisor,
            holds_anything=self._holds_anything,
            rebind=self._rebind,
            make_drain=functools.partial(
                Drain,
                self.config,
                self.journal,
                self.supervisor,
                self.dispatch,
                self.hooks,
                everyone=self.everyone,
                arrived=lambda: self.registry.arrived,
            ),
        )
        self.bind = self.life.bind
        self.admission = Admission(
            self,
            self.config,
            self.gate,
            self.registry,
            self.encodings,
            self.parts.health,
            bind=self.life.bind,
            refuse_at_the_end=self.life.refuse_at_the_end,
            on_open=self._on_open,
        )

    def _settle(self, residents: Sequence[Resident]) -> None:
        """Take in the residents, once and for all. Raises `ConfigurationError` for two of one name."""
        names = Counter(one.name for one in residents if one.name)
        if taken := [name for name, count in names.items() if count > 1]:
            raise ConfigurationError(f"residents= has two of the name {taken[0]!r}: give each its own")
        self.residents = self.admission.residents = Residents(residents)
        if self.residents.interest:
            self.registry.on_interest = self._on_interest
        if self.residents.joined or self.residents.left:
            self.registry.on_membership = self._on_membership

    # --- its life

    def _holds_anything(self) -> bool:
        return bool(self.registry.arrived or self.appearances.waiting)

    def _rebind(self) -> None:
        self.system.fix()
        self.dispatch.rebind()

    def everyone(self) -> tuple[Connection, ...]:
        """Return every connection that is not closed."""
        return (*self.registry, *self._leaving)

    def _on_open(self, conn: Connection) -> None:
        self.appearances.appeared(conn.key)
        if self.journal.observer is not None:
            self.journal.show("connection.opened", connection=conn.id, user=conn.user_id, tenant=conn.tenant)
        if self.supervisor.keep_alive("heartbeat", self.heartbeat.run):
            self.life.mind_sigterm()

    def _sweep(self, now: float) -> None:
        for conn in tuple(self.heartbeat.congested):
            if conn.congestion is not None:
                conn.congestion.drop_expired()
        for sweep in self.residents.sweep:
            sweep(now)

    # --- the end of a connection

    async def disconnect(self, conn: Connection, code: int, reason: str) -> None:
        """Close `conn` if it is open, and say farewell, unless the endpoint does that in its own task."""
        try:
            await conn.close(code, reason)
        except BaseException:
            self.abandon(conn)
            raise
        if conn.guard is None:
            return
        if asyncio.current_task() in self.dispatch.beside.get(conn, ()):
            self.hooks.farewell_soon(conn)  # which waits for the caller
        else:
            await self.hooks.farewell(conn)

    def abandon(self, conn: Connection) -> None:
        """Forget `conn` without another word to its peer."""
        end(conn)
        self.hooks.farewell_soon(conn)

    # --- what connections ask for: `Owner`

    def leave(self, conn: Connection, status: ConnectionStatus) -> None:
        before, residents = conn.status, self.residents
        if before is ConnectionStatus.OPEN:
            in_use = self.encodings.in_use
            in_use[conn.codec] -= 1
            if not in_use[conn.codec]:
                del in_use[conn.codec]
        if before is ConnectionStatus.OPEN and status is ConnectionStatus.DRAINING:
            self.registry.drain(conn)
            self._leaving.add(conn)
        elif self.registry.remove(conn):
            self._leaving.discard(conn)
            self.registry.depart(conn.address)
            if before is not ConnectionStatus.CONNECTING:  # else a handshake that came to nothing
                self._count_close(conn)
            for gone in residents.gone:
                gone(conn)
        if before is ConnectionStatus.OPEN and conn.congestion is not None:
            for leaving in residents.leaving:
                leaving(conn)

    def _count_close(self, conn: Connection) -> None:
        code = 1006 if conn.ending is None else conn.ending.code
        known = code in self.closed or (code in _CODES and len(self.closed) < _MAX_CODES)
        self.closed[code if known else 1006] += 1
        if self.journal.observer is not None:
            self.journal.show("connection.closed", connection=conn.id, user=conn.user_id, code=code)

    def congested(self, conn: Connection) -> None:
        self.heartbeat.congested.add(conn)

    def drained(self, conn: Connection) -> None:
        self.heartbeat.congested.discard(conn)
        for drained in self.residents.drained:
            drained(conn)

    def dropped(self, reason: str) -> None:
        self.drops[reason] += 1

    def handed_over(self, conn: Connection, item: Waiting) -> None:
        if item.counted_as:
            self.analytics.record_sent(item.counted_as, 1, item.size, now=self.now())
        for handed_over in self.residents.handed_over:
            handed_over(conn, item)

    def failed(self, kind: FailureKind) -> None:
        self.analytics.record_failure(kind)

    def given_up(self, conn: Connection, messages: Sequence[Outgoing], reason: str) -> None:
        for given_up in self.residents.given_up:
            messages = given_up(conn, messages, reason)
        if messages:
            self.drops[reason] += len(messages)

    def cannot_abort(self, conn: Connection) -> None:
        server = server_of(conn.receive, conn.send_raw)
        if server not in self._advised:  # one of the few that are known, or none
            self._advised.add(server)
            meaning = f"a peer that reads nothing cannot be cut off here: {advice_for(server)}"
            self.note(logging.WARNING, "abort.unsupported", server=server, meaning=meaning)

    def run_errand(self, errand: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any] | None:
        return self.supervisor.run_errand(errand, name)

    # --- what the registry tells

    def _on_interest(self, key: Any, wanted: bool) -> None:
        for interest in self.residents.interest:
            interest(key, wanted=wanted)

    def _on_membership(self, conn: Connection, room: str, joined: bool) -> None:
        for tell in self.residents.joined if joined else self.residents.left:
            tell(conn, room)


Tower: TypeAlias = Callable[[Engine], Resident]
"""Makes a resident of an engine, and registers what it needs there."""


def _registry_of(config: WebSocketConfig) -> Registry[Connection]:
    return Registry(
        max_connections=config.max_connections,
        max_per_user=config.max_connections_per_user,
        max_per_address=config.max_connections_per_ip,
        max_per_tenant=config.max_connections_per_tenant,
        max_rooms=config.max_rooms_per_connection,
        max_name_length=config.max_name_length,
    )
