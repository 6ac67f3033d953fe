"""The chat without a mouse, without sight, on a phone, by night."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from .conftest import PHONE, Visitors, log_in, say

SCHEMES = ("light", "dark")

# The contrast (WCAG 2.2, 1.4.3) of every text that is shown, and of what a field says while it is empty.
# A canvas makes numbers of whatever notation the colours are in.
FAINT = """
() => {
  const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
  const painted = (...colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (element) => {
    const colours = [];
    for (let each = element; each; each = each.parentElement) {
      colours.unshift(getComputedStyle(each).backgroundColor);
      if (painted(colours[0])[3] === 255) break;
    }
    return colours;
  };
  const rows = [];
  const look = (what, colour, element, least = 4.5) => {
    const ground = behind(element);
    const [one, other] = [luminance(painted(...ground, colour)), luminance(painted(...ground))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    rows.push([contrast >= least, `${contrast.toFixed(2)} ${what}`]);
  };
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const { color, borderTopColor } = getComputedStyle(element);
    if (says) look(element.textContent.trim(), color, element);
    if (element.matches("input")) look(`the edge of ${element.id}`, borderTopColor, element.parentElement, 3);
    if (element.placeholder)
      look(element.placeholder, getComputedStyle(element, "::placeholder").color, element);
  }
  if (rows.length < 5) throw new Error("nothing is shown");
  return rows.filter(([enough]) => !enough).map(([, row]) => row);
}
"""

NAMELESS = """
() => {
  const named = (element) =>
    element.labels?.[0]?.textContent.trim() || element.ariaLabel || element.textContent.trim()
    || document.getElementById(element.getAttribute("aria-labelledby"))?.textContent.trim();
  return [...document.querySelectorAll("input, textarea, button, [role]")]
    .filter((element) => element.checkVisibility() && !element.matches("[role=status], [role=alert]"))
    .filter((element) => !named(element))
    .map((element) => element.outerHTML);
}
"""

DANGLING = """
() => ["aria-labelledby", "aria-describedby", "for"]
  .flatMap((name) => [...document.querySelectorAll(`[${name}]`)].map((element) => element.getAttribute(name)))
  .flatMap((ids) => ids.split(" "))
  .filter((id) => !document.getElementById(id))
"""

TOO_WIDE = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"


def fill_with_life(visitors: Visitors, page: Page) -> None:
    """A message of somebody else, one that is kept, one that is refused."""
    other = visitors.enter("a rather long name, as names go")
    say(other, "https://example.org/" + "a-word-that-does-not-end" * 9)
    expect(page.locator(".bubble", has_text="a-word-that")).not_to_have_count(0)
    page.locator("#text").fill("<script>")
    page.locator("#text").press("Enter")
    expect(page.locator("#fault")).to_be_visible()


# --- seeing


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_is_dark_or_bright_enough(visitors: Visitors, scheme: str) -> None:
    page = visitors.arrive(scheme=scheme)
    page.locator("#login-fault").evaluate("(element) => { element.textContent = 'A fault'; }")
    assert page.evaluate(FAINT) == []
    log_in(page, "nia")
    fill_with_life(visitors, page)
    expect(page.locator("#limit")).to_have_text("2000")
    assert page.evaluate(FAINT) == []
    for strip in ("#cut", "#hold"):
        page.locator(strip).evaluate(
            "(element) => { element.hidden = false; element.firstElementChild.append('said'); }"
        )
    page.locator(".bubble").last.hover()
    page.get_by_role("button", name="music").hover()
    assert page.evaluate(FAINT) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_phone_shows_one_thing_at_a_time_and_never_scrolls_sideways(
    visitors: Visitors, scheme: str
) -> None:
    page = visitors.arrive(size=PHONE, scheme=scheme)
    assert not page.evaluate(TOO_WIDE)
    log_in_on_a_phone(page, "ned")
    fill_with_life(visitors, page)
    nav = page.get_by_role("navigation", name="Conversations")
    panel = page.get_by_role("complementary", name="Your connection")
    main = page.get_by_role("main")
    shown: list[Callable[[], object]] = [
        lambda: None,
        page.get_by_role("button", name="Your connection").click,
        page.get_by_role("button", name="Back to the conversation").click,
        page.get_by_role("button", name="All conversations").click,
    ]
    for act, only in zip(shown, (main, panel, main, nav), strict=True):
        act()
        for place in (nav, main, panel):
            expect(place).to_be_visible(visible=place is only)
        assert not page.evaluate(TOO_WIDE)
        assert page.evaluate(FAINT) == []
    page.get_by_role("button", name="general").click()
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def log_in_on_a_phone(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Come in").click()
    expect(page.get_by_role("heading", level=1)).to_be_focused()


# --- hearing


def test_everything_that_acts_has_a_name(visitors: Visitors) -> None:
    page = visitors.arrive()
    assert page.evaluate(NAMELESS) == []
    log_in(page, "kai")
    fill_with_life(visitors, page)
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(DANGLING) == []


def test_the_page_has_landmarks_and_says_what_is_new(visitors: Visitors) -> None:
    page = visitors.enter("kim")
    for role, name in (
        ("navigation", "Conversations"),
        ("main", "#general"),
        ("complementary", "Your connection"),
    ):
        expect(page.get_by_role(role, name=name, exact=True)).to_have_count(1)  # type: ignore[arg-type]
    expect(page.get_by_role("log", name="Messages")).to_be_visible()
    expect(page.locator("[role=status]#link-text")).to_have_text("Connected")
    assert page.evaluate("document.documentElement.lang") == "en"
    page.get_by_role("button", name="music").click()
    say(visitors.enter("kit"), "Are you there?")
    expect(page.locator("[role=status]#elsewhere")).to_have_text("kit wrote in #general")
    expect(page.locator("#rooms [aria-current=true]")).to_have_text("#music")


# --- without a mouse


def test_the_keyboard_alone_comes_in_and_speaks(visitors: Visitors) -> None:
    page = visitors.arrive()
    page.keyboard.type("kat")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message to #general")).to_be_focused()
    page.keyboard.type("By keys")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("alone")
    page.keyboard.press("Enter")
    message = page.locator(".message", has_text="By keys")
    expect(message.locator(".bubble")).to_have_text("By keys\nalone", use_inner_text=True)
    expect(message).not_to_have_class("waiting")


def test_the_keyboard_alone_feels(visitors: Visitors) -> None:
    page = visitors.enter("kay")
    say(page, "What a day")
    feel = page.locator(".message", has_text="What a day").get_by_role("button", name="Show how you feel")
    expect(feel).to_be_attached()
    page.keyboard.press("Shift+Tab")
    expect(feel).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="joy")).to_be_focused()
    page.keyboard.press("Escape")
    expect(feel).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".message", has_text="What a day").get_by_role("listitem")).to_contain_text(
        "love: kay"
    )
    expect(feel).to_be_focused()


def test_the_first_tab_stop_leads_to_the_message_field(visitors: Visitors) -> None:
    page = visitors.enter("kos")
    page.get_by_role("link", name="Skip to the message field").focus()
    expect(page.get_by_role("link", name="Skip to the message field")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message to #general")).to_be_focused()


def test_what_has_the_focus_shows_it(visitors: Visitors) -> None:
    page = visitors.enter("kuh")
    page.locator(".skip").focus()
    seen = 0
    while page.evaluate("document.activeElement.id") != "drop":
        page.keyboard.press("Tab")
        seen += 1
        assert page.evaluate(
            """() => {
              const focused = document.activeElement;
              const ring = focused.id === "text" ? focused.closest(".composer") : focused;
              return getComputedStyle(ring).outlineStyle;
            }"""
        ) not in {"none", ""}, page.evaluate("document.activeElement.outerHTML")
    assert seen > 8


def test_nothing_moves_for_those_who_asked_for_rest(visitors: Visitors) -> None:
    page = visitors.enter("kurt")
    say(page, "At rest")
    expect(page.locator(".message", has_text="At rest")).to_be_visible()
    moving = "() => document.getAnimations().length"
    assert page.evaluate(moving) == 0
