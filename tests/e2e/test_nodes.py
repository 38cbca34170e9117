"""Three whole nodes on one Redis and one LiveKit: pool shares, and a drain and a loss of a node during calls."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.call.caller import Call
from tests.support import livekit
from tests.support.agreement import os_agents
from tests.support.ear import Ear
from tests.support.hurt import connected, in_call, live, talking
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.walk import walk

NAMES = ("a", "b", "c")
POOL, DRAIN = 6, 4


@dataclass
class House:
    """Nodes that share an external Redis."""

    nodes: dict[str, Node]
    raw: "redis.Redis"

    def listed(self, by: Node | None = None) -> dict[str, dict[str, Any]]:
        """Return the output of `orchestrator nodes`, by node."""
        told = json.loads((by or self.nodes["a"]).command("nodes", "--json").stdout)
        return {each["node"]: each for each in told["nodes"]}

    def shared(self, *names: str) -> bool:
        """Return whether exactly these nodes have their shares of the pool."""
        warm = {name: self.raw.scard(f"node:{name}:warm") for name in names}
        return set(warm.values()) == {POOL // len(names)} and self.raw.scard("pool:ready") == POOL

    def quiet(self) -> None:
        """End every session, and wait until each node has its share again."""
        served = self.raw.sunion("session:starting", "session:ready", "session:active")
        for session_id in [*served, *self.raw.zrange("session:queued", 0, -1)]:
            self.nodes["a"].end(session_id)
        poll(lambda: live(self.raw) == 0 and self.shared(*NAMES), "every node has its share", 60)


@pytest.fixture(scope="module")
def house(short_folder: Path) -> Iterator[House]:
    folder = short_folder / "house"
    settings = {"POOL_TARGET": POOL, "DRAIN_SECONDS": DRAIN, "GOODBYE_SECONDS": 1, "USER_JOIN_SECONDS": 600}
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(livekit.shared(folder))
        nodes = {}
        for name in NAMES:
            (folder / name).mkdir()
            nodes[name] = Node(folder / name, NODE_ID=name, **shared | settings)
            stack.enter_context(nodes[name])
        with connected(nodes["a"]) as raw:
            yield House(nodes, raw)


def nothing_happens_in_it(house: House) -> None:
    house.quiet()
    for node in house.nodes.values():
        node.clean()


def where(house: House, session_id: str) -> str:
    """Return the node that serves a session."""
    return str(house.raw.hget(f"session:{session_id}", "node"))


def each_node_has_its_share_and_starts_go_to_the_emptiest_node(three: House) -> None:
    begun = [three.nodes["a"].begin(f"user{number}")["sessionId"] for number in range(3)]
    assert Counter(where(three, each) for each in begun) == dict.fromkeys(NAMES, 1)
    found = three.listed()
    assert {name: (node["sessions"], node["draining"]) for name, node in found.items()} == dict.fromkeys(
        NAMES, (1, False)
    )
    shown = three.nodes["b"].command("nodes").stdout
    assert all(f"{name} " in shown for name in NAMES), shown
    assert "in service" in shown


def a_user_returns_to_the_same_node(three: House) -> None:
    node = three.nodes["a"]
    first = node.begin("loyal", affinity="node")["sessionId"]
    home = where(three, first)
    node.end(first)
    three.quiet()
    others = [node.begin(f"other{number}")["sessionId"] for number in range(3)]
    for each in others:
        if where(three, each) != home:
            node.end(each)
    poll(lambda: three.raw.scard(f"node:{home}:busy") == live(three.raw) == 1, "only its node has a call")
    assert where(three, node.begin("loyal", affinity="node")["sessionId"]) == home
    assert where(three, node.begin("plain")["sessionId"]) != home


async def call_on(house: House, name: str, by: Node) -> Call:
    """Return a call on a certain node; calls that were assigned to other nodes are ended."""
    async with contextlib.AsyncExitStack() as tried:
        for number in range(6):
            call = await talking(by, f"caller{number}-{time.monotonic_ns()}")
            if where(house, call.session_id) == name:
                return call
            tried.push_async_callback(call.hang_up)
    raise AssertionError(f"no call came to {name}")


async def a_drained_node_hands_its_calls_over(three: House) -> None:
    node = three.nodes["a"]
    call = await call_on(three, "b", node)
    try:
        before = await call.look()
        async with Ear(call) as ear:
            done = await asyncio.to_thread(node.command, "drain", "b", "--wait")
            assert "takes no new sessions" in done.stdout
            assert "no call is left" in done.stdout
            await asyncio.to_thread(poll, lambda: not os_agents(three.nodes["b"]), "its agents are gone")
            begun = [node.begin(f"meanwhile{number}")["sessionId"] for number in range(4)]
            assert "b" not in {where(three, each) for each in begun}
            await call.next_sound()
        print(f"the call was silent for {ear.silence:.2f} s at most while it was handed over")  # noqa: T201
        after = await in_call(call)
        assert (after["status"], after["takeovers"]) == ("active", 0)
        assert where(three, call.session_id) != "b"
        assert after["agentPid"] != before["agentPid"]
        assert three.listed()["b"]["draining"] is True
        node.command("undrain", "b")
        assert three.listed()["b"]["draining"] is False
    finally:
        await call.hang_up()


def kill_everything(node: Node) -> float:
    """Make a node vanish: kill all its processes before any of them can react. Returns the time."""
    assert node.process is not None
    killed = time.monotonic()
    # Stop all of them first: a process that notices the main process's death would react before it is killed.
    stopped: set[int] = set()
    while new := set(node.pids()) - stopped:
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.process.wait(60)
    poll(lambda: not any(map(alive, stopped)), "all its processes are gone")
    return killed


def leads(node: Node) -> bool:
    """Return whether this node's beat runs the schedule, or was the last that did."""
    return "this beat leads" in node.log("beat")


async def a_node_with_a_killed_main_process_hands_its_calls_over(three: House) -> None:
    """As by the kernel when memory runs out: the programs exit too, and the call continues on another node's agent."""
    node = three.nodes["a"]
    call = await call_on(three, "b", node)
    try:
        async with Ear(call) as ear:
            main = three.nodes["b"].process
            assert main is not None
            main.kill()
            await asyncio.to_thread(main.wait, 60)
            await asyncio.to_thread(poll, lambda: not three.nodes["b"].pids(), "its programs have exited too")
            await call.next_sound()
        print(f"the call was silent for {ear.silence:.2f} s at most when its node's main process died")  # noqa: T201
        after = await in_call(call)
        assert (after["status"], after["takeovers"]) == ("active", 0), after
        assert where(three, call.session_id) in {"a", "c"}
        await asyncio.to_thread(three.nodes["b"].start)
        await asyncio.to_thread(poll, lambda: three.shared(*NAMES), "it has its share again", 60)
    finally:
        await call.hang_up()


async def a_vanished_node_is_replaced_by_the_others(three: House) -> None:
    leading = [name for name, node in three.nodes.items() if leads(node)]
    assert len(leading) == 1, "exactly one beat leads"
    (lost,) = leading
    left = [name for name in NAMES if name != lost]
    node = three.nodes[left[0]]
    victim, other = await call_on(three, lost, node), await call_on(three, left[1], node)
    try:
        await asyncio.to_thread(poll, lambda: three.shared(*NAMES), "the pool is full")
        async with Ear(other) as ear:
            killed = kill_everything(three.nodes[lost])
            begun = [node.begin(f"right-after{number}")["sessionId"] for number in range(3)]
            joined = lambda: three.raw.zscore("deadlines", f"join|{victim.session_id}") is None  # noqa: E731
            replaced = lambda: three.raw.hget(f"session:{victim.session_id}", "takeovers") == "1" and joined()  # noqa: E731
            # Sound before that may be the lost agent's, still in transit.
            await asyncio.to_thread(poll, replaced, "another agent is in the room")
            heard = await victim.next_sound()
            print(f"heard again {heard - killed:.2f} s after its node vanished")  # noqa: T201
            after = await in_call(victim)
            history = three.raw.xrange(f"session:{victim.session_id}:events")
            assert (after["status"], after["takeovers"]) == ("active", 1), history
            assert where(three, victim.session_id) in left
            await other.next_sound()
        print(f"a call elsewhere was silent for {ear.silence:.2f} s at most")  # noqa: T201

        def served() -> bool:
            found = [three.raw.hgetall(f"session:{each}") for each in begun]
            return all(
                each["status"] == "ready" and each["node"] in left and alive(int(each["agentPid"])) for each in found
            )

        await asyncio.to_thread(poll, served, "who started right after has a living agent")
        await asyncio.to_thread(poll, lambda: lost not in three.listed(node), "it is not listed any more")
        await asyncio.to_thread(poll, lambda: three.shared(*left), "the others have the whole pool")
        assert not three.raw.scard(f"node:{lost}:warm")
        assert not three.raw.scard(f"node:{lost}:busy")
        ticked = float(three.raw.hget("beat:ticks", "beat") or 0)
        await asyncio.to_thread(
            poll, lambda: float(three.raw.hget("beat:ticks", "beat")) > max(ticked, time.time() - 5),
            "another node runs the schedule",
        )  # fmt: skip
        again = three.nodes[lost]
        await asyncio.to_thread(again.start)
        await asyncio.to_thread(poll, lambda: three.shared(*NAMES), "it has its share again", 60)
    finally:
        await victim.hang_up()
        await other.hang_up()


STEPS = [
    each_node_has_its_share_and_starts_go_to_the_emptiest_node,
    a_user_returns_to_the_same_node,
    a_drained_node_hands_its_calls_over,
    a_node_with_a_killed_main_process_hands_its_calls_over,
    a_vanished_node_is_replaced_by_the_others,
]


@pytest.mark.timeout(500)
async def test_three_nodes_share_the_work_and_a_call_survives_its_node(house: House, subtests: pytest.Subtests) -> None:
    await walk(subtests, [each for step in STEPS for each in (step, nothing_happens_in_it)], house)
