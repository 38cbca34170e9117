"""A deploy as on hosting platforms: a second container starts beside the first on one Redis, and replaces it."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.support import livekit
from tests.support.ear import Ear
from tests.support.hurt import connected, in_call, talking
from tests.support.node import Node
from tests.support.processes import alive, poll
from tests.support.sampler import Sampler

POOL, DRAIN = 6, 6


@pytest.fixture
def settings(short_folder: Path) -> Iterator[dict[str, Any]]:
    """The settings of both containers: a Redis and a LiveKit server that outlive them."""
    with livekit.shared(short_folder / "overlap") as shared:
        yield shared | {
            "POOL_TARGET": POOL, "USER_JOIN_SECONDS": 600, "DRAIN_SECONDS": DRAIN, "GOODBYE_SECONDS": 1,
            "TRUSTED_PROXY": "railway", "RAILWAY_SERVICE_ID": "one-service",
            "RAILWAY_DEPLOYMENT_DRAINING_SECONDS": 40,
        }  # fmt: skip


def container(folder: Path, deployment: str, settings: dict[str, Any]) -> Node:
    """Return a node with Railway's variables, without a node id of its own."""
    folder.mkdir()
    node = Node(folder, **settings, RAILWAY_DEPLOYMENT_ID=deployment, RAILWAY_REPLICA_ID=f"replica-of-{deployment}")
    del node.environment["NODE_ID"]
    return node


class Edge:
    """The platform's load balancer: sends each new user to the newest container that is ready.

    A user only comes while half the pool is warm, so only the deploy can empty it, not a slow machine.
    """

    def __init__(self, first: Node, raw: "redis.Redis") -> None:
        self.to, self._raw = first, raw
        #: The warm agents of which half the pool must be there: those of a node that stops do not count.
        self.warm = "pool:ready"
        self.begun: list[str] = []
        self._number = 0

    def __call__(self) -> None:
        if self._raw.scard(self.warm) < POOL / 2:
            return
        self._number += 1
        session_id = self.to.begin(f"user{self._number}")["sessionId"]
        self.begun.append(session_id)
        assert self.to.end(session_id)["success"]


def ready(node: Node) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return node.http.get("/readyz").status_code == 200
    return False


async def switch(edge: Edge, old: Node, new: Node, raw: "redis.Redis") -> tuple[str, int, int]:
    """Start the new container beside the old one, and stop the old one as the platform does.

    Returns the new container's node id, and how many sessions had begun at the switch of the load balancer and at
    the beginning of the old one's drain.
    """
    (first,) = raw.smembers("nodes")
    new.start(wait=False)
    await asyncio.to_thread(poll, lambda: ready(new), "the new container is ready", 180, every=0.2)
    (second,) = raw.smembers("nodes") - {first}
    edge.to, edge.warm = new, f"node:{second}:warm"
    switched = len(edge.begun)
    own = lambda: len(edge.begun) > switched + 5  # noqa: E731
    await asyncio.to_thread(poll, own, "they overlap until the new one has warm agents of its own")
    assert old.process is not None
    old.process.terminate()
    await asyncio.to_thread(poll, lambda: raw.sismember("nodes:draining", first), "the old one drains")
    drained = len(edge.begun)
    assert await asyncio.to_thread(old.process.wait, DRAIN + 25) == 0
    alone = len(edge.begun)
    await asyncio.to_thread(poll, lambda: len(edge.begun) > alone + 3, "more starts")
    return str(second), switched, drained


@pytest.mark.timeout(240)
async def test_a_call_survives_a_deploy_and_the_pool_is_never_empty(
    short_folder: Path, settings: dict[str, Any]
) -> None:
    old = container(short_folder / "old", "deployment-1", settings)
    new = container(short_folder / "new", "deployment-2", settings)
    with contextlib.ExitStack() as stack:
        stack.callback(old.stop)
        stack.callback(new.stop)
        await asyncio.to_thread(old.start)
        raw = stack.enter_context(connected(old))
        call = await talking(old, "in-a-call")
        edge = Edge(old, raw)
        try:
            await asyncio.to_thread(poll, lambda: raw.scard("pool:ready") == POOL, "the pool is full")
            with Sampler(edge, 0.25), Sampler(lambda: int(raw.scard("pool:ready")), 0.02) as warm:
                async with Ear(call) as ear:
                    second, switched, drained = await switch(edge, old, new, raw)
                    await call.next_sound()
            call._http.base_url = new.url  # type: ignore[assignment]
            after = await in_call(call)
            assert alive(after["agentPid"])
        finally:
            await call.hang_up()
        assert (after["status"], after["takeovers"]) == ("active", 0)
        assert raw.hget(f"session:{call.session_id}", "node") == second
        assert min(warm.values) >= 1, "the pool was empty"
        nodes = [str(raw.hget(f"session:{session_id}", "node")) for session_id in edge.begun]
        reasons = [raw.hget(f"session:{session_id}", "reason") for session_id in edge.begun]
        assert not [each for each in reasons if "error" in str(each)], reasons
        # If the new node has no warm agent for a moment, a session gets one of the old node. The session that was being
        # started at the switch does not count.
        after_switch = nodes[switched + 1 :]
        assert after_switch.count(second) > 0.7 * len(after_switch), "sessions after the switch go to the new node"
        assert set(nodes[drained + 1 :]) == {second}
        print(  # noqa: T201
            f"{len(nodes)} starts, none refused; {min(warm.values)} warm agents at least; longest silence of the call "
            f"{ear.silence:.2f} s"
        )
        new.clean()
