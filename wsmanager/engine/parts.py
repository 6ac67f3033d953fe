"""The parts of a manager that a configuration makes, and the check of those that an application brings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ..config import WebSocketConfig
from ..decisions.health import WeightedHealthScorer
from ..decisions.queue import MessagePriorityQueue
from ..decisions.rate_limit import AdaptiveRateLimiter
from ..decisions.validation import SecurityValidator
from ..errors import ConfigurationError
from ..protocols import HealthScorer, MessageQueue, MessageValidator, RateLimiter

__all__ = [
    "limiter_of",
    "queue_factory_of",
    "require_async",
    "require_config",
    "require_part",
    "scorer_of",
    "validator_of",
]


def require_part(name: str, part: object, *methods: str) -> None:
    """Raises `ConfigurationError` for a class, and for what lacks one of the `methods`."""
    if part is None:
        return
    if isinstance(part, type):
        raise ConfigurationError(f"{name}= takes an instance, not the class {part.__name__}")
    for method in methods:
        if not callable(getattr(part, method, None)):
            raise ConfigurationError(
                f"{name}= takes an object with the method {method}(), which {type(part).__name__} lacks"
            )


def require_async(name: str, part: object, method: str) -> None:
    """Raises `ConfigurationError` where `method` of the part `name` is not ``async def``."""
    if part is not None and not inspect.iscoroutinefunction(getattr(part, method)):
        raise ConfigurationError(f"{method}() of {name}= must be async def")


def require_config(config: object) -> None:
    """Raises `ConfigurationError` for a dict, say."""
    if not isinstance(config, WebSocketConfig):
        raise ConfigurationError("config takes a WebSocketConfig; from_mapping() makes one of a dict")


def limiter_of(config: WebSocketConfig) -> RateLimiter:
    return AdaptiveRateLimiter(
        config.rate_limit_max,
        config.rate_limit_window,
        config.rate_limit_bonus,
        max_keys=config.rate_limit_max_keys,
    )


def queue_factory_of(config: WebSocketConfig) -> Callable[[], MessageQueue[Any]]:
    return functools.partial(
        MessagePriorityQueue, config.queue_max_messages, config.queue_max_bytes, config.queue_ttl
    )


def validator_of(config: WebSocketConfig) -> MessageValidator:
    return SecurityValidator(
        max_size=config.max_message_size,
        max_depth=config.max_depth,
        max_items=config.max_items,
        max_name_length=config.max_name_length,
    )


def scorer_of(config: WebSocketConfig) -> HealthScorer:
    return WeightedHealthScorer(
        max_latency_ms=config.max_latency_ms,
        max_error_rate=config.max_error_rate,
        active_within=2 * config.heartbeat_interval,
    )
