"""Agents that cannot boot: the session is told why, the machine is spared, and a mended module is back by itself."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.conftest import LONG
from tests.support.hurt import connected, processes, reload
from tests.support.node import REPOSITORY, Node
from tests.support.processes import poll
from tests.support.redis_clock import redis_time

MENDED = "from agents.echo import entrypoint\n"
#: How a module of agents can be broken, and what is said of it then.
POISONS = {
    "syntax": ("def entrypoint(ctx:\n", "SyntaxError"),
    "import": ("import no_such_module_of_mine\n", "No module named 'no_such_module_of_mine'"),
    "exit": ("import sys\nprint('no licence')\nsys.exit(7)\n", "no licence"),
    "os_exit": ("import os\nprint('no key', flush=True)\nos._exit(9)\n", "no key"),
    # Loads well in the agent host; what is forked from it dies.
    "boot": (
        MENDED + "import os\nos.register_at_fork(after_in_child=lambda: (os.write(2, b'no device\\n'), os._exit(3)))\n",
        "exited with code 3",
    ),
}
BREAKER, LONGEST_PAUSE = 5, 60.0


def health(node: Node) -> dict[str, Any]:
    """Return what the node knows of itself."""
    found: dict[str, Any] = node.health()
    return found


def serving(node: Node) -> bool:
    """Whether the api answers and has its node. It is not ready: no agent of it was ever warm."""
    try:
        found = node.http.get("/readyz")
        return found.status_code == 503 and found.json()["code"] == "not_warm"
    except httpx.HTTPError:
        return False


@pytest.fixture
def poisoned(short_folder: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node whose agents' module is broken in one way; it lies in the node's folder."""
    folder = short_folder / f"p-{request.param}"
    folder.mkdir()
    (folder / "my_agent.py").write_text(POISONS[request.param][0])
    settings = {"AGENT_MODULE": "my_agent", "POOL_TARGET": 2, "PYTHONPATH": f"{folder}:{REPOSITORY}"}
    node = Node(folder, **settings)
    try:
        node.start(wait=False)
        poll(lambda: serving(node), "the api answers though no agent boots", 90)
        yield node
        node.clean()
    finally:
        node.stop()


def failures(node: Node) -> int:
    """Return how many agents have failed to boot."""
    return int(health(node)["stats"].get("total_boot_failures", 0))


def most_forks(counted: int, seconds: float) -> float:
    """Return how many boots the pauses allow in `seconds` from the opening on, and those counted until then."""
    pauses, at = 0, 0.0
    failed = BREAKER
    while at < seconds:
        at += 0.75 * min(LONGEST_PAUSE, 2.0 ** (failed - 1))  # the jitter at its shortest
        failed += 1
        pauses += 1
    return counted + pauses


@pytest.mark.timeout(900 if LONG else 240)
@pytest.mark.parametrize("poisoned", [kind for kind in POISONS if LONG or kind != "syntax"], indirect=True)
def test_a_module_that_kills_its_agents(poisoned: Node, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["poisoned"]
    said = POISONS[kind][1]
    node = poisoned
    with connected(node) as raw:
        began, first = time.monotonic(), redis_time(raw)
        answer = node.http.post("/api/session/start", json={"userId": "early"})
        if not answer.is_success:
            # The pool's own attempts have opened it already.
            assert answer.json()["code"] == "agents_do_not_boot", answer.text
        else:
            session_id = answer.json()["sessionId"]
            over = poll(lambda: (found := node.session(session_id))["status"] == "error" and found, "an error", 60)
            took = float(over["timings"]["ended"])
            print(f"{kind}: error after {took:.1f} s: {over['reason']}")  # noqa: T201
            assert over["reason"].startswith("boot_error: ")
            assert said in over["reason"], over["reason"]
            assert any(said in line for line in over["lastLogLines"]) or said in over["reason"]
            assert over["lastLogLines"][-1].startswith("[agent ")
        opened = poll(lambda: (found := health(node)["breaker"])["state"] != "closed" and found, "it opens", 60)
        print(f"{kind}: the breaker opened {time.monotonic() - began:.1f} s after the first start")  # noqa: T201
        assert opened["failures"] >= BREAKER
        at_opening = failures(node)
        assert at_opening <= BREAKER + 4, "before one boot has worked only a few are tried at once"
        told = health(node)
        assert told["status"] == "degraded"
        assert any("the breaker is" in warning for warning in told["warnings"])
        assert any("did not boot" in warning and said in warning for warning in told["warnings"]), told["warnings"]
        # A start is refused, at once, and costs no process.
        refused = node.http.post("/api/session/start", json={"userId": "late"})
        assert (refused.status_code, refused.json()["code"]) == (503, "agents_do_not_boot")
        assert int(refused.headers["Retry-After"]) >= 1
        assert node.http.get("/livez").is_success
        assert most_forks(at_opening, 600 - 15) <= 30
        if LONG and kind == "import":
            poll(lambda: redis_time(raw) >= first + 600, "ten minutes have passed for Redis", 660, every=1)
            assert failures(node) <= 30
        assert raw.zcard("session:unbound") == raw.scard("session:starting") == 0
        {"import": _mended, "syntax": _mended_and_reloaded, "boot": _mended_and_reloaded}.get(
            kind, _mended_and_closed_by_hand
        )(node)
        assert health(node)["breaker"]["state"] == "closed"
        if left := health(node)["warnings"]:
            # Its agents boot again, one interpreter each: that is told until the host has loaded the module.
            assert all("Agents are started by exec until a reload succeeds" in warning for warning in left), left
            assert node.http.post("/api/agents/reload", headers=node.admin).is_success
        poll(lambda: health(node)["status"] == "ok", "nothing is left to warn of", 60)
        assert node.begin("after")["prewarmed"] is True


def _mended(node: Node) -> None:
    """Nobody does anything else: the next attempt, after a pause that has grown, works."""
    before = health(node)["breaker"]
    pause = 2.0 ** (before["failures"] - 1)
    assert 0 <= before["retryIn"] <= 1.25 * min(pause, LONGEST_PAUSE)
    (node.run_dir / "my_agent.py").write_text(MENDED)
    poll(lambda: node.counts()["pool"] == 2, "the pool is full by itself", 120)


def _mended_and_closed_by_hand(node: Node) -> None:
    (node.run_dir / "my_agent.py").write_text(MENDED)
    closed = node.http.post("/api/breaker/close", headers=node.admin)
    assert closed.json()["state"] in {"closed", "half-open"}
    poll(lambda: node.counts()["pool"] == 2, "the pool is full, at once", 30)


def _mended_and_reloaded(node: Node) -> None:
    """Nobody closes the breaker, and from now on agents are forked again."""
    (node.run_dir / "my_agent.py").write_text(MENDED)
    assert reload(node)["done"]
    poll(lambda: node.counts()["pool"] == 2, "the pool is full by itself", 90)


@pytest.mark.timeout(180)
def test_a_boot_that_is_too_slow_is_an_error_in_time_and_no_process_is_left(short_folder: Path) -> None:
    folder = short_folder / "slow"
    folder.mkdir()
    limit = 6
    settings = {"BOOT_TIMEOUT_SECONDS": 4, "START_TIMEOUT_SECONDS": limit, "POOL_TARGET": 0}
    command = "sh -c 'echo loading; sleep 3600'"
    with Node(folder, **settings, AGENT_COMMAND=command) as node:
        started = node.begin("waits")
        assert started["status"] == "starting"
        session_id = started["sessionId"]
        over = poll(lambda: (found := node.session(session_id))["status"] == "error" and found, "an error", 60)
        print(f"slow boot: error after {over['timings']['ended']} s: {over['reason']}")  # noqa: T201
        assert over["reason"].startswith("boot_timeout: ")
        assert over["timings"]["ended"] <= limit + 1.5
        assert "loading" in over["lastLogLines"]
        poll(lambda: not processes(node), "its processes are gone", 30)
