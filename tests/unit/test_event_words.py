"""The texts of a session's events: `orchestrator explain` and the status page use the same table."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator import reasons
from orchestrator.api import reasons as served
from orchestrator.cli import explain
from orchestrator.states import SessionState
from tests.support.documents import REPOSITORY

EVENTS = reasons.table().events
FLIGHTS = Path(__file__).parent / "flights"
#: Events that are not shown, and the fields that each row uses besides its state.
UNTOLD = {"boot", "webhook"}


def recorded() -> set[str]:
    """Return the states of every event that the scripts append to a session's history."""
    found = {state.value for state in SessionState}
    for path in (REPOSITORY / "orchestrator/store/lua").rglob("*.lua"):
        for call in re.findall(r"append_(?:event|history)\([\w.\[\]]+, (.+)", path.read_text()):
            found |= set(re.findall(r"'([a-z_]+)'", call.partition(", ")[0]))
    # lib/takeover.lua appends this state from a variable.
    return found | {"takeover", "replacement"}


def test_every_event_that_is_recorded_has_a_sentence() -> None:
    assert len(recorded()) > 15
    assert recorded() - EVENTS.keys() == UNTOLD
    assert {f"boot_{phase}" for phase in ("claimed", "process", "warm")} <= EVENTS.keys()


def test_every_row_belongs_to_an_event_and_is_used() -> None:
    told = {
        node.value for node in ast.walk(ast.parse(Path(explain.__file__).read_text())) if isinstance(node, ast.Constant)
    }
    page = (REPOSITORY / "orchestrator/web/words.js").read_text()
    for code in EVENTS:
        assert code in recorded() or code in told or code.startswith("boot_") or code in page, code
        assert code.endswith("_unknown") or any(code == state or code.startswith(f"{state}_") for state in recorded())


#: The parts of a browser that the page needs, and code that prints its texts of given events.
_SCRIPT = """
const [table, words, events, agents] = JSON.parse(require("fs").readFileSync(0, "utf8"));
globalThis.document = { baseURI: "http://node/" };
globalThis.sessionStorage = { getItem: () => "" };
globalThis.fetch = async () => new Response(JSON.stringify(table), { headers: { "Content-Type": "application/json" } });
import(words).then(async ({ readWords, eventWords }) => {
  await readWords();
  const known = new Map(agents.map((agent) => [agent.agentId, agent]));
  console.log(JSON.stringify(events.map((event) => eventWords(event, known))));
});
"""


def page_words(events: list[dict[str, Any]], agents: list[dict[str, Any]]) -> list[str]:
    """Return the status page's texts of events."""
    table = served.for_operators().model_dump(mode="json", by_alias=True, exclude_none=True)
    given = json.dumps([table, (REPOSITORY / "orchestrator/web/words.js").as_uri(), events, agents])
    node = shutil.which("node")
    assert node
    done = subprocess.run([node, "-e", _SCRIPT], input=given, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("node") is None, reason="no node on PATH")
def test_the_page_and_explain_have_the_same_texts() -> None:
    """For the fields that both have; `explain` also prints durations."""
    for name in ("takeover", "boot_error", "gave_up", "normal"):
        record = json.loads((FLIGHTS / f"{name}.json").read_text())
        story = "\n".join(explain.story(record))
        events = [event for event in record["events"] if not event.get("toldNext")]
        for event, said in zip(events, page_words(events, record.get("agents") or []), strict=True):
            if event["state"] in {"starting", "ready", "active", "boot"}:
                assert said.strip("."), "explain prints more of it"
            elif event["state"] == "agent_exited":
                assert said.rstrip(".") in story.replace("…", "")
            else:
                assert said in story


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("node") is None, reason="no node on PATH")
def test_the_page_omits_unknown_values_and_shows_unknown_events() -> None:
    events = [
        {"at": 0, "state": "queued"},
        {"at": 0, "state": "queued", "position": 4},
        {"at": 1, "state": "ready", "agentId": "a"},
        {"at": 1, "state": "boot", "phase": "warm"},
        {"at": 1.25, "state": "first_audio"},
        {"at": 2, "state": "takeover"},
        {"at": 2, "state": "takeover", "cause": "x", "causeCode": "killed", "causeParams": {"signal": 9}},
        {"at": 3, "state": "error", "reason": "x", "reasonCode": "queue_timeout", "reasonParams": {"seconds": 2}},
        {"at": 3, "state": "ended"},
        {"at": 3, "state": "of_tomorrow"},
    ]
    assert page_words(events, [{"agentId": "a", "pid": 7, "node": "n1"}]) == [
        "All sessions were taken: it waited in line.",
        "All sessions were taken: it waited in line, at place 4.",
        "It got an agent: a (pid 7 on n1).",
        "The agent was warm.",
        "The agent was heard for the first time, 1.250 s after the start.",
        "The agent was lost (nobody saw how).",
        "The agent was lost (killed by signal 9 (SIGKILL)).",
        "It failed: it waited in line too long (no room within 2 s).",
        "It ended: nobody said why.",
        "of tomorrow",
    ]
