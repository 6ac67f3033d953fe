"""Every number of the package: typed, bounded, immutable, from code, a mapping or the environment."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Annotated, Any, Self, get_args, get_type_hints

import msgspec
from msgspec import Meta

from .errors import ConfigurationError
from .messages import MessagePriority, OverLimitPolicy

__all__ = ["Setting", "Tier", "WebSocketConfig", "settings"]


_Positive = Annotated[float, Meta(gt=0)]


class _Validated(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Struct whose constructor validates; msgspec's own validates only what it converts."""

    def __post_init__(self) -> None:
        try:
            valid = msgspec.convert(self, _shape_of(type(self)), from_attributes=True)
        except msgspec.ValidationError as error:
            raise ConfigurationError(_explain(str(error))) from None
        for name in self.__struct_fields__:  # a list became a tuple, a dict a Tier, 60 became 60.0
            msgspec.structs.force_setattr(self, name, getattr(valid, name))


class Tier(_Validated, frozen=True, kw_only=True):
    """What a customer class may do; picked by the token's tier claim."""

    rate_factor: Annotated[float, Meta(gt=0)] = 1.0
    """Multiplies the rate limit."""
    max_connections: Annotated[int, Meta(ge=1)] | None = None
    """Connections per user; None leaves the common limit."""
    priority: MessagePriority = MessagePriority.MEDIUM
    """The priority of what is sent to this tier without one."""
    features: frozenset[str] = frozenset()
    """What handlers registered with ``features=`` ask for."""


class WebSocketConfig(_Validated, frozen=True, kw_only=True):
    """All settings. Times are seconds, sizes are bytes.

    Every way to make one validates: the constructor, `from_mapping`, `from_env`. A wrong value raises
    `ConfigurationError` naming the setting (or the variable) and what is allowed.
    """

    # Inbound messages
    max_message_size: Annotated[int, Meta(description="Largest inbound frame.", ge=1)] = 1_048_576
    max_depth: Annotated[int, Meta(description="Deepest nesting of an inbound message.", ge=1, le=500)] = 32
    max_items: Annotated[int, Meta(description="Most items in one inbound array or object.", ge=1)] = 10_000
    max_errors: Annotated[int, Meta(description="Faulty messages a minute before 4509.", ge=1)] = 20
    inbound_max_messages: Annotated[
        int, Meta(description="Messages read ahead of a slow handler before 4014.", ge=1)
    ] = 256
    inbound_max_bytes: Annotated[
        int, Meta(description="Bytes read ahead of a slow handler before 4014.", ge=1)
    ] = 2_097_152
    handler_timeout: Annotated[
        _Positive | None, Meta(description="Longest run of a handler; none for no limit.")
    ] = 30.0
    max_concurrent_handlers: Annotated[
        int, Meta(description="Handlers of one connection running at once with concurrent=True.", ge=1)
    ] = 16
    sync_handler_threads: Annotated[int, Meta(description="Threads for synchronous handlers.", ge=1)] = 40

    # Rate limits
    rate_limit_max: Annotated[int, Meta(description="Messages a user may send per window.", ge=1)] = 100
    rate_limit_window: Annotated[float, Meta(description="Length of the sliding window.", gt=0)] = 60.0
    rate_limit_bonus: Annotated[
        float, Meta(description="Share added after five clean windows.", ge=0, le=10)
    ] = 0.2
    rate_limit_max_keys: Annotated[int, Meta(description="Users the limiter keeps in mind.", ge=1)] = 200_000
    system_rate_limit_max: Annotated[
        int, Meta(description="Pings, acknowledgements and joins per window.", ge=1)
    ] = 300
    tenant_rate_limit_max: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Messages all users of a tenant may send per window."),
    ] = None
    handshake_rate: Annotated[float, Meta(description="Handshakes a minute and address.", gt=0)] = 300.0
    handshake_burst: Annotated[int, Meta(description="Handshakes an address may make at once.", ge=1)] = 100
    handshake_exempt: Annotated[
        tuple[str, ...], Meta(description="Networks without a handshake limit (CIDR).")
    ] = ()

    # Connections
    max_connections: Annotated[int, Meta(description="Connections of this process.", ge=1)] = 50_000
    max_connections_per_user: Annotated[int, Meta(description="Connections of a user.", ge=1)] = 20
    max_connections_per_ip: Annotated[int, Meta(description="Connections of an address.", ge=1)] = 1_000
    max_connections_per_tenant: Annotated[int, Meta(description="Connections of a tenant.", ge=1)] = 10_000
    over_limit: Annotated[
        OverLimitPolicy, Meta(description="What becomes of a user's connection over the limit.")
    ] = "refuse"
    max_rooms_per_connection: Annotated[int, Meta(description="Rooms a connection may be in.", ge=1)] = 128
    max_name_length: Annotated[
        int, Meta(description="Longest name of a room, user, tenant or connection.", ge=1, le=65_535)
    ] = 255
    allowed_origins: Annotated[
        tuple[str, ...], Meta(description="Origins that may connect; empty means the same host, * means any.")
    ] = ()
    auth_timeout: Annotated[
        float, Meta(description="Time for an authenticator, and for a first-message token.", gt=0)
    ] = 10.0

    # Life signs and health
    heartbeat_interval: Annotated[float, Meta(description="Time between pings.", gt=0)] = 30.0
    heartbeat_timeout: Annotated[float, Meta(description="Time to answer a ping before 4012.", gt=0)] = 10.0
    idle_timeout: Annotated[
        _Positive | None, Meta(description="Silence before 4000, for clients without ping; none for never.")
    ] = None
    health_check_interval: Annotated[float, Meta(description="Time between health checks.", gt=0)] = 30.0
    max_latency_ms: Annotated[float, Meta(description="Latency that scores nothing.", gt=0)] = 500.0
    max_error_rate: Annotated[float, Meta(description="Error rate that scores nothing.", gt=0, le=1)] = 0.1

    # Outbound messages
    queue_max_messages: Annotated[int, Meta(description="Messages waiting for one peer.", ge=1)] = 1_000
    queue_max_bytes: Annotated[int, Meta(description="Bytes waiting for one peer.", ge=1)] = 1_048_576
    queue_ttl: Annotated[float, Meta(description="Longest wait of a message.", gt=0)] = 3_600.0
    queue_cleanup_interval: Annotated[
        float, Meta(description="Time between removals of expired messages.", gt=0)
    ] = 300.0
    send_timeout: Annotated[
        float, Meta(description="Time the server may hold a frame before it counts as a fault.", gt=0)
    ] = 10.0
    slow_timeout: Annotated[float, Meta(description="Time without progress before 4008.", gt=0)] = 30.0
    close_timeout: Annotated[float, Meta(description="Time to flush what waits before a close.", gt=0)] = 5.0
    drain_timeout: Annotated[
        float, Meta(description="Time for all connections to close and all handlers to end.", gt=0)
    ] = 20.0
    drain_on_sigterm: Annotated[
        bool, Meta(description="Whether a SIGTERM drains before the server acts on it.")
    ] = True
    reconnect_rate: Annotated[float, Meta(description="Clients a second that a drain asks back.", gt=0)] = (
        500.0
    )
    breaker_failures: Annotated[
        int, Meta(description="Send timeouts in a row that open a breaker.", ge=1)
    ] = 5
    breaker_reset: Annotated[float, Meta(description="Time before an open breaker is probed.", gt=0)] = 30.0
    max_report_ids: Annotated[int, Meta(description="Ids listed in a delivery report.", ge=0)] = 100

    # Messages for absent users
    offline_max_messages: Annotated[int, Meta(description="Messages kept for an absent user.", ge=1)] = 1_000
    offline_max_bytes: Annotated[int, Meta(description="Bytes kept for an absent user.", ge=1)] = 1_048_576
    offline_ttl: Annotated[float, Meta(description="How long they are kept.", gt=0)] = 86_400.0
    offline_max_users: Annotated[int, Meta(description="Absent users with messages kept.", ge=1)] = 10_000
    critical_retries: Annotated[int, Meta(description="Retries of a critical message.", ge=0)] = 3
    critical_backoff: Annotated[
        float, Meta(description="Pause before the first retry, then doubled.", gt=0)
    ] = 0.1
    max_waiting_sends: Annotated[int, Meta(description="Sends that wait for a user to appear.", ge=1)] = (
        10_000
    )

    # Measures
    analytics_max_types: Annotated[int, Meta(description="Message types counted one by one.", ge=1)] = 200

    # Customer classes
    tiers: Annotated[dict[str, Tier], Meta(description="Limits and features by the tier claim.")] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slow_timeout < self.send_timeout:
            raise ConfigurationError("slow_timeout must not be below send_timeout")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """A configuration from settings by name; texts such as ``"60"`` or ``"off"`` are converted."""
        _refuse_unknown(values, prefix="")
        return cls(**{name: _converted(name, value, name) for name, value in values.items()})

    @classmethod
    def from_env(cls, prefix: str = "WSMANAGER_", environ: Mapping[str, str] | None = None) -> Self:
        """A configuration from ``<prefix><SETTING>`` variables; `environ` defaults to the process's."""
        environ = os.environ if environ is None else environ
        values = {
            name.removeprefix(prefix).lower(): value
            for name, value in environ.items()
            if name.startswith(prefix)
        }
        _refuse_unknown(values, prefix=prefix)
        return cls(**{name: _converted(name, value, prefix + name.upper()) for name, value in values.items()})


_HINTS = get_type_hints(WebSocketConfig, include_extras=True)
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(WebSocketConfig)}


@functools.cache
def _shape_of(validated: type[_Validated]) -> type[msgspec.Struct]:
    """The same fields without `__post_init__`, which `convert` would call again."""
    hints = get_type_hints(validated, include_extras=True)
    return msgspec.defstruct(validated.__name__, list(hints.items()), kw_only=True)


def _refuse_unknown(values: Mapping[str, Any], *, prefix: str) -> None:
    for name in values:
        if name not in _HINTS:
            shown = prefix + name.upper() if prefix else name
            raise ConfigurationError(f"{shown} is no setting of WebSocketConfig")


def _converted(name: str, value: Any, shown: str) -> Any:
    try:
        return msgspec.convert(_plain(name, value), _HINTS[name], strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{shown}: {_explain(str(error))}") from None


def _plain(name: str, value: Any) -> Any:
    """What `convert` does not do by itself: comma lists, JSON objects, words for none."""
    if not isinstance(value, str):
        return value
    if isinstance(_DEFAULTS[name], tuple):
        return [part.strip() for part in value.split(",") if part.strip()]
    if name == "tiers":
        try:
            return msgspec.json.decode(value)
        except Exception:  # bytes of the environment that are not UTF-8 included
            raise msgspec.ValidationError("Expected a JSON object") from None
    return None if value.strip().lower() in {"none", "null"} else value.strip()


def _explain(problem: str) -> str:
    """msgspec's text with the setting first, and with the words that are allowed."""
    text, separator, place = problem.partition(" - at `$")
    name = place.rstrip("`").lstrip(".") if separator else ""
    if text.startswith("Invalid enum value"):
        text += " (allowed: " + ", ".join(map(repr, get_args(OverLimitPolicy))) + ")"
    return f"{name}: {text}" if name else text


class Setting(msgspec.Struct, frozen=True):
    """One row of the settings table."""

    name: str
    default: Any
    description: str


def settings() -> list[Setting]:
    """Every setting with its default and meaning, in order of declaration."""
    return [
        Setting(field.name, _default(field), _meta(field.name).description or "")
        for field in msgspec.structs.fields(WebSocketConfig)
    ]


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _meta(name: str) -> Meta:
    return next(part for part in _HINTS[name].__metadata__ if isinstance(part, Meta))
