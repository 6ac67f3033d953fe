"""Who is at the other end: tokens and where they are found, and the origins that may connect."""

from __future__ import annotations

from .jwks import KeyUnavailable
from .jwt import JWTAuth
from .origin import OriginPolicy
from .tokens import BEARER_SUBPROTOCOL, TokenSource, find_token, read_handshake, redact_query

__all__ = [
    "BEARER_SUBPROTOCOL",
    "JWTAuth",
    "KeyUnavailable",
    "OriginPolicy",
    "TokenSource",
    "find_token",
    "read_handshake",
    "redact_query",
]
