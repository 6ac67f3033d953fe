"""One check per seam of `wsmanager.protocols`: run your part through it, and it says what is broken.

Each takes a factory that makes a fresh part, and raises `AssertionError` with the obligation that the
part does not meet. The answer is the same on every run.
"""

from __future__ import annotations

from .authenticator import check_authenticator
from .codec import check_codec
from .health_scorer import check_health_scorer
from .message_queue import QueueFactory, check_message_queue
from .message_validator import check_message_validator
from .rate_limiter import check_rate_limiter

__all__ = [
    "QueueFactory",
    "check_authenticator",
    "check_codec",
    "check_health_scorer",
    "check_message_queue",
    "check_message_validator",
    "check_rate_limiter",
]
