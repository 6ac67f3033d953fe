"""What is on its way out: a message encoded once per codec and shared by all its targets."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final

import msgspec

from ..errors import ConfigurationError, EncodeError
from ..messages import Delivery, Frame, MessagePriority, OutboundMessage
from ..protocols import Codec
from .framing import WireFrame, wire_frame

__all__ = ["OWN", "Outgoing", "Prepared", "prepare_event", "prepare_own", "size_of"]

_UNTYPED: Final = "untyped"


def prepare_event(frame: Frame) -> dict[str, Any]:
    """The ASGI event that carries `frame`; shared, so nobody may change it."""
    return {"type": "websocket.send", ("text" if isinstance(frame, str) else "bytes"): frame}


class Prepared(msgspec.Struct, eq=False):
    """One message in one encoding, ready for any number of connections."""

    event: MutableMapping[str, Any]
    size: int
    """In bytes."""
    outgoing: Outgoing
    packed: WireFrame | None = None

    def pack(self) -> WireFrame:
        """As it is written where the server is passed by; done once."""
        event = self.event
        text = event.get("text")
        self.packed = packed = wire_frame(event["bytes"] if text is None else text)
        return packed

    # --- in the queue of a congested connection

    @property
    def priority(self) -> MessagePriority | None:
        return self.outgoing.priority

    @property
    def expires_at(self) -> float | None:
        return self.outgoing.expires_at

    @property
    def key(self) -> str | None:
        return self.outgoing.key

    @property
    def counted_as(self) -> str:
        return self.outgoing.type

    @property
    def is_wanted(self) -> bool:
        return True

    def frame(self) -> WireFrame:
        return self.packed or self.pack()

    def queued(self) -> None:
        self.outgoing.waiting += 1

    def taken(self) -> None:
        self.outgoing.waiting -= 1
        self.outgoing.handed_over = True

    def left(self) -> Outgoing:
        self.outgoing.waiting -= 1
        return self.outgoing

    def failed(self, error: BaseException) -> bool:
        del error
        return False


class Outgoing:
    """One send of the application, over all its targets."""

    __slots__ = (
        "_frames",
        "delivery",
        "expires_at",
        "handed_over",
        "is_typed",
        "key",
        "message",
        "priority",
        "sequence",
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
        expires_at: float | None = None,
        key: str | None = None,
        sequence: int = 0,
    ) -> None:
        kind = _type_of(message) if type is None else type
        self.message = message
        self.is_typed = kind is not None
        self.type = _UNTYPED if kind is None else kind
        """What it is counted as; nothing when empty."""
        self.priority = priority if priority is None else _priority(priority)
        self.delivery = delivery
        self.expires_at = expires_at
        """When it is not worth sending any more, on the manager's clock; None leaves that to its queue."""
        self.key = key
        self.sequence = sequence
        """Where a durable message stands among the others of the process."""
        self.waiting = 0
        """In how many queues it waits."""
        self.handed_over = False
        """Whether a server took it for at least one connection."""
        self._frames: dict[Codec, Prepared] = {}

    def for_codec(self, codec: Codec) -> Prepared:
        """Return the message as `codec` writes it. Raises `EncodeError`, also for a message without the type
        that connections of this codec need."""
        prepared = self._frames.get(codec)
        if prepared is None:
            if not self.is_typed and getattr(codec, "typed", True):
                raise EncodeError('a message needs a text "type": {"type": "chat.message", "data": ...}')
            frame = codec.encode(self.message)
            prepared = Prepared(prepare_event(frame), size_of(frame), self)
            self._frames[codec] = prepared
        return prepared


def size_of(frame: Frame) -> int:
    """Bytes on the wire."""
    if isinstance(frame, str) and not frame.isascii():
        return len(frame.encode("utf-8", "surrogatepass"))
    return len(frame)


def _priority(priority: Any) -> MessagePriority:
    """Told at once, and not only when a peer is congested."""
    if isinstance(priority, MessagePriority):
        return priority
    try:
        return MessagePriority(priority)
    except ValueError:
        raise ConfigurationError(f"priority must be a MessagePriority, not {priority!r}") from None


def _type_of(message: Any) -> str | None:
    """Return the message's own type, whether it is a mapping or an object with attributes."""
    kind = message.get("type") if hasattr(message, "get") else getattr(message, "type", None)
    return kind if isinstance(kind, str) else None


OWN: Final = Outgoing({"type": ""})
"""Stands for all messages of the manager itself to one connection: replies, errors, pongs. They are
volatile, and nobody asks what became of one."""


def prepare_own(message: Any, codec: Codec) -> Prepared:
    """A message of the manager's own to one connection. Raises `EncodeError`."""
    frame = codec.encode(message)
    if isinstance(frame, str) and frame.isascii():  # as most are: written out, for every reply is one
        return Prepared({"type": "websocket.send", "text": frame}, len(frame), OWN)
    return Prepared(prepare_event(frame), size_of(frame), OWN)
