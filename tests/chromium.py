"""The headless Chromium of this machine, for tests that need a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

__all__ = ["MISSING", "chromium", "is_wanted"]

EXECUTABLE = shutil.which("chromium-headless-shell") or shutil.which("chromium")
MISSING = "these tests need a browser: apt-get install chromium-headless-shell"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def is_wanted() -> bool:
    """Whether the tests shall run: where there is no browser they do if somebody insists, and then fail."""
    return EXECUTABLE is not None or bool(os.environ.get("REQUIRE_BROWSER"))


@contextmanager
def chromium() -> Generator[Browser]:
    """While Playwright runs, no other test of this process can have an event loop in its thread."""
    assert EXECUTABLE is not None, MISSING
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS)
        yield browser
        browser.close()
