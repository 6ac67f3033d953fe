"""The checks between the server's event and the handler, in order. Every door runs them from here."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Final

from ..config import WebSocketConfig
from ..connections.connection import Connection
from ..connections.ending import is_heard
from ..decisions.analytics import MessageAnalytics
from ..errors import InvalidMessage, RateLimited
from ..messages import ConnectionStatus, Frame, InboundMessage
from ..protocols import Clock, MessageValidator, RateLimiter
from ..wire.codecs import fields_beyond_envelope
from ..wire.outgoing import size_of
from .faults import Faults
from .system_messages import SystemMessages

__all__ = ["Inspection"]

_OPEN: Final = ConnectionStatus.OPEN
_FRAME: Final = InboundMessage("")
"""Stands for a frame that is not read."""


class Inspection:
    """Size, rate, decoding, validation, and the manager's own types. One serves all connections."""

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        limiter: RateLimiter,
        system_limiter: RateLimiter,
        tenant_limiter: RateLimiter | None,
        validator: MessageValidator,
        analytics: MessageAnalytics,
        system: SystemMessages,
        faults: Faults,
        clock: Clock,
    ) -> None:
        self._config = config
        self._limiter = limiter
        self._system_limiter = system_limiter
        self._tenant_limiter = tenant_limiter
        self._validator = validator
        self._validates_raw = "raw" in inspect.signature(validator.validate_message).parameters
        self._analytics = analytics
        self._system = system
        self._answers = system.answers
        self._faults = faults
        self._clock = clock

    # --- the whole list of stages: for messages of the manager's own form

    def inspect(self, conn: Connection, frame: Frame) -> InboundMessage | None:
        """Return the message in `frame`, when it is the application's to see. None: it was answered here,
        with an error or because it is the manager's own, or it came after the end."""
        if conn.status is not _OPEN and not is_heard(conn):
            return None
        now, message, system = self._clock(), None, self._system
        conn.health.heard(now)
        try:
            # What `measure` and `validate` do for most frames is written out: every message comes this way.
            if len(frame) * 4 > self._config.max_message_size:
                self.measure(frame)
            head = frame[:13] if isinstance(frame, str) else frame[1:10]
            if as_system := head in system.heads and system.begins_like_one(frame):
                self._charge_system(conn, now)
            else:
                self.charge(conn, 1, now)
            codec = conn.codec
            message = codec.decode(frame)
            if self._validates_raw and codec.transparent:
                self._validator.validate_message(message, raw=frame)
            else:
                self._validator.validate_message(message)
            answer = self._answers.get(message.type)
            if answer is None:
                if as_system:
                    self.charge(conn, 1, now)
                return message
            system.measure(message.type, frame)
            answer(conn, message)
            self._analytics.record_message(message.type, size=size_of(frame), now=now)
        except (Exception, asyncio.CancelledError) as error:  # of a replaced part too
            self._faults.fail(conn, error, message, size=size_of(frame))
        return None

    def inspect_whole(self, conn: Connection, frame: Frame) -> InboundMessage | None:
        """Inspect for an application that decodes the frame by itself: fields that a message does not have
        are checked as its data is."""
        message = self.inspect(conn, frame)
        if message is None or not conn.codec.transparent:
            return message
        try:
            beyond = fields_beyond_envelope(frame)
            if beyond:
                self._validator.validate_message(InboundMessage(message.type, beyond))
        except (Exception, asyncio.CancelledError) as error:
            self._faults.fail(conn, error, message, size=size_of(frame))
            return None
        return message

    # --- the part of it for a protocol of the application's own

    def inspect_foreign(
        self, conn: Connection, frame: Frame, now: float, decode: Callable[[Frame], InboundMessage] | None
    ) -> InboundMessage:
        """Run the stages that a foreign frame goes through; without `decode`, those before it is read.

        Raises what is wrong, so that the caller answers in the application's own words.
        """
        conn.health.heard(now)
        self.measure(frame)
        self.charge(conn, 1, now)
        if decode is None:
            return _FRAME
        message = decode(frame)
        self.validate(message, frame)
        return message

    # --- the stages, one by one

    def measure(self, frame: Frame) -> None:
        """Raise `InvalidMessage` for a frame that is too large."""
        limit = self._config.max_message_size
        # A character takes up to four bytes: only frames near the limit are measured exactly.
        if len(frame) * 4 > limit and size_of(frame) > limit:
            raise InvalidMessage(f"A message may have {limit} bytes.", code="too_large")

    def _charge_system(self, conn: Connection, now: float) -> None:
        """Charge the bucket of system messages. Raises `RateLimited`."""
        decision = self._system_limiter.check_rate_limit(conn.key, now=now)
        if not decision.allowed:
            raise _too_many(decision.retry_after_ms)

    def charge(self, conn: Connection, cost: int, now: float) -> None:
        """Charge the user and the tenant. Raises `RateLimited`."""
        if conn.tier is None:
            decision = self._limiter.check_rate_limit(conn.key, cost=cost, now=now)
        else:
            factor = conn.tier.rate_factor
            decision = self._limiter.check_rate_limit(conn.key, cost=cost, factor=factor, now=now)
        if not decision.allowed:
            raise _too_many(decision.retry_after_ms)
        if self._tenant_limiter is not None:
            decision = self._tenant_limiter.check_rate_limit(("tenant", conn.tenant), cost=cost, now=now)
            if not decision.allowed:
                raise _too_many(decision.retry_after_ms)

    def validate(self, message: InboundMessage, raw: Frame | None) -> None:
        """Ask the validator; `raw` is the frame, where its texts can be looked at."""
        if raw is not None and self._validates_raw:
            self._validator.validate_message(message, raw=raw)
        else:
            self._validator.validate_message(message)

    def count(self, kind: str, *, size: int, error: str | None, now: float) -> None:
        """Count a frame whose handler, if it has one, is none of the manager's business."""
        self._analytics.record_message(kind, size=size, error=error, now=now)


def _too_many(retry_after_ms: int) -> RateLimited:
    return RateLimited("Too many messages; slow down.", retry_after_ms=retry_after_ms)
