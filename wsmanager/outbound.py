"""What is on its way out: a message encoded once per codec and shared by all its targets."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .errors import EncodeError
from .messages import Delivery, Frame, MessagePriority, OutboundMessage
from .protocols import Codec

__all__ = ["OWN", "Outgoing", "Prepared", "prepare_event"]


def prepare_event(frame: Frame) -> dict[str, Any]:
    """The ASGI event that carries `frame`; shared, so nobody may change it."""
    return {"type": "websocket.send", ("text" if isinstance(frame, str) else "bytes"): frame}


class Prepared(msgspec.Struct, frozen=True, eq=False):
    """One message in one encoding, ready for any number of connections."""

    event: dict[str, Any]
    size: int
    outgoing: Outgoing


class Outgoing:
    """One send of the application, over all its targets. Raises `EncodeError` for one without a type."""

    __slots__ = (
        "_frames",
        "delivery",
        "handed_over",
        "key",
        "message",
        "priority",
        "sequence",
        "ttl",
        "type",
        "waiting",
    )

    def __init__(
        self,
        message: OutboundMessage | msgspec.Raw,
        *,
        type: str | None = None,
        priority: MessagePriority | None = None,
        delivery: Delivery = Delivery.VOLATILE,
        ttl: float | None = None,
        key: str | None = None,
        sequence: int = 0,
    ) -> None:
        self.message = message
        self.type = _type_of(message) if type is None else type
        self.priority = priority
        self.delivery = delivery
        self.ttl = ttl
        self.key = key
        self.sequence = sequence
        """Where a durable message stands among the others of the process."""
        self.waiting = 0
        """In how many queues it waits."""
        self.handed_over = False
        """Whether a server took it for at least one connection."""
        self._frames: dict[Codec, Prepared] = {}

    def for_codec(self, codec: Codec) -> Prepared:
        """The message as `codec` writes it. Raises `EncodeError`."""
        prepared = self._frames.get(codec)
        if prepared is None:
            frame = codec.encode(self.message)
            prepared = Prepared(prepare_event(frame), len(frame), self)
            self._frames[codec] = prepared
        return prepared


def _type_of(message: Any) -> str:
    """The message's own type, whether it is a mapping or an object with attributes."""
    kind = message.get("type") if hasattr(message, "get") else getattr(message, "type", None)
    if not isinstance(kind, str):
        raise EncodeError('a message needs a text "type": {"type": "chat.message", "data": ...}')
    return kind


OWN: Final = Outgoing({"type": "own"})
"""Stands for all messages of the manager itself to one connection: replies, errors, pongs. They are
volatile, and nobody asks what became of one."""
