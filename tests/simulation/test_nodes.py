"""Three nodes on one Redis: pool shares, a drain, the loss of a node; calls continue on other nodes."""

import asyncio
from collections import Counter

from orchestrator.models import Session
from tests.simulation import promises
from tests.simulation.cluster import Call, Cluster
from tests.simulation.computer import Computer
from tests.simulation.conftest import Simulate
from tests.simulation.world import World

SEEDS = range(8)
POOL, NAMES = 6, ("a", "b", "c")
#: Seconds until a call on a vanished node continues elsewhere: HEARTBEAT_TIMEOUT_SECONDS of silence, after up to one
#: heartbeat's interval.
TAKEN_OVER = 6 + 1.5 + 1.5


async def three(world: World, **settings: float) -> Cluster:
    """Return three nodes that have their shares of the pool."""
    given = {"pool_target": POOL, "user_join_seconds": 600, "max_session_seconds": 600, "max_sessions": 30} | settings
    cluster = Cluster(world, 3, **given)
    await cluster.start()
    await cluster.until(lambda: shared(cluster, *NAMES), "each has its share", 20)
    return cluster


async def shared(cluster: Cluster, *names: str) -> bool:
    """Return whether exactly these nodes have their shares of the pool."""
    commands = [("SCARD", "pool:ready"), *(("SCARD", f"node:{name}:warm") for name in names)]
    warm, *each = cluster.world.valkey.peek(commands)
    return warm == POOL and set(each) == {POOL // len(names)}


async def active(cluster: Cluster, call: Call) -> bool:
    """Return whether the call's agent has reported that the user is present."""
    return (await cluster.session(call)).status == "active"


async def talking_on(cluster: Cluster, name: str) -> tuple[Call, Session]:
    """Return a call on a certain node whose user is present."""
    others = []
    while True:
        call = await cluster.begin(f"user{len(cluster.calls)}")
        session = await cluster.served(call, 10)
        cluster.livekit.join(session.room_name)

        await cluster.until(lambda call=call: active(cluster, call), "it is active", 5)
        if session.node == name:
            break
        others.append(call)
    for other in others:
        await cluster.end(other)
    return call, await cluster.session(call)


def computer(cluster: Cluster, name: str) -> Computer:
    """Return a node."""
    return next(each for each in cluster.computers if each.name == name)


async def over(cluster: Cluster) -> None:
    """End every session, and wait until the cluster is back to normal."""
    for call in cluster.calls:
        await cluster.end(call)
    await promises.when_quiet(cluster)


def test_each_has_its_share_and_starts_go_where_there_is_most_room(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = await three(world)
        calls = [await cluster.begin(f"user{number}") for number in range(3)]
        assert Counter([(await cluster.session(call)).node for call in calls]) == dict.fromkeys(NAMES, 1)
        await over(cluster)

    simulate(scenario, SEEDS)


def test_a_user_comes_back_to_the_same_node(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = await three(world)
        first = await cluster.begin("loyal", affinity=True)
        home = (await cluster.session(first)).node
        await cluster.end(first)
        others = [await cluster.begin(f"other{number}") for number in range(3)]
        for each in others:
            if (await cluster.session(each)).node != home:
                await cluster.end(each)
        await cluster.until(cluster.full, "the pool is full", 20)
        assert (await cluster.session(await cluster.begin("loyal", affinity=True))).node == home
        assert (await cluster.session(await cluster.begin("plain"))).node != home
        await over(cluster)

    simulate(scenario, SEEDS)


def test_one_that_is_drained_hands_its_calls_over(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = await three(world)
        call, before = await talking_on(cluster, "b")
        await cluster.until(lambda: shared(cluster, *NAMES), "each has its share", 20)
        began = world.now
        await cluster.do(cluster.store.drain_node("b", 4))
        begun = [await cluster.begin(f"meanwhile{number}") for number in range(4)]
        assert "b" not in {(await cluster.session(each)).node for each in begun}
        after = await cluster.served(call, 8, but=before.agent_id or "")
        # GOODBYE_SECONDS before the end of the drain.
        assert 4 - 2 <= world.now - began < 4 - 2 + 2
        assert after.takeovers == 0
        await cluster.until(lambda: active(cluster, call), "its agent reports that the user is present", 2)
        assert after.node in {"a", "c"}

        async def empty() -> bool:
            return not computer(cluster, "b").living

        await cluster.until(empty, "its agents are gone", 10)
        await cluster.do(cluster.store.undrain_node("b"))
        await over(cluster)

    simulate(scenario, SEEDS)


def test_a_drain_that_is_taken_back_ends_no_call(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=1, user_join_seconds=600, max_session_seconds=600, goodbye_seconds=8)
        await cluster.start()
        call, before = await talking_on(cluster, "a")
        # There is no other node for the call, so its agent may say goodbye; this agent does not.
        cluster.computers[0].polite = False
        await cluster.do(cluster.store.drain_node("a", 5))
        await asyncio.sleep(world.dice.uniform(0.1, 4))
        await cluster.do(cluster.store.undrain_node("a"))
        await asyncio.sleep(15)
        after = await cluster.session(call)
        assert (after.status, after.agent_id) == ("active", before.agent_id)
        await over(cluster)

    simulate(scenario, SEEDS)


def test_the_last_node_that_drains_says_goodbye_and_ends_its_calls_in_time(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=1, user_join_seconds=600, max_session_seconds=600, max_sessions=1)
        await cluster.start()
        call, _ = await talking_on(cluster, "a")
        waiting = await cluster.begin("waits")
        assert waiting.state == "queued"
        began = world.now
        await cluster.do(cluster.store.drain_node("a", 5))
        late = await cluster.begin("late")
        assert late.refused.startswith("Draining")
        assert await cluster.code(waiting) == "node_draining"

        async def ended() -> bool:
            return (await cluster.session(call)).status == "ended"

        await cluster.until(ended, "the call is over", 10)
        # The agent says goodbye GOODBYE_SECONDS before the end of the drain, and leaves then.
        assert 5 - 2 <= world.now - began < 5
        assert await cluster.code(call) == "node_stopping"

        async def empty() -> bool:
            return not cluster.agents and not await cluster.store.agents()

        await cluster.until(empty, "nothing is left", 10)
        await cluster.do(cluster.store.undrain_node("a"))
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)


def test_one_that_vanishes_is_replaced_by_the_others(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = await three(world)
        lost = world.dice.choice(NAMES)
        left = [name for name in NAMES if name != lost]
        (victim, before), (other, unhurt) = await talking_on(cluster, lost), await talking_on(cluster, left[0])
        await cluster.until(lambda: shared(cluster, *NAMES), "the pool is full", 20)
        computer(cluster, lost).vanish()
        killed = world.now
        begun = [await cluster.begin(f"right-after{number}") for number in range(3)]
        after = await cluster.served(victim, 12, but=before.agent_id or "")
        assert world.now - killed < TAKEN_OVER, f"{world.now - killed:.1f} s"
        assert after.takeovers == 1
        assert after.node in left

        await cluster.until(lambda: active(cluster, victim), "the agent has reported its user", 2)
        for call in begun:
            assert (await cluster.served(call, 20)).node in left
        same = await cluster.session(other)
        assert (same.status, same.agent_id) == ("active", unhurt.agent_id)

        async def forgotten() -> bool:
            return lost not in await cluster.store.nodes()

        await cluster.until(forgotten, "it is not listed any more", 20)
        await cluster.until(lambda: shared(cluster, *left), "the others have the whole pool", 30)
        computer(cluster, lost).start()
        await cluster.until(lambda: shared(cluster, *NAMES), "it has its share again", 30)
        await over(cluster)

    simulate(scenario, SEEDS)


def test_one_that_drains_without_redis_ends_no_call_and_hands_it_over_when_redis_is_back(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = await three(world)
        call, before = await talking_on(cluster, "b")
        await cluster.do(cluster.store.drain_node("b", 8))
        cut = [computer(cluster, "b").worker, *computer(cluster, "b").living]
        for process in cut:
            process.network.trouble = "refuses"
        # Less than the silence after which the agent counts as lost.
        await asyncio.sleep(world.dice.uniform(0.5, 3))
        room = cluster.livekit.rooms[before.room_name]
        assert (list(room.agents), room.user) == ([before.agent_id], True)
        begun = [await cluster.begin(f"meanwhile{number}") for number in range(4)]
        assert "b" not in {(await cluster.session(each)).node for each in begun}
        for process in cut:
            process.network.trouble = ""
        after = await cluster.served(call, 8, but=before.agent_id or "")
        assert after.node in {"a", "c"}

        async def empty() -> bool:
            return not computer(cluster, "b").living

        await cluster.until(empty, "its agents are gone", 20)
        await cluster.do(cluster.store.undrain_node("b"))
        await over(cluster)

    simulate(scenario, SEEDS)
