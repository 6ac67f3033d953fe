"""The replaceable parts of a manager: those that an application brings, and the defaults for the rest."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import WebSocketConfig
from ..decisions.health import WeightedHealthScorer
from ..decisions.queue import MessagePriorityQueue
from ..decisions.rate_limit import AdaptiveRateLimiter
from ..decisions.validation import SecurityValidator
from ..errors import ConfigurationError
from ..protocols import (
    Authenticator,
    Authorizer,
    Clock,
    Codec,
    HealthScorer,
    MessageQueue,
    MessageValidator,
    Observer,
    RateLimiter,
)
from ..wire.codecs import JSONCodec, MessagePackCodec

__all__ = ["Parts", "make_parts", "plain_limiter", "require_config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One instance of each part for all connections; of the queue, what makes one."""

    limiter: RateLimiter
    queue: Callable[[], MessageQueue[Any]]
    validator: MessageValidator
    health: HealthScorer
    auth: Authenticator | None
    authorizer: Authorizer | None
    codecs: tuple[Codec, ...]
    """The first serves clients that name none."""
    observer: Observer | None
    clock: Clock


def make_parts(
    config: WebSocketConfig,
    *,
    limiter: RateLimiter | None,
    queue: Callable[[], MessageQueue[Any]] | None,
    validator: MessageValidator | None,
    health: HealthScorer | None,
    auth: Authenticator | None,
    authorizer: Authorizer | None,
    codecs: Sequence[Codec] | None,
    observer: Observer | None,
    clock: Clock,
) -> Parts:
    """Check the parts that are given, and make the others as `config` says. Raises `ConfigurationError`."""
    _require_part("auth", auth, "authenticate")
    _require_async("auth", auth, "authenticate")
    _require_part("limiter", limiter, "check_rate_limit")
    _require_part("validator", validator, "validate_message")
    _require_part("health", health, "score")
    _require_part("authorizer", authorizer, "may_join", "may_publish")
    _require_part("observer", observer, "saw")
    if queue is not None and not callable(queue):
        raise ConfigurationError("queue= is a factory: pass the class or a function that makes a queue")
    if codecs is not None and not codecs:
        raise ConfigurationError("codecs= must not be empty; the first serves clients that name none")
    return Parts(
        limiter=limiter if limiter is not None else _limiter_of(config),
        queue=queue if queue is not None else _queue_factory_of(config),
        validator=validator if validator is not None else _validator_of(config),
        health=health if health is not None else _scorer_of(config),
        auth=auth,
        authorizer=authorizer,
        codecs=tuple(codecs) if codecs is not None else (JSONCodec(), MessagePackCodec()),
        observer=observer,
        clock=clock,
    )


def require_config(config: object) -> None:
    """Raise `ConfigurationError` for a dict, say."""
    if not isinstance(config, WebSocketConfig):
        raise ConfigurationError("config takes a WebSocketConfig; from_mapping() makes one of a dict")


def _require_part(name: str, part: object, *methods: str) -> None:
    """Raise `ConfigurationError` for a class, and for what lacks one of the `methods`."""
    if part is None:
        return
    if isinstance(part, type):
        raise ConfigurationError(f"{name}= takes an instance, not the class {part.__name__}")
    for method in methods:
        if not callable(getattr(part, method, None)):
            raise ConfigurationError(
                f"{name}= takes an object with the method {method}(), which {type(part).__name__} lacks"
            )


def _require_async(name: str, part: object, method: str) -> None:
    """Raise `ConfigurationError` where `method` of the part `name` is not ``async def``."""
    if part is not None and not inspect.iscoroutinefunction(getattr(part, method)):
        raise ConfigurationError(f"{method}() of {name}= must be async def")


def plain_limiter(config: WebSocketConfig, limit: int) -> RateLimiter:
    """Make a limiter that adapts to nobody."""
    return AdaptiveRateLimiter(limit, config.rate_limit_window, 0.0, max_keys=config.rate_limit_max_keys)


def _limiter_of(config: WebSocketConfig) -> RateLimiter:
    return AdaptiveRateLimiter(
        config.rate_limit_max,
        config.rate_limit_window,
        config.rate_limit_bonus,
        max_keys=config.rate_limit_max_keys,
    )


def _queue_factory_of(config: WebSocketConfig) -> Callable[[], MessageQueue[Any]]:
    return functools.partial(
        MessagePriorityQueue, config.queue_max_messages, config.queue_max_bytes, config.queue_ttl
    )


def _validator_of(config: WebSocketConfig) -> MessageValidator:
    return SecurityValidator(
        max_size=config.max_message_size,
        max_depth=config.max_depth,
        max_items=config.max_items,
        max_name_length=config.max_name_length,
    )


def _scorer_of(config: WebSocketConfig) -> HealthScorer:
    return WeightedHealthScorer(
        max_latency_ms=config.max_latency_ms,
        max_error_rate=config.max_error_rate,
        active_within=2 * config.heartbeat_interval,
    )
