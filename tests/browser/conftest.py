"""A headless Chromium, the chat as a process of its own, and visitors of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from ..chromium import MISSING, chromium, is_wanted
from ..processes import Running, running

HERE = Path(__file__).parent
DESKTOP = (1280, 800)
PHONE = (390, 844)

expect.set_options(timeout=15_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not is_wanted():
        for item in items:
            if item.path.is_relative_to(HERE):
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(browser: Browser) -> Generator[Running]:
    """A chat in which nobody writes too much and latency is soon known; not started where there is no
    browser."""
    with running(
        "examples.chat", WSMANAGER_RATE_LIMIT_MAX="2000", WSMANAGER_HEARTBEAT_INTERVAL="1"
    ) as server:
        yield server


@dataclass
class Visitors:
    """Opens pages, and notes what their consoles complain of."""

    browser: Browser
    server: Running
    contexts: list[BrowserContext] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    """Complaints of the browser itself that a test provokes."""

    def arrive(
        self, *, at: Running | None = None, size: tuple[int, int] = DESKTOP, scheme: str = "light"
    ) -> Page:
        """A new visitor, before the log-in."""
        width, height = size
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        self.contexts.append(context)
        return self.another_tab(context, at=at)

    def another_tab(self, context: BrowserContext, *, at: Running | None = None) -> Page:
        page = context.new_page()
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"http://{(at or self.server).address}/")
        return page

    def enter(
        self,
        name: str,
        *,
        at: Running | None = None,
        size: tuple[int, int] = DESKTOP,
        scheme: str = "light",
    ) -> Page:
        """A new visitor who has logged in."""
        return log_in(self.arrive(at=at, size=size, scheme=scheme), name)

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(self.expected):
            self.complaints.append(message.text)

    def leave(self) -> None:
        for context in self.contexts:
            context.close()
        assert not self.complaints


@pytest.fixture
def visitors(browser: Browser, server: Running) -> Generator[Visitors]:
    visitors = Visitors(browser, server)
    yield visitors
    visitors.leave()


def log_in(page: Page, name: str) -> Page:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Come in").click()
    expect(page.locator("#link-text")).to_have_text("Connected")
    return page


def say(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")
