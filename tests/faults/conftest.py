"""Managers for these tests are made, and proved to be empty in the end, as for those of the engine."""

from __future__ import annotations

from tests.engine.conftest import make_manager

__all__ = ["make_manager"]
