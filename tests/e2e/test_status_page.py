"""The status page in a real browser, on a real node."""

import contextlib
import json
import os
import signal
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from playwright.sync_api import Locator, expect

from orchestrator.machine.printable import one_line
from orchestrator.models import new_id
from orchestrator.reasons import because
from orchestrator.store import Store
from tests.support.browser import PHONE, Browser
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.walk import walk_plainly

#: Scripts that a hostile caller would like the page to run. Each would leave a mark on the window.
HOSTILE = "<img src=x onerror=\"window.hacked='yes'\"><script>window.hacked='yes'</script>"
#: Characters that change the direction of text, move a cursor or are invisible, except those the API refuses in names.
STRANGE = "gpj.\u202eexe \u2066iso\u2069 \x9b31m \u200bzero \xad \U000e0041 \u200f"


@pytest.fixture(scope="module")
def node(short_folder: Path) -> Iterator[Node]:
    """A separate node, because these tests resize it, kill its programs and write to its Redis."""
    folder = short_folder / "status"
    folder.mkdir()
    settings = {"POOL_TARGET": 2, "AGENT_MODULE": "agents/echo.py", "HEARTBEAT_SECONDS": 1, "USER_JOIN_SECONDS": 600}
    with Node(folder, **settings) as found:
        yield found


class Starter:
    """Starts sessions, and ends them at the end of the step."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._begun: list[str] = []

    def __call__(self, user: str) -> str:
        """Start a session for a user; returns its id."""
        self._begun.append(self._node.begin(user)["sessionId"])
        return self._begun[-1]

    def end(self) -> None:
        """End them all."""
        while self._begun:
            self._node.end(self._begun.pop())


def what_was_begun_is_over(node: Node, session: Starter) -> None:
    session.end()
    poll(lambda: node.counts()["pool"] == 2, "the pool is full")


@contextlib.contextmanager
def opened(node: Node, **options: Any) -> Iterator[Browser]:
    """Open the page with the right token, and wait until it is live."""
    with Browser(**options) as browser:
        browser.page.goto(f"{node.url}/status")
        browser.page.get_by_label("Admin token").fill(node.secrets["ADMIN_TOKEN"])
        browser.page.get_by_role("button", name="Open").click()
        live(browser)
        yield browser


def live(browser: Browser) -> None:
    expect(browser.page.locator("#link")).to_have_text("Live")


def figure(browser: Browser, tile: str) -> Locator:
    return browser.page.locator(f"#tile-{tile} .figure")


def row(browser: Browser, user: str) -> Locator:
    return browser.page.get_by_role("button", name=user, exact=True).first


def aside(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a new event loop in another thread, because Playwright's loop occupies this one."""
    import asyncio

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result(30)


def a_wrong_token_is_reported_and_a_valid_one_appears_in_no_url(node: Node, _: Starter) -> None:
    with Browser() as browser:
        page, addresses = browser.page, []
        page.on("request", lambda request: addresses.append(unquote(request.url)))
        page.goto(f"{node.url}/status")
        browser.screenshot("status-login")
        page.get_by_label("Admin token").fill("not-it")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("alert").first).to_contain_text("This is not the admin token")
        assert page.locator("#page").is_hidden()
        assert [error for error in browser.errors if "401" not in error] == []

        browser.errors.clear()
        token = node.secrets["ADMIN_TOKEN"]
        page.get_by_label("Admin token").fill(token)
        page.get_by_role("button", name="Open").click()
        live(browser)
        page.reload()
        live(browser)  # the tab has stored the token
        assert addresses
        assert [address for address in addresses if token in address] == []
        page.get_by_role("button", name="Forget token").click()
        assert page.get_by_label("Admin token").input_value() == ""
        page.reload()
        expect(page.get_by_label("Admin token")).to_be_visible()
        assert browser.errors == []


def the_numbers_are_updated_without_a_reload(node: Node, session: Starter) -> None:
    with opened(node) as browser:
        page = browser.page
        page.evaluate("() => { window.sameDocument = true; }")
        expect(figure(browser, "ready")).to_have_text("0")
        expect(figure(browser, "warm")).to_have_text("2")
        browser.screenshot("status-idle")
        started = session("follower")
        expect(figure(browser, "ready")).to_have_text("1")
        expect(row(browser, "follower")).to_be_visible()
        # Another agent is warm by then, and the pool is full again.
        expect(figure(browser, "warm")).to_have_text("2")
        node.end(started)
        expect(figure(browser, "ready")).to_have_text("0")
        mine = page.locator(f"[data-session={started}]")
        expect(mine).to_contain_text("ended")
        expect(mine).to_contain_text("stopped by request")
        assert page.evaluate("() => window.sameDocument")
        assert browser.errors == []


def a_session_opens_with_its_history_and_its_logs_live(node: Node, session: Starter) -> None:
    started = session("opener")
    with opened(node) as browser:
        page, panel = browser.page, browser.page.locator("#detail")
        row(browser, "opener").click()
        expect(panel.get_by_role("heading", name="opener")).to_be_focused()
        expect(panel.locator(".events")).to_contain_text("The agent joined the room.")
        expect(panel.locator(".timeline rect[data-state=ready]")).to_be_attached()
        # The agent's own output, shipped from its log file.
        expect(panel.get_by_role("log")).to_contain_text("agent joined room_")
        _print(node, started, "the newest line")
        expect(panel.get_by_role("log")).to_contain_text("the newest line")
        agent = node.session(started)["agentPid"]
        os.kill(agent, signal.SIGKILL)
        expect(panel.locator(".events")).to_contain_text("killed by signal 9 (SIGKILL)")
        expect(panel.locator(".agent-list li")).to_have_count(2)
        browser.screenshot("status-session")
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()
        expect(row(browser, "opener")).to_be_focused()
        # The list of failures has it too.
        expect(page.locator("#failures li").first).to_contain_text("killed by signal 9")
        assert browser.errors == []


def a_call_can_be_stopped_with_the_keyboard(node: Node, session: Starter) -> None:
    started = session("stopper")
    agent = node.session(started)["agentPid"]
    with opened(node) as browser:
        page, keyboard = browser.page, browser.page.keyboard
        row(browser, "stopper").focus()
        keyboard.press("Enter")
        stop = page.get_by_role("button", name="Stop session").first
        expect(stop).to_be_visible()
        keyboard.press("Tab")
        expect(stop).to_be_focused()
        keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Stop the session of stopper?")
        keyboard.press("Escape")  # Escape cancels
        expect(dialog).to_be_hidden()
        assert node.session(started)["status"] == "ready"
        stop.click()
        dialog.get_by_role("button", name="Stop session").click()
        expect(page.locator("#detail .why-box")).to_have_text("Ended: stopped by request of an operator")
        poll(lambda: not alive(agent), "the agent is gone")
        assert browser.errors == []


def resize_changes_the_pool(node: Node, _: Starter) -> None:
    with opened(node) as browser:
        page, size = browser.page, browser.page.get_by_label("Warm agents to keep")
        for wanted in (3, 2):
            size.fill(str(wanted))
            page.get_by_role("button", name="Resize").click()
            expect(figure(browser, "warm")).to_have_text(str(wanted))
            assert node.counts()["target"] == wanted
        assert browser.errors == []


def a_node_is_drained_and_undrained(node: Node, session: Starter) -> None:
    name = node.environment["NODE_ID"]
    with opened(node) as browser:
        page, line = browser.page, browser.page.locator("#nodes li")
        expect(line).to_contain_text("2 warm, 0 serving")
        session("stays")
        expect(line).to_contain_text("2 warm, 1 serving")
        page.get_by_role("button", name=f"Drain node {name}", exact=True).click()
        page.get_by_role("button", name="Drain", exact=True).last.click()
        expect(line).to_contain_text("drains, 0 warm, 0 serving")
        page.get_by_role("button", name=f"Undrain node {name}").click()
        expect(line).to_contain_text("2 warm, 0 serving")
        expect(line).not_to_contain_text("drains")
        assert browser.errors == []


def an_unreachable_api_is_reported_and_the_page_recovers(node: Node, session: Starter) -> None:
    with opened(node) as browser:
        page = browser.page
        node.kill("api")
        expect(page.locator("#stale")).to_contain_text("Stale since")
        expect(page.locator("#link")).to_have_text("Reconnecting …")
        browser.screenshot("status-stale")
        assert page.locator("#page").get_attribute("data-stale") is not None
        assert page.title().startswith("? ")
        live(browser)
        expect(page.locator("#stale")).to_be_hidden()
        assert page.locator("#page").get_attribute("data-stale") is None
        session("afterwards")
        expect(row(browser, "afterwards")).to_be_visible()


def foreign_text_is_shown_as_text(node: Node, session: Starter) -> None:
    """Threat S14: names, reasons and log lines are text from strangers."""
    started = node.begin(HOSTILE, metadata={"name": HOSTILE})["sessionId"]
    try:
        with opened(node) as browser:
            page = browser.page
            row(browser, HOSTILE).click()
            panel = page.locator("#detail")
            _print(node, started, f"hello {HOSTILE}")
            expect(panel.get_by_role("log")).to_contain_text(f"hello {HOSTILE}")
            aside(_fail(node, started, HOSTILE))
            expect(panel.locator(".why-box")).to_contain_text(HOSTILE)
            expect(page.locator("#failures")).to_contain_text(HOSTILE)
            expect(panel.get_by_role("heading", name=HOSTILE)).to_be_visible()
            browser.screenshot("status-hostile")
            assert page.locator("img").count() == 0
            assert page.evaluate("() => window.hacked") is None
            # Even without escaping, the content security policy would prevent the script.
            blocked = page.evaluate(
                "(text) => { try { document.body.innerHTML = text; return false } catch { return true } }", HOSTILE
            )
            assert blocked
            assert page.evaluate("() => window.hacked") is None
            assert [error for error in browser.errors if "TrustedHTML" not in error] == []
    finally:
        node.end(started)


def control_characters_in_foreign_text_are_escaped(node: Node, _: Starter) -> None:
    """As on the terminal: such characters could make a name or a log line look like another one."""
    shown = one_line(STRANGE)
    started = node.begin(STRANGE)["sessionId"]
    try:
        with opened(node) as browser:
            page = browser.page
            row(browser, shown).click()
            panel = page.locator("#detail")
            expect(panel.get_by_role("heading", name=shown, exact=True)).to_be_visible()
            _print(node, started, f"hello {STRANGE}\tand \x1b[2Jmore")
            expect(panel.get_by_role("log")).to_contain_text(f"hello {shown}\\tand \\x1b[2Jmore")
            aside(_fail(node, started, STRANGE))
            expect(panel.locator(".why-box")).to_contain_text(shown)
            expect(page.locator("#failures")).to_contain_text(shown)
            # All text on the page, including attributes.
            everything = page.evaluate("() => document.documentElement.outerHTML")
            found = {char for char in everything if one_line(char) != char} - {"\n"}
            assert found == set()
            assert browser.errors == []
    finally:
        node.end(started)


def the_page_escapes_the_same_characters_as_the_command_line(node: Node, _: Starter) -> None:
    """The same rule in Python and JavaScript, for each Unicode character and for single surrogates."""
    with Browser() as browser:
        browser.page.goto(f"{node.url}/status")
        differ = browser.page.evaluate(
            """async () => {
                 const { oneLine } = await import("/web/text.js");
                 const changed = {};
                 for (let code = 0; code <= 0x10ffff; code++) {
                   const text = String.fromCodePoint(code), shown = oneLine(`a${text}b`);
                   if (shown !== `a${text}b`) changed[code] = shown;
                 }
                 return changed;
               }"""
        )
    expected = {code: one_line(f"a{chr(code)}b") for code in range(0x110000) if one_line(chr(code)) != chr(code)}
    assert {int(code): shown for code, shown in differ.items()} == expected
    assert len(expected) > 3000


def the_log_of_a_failed_boot_can_be_opened(node: Node, session: Starter) -> None:
    lines = ["Traceback (most recent call last):", f"RuntimeError: {HOSTILE}{STRANGE}"]
    agent_id = aside(_fail_to_boot(node, lines, session("unlucky")))
    with opened(node) as browser:
        page, panel = browser.page, browser.page.locator("#detail")
        link = page.locator("#failures").get_by_role("button", name=f"Log of {agent_id[:16]}")
        link.focus()
        page.keyboard.press("Enter")
        expect(panel.get_by_role("heading", name=agent_id[:16])).to_be_focused()
        log = panel.get_by_role("log")
        expect(log).to_contain_text("Traceback (most recent call last):")
        expect(log).to_contain_text(f"RuntimeError: {HOSTILE}{one_line(STRANGE)}")
        expect(panel.locator(".log-head")).to_contain_text("All of it: the agent is gone")
        expect(panel.locator(".why-box")).to_contain_text("boot_error: exited with code 1")
        browser.screenshot("status-boot")
        assert page.evaluate("() => window.hacked") is None
        # The URL contains the selection, so that it can be sent to another user with the token.
        assert page.url.endswith(f"/status#agent/{agent_id}")
        page.reload()
        expect(panel.get_by_role("log")).to_contain_text("RuntimeError")
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()
        assert "#" not in page.url
        # The session that failed because of it has a link too, and so does the pool while boots fail.
        row(browser, "unlucky").click()
        panel.locator(".events").get_by_role("button", name="Its log").click()
        expect(panel.get_by_role("heading", name=agent_id[:16])).to_be_focused()
        page.keyboard.press("Escape")
        aside(_break(node, agent_id))
        page.get_by_role("button", name="Read its log").click()
        expect(panel.get_by_role("heading", name=agent_id[:16])).to_be_focused()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Try to boot at once").click()
        expect(page.get_by_role("button", name="Read its log")).to_be_hidden()
        # A living agent has a log too.
        living = page.locator("#agent-rows").get_by_role("button", name="prewarm_").first
        living.click()
        expect(panel.locator(".log-head")).to_contain_text("Live")
        assert browser.errors == []


def two_hundred_sessions_can_be_searched_and_paged(node: Node, _: Starter) -> None:
    with opened(node) as browser:
        page = browser.page
        aside(_many(node, 200))
        rows = page.locator("#session-rows tr")
        expect(page.locator("#range")).to_contain_text("1 to 25 of ")
        page.get_by_label("Search sessions").fill("crowd-17")
        expect(rows).to_have_count(11)  # matches crowd-17 and crowd-170 to crowd-179
        page.get_by_label("Search sessions").fill("crowd-")
        page.get_by_role("button", name="Errors").click()
        expect(page.locator("#range")).to_have_text("1 to 25 of 40")
        page.get_by_role("button", name="Older").click()
        expect(rows).to_have_count(15)
        browser.screenshot("status-crowd")
        # Typing stays fast with any number of sessions: a search sends no request and draws at most one page of rows.
        asked, drawn = page.evaluate(
            """() => {
                 const search = document.getElementById("search"), rows = document.getElementById("session-rows");
                 const changes = new MutationObserver(() => {}), fetch = window.fetch;
                 let asked = 0;
                 const drawn = [];
                 changes.observe(rows, { childList: true });
                 window.fetch = (...request) => { asked++; return fetch(...request); };
                 for (let n = 0; n < 20; n++) {
                   search.value = `crowd-${n}`;
                   search.dispatchEvent(new Event("input"));
                   drawn.push(changes.takeRecords().reduce((sum, change) => sum + change.addedNodes.length, 0));
                 }
                 window.fetch = fetch;
                 changes.disconnect();
                 return [asked, drawn];
               }"""
        )
        assert asked == 0
        assert 0 < max(drawn) <= 25, drawn
        assert browser.errors == []


def a_phone_shows_everything_without_scrolling_sideways(node: Node, session: Starter, *, dark: bool) -> None:
    session("somebody.with.a.long.address@example.com")
    with opened(node, size=PHONE, dark=dark, calm=True) as browser:
        page = browser.page
        expect(row(browser, "somebody.with.a.long.address@example.com")).to_be_visible()
        browser.screenshot("status")
        assert _sideways(browser) <= 0
        row(browser, "somebody.with.a.long.address@example.com").click()
        expect(page.locator("#detail .events li").first).to_be_visible()
        browser.screenshot("status-session")
        assert _sideways(browser) <= 0
        assert browser.errors == []


def streams_are_parsed_and_percentiles_computed(node: Node, _: Starter) -> None:
    """The page's two small calculations, run in the browser."""
    with Browser() as browser:
        browser.page.goto(f"{node.url}/status")
        stream = ': ping\n\nevent: a\nid: 7\ndata: {"x":\ndata: 1}\n\ndata: "two\\n"\r\n\r\n'
        told = browser.page.evaluate(
            """async (stream) => {
                 const { parser } = await import("/web/sse.js");
                 const parse = parser();
                 return [...stream].flatMap((piece) => parse(piece));
               }""",
            stream,
        )
        assert [(message["event"], message["id"], json.loads(message["data"])) for message in told] == [
            ("a", "7", {"x": 1}), ("message", "", "two\n"),
        ]  # fmt: skip
        found = browser.page.evaluate(
            """async () => {
                 const { percentile } = await import("/web/charts.js");
                 const values = Array.from({ length: 100 }, (_, n) => 100 - n);
                 return [percentile(values, 50), percentile(values, 95), percentile([7], 95), percentile([], 50)];
               }"""
        )
        assert found == [50, 95, 7, None]


STEPS = [
    a_wrong_token_is_reported_and_a_valid_one_appears_in_no_url,
    the_numbers_are_updated_without_a_reload,
    a_session_opens_with_its_history_and_its_logs_live,
    a_call_can_be_stopped_with_the_keyboard,
    resize_changes_the_pool,
    a_node_is_drained_and_undrained,
    an_unreachable_api_is_reported_and_the_page_recovers,
    foreign_text_is_shown_as_text,
    control_characters_in_foreign_text_are_escaped,
    the_page_escapes_the_same_characters_as_the_command_line,
    the_log_of_a_failed_boot_can_be_opened,
    two_hundred_sessions_can_be_searched_and_paged,
    partial(a_phone_shows_everything_without_scrolling_sideways, dark=False),
    partial(a_phone_shows_everything_without_scrolling_sideways, dark=True),
    streams_are_parsed_and_percentiles_computed,
]


@pytest.mark.timeout(400)
def test_the_status_page_shows_a_running_node(node: Node, subtests: pytest.Subtests) -> None:
    steps = [each for step in STEPS for each in (step, what_was_begun_is_over)]
    walk_plainly(subtests, steps, node, Starter(node))


def _sideways(browser: Browser) -> int:
    """Return how many pixels the page is wider than its window."""
    script = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(browser.page.evaluate(script))


def _store(node: Node) -> Store:
    return Store(node.redis_url, name="test", keep_seconds=3600)


def _print(node: Node, session_id: str, line: str) -> None:
    """Append a line to the log of a session's agent."""
    agent_id = node.session(session_id)["agentId"]

    async def append() -> None:
        async with _store(node) as store:
            await store.append_logs(agent_id, [line], 500)

    aside(append())


async def _fail(node: Node, session_id: str, detail: str) -> None:
    async with _store(node) as store:
        await store.end_session(session_id, "error", because("agent_error", detail=detail))


async def _fail_to_boot(node: Node, lines: list[str], session_id: str) -> str:
    """Make the boot of an agent with some output fail, and its session too; returns the id."""
    async with _store(node) as store:
        before = (await store.counts())["target"]
        await store.set_target(before + 1)
        reserved = await store.reserve_agents([new_id("prewarm")], "a-node-that-is-gone")
        await store.set_target(before)
        (agent_id,) = reserved
        await store.append_logs(agent_id, [*lines, "[agent exited with code 1]"], 500)
        cause = because("boot_error", cause="crashed", exitCode=1, detail=lines[-1], agentId=agent_id)
        await store.record_exit(agent_id, cause, 1)
        await store.end_session(session_id, "error", cause)
        await store.close_breaker()
        return agent_id


async def _break(node: Node, agent_id: str) -> None:
    """Record a failed boot as the breaker's last one."""
    from redis.asyncio import Redis

    async with Redis.from_url(node.redis_url) as raw:
        await raw.hset(
            "pool:breaker", mapping={"failures": 1, "cause": "boot_error: no", "agent": agent_id, "nextAt": 1}
        )


async def _many(node: Node, count: int) -> None:
    """Add this many ended sessions, every fifth with an error."""
    from redis.asyncio import Redis

    async with _store(node) as store:
        now = int(await store.now() * 1000)
    async with Redis.from_url(node.redis_url) as redis, redis.pipeline(transaction=False) as pipe:
        for number in range(count):
            session_id = f"session_{number:032x}"
            fields = {"status": "ended" if number % 5 else "error", "userId": f"crowd-{number}", "roomName": "room_x"}
            fields |= {"createdAt": str(now), "endedAt": str(now + 60_000), "reason": "user was gone for 20 s"}
            pipe.hset(f"session:{session_id}", mapping=fields)
            pipe.expire(f"session:{session_id}", 120)
            pipe.zadd("sessions", {session_id: now})
        await pipe.execute()
