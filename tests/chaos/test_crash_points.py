"""A process dies or freezes at each critical point; the session still gets exactly one agent."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from orchestrator.faults import POINTS
from tests.support.agreement import agrees, os_agents
from tests.support.armed import EVERY, Armed, happened
from tests.support.node import Node
from tests.support.processes import alive, poll

#: Boots and joins that hang are detected within the time limit of a start.
SETTINGS = {
    "POOL_TARGET": 0, "FAULTS": EVERY, "USER_JOIN_SECONDS": 600, "BOOT_TIMEOUT_SECONDS": 8, "JOIN_TIMEOUT_SECONDS": 8,
}  # fmt: skip
#: Time limit in which a started session has its agent, or a reason for having none.
SETTLED = 30


@pytest.fixture(scope="module", autouse=True)
def armed(fault_log: Path) -> Armed:
    """The faults of the module's node, none of them armed."""
    return Armed(fault_log)


@pytest.fixture
def user(echo: Node, request: pytest.FixtureRequest) -> Iterator[str]:
    """The test's user. Afterwards there are no sessions and no agents but the pool."""
    poll(echo.ready, "a start would be served", 60, every=0.1)
    yield request.node.name
    poll(echo.ready, "a start would be served", 60, every=0.1)
    for session in echo.http.get("/api/sessions", headers=echo.admin).json()["sessions"]:
        if session["status"] not in {"ended", "error"}:
            echo.end(session["sessionId"])
    if echo.counts()["target"]:
        echo.resize(0)
    agrees(echo, 60)
    assert os_agents(echo) == []


def insist(node: Node, user: str, secret: str = "") -> tuple[str, str]:
    """Start a session like a client that retries until it has an answer; returns the session's id and secret.

    `secret`: that of the user's live session, to get the same session again.
    """
    headers = {"Idempotency-Key": f"{user}-{uuid.uuid4()}"}
    if secret:
        headers["Authorization"] = f"Bearer {secret}"

    def begun() -> dict[str, str]:
        try:
            answer = node.http.post("/api/session/start", json={"userId": user}, headers=headers)
        except httpx.TransportError:
            return {}
        return answer.json() if answer.is_success else {}

    found = poll(begun, "a start is accepted", 30, every=0.1)
    return found["sessionId"], found["clientSecret"]


def settled(node: Node, session_id: str, seconds: float = SETTLED, *, but: int = 0) -> dict[str, Any]:
    """Wait until a session has a living agent whose process is not `but`."""

    def look() -> dict[str, Any] | None:
        found = node.session(session_id)
        pid = found.get("agentPid")
        good = found.get("status") in {"ready", "active"} and "agentJoined" in found["timings"]
        return found if good and pid and pid != but and alive(pid) else None

    return poll(look, f"{session_id} has its agent", seconds, every=0.1)


def one_agent(node: Node, session: dict[str, Any]) -> None:
    """Assert that the session's agent is the only one, on the machine and in Redis."""
    agrees(node, 60)
    # An agent that was killed just before, whose death was not recorded yet, has been replaced by now.
    assert os_agents(node) == [node.session(session["sessionId"])["agentPid"]]


@pytest.mark.parametrize(
    ("point", "action"),
    [
        ("worker.after_claim", "kill"),  # T17
        ("worker.after_claim", "raise"),
        ("worker.after_spawn", "kill"),  # T9
        ("worker.after_spawn", "raise"),
        ("api.after_assign", "kill"),  # T5
        ("host.after_fork", "kill"),
        ("agent.before_ready", "kill"),
        ("agent.before_ready", "hang"),
        ("agent.before_join", "kill"),
        ("agent.before_join", "hang"),
        ("agent.joined", "kill"),
    ],
)
def test_a_session_gets_one_agent_whichever_process_fails(
    echo: Node, armed: Armed, user: str, point: str, action: str
) -> None:
    armed.arm(point, action)
    began = time.monotonic()
    session_id, secret = insist(echo, user)
    armed.wait(point, action)
    session = settled(echo, session_id, SETTLED - (time.monotonic() - began))
    took = time.monotonic() - began
    print(f"{point}:{action}: served after {took:.1f} s by agent {len(session['agents'])}")  # noqa: T201
    one_agent(echo, session)
    assert insist(echo, user, secret)[0] == session_id


def test_a_new_worker_completes_the_actions_of_a_missed_deadline(echo: Node, armed: Armed, user: str) -> None:
    """The agent is given up in Redis but its process was not stopped: the next Celery worker stops it."""
    armed.arm("agent.before_ready", "hang")
    armed.arm("watch.after_due", "kill")
    session_id, _ = insist(echo, user)
    armed.wait("agent.before_ready", "hang")
    (hung,) = poll(lambda: os_agents(echo), "there is an agent that hangs")
    armed.wait("watch.after_due", "kill")
    poll(lambda: not alive(hung), "the agent is killed", 60, every=0.1)
    one_agent(echo, settled(echo, session_id))


@pytest.mark.parametrize("point", ["watch.before_record_death", "watch.before_ack"])
@pytest.mark.parametrize("action", ["kill", "raise"])
def test_an_agents_death_is_handled_once_though_the_handler_dies(
    echo: Node, armed: Armed, user: str, point: str, action: str
) -> None:
    session_id, _ = insist(echo, user)
    first = settled(echo, session_id)
    armed.arm(point, action)
    os.kill(first["agentPid"], signal.SIGKILL)
    armed.wait(point, action)
    second = settled(echo, session_id, but=first["agentPid"])
    assert (second["replacements"], second["takeovers"]) == (1, 0)
    one_agent(echo, second)
    with redis.Redis.from_url(echo.redis_url, decode_responses=True) as raw:
        dead = raw.hgetall(f"agent:{first['agentId']}")
    assert (dead["state"], dead["signal"]) == ("exited", "9")


@pytest.mark.parametrize("point", ["watch.before_record_death", "watch.before_ack"])
def test_a_dead_warm_agent_is_replaced_though_the_handler_dies(echo: Node, armed: Armed, user: str, point: str) -> None:
    echo.resize(1)
    (warm,) = os_agents(echo)
    armed.arm(point, "kill")
    os.kill(warm, signal.SIGKILL)
    armed.wait(point, "kill")
    agrees(echo, 60)
    assert os_agents(echo) not in ([], [warm])
    assert user


def test_every_fault_point_was_hit(fault_log: Path, request: pytest.FixtureRequest) -> None:
    """The last test of this file: all listed fault points were used by the tests before."""
    if request.config.option.keyword or any("::" in argument for argument in request.config.args):
        pytest.skip("only a part of the file was run")
    assert happened(fault_log.parent) == set(POINTS)
