"""The Talk page that `make up` serves, in a real Chromium whose microphone plays speech, on a real node."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e import pictures, starter
from tests.support.browser import PHONE, Browser, chromium, shown, silent, spoken
from tests.support.node import Node
from tests.support.page import build_page
from tests.support.path_proxy import PathProxy
from tests.support.processes import poll
from tests.support.walk import walk_plainly


@pytest.fixture(scope="module", autouse=True)
def _page() -> None:
    """Build the page."""
    chromium()
    build_page()


@pytest.fixture(scope="module")
def node(short_folder: Path) -> Iterator[Node]:
    """A node with the voice agent."""
    folder = short_folder / "page"
    folder.mkdir()
    with Node(folder, POOL_TARGET=2) as found:
        yield found


@pytest.fixture(scope="module")
def narrow(short_folder: Path) -> Iterator[Node]:
    """A node of echo agents below a path, with capacity for one call and a queue of one."""
    folder = short_folder / "narrow"
    folder.mkdir()
    settings = {"POOL_TARGET": 1, "MAX_SESSIONS": 1, "QUEUE_LIMIT": 1, "AGENT_MODULE": "agents/echo.py"}
    with Node(folder, **settings, ROOT_PATH="/voice") as found:
        yield found


def nobody_is_in(node: Node) -> None:
    """End the sessions of a step, because the next one needs the capacity."""
    for session in node.http.get("/api/sessions", headers=node.admin).json()["sessions"]:
        node.end(session["sessionId"])
    poll(lambda: node.counts()["pool"] == 1 == node.counts()["agents"], "the pool is full")


def press_talk(browser: Browser, node: Node) -> None:
    """Open the page and press its only button."""
    browser.page.goto(f"http://127.0.0.1:{node.environment['FRONTEND_PORT']}{node.environment.get('ROOT_PATH', '')}/")
    browser.page.get_by_role("button", name="Talk").click()


def grows(browser: Browser, what: str) -> None:
    """Wait until the page has received more sound."""
    before = browser.heard()
    poll(lambda: browser.heard() > before + 1e-4, what, every=0.1)


def press_talk_and_the_agent_answers(node: Node, tmp_path: Path) -> None:
    """The call lasts over 20 s, after which LiveKit's own pages give up on an agent that they do not recognise."""
    with Browser(microphone=spoken(tmp_path, "What time is it?")) as browser:
        page = browser.page
        press_talk(browser, node)
        pressed = time.monotonic()
        grows(browser, "the agent is heard")
        shown(browser, "How can I help you?")
        shown(browser, "Listening")
        said = page.get_by_label("What was said")
        loud = page.locator(".level > span")
        poll(lambda: float(loud.get_attribute("data-level") or 0) > 0.1, "the microphone's level moves", every=0.05)
        poll(lambda: "time is it" in said.inner_text().lower(), "the user's words are shown", every=0.2)
        shown(browser, "It is ")
        assert said.inner_text().split("\n")[0] == "Agent"
        page.get_by_role("button", name="Mute").click()
        page.get_by_role("button", name="Unmute").wait_for()
        page.get_by_role("button", name="Unmute").click()
        page.get_by_role("button", name="Devices").click()
        assert page.get_by_label("Microphone", exact=True).locator("option").count() >= 1
        browser.screenshot("devices")
        page.get_by_role("button", name="Devices").click()
        poll(lambda: time.monotonic() - pressed > 22, "22 s have passed", every=0.2)
        before = browser.heard()
        poll(lambda: browser.heard() > before, "the call continues", every=0.2)
        browser.screenshot("talking")
        page.get_by_role("button", name="Hang up").click()
        shown(browser, "You hung up")
        shown(browser, "The call lasted")
        assert "time is it" in said.inner_text().lower(), "the conversation can still be read"
        poll(lambda: node.counts()["active"] == 0, "the session is stopped")
        assert browser.errors == []


def a_killed_agent_is_replaced_and_the_user_is_informed(node: Node, tmp_path: Path) -> None:
    with Browser(microphone=silent(tmp_path), size=PHONE, dark=True) as browser:
        press_talk(browser, node)
        shown(browser, "How can I help you?")
        [agent] = [agent for agent in node.agents() if agent["status"] == "running"]
        os.kill(agent["pid"], signal.SIGKILL)
        shown(browser, "another")
        browser.screenshot("takeover")
        shown(browser, "Another agent has taken over")
        shown(browser, "we were cut off for a moment")
        grows(browser, "the other agent is heard")
        browser.screenshot("taken-over")
        browser.page.reload()
        shown(browser, "Your call goes on")
        browser.screenshot("goes-on")
        browser.page.get_by_role("button", name="Return").click()
        browser.page.get_by_role("button", name="Hang up").wait_for()
        [session] = node.http.get("/api/sessions", headers=node.admin).json()["sessions"][:1]
        stop = {"sessionId": session["sessionId"]}
        node.http.post("/api/session/stop", json=stop, headers=node.admin).raise_for_status()
        shown(browser, "The service has ended the call.")
        assert "You hung up" not in browser.page.inner_text("main")
        assert browser.errors == []


def a_blocked_microphone_uses_no_agent_and_shows_a_remedy(node: Node, _: Path) -> None:
    started = node.health()["stats"].get("total_assigned", 0)
    with Browser(microphone=False, size=PHONE) as browser:
        press_talk(browser, node)
        shown(browser, "Your microphone is blocked")
        shown(browser, "press Talk again")
        assert browser.page.get_by_role("button", name="Talk again").is_enabled()
        browser.screenshot("refused")
        assert browser.errors == []
    assert node.health()["stats"].get("total_assigned", 0) == started


def a_queued_user_sees_the_queue_and_is_served_after_another_call_ends(narrow: Node) -> None:
    other = narrow.begin("other")["sessionId"]
    with Browser(size=PHONE) as browser:
        browser.page.goto(f"{narrow.url}/voice/")  # the API's port serves the page too
        # The page is loaded before React has drawn the button; a key pressed before that has no effect.
        browser.page.get_by_role("button", name="Talk").wait_for()
        browser.page.keyboard.press("Tab")
        browser.page.keyboard.press("Enter")
        shown(browser, "You are next")
        shown(browser, "microphone is off while you wait")
        focused = browser.page.evaluate("() => document.activeElement.tagName")
        assert focused == "H1", "the focus moves to the changed part, for users of the keyboard"
        assert browser.page.evaluate("() => document.documentElement.scrollWidth") <= PHONE[0]
        browser.screenshot("queued")
        narrow.end(other)
        shown(browser, "Mute")
        grows(browser, "the agent is heard")
        assert browser.page.evaluate("() => document.documentElement.scrollWidth") <= PHONE[0]
        browser.page.get_by_role("button", name="Hang up").focus()
        browser.page.keyboard.press("Enter")
        shown(browser, "You hung up")
        assert browser.errors == []


def a_full_queue_is_explained_and_a_retry_is_offered(narrow: Node) -> None:
    others = [narrow.begin(f"other{number}")["sessionId"] for number in range(2)]
    with Browser(dark=True) as browser:
        press_talk(browser, narrow)
        shown(browser, "All lines are busy")
        shown(browser, "You can try again in")
        browser.screenshot("full")
        for session_id in others:
            narrow.end(session_id)
        again = browser.page.get_by_role("button", name="Talk again", exact=True)
        poll(lambda: again.count() == 1, "the pause before the next try has ended", 80, every=0.2)
        again.click()
        grows(browser, "the agent is heard")
        browser.page.get_by_role("button", name="Hang up").click()
        shown(browser, "You hung up")
        # The console shows the refused request, which is correct.
        assert [error for error in browser.errors if "429" not in error] == []


def every_page_works_below_a_root_path(narrow: Node, *, strip: bool) -> None:
    # The page's own port, which has the same routes.
    target = f"http://127.0.0.1:{narrow.environment['FRONTEND_PORT']}"
    with PathProxy(target, "/voice", strip=strip) as proxy, Browser() as browser:
        page = browser.page
        page.goto(proxy.url)  # without a trailing slash; a proxy that removes the path hides this from the node
        page.get_by_role("button", name="Talk").click()
        grows(browser, "the agent is heard")
        page.get_by_role("button", name="Hang up").click()
        shown(browser, "You hung up")
        stored = page.evaluate("() => Object.keys(localStorage)")
        assert stored
        assert all(name.endswith("/voice/") for name in stored), "other orchestrators have this origin"
        page.goto(f"{proxy.url}/status")
        page.get_by_label("Admin token").fill(narrow.secrets["ADMIN_TOKEN"])
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#link")).to_have_text("Live")
        documented(browser, f"{proxy.url}/docs")
        assert proxy.strays == []
        assert ("POST", "/voice/api/session/start", 200) in proxy.passed
        assert [found for found in proxy.passed if found[2] >= 400] == []
        assert browser.errors == []


def documented(browser: Browser, url: str) -> None:
    """Open the API's documentation, and send a request from it."""
    page = browser.page
    page.goto(url)
    route = page.locator("#operations-health-livez_livez_get")
    route.get_by_role("button").first.click()
    route.get_by_role("button", name="Try it out").click()
    route.get_by_role("button", name="Execute").click()
    expect(route.locator(".live-responses-table .response .response-col_status")).to_have_text("200")
    browser.screenshot("docs")


STEPS = [
    press_talk_and_the_agent_answers,
    a_killed_agent_is_replaced_and_the_user_is_informed,
    a_blocked_microphone_uses_no_agent_and_shows_a_remedy,
    *pictures.STEPS,
]
NARROW_STEPS = [
    a_queued_user_sees_the_queue_and_is_served_after_another_call_ends,
    nobody_is_in,
    a_full_queue_is_explained_and_a_retry_is_offered,
    nobody_is_in,
    partial(every_page_works_below_a_root_path, strip=True),
    nobody_is_in,
    partial(every_page_works_below_a_root_path, strip=False),
]


@pytest.mark.timeout(400)
def test_talk_works_on_our_page_and_on_livekits_starter(node: Node, tmp_path: Path, subtests: pytest.Subtests) -> None:
    walk_plainly(subtests, STEPS, node, tmp_path)
    with starter.served() as page:
        walk_plainly(subtests, starter.STEPS, page, node, tmp_path)


@pytest.mark.timeout(300)
def test_the_page_reports_its_state_below_a_root_path_with_few_places(narrow: Node, subtests: pytest.Subtests) -> None:
    walk_plainly(subtests, NARROW_STEPS, narrow)
