"""The page of the chat as its users have it: real browsers, a real server, and what happens between them."""

from __future__ import annotations

import re
import secrets

from playwright.sync_api import Dialog, Locator, Page, WebSocketRoute, expect

from wsmanager.errors import should_reconnect

from ..processes import running
from .conftest import Visitors, log_in, say

REFUSED_CONNECTION = "WebSocket connection to"  # the browser's own word for a server that is down
WAITING = re.compile(r"\bwaiting\b")
SCRIPT = "<script>alert(1)</script>"


def messages(page: Page, text: str) -> Locator:
    return page.locator(".message", has_text=text)


def person(page: Page, name: str) -> Locator:
    return page.locator("#people button", has=page.get_by_text(name, exact=True))


def write_to(page: Page, name: str) -> None:
    page.get_by_label("Write to somebody").fill(name)
    page.get_by_label("Write to somebody").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


# --- the way in


def test_a_name_is_enough_to_come_in(visitors: Visitors) -> None:
    page = visitors.arrive()
    expect(page.get_by_label("Your name")).to_be_focused()
    expect(page.get_by_text("No password: this is a demo")).to_be_visible()
    log_in(page, "ann")
    expect(page.get_by_role("heading", level=1)).to_have_text("#general")
    expect(page.get_by_label("Message to #general")).to_be_focused()


def test_a_name_that_is_none_is_refused_beside_its_field(visitors: Visitors) -> None:
    visitors.expected = ("Failed to load resource: the server responded with a status of 422",)
    page = visitors.arrive()
    page.get_by_label("Your name").fill("x" * 33)
    page.get_by_role("button", name="Come in").click()
    expect(page.get_by_role("alert")).to_have_text("A name has 1 to 32 printable characters.")
    expect(page.get_by_label("Your name")).to_be_focused()
    expect(page.get_by_label("Your name")).to_have_value("x" * 33)


def test_a_name_is_shown_as_it_was_written(visitors: Visitors) -> None:
    page = visitors.enter("<i>ida</i>")
    expect(person(page, "<i>ida</i>")).to_be_visible()
    assert page.locator("i").count() == 0


def test_a_reload_is_nobody_new(visitors: Visitors) -> None:
    page = visitors.enter("rita")
    write_to(page, "somebody")
    say(page, "Before the reload")
    expect(messages(page, "Kept for somebody")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("somebody")
    expect(messages(page, "Before the reload")).to_have_count(1)
    expect(person(page, "rita")).to_be_visible()


def test_what_could_not_be_sent_survives_a_reload(visitors: Visitors) -> None:
    page, answers = visitors.arrive(), iter([False, True])

    def answer_the_second(route: WebSocketRoute) -> None:
        if next(answers):
            route.connect_to_server()

    page.route_web_socket(re.compile("/ws"), answer_the_second)
    page.get_by_label("Your name").fill("roy")
    page.get_by_role("button", name="Come in").click()
    say(page, "Patience")
    expect(messages(page, "Patience")).to_have_class(WAITING)
    page.reload()
    expect(page.locator("#link-text")).to_have_text("Connected")
    expect(messages(page, "Patience")).to_have_count(1)
    expect(messages(page, "Patience")).not_to_have_class(WAITING)


def test_who_logs_out_is_forgotten(visitors: Visitors) -> None:
    page, other = visitors.enter("leo"), visitors.enter("lea")
    expect(person(other, "leo")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Your name")).to_be_focused()
    expect(person(other, "leo")).to_have_count(0)
    page.reload()
    expect(page.get_by_label("Your name")).to_have_value("")


# --- rooms


def test_two_users_talk(visitors: Visitors) -> None:
    alice, bob = visitors.enter("alice"), visitors.enter("bob")
    say(alice, "Is <b>anybody</b> there?")
    expect(messages(bob, "Is <b>anybody</b> there?")).to_contain_text("alice")
    say(bob, "Me & myself")
    expect(messages(alice, "Me & myself")).to_contain_text("bob")
    expect(messages(alice, "anybody")).to_have_count(1)
    assert alice.locator(".bubble b").count() == 0


def test_a_room_is_heard_by_those_who_are_in_it(visitors: Visitors) -> None:
    mia, max_ = visitors.enter("mia"), visitors.enter("max")
    mia.get_by_role("button", name="music").click()
    expect(mia.locator("#members")).to_contain_text("1 here")
    say(mia, "Only for the music room")
    expect(messages(mia, "Only for the music room")).to_have_count(1)
    max_.get_by_role("button", name="music").click()
    expect(messages(max_, "Only for the music room")).to_have_count(1)
    expect(mia.locator("#members")).to_contain_text("2 here")
    max_.get_by_role("button", name="Leave").click()
    expect(max_.get_by_role("button", name="Join #music")).to_be_focused()
    expect(mia.locator("#members")).to_contain_text("1 here")


def test_what_was_said_elsewhere_is_counted_until_it_is_read(visitors: Visitors) -> None:
    uma, udo = visitors.enter("uma"), visitors.enter("udo")
    write_to(uma, "udo")
    say(udo, "Who is reading this?")
    general = uma.locator("#rooms button", has_text="general")
    expect(general).to_contain_text("1 unread")
    expect(uma).to_have_title("(1) udo | wsmanager chat")
    general.click()
    expect(general).not_to_contain_text("unread")
    expect(messages(uma, "Who is reading this?")).to_be_visible()


def test_who_reads_further_up_is_told_of_what_is_new(visitors: Visitors) -> None:
    rex, rob = visitors.enter("rex"), visitors.enter("rob")
    for page in (rex, rob):
        page.get_by_role("button", name="music").click()
    for number in range(20):
        say(rob, f"line {number} of a long story")
    expect(messages(rex, "line 19")).to_be_in_viewport()
    rex.locator("#log").evaluate("(log) => { log.scrollTop = 0; }")
    say(rob, "and its end")
    rex.get_by_role("button", name="New messages below").click()
    expect(messages(rex, "and its end")).to_be_in_viewport()
    expect(rex.get_by_role("button", name="New messages below")).to_be_hidden()


def test_two_tabs_of_one_user_show_the_same(visitors: Visitors) -> None:
    one = visitors.enter("tom")
    two = log_in(visitors.another_tab(one.context), "tom")
    say(one, "From the first tab")
    expect(messages(two, "From the first tab")).to_have_class(re.compile(r"\bown\b"))
    write_to(one, "ted")
    say(one, "From the first tab to ted")
    person(two, "ted").click()
    expect(messages(two, "From the first tab to ted")).to_contain_text("Kept for ted, who is offline")
    expect(person(two, "tom")).to_have_count(1)
    expect(two.locator("#tabs")).to_have_text("2")


# --- between two


def test_a_private_message_waits_for_somebody_who_is_away(visitors: Visitors) -> None:
    alice = visitors.enter("anna")
    write_to(alice, "bert")
    say(alice, "The key is under the pot")
    expect(messages(alice, "The key")).to_contain_text("Kept for bert, who is offline")
    bob = visitors.enter("bert")
    person(bob, "anna").click()
    expect(messages(bob, "The key is under the pot")).to_have_count(1)
    expect(messages(alice, "The key")).to_contain_text("Was kept until bert came")
    again = visitors.enter("bert")
    say(again, "Nothing waits for a second tab")
    expect(messages(again, "Nothing waits")).to_be_visible()
    expect(again.get_by_text("The key is under the pot")).to_have_count(0)


def test_somebody_who_is_here_gets_it_at_once(visitors: Visitors) -> None:
    cleo, carl = visitors.enter("cleo"), visitors.enter("carl")
    person(cleo, "carl").click()
    say(cleo, "Between us")
    expect(person(carl, "cleo")).to_contain_text("1 unread")
    person(carl, "cleo").click()
    expect(messages(carl, "Between us")).to_be_visible()
    expect(messages(cleo, "Between us").locator(".note")).to_be_hidden()


# --- what is refused


def test_a_script_is_refused_and_stays_in_the_field(visitors: Visitors) -> None:
    page, other = visitors.enter("sue"), visitors.enter("sam")
    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", note)
    other.on("dialog", note)
    say(page, SCRIPT)
    fault = page.locator("#fault")
    expect(fault).to_contain_text("forbidden_pattern")
    expect(page.locator("#text")).to_have_value(SCRIPT)
    expect(page.locator("#text")).to_be_focused()
    expect(page.locator("#text")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#refused li")).to_have_text("forbidden_pattern" + SCRIPT)
    expect(page.locator("#score")).not_to_have_text("1.00")
    say(page, "a script, in words")
    expect(fault).to_be_hidden()
    expect(messages(other, "a script, in words")).to_be_visible()
    expect(messages(other, "alert(1)")).to_have_count(0)
    assert dialogs == []


def test_a_refused_message_does_not_overwrite_what_is_typed_meanwhile(visitors: Visitors) -> None:
    page = visitors.arrive()
    sockets: list[WebSocketRoute] = []

    def swallow_errors(route: WebSocketRoute) -> None:
        sockets.append(route)
        server = route.connect_to_server()
        server.on_message(lambda frame: None if '"error"' in str(frame) else route.send(frame))

    page.route_web_socket(re.compile("/ws"), swallow_errors)
    log_in(page, "ole")
    say(page, SCRIPT)
    refused = messages(page, "alert(1)")
    expect(refused).to_have_class(WAITING)
    page.locator("#text").fill("something else")
    sockets[0].send('{"type":"error","data":{"code":"forbidden_pattern","message":"Not this."}}')
    expect(refused).to_contain_text("Not this.")
    expect(page.locator("#text")).to_have_value("something else")
    refused.get_by_role("button", name="Edit").click()
    expect(page.locator("#text")).to_have_value(f"{SCRIPT}\nsomething else")
    expect(refused).to_have_count(0)


def test_too_many_messages_wait_until_the_limit_lets_them_pass(visitors: Visitors) -> None:
    with running("examples.chat", WSMANAGER_RATE_LIMIT_MAX="8", WSMANAGER_RATE_LIMIT_WINDOW="2") as strict:
        page, other = visitors.enter("eva", at=strict), visitors.enter("eli", at=strict)
        for number in range(10):
            say(page, f"number {number}.")
        hold = page.locator("#hold")
        expect(hold).to_contain_text("Too many messages")
        expect(page.locator("#hold-wait")).to_have_text(re.compile(r"^[0-3] s$"))
        expect(page.locator("#remaining")).to_have_text("0")
        expect(page.locator("#refused li").first).to_contain_text("rate_limited")
        expect(other.locator(".bubble")).to_have_text([f"number {number}." for number in range(10)])
        expect(page.locator(".waiting")).to_have_count(0)
        for one in (page, other):  # before the server ends
            one.get_by_role("button", name="Log out").click()


# --- emotions


def test_an_emotion_stands_beside_its_message(visitors: Visitors) -> None:
    fay, finn = visitors.enter("fay"), visitors.enter("finn")
    say(fay, "Feel this")
    message = messages(finn, "Feel this")
    message.hover()
    message.get_by_role("button", name="Show how you feel").click()
    expect(finn.get_by_role("button", name="joy")).to_be_focused()
    finn.get_by_role("button", name="laughter").click()
    for page in (fay, finn):
        expect(messages(page, "Feel this").get_by_role("listitem")).to_contain_text("laughter: finn")
    late = visitors.enter("fox")
    expect(messages(late, "Feel this").get_by_role("listitem")).to_contain_text("laughter: finn")
    message.get_by_role("button", name="Show how you feel").click()
    finn.get_by_role("button", name="laughter", pressed=True).click()
    expect(messages(fay, "Feel this").get_by_role("listitem")).to_have_count(0)


def test_an_emotion_reaches_the_other_of_a_private_conversation(visitors: Visitors) -> None:
    gil, gus = visitors.enter("gil"), visitors.enter("gus")
    person(gil, "gus").click()
    say(gil, "Just between us")
    person(gus, "gil").click()
    messages(gus, "Just between us").hover()
    gus.get_by_role("button", name="Show how you feel").click()
    gus.get_by_role("button", name="love").click()
    for page in (gil, gus):
        expect(messages(page, "Just between us").get_by_role("listitem")).to_contain_text("love: gus")


# --- the connection


def test_the_page_mends_a_broken_connection(visitors: Visitors) -> None:
    visitors.expected = (REFUSED_CONNECTION,)
    secret = secrets.token_hex(32)
    with running("examples.chat", CHAT_SECRET=secret) as first:
        page = visitors.enter("zoe", at=first)
        page.get_by_role("button", name="garden").click()
        say(page, "Said before")
        expect(messages(page, "Said before")).not_to_have_class(WAITING)
        first.kill()
    expect(page.locator("#cut-text")).to_contain_text("The connection broke")
    say(page, "Typed meanwhile")
    expect(messages(page, "Typed meanwhile")).to_contain_text("Waits to be sent")
    with running("examples.chat", first.port, CHAT_SECRET=secret) as second:
        expect(page.locator("#link-text")).to_have_text("Connected")
        expect(page.locator("#cut")).to_be_hidden()
        expect(page.locator("#reconnects")).to_have_text("1")
        other = visitors.enter("zac", at=second)
        other.get_by_role("button", name="garden").click()
        expect(other.locator(".bubble")).to_have_text(["Typed meanwhile"])
        expect(page.locator(".bubble")).to_have_text(["Said before", "Typed meanwhile"])
        say(other, "Said after")
        expect(messages(page, "Said after")).to_be_visible()
        for one in (page, other):
            one.get_by_role("button", name="Log out").click()


def test_a_server_with_another_key_asks_who_one_is(visitors: Visitors) -> None:
    visitors.expected = (REFUSED_CONNECTION,)
    with running("examples.chat") as first:
        page = visitors.enter("yan", at=first)
    say(page, "Typed meanwhile")
    with running("examples.chat", first.port):
        expect(page.locator("#login-why")).to_contain_text("the server does not know your token any more")
        expect(page.get_by_label("Your name")).to_have_value("yan")
        log_in(page, "yan")
        expect(messages(page, "Typed meanwhile")).not_to_have_class(WAITING)
        page.get_by_role("button", name="Log out").click()


def test_a_connection_can_be_broken_to_see_it_mended(visitors: Visitors) -> None:
    page = visitors.enter("wim")
    page.get_by_role("button", name="Break the connection").click()
    expect(page.locator("#reconnects")).to_have_text("1")
    expect(page.locator("#link-text")).to_have_text("Connected")
    expect(page.locator("#members")).to_contain_text("here")
    say(page, "Here again")
    expect(messages(page, "Here again")).not_to_have_class(WAITING)


def test_a_server_that_asks_for_time_is_given_it(visitors: Visitors) -> None:
    page = visitors.arrive()

    def turn_away(route: WebSocketRoute) -> None:
        route.send(
            '{"type":"disconnect","data":{"code":4001,"reason":"shutdown","reconnect":true,"after_ms":90000}}'
        )
        route.close(code=4001, reason="shutdown")

    page.route_web_socket(re.compile("/ws"), turn_away)
    page.get_by_label("Your name").fill("ute")
    page.get_by_role("button", name="Come in").click()
    expect(page.locator("#cut-wait")).to_have_text(re.compile(r"^(90|8\d) s$"))


def test_a_server_that_says_no_is_not_asked_again(visitors: Visitors) -> None:
    page = visitors.arrive()
    page.route_web_socket(re.compile("/ws"), lambda route: route.close(code=4503, reason="replaced"))
    page.get_by_label("Your name").fill("vic")
    page.get_by_role("button", name="Come in").click()
    expect(page.locator("#cut-text")).to_contain_text("closed the connection for good: replaced")
    expect(page.get_by_role("button", name="Try now")).to_be_visible()


def test_page_and_library_agree_on_which_codes_mean_to_come_back(visitors: Visitors) -> None:
    page = visitors.arrive()
    codes = [*range(1000, 1016), *range(3000, 5000)]
    found = page.evaluate("async (codes) => codes.filter((await import('/link.js')).shouldReconnect)", codes)
    assert found == [code for code in codes if should_reconnect(code)]


# --- the panel


def test_the_panel_shows_how_the_connection_does(visitors: Visitors) -> None:
    page = visitors.arrive()
    with page.expect_websocket() as opened:
        log_in(page, "pam")
    panel = page.get_by_role("complementary", name="Your connection")
    expect(panel.get_by_role("img", name="Health: 1.00 of 1, healthy at the last check")).to_be_visible()
    expect(panel.locator("#latency")).to_have_text(re.compile(r"^\d+(\.\d)?$"))
    expect(panel.locator("#spark polyline")).to_have_attribute("points", re.compile(r"240\.0,"))
    expect(panel.locator("#limit")).to_have_text("2000")
    before = int(panel.locator("#remaining").inner_text())
    opened.value.wait_for_event("framesent", lambda frame: '"pong"' in str(frame))
    say(page, "This costs one")
    expect(panel.locator("#remaining")).not_to_have_text(str(before))
    expect(panel.locator("#server-latency")).to_have_text(re.compile(r"measures \d+(\.\d)? ms"))
    assert before - 9 < int(panel.locator("#remaining").inner_text()) < before
    expect(panel.get_by_role("meter", name="Messages left")).to_have_attribute("aria-valuemax", "2000")
    expect(panel.locator("#tabs")).to_have_text("1")


def test_a_script_is_offered_to_be_tried(visitors: Visitors) -> None:
    page = visitors.enter("pip")
    page.get_by_role("button", name="Try a script").click()
    expect(page.locator("#text")).to_have_value(SCRIPT)
    expect(page.locator("#text")).to_be_focused()
