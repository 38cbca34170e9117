"""A reload during calls: calls keep their old code, the pool is never empty, broken code is refused."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ear import Ear
from tests.support.hurt import connected, reload, talking
from tests.support.node import REPOSITORY, Node
from tests.support.processes import alive, poll
from tests.support.sampler import Sampler

CODE = """\
from agents import echo

VERSION = {version!r}


async def entrypoint(ctx):
    print("serves with version", VERSION, flush=True)
    await echo.entrypoint(ctx)
"""


@pytest.fixture(scope="module")
def own(short_folder: Path) -> Iterator[Node]:
    """A node whose agent module is in its own folder."""
    folder = short_folder / "reload"
    folder.mkdir()
    (folder / "my_agent.py").write_text(CODE.format(version="one"))
    settings = {"AGENT_MODULE": "my_agent", "POOL_TARGET": 3, "PYTHONPATH": f"{folder}:{REPOSITORY}"}
    with Node(folder, **settings, USER_JOIN_SECONDS=600) as node:
        yield node


def warm(node: Node) -> set[int]:
    """Return the pids of the warm agents."""
    return {agent["pid"] for agent in node.agents() if agent["status"] == "ready"}


def says(node: Node, session_id: str, version: str) -> None:
    """Wait until a session's agent has logged the version of its code."""
    look = lambda: [line for line in node.logs(session_id) if "serves with version" in line]  # noqa: E731
    assert poll(look, "the agent has logged its version")[-1].endswith(f"version {version}")


@pytest.mark.timeout(180)
async def test_a_reload_activates_new_code_while_a_call_runs_on_the_old_code(own: Node) -> None:
    call = await talking(own, "on-the-line")
    try:
        await asyncio.to_thread(poll, lambda: own.counts()["pool"] == 3, "the pool is full")
        before, old, host = await call.look(), warm(own), own.program("host")
        (own.run_dir / "my_agent.py").write_text(CODE.format(version="number two"))
        with connected(own) as raw, Sampler(lambda: int(raw.scard("pool:ready")), 0.02) as pool:
            async with Ear(call) as ear:
                began = time.monotonic()
                assert (await asyncio.to_thread(reload, own))["done"] is True
                took = time.monotonic() - began
                await asyncio.to_thread(poll, lambda: not any(alive(pid) for pid in old), "the old warm ones are gone")
        print(  # noqa: T201
            f"reloaded in {took:.1f} s; never less than {min(pool.values)} warm, longest silence {ear.silence:.2f} s"
        )
        assert min(pool.values) >= 1
        await asyncio.to_thread(poll, lambda: own.counts()["pool"] == 3, "the pool is full of new ones")
        assert not warm(own) & old
        assert own.program("host") == host
        after = await call.look()
        assert (after["agentPid"], after["status"], after["takeovers"]) == (before["agentPid"], "active", 0)
        says(own, call.session_id, "one")
        fresh = own.begin("afterwards")
        assert fresh["prewarmed"] is True
        says(own, fresh["sessionId"], "number two")
        own.end(fresh["sessionId"])
    finally:
        await call.hang_up()
    own.clean()


def test_broken_code_is_refused_with_its_reason_and_changes_nothing(own: Node) -> None:
    poll(lambda: own.counts()["pool"] == 3, "the pool is full", 60)
    running = own.begin("undisturbed")
    pid = own.session(running["sessionId"])["agentPid"]
    poll(lambda: own.counts()["pool"] == 3, "the pool is full", 60)
    before, good = warm(own), (own.run_dir / "my_agent.py").read_text()
    broken = {"VERSION = (\n": "SyntaxError", "import os\nos._exit(0)\n": "exit", "VERSION = 3\n": "entrypoint"}
    for code, why in broken.items():
        (own.run_dir / "my_agent.py").write_text(code)
        refused = reload(own)
        assert refused["done"] is False
        assert why in refused["message"], refused
        assert warm(own) == before
        assert own.counts()["stale"] == 0
    assert alive(pid)
    assert own.session(running["sessionId"])["agentPid"] == pid
    own.end(running["sessionId"])
    fresh = own.begin("unharmed")
    says(own, fresh["sessionId"], "number two")
    own.end(fresh["sessionId"])
    # A refusal has no lasting effect: the next good code is loaded.
    (own.run_dir / "my_agent.py").write_text(good.replace("number two", "the third"))
    assert reload(own)["done"] is True
    fresh = own.begin("third")
    says(own, fresh["sessionId"], "the third")
    own.end(fresh["sessionId"])
    poll(lambda: own.counts()["pool"] == 3 == own.counts()["agents"], "the pool is full", 60)
    own.clean()
