"""How long properties are searched: a little in every run, long at night (``HYPOTHESIS_PROFILE=night``)."""

from __future__ import annotations

import os

from hypothesis import settings

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
SCALE = {"ci": 0.3, "night": 50.0}[PROFILE]

settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, max_examples=30)
settings.register_profile("night", deadline=None, print_blob=True, max_examples=5_000)


def examples(number: int) -> settings:
    """Search a property with `number` examples, scaled by the profile."""
    return settings(max_examples=max(5, round(number * SCALE)))
