"""Agents that cannot boot: sessions get the reason, boots are limited, and a repaired module is used automatically."""

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
#: Sources of broken agent modules, and the expected error of each.
POISONS = {
    "syntax": ("def entrypoint(ctx:\n", "SyntaxError"),
    "import": ("import no_such_module_of_mine\n", "No module named 'no_such_module_of_mine'"),
    "exit": ("import sys\nprint('no licence')\nsys.exit(7)\n", "no licence"),
    "os_exit": ("import os\nprint('no key', flush=True)\nos._exit(9)\n", "no key"),
    # The agent host can load it; the forked agents die.
    "boot": (
        MENDED + "import os\nos.register_at_fork(after_in_child=lambda: (os.write(2, b'no device\\n'), os._exit(3)))\n",
        "exited with code 3",
    ),
}
BREAKER, LONGEST_PAUSE = 5, 60.0


def health(node: Node) -> dict[str, Any]:
    """Return the health route's answer."""
    found: dict[str, Any] = node.health()
    return found


def serving(node: Node) -> bool:
    """Return whether the API answers and lists its node. The node is not ready: it never had a warm agent."""
    try:
        found = node.http.get("/readyz")
        return found.status_code == 503 and found.json()["code"] == "not_warm"
    except httpx.HTTPError:
        return False


@pytest.fixture
def poisoned(short_folder: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node with a broken agent module in its folder."""
    folder = short_folder / f"p-{request.param}"
    folder.mkdir()
    (folder / "my_agent.py").write_text(POISONS[request.param][0])
    settings = {"AGENT_MODULE": "my_agent", "POOL_TARGET": 2, "PYTHONPATH": f"{folder}:{REPOSITORY}"}
    node = Node(folder, **settings)
    try:
        node.start(wait=False)
        poll(lambda: serving(node), "the API answers although no agent boots", 90)
        yield node
        node.clean()
    finally:
        node.stop()


def failures(node: Node) -> int:
    """Return the number of failed boots."""
    return int(health(node)["stats"].get("total_boot_failures", 0))


def most_forks(counted: int, seconds: float) -> float:
    """Return how many boots the pauses allow in `seconds` after the breaker opened, plus those counted before."""
    pauses, at = 0, 0.0
    failed = BREAKER
    while at < seconds:
        at += 0.75 * min(LONGEST_PAUSE, 2.0 ** (failed - 1))  # the shortest pause with jitter
        failed += 1
        pauses += 1
    return counted + pauses


@pytest.mark.timeout(900 if LONG else 240)
@pytest.mark.parametrize("poisoned", [kind for kind in POISONS if LONG or kind != "syntax"], indirect=True)
def test_an_unbootable_module_is_reported_and_recovers(poisoned: Node, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["poisoned"]
    said = POISONS[kind][1]
    node = poisoned
    with connected(node) as raw:
        began, first = time.monotonic(), redis_time(raw)
        answer = node.http.post("/api/session/start", json={"userId": "early"})
        if not answer.is_success:
            # The pool's own boots have opened the breaker already.
            assert answer.json()["code"] == "agents_do_not_boot", answer.text
        else:
            session_id = answer.json()["sessionId"]
            over = poll(lambda: (found := node.session(session_id))["status"] == "error" and found, "it has failed", 60)
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
        assert at_opening <= BREAKER + 4, "only a few boots are tried at once before the first success"
        told = health(node)
        assert told["status"] == "degraded"
        assert any("the breaker is" in warning for warning in told["warnings"])
        assert any("did not boot" in warning and said in warning for warning in told["warnings"]), told["warnings"]
        # A start is refused immediately, and starts no process.
        refused = node.http.post("/api/session/start", json={"userId": "late"})
        assert (refused.status_code, refused.json()["code"]) == (503, "agents_do_not_boot")
        assert int(refused.headers["Retry-After"]) >= 1
        assert node.http.get("/livez").is_success
        assert most_forks(at_opening, 600 - 15) <= 30
        if LONG and kind == "import":
            poll(lambda: redis_time(raw) >= first + 600, "ten minutes have passed by Redis's clock", 660, every=1)
            assert failures(node) <= 30
        assert raw.zcard("session:unbound") == raw.scard("session:starting") == 0
        {"import": _mended, "syntax": _mended_and_reloaded, "boot": _mended_and_reloaded}.get(
            kind, _mended_and_closed_by_hand
        )(node)
        assert health(node)["breaker"]["state"] == "closed"
        if left := health(node)["warnings"]:
            # Its agents boot again, each in a new interpreter: there is a warning until the host has loaded the module.
            assert all("Agents are started by exec until a reload succeeds" in warning for warning in left), left
            assert node.http.post("/api/agents/reload", headers=node.admin).is_success
        poll(lambda: health(node)["status"] == "ok", "there are no warnings", 60)
        assert node.begin("after")["prewarmed"] is True


def _mended(node: Node) -> None:
    """No operator intervenes: the next attempt, after a longer pause, succeeds."""
    before = health(node)["breaker"]
    pause = 2.0 ** (before["failures"] - 1)
    assert 0 <= before["retryIn"] <= 1.25 * min(pause, LONGEST_PAUSE)
    (node.run_dir / "my_agent.py").write_text(MENDED)
    poll(lambda: node.counts()["pool"] == 2, "the pool fills automatically", 120)


def _mended_and_closed_by_hand(node: Node) -> None:
    (node.run_dir / "my_agent.py").write_text(MENDED)
    closed = node.http.post("/api/breaker/close", headers=node.admin)
    assert closed.json()["state"] in {"closed", "half-open"}
    poll(lambda: node.counts()["pool"] == 2, "the pool is full without a pause", 30)


def _mended_and_reloaded(node: Node) -> None:
    """No operator closes the breaker, and agents are forked again from then on."""
    (node.run_dir / "my_agent.py").write_text(MENDED)
    assert reload(node)["done"]
    poll(lambda: node.counts()["pool"] == 2, "the pool fills automatically", 90)


@pytest.mark.timeout(180)
def test_a_slow_boot_times_out_and_leaves_no_process(short_folder: Path) -> None:
    folder = short_folder / "slow"
    folder.mkdir()
    limit = 6
    settings = {"BOOT_TIMEOUT_SECONDS": 4, "START_TIMEOUT_SECONDS": limit, "POOL_TARGET": 0}
    command = "sh -c 'echo loading; sleep 3600'"
    with Node(folder, **settings, AGENT_COMMAND=command) as node:
        started = node.begin("waits")
        assert started["status"] == "starting"
        session_id = started["sessionId"]
        over = poll(lambda: (found := node.session(session_id))["status"] == "error" and found, "it has failed", 60)
        print(f"slow boot: error after {over['timings']['ended']} s: {over['reason']}")  # noqa: T201
        assert over["reason"].startswith("boot_timeout: ")
        assert over["timings"]["ended"] <= limit + 1.5
        assert "loading" in over["lastLogLines"]
        poll(lambda: not processes(node), "its processes are gone", 30)
