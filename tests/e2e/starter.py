"""LiveKit's own client and React hooks, unchanged, with our token endpoint: a call by LiveKit's dispatch."""

import contextlib
import functools
import http.server
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.browser import Browser, shown, spoken
from tests.support.node import REPOSITORY, Node
from tests.support.processes import poll

#: LiveKit's hook gives up after this time without an agent that it recognises.
GIVES_UP_SECONDS = 20


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def served() -> Iterator[str]:
    """Serve the page from a different origin, like a starter app on another port; yields its address."""
    with tempfile.TemporaryDirectory(prefix="starter") as folder:
        subprocess.run(
            ["npx", "vite", "build", "starter", "--outDir", folder, "--logLevel", "error"],
            cwd=REPOSITORY / "frontend", check=True, timeout=120, capture_output=True,
        )  # fmt: skip
        handler = functools.partial(_Quiet, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            yield f"http://127.0.0.1:{server.server_port}/"
            server.shutdown()
            serving.join(10)


def sessions(node: Node) -> list[str]:
    return [each["sessionId"] for each in node.http.get("/api/sessions", headers=node.admin).json()["sessions"]]


def page_loads_without_a_call_use_no_agent(starter: str, node: Node, _: Path) -> None:
    before, pids = sessions(node), {agent["pid"] for agent in node.agents()}
    with Browser() as browser:
        for number in range(10):
            # The token is fetched when the page mounts, and again on the click.
            with browser.page.expect_response("**/api/token") as answer:
                browser.page.goto(f"{starter}?api={node.url}&load={number}")
            assert answer.value.status == 201
            assert set(answer.value.json()) >= {"server_url", "participant_token"}
        assert browser.errors == []
    assert sessions(node) == before
    assert {agent["pid"] for agent in node.agents()} == pids


def a_call_works_with_livekits_hooks(starter: str, node: Node, tmp_path: Path, *, agent: str) -> None:
    before = sessions(node)
    with Browser(microphone=spoken(tmp_path, "What time is it?")) as browser:
        browser.page.goto(f"{starter}?api={node.url}{agent}")
        begun = time.monotonic()
        browser.page.get_by_role("button", name="Start call").click()
        poll(lambda: browser.heard() > 0, "the agent is heard", every=0.2)
        shown(browser, "How can I help you?")
        shown(browser, "time is it")
        shown(browser, "It is ")
        poll(lambda: time.monotonic() - begun > GIVES_UP_SECONDS + 2, "LiveKit's page would have given up", every=0.2)
        assert "failure: none" in browser.page.inner_text("main")
        assert "connection: connected" in browser.page.inner_text("main")
        browser.screenshot("starter")
        [session_id] = set(sessions(node)) - set(before)
        session = node.http.get(f"/api/session/{session_id}").json()
        assert (session["status"], session["via"]) == ("active", "dispatch")
        # Wait for the end of the sentence: LiveKit's hook throws if it is ended during one.
        assert browser.errors == []
        browser.page.get_by_role("button", name="End call").click()
        poll(lambda: node.session(session_id)["status"] == "ended", "the session is over")


STEPS = [
    page_loads_without_a_call_use_no_agent,
    functools.partial(a_call_works_with_livekits_hooks, agent="&agent=voice-agent"),
    functools.partial(a_call_works_with_livekits_hooks, agent=""),
]
