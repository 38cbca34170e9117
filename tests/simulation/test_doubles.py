"""Retries, redeliveries and losses: no session is lost or has two agents, and the pool never has too many."""

import asyncio

import pytest

from orchestrator.models import Session
from orchestrator.states import AgentState
from orchestrator.store import keys
from orchestrator.task_queue import app as tasks
from tests.simulation import promises
from tests.simulation.broker import Task
from tests.simulation.cluster import Cluster
from tests.simulation.conftest import Simulate
from tests.simulation.world import World

SEEDS = range(8)


def test_no_start_is_lost_while_the_api_is_killed_again_and_again(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 2, pool_target=3, max_sessions=50, user_join_seconds=600)
        await cluster.start()
        calls = []

        async def user(number: int) -> None:
            await asyncio.sleep(world.dice.uniform(0, 10))
            calls.append(await cluster.begin(f"user{number}"))

        users = [cluster.outside.start(user(number)) for number in range(20)]
        for _ in range(6):
            await asyncio.sleep(world.dice.uniform(0, 2.5))
            cluster.api.end("is killed")
        await asyncio.gather(*users)
        for call in calls:
            await cluster.served(call, 20)
            await cluster.end(call)
        await promises.when_quiet(cluster)
        # A session whose spawn task was never queued is served by another agent; none fails.
        assert {await cluster.code(call) for call in calls} == {"stopped_by_caller"}

    simulate(scenario, SEEDS)


def forget(world: World, session: Session, *, agent: bool) -> None:
    """Delete all keys of a session and of its agent from Redis."""
    valkey, user = world.valkey, session.user_id
    (names,) = valkey.peek([("KEYS", f"session:{session.id}*")])
    if agent:
        names += valkey.peek([("KEYS", f"agent:{session.agent_id}*")])[0]
        valkey.peek([("SREM", keys.AGENTS, session.agent_id)])
    states = (keys.SESSION_STARTING, keys.SESSION_READY, keys.SESSION_ACTIVE)
    valkey.peek([
        ("DEL", *names, f"session:user:{user}", keys.user_sessions(user)),
        *(("SREM", state, session.id) for state in states),
        ("ZREM", keys.SESSIONS, session.id),
    ])  # fmt: skip


@pytest.mark.parametrize("agent", [False, True], ids=["session", "session and agent"])
def test_an_agent_whose_session_redis_forgot_says_so_again(simulate: Simulate, agent: bool) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=1, user_join_seconds=600, max_session_seconds=600)
        await cluster.start()
        call = await cluster.begin("ada")
        before = await cluster.served(call, 10)
        room = cluster.livekit.join(before.room_name)
        await asyncio.sleep(2)
        forget(world, before, agent=agent)
        inside, most = set(), 0

        async def look() -> None:
            nonlocal most
            while True:
                inside.add(tuple(room.agents))
                most = max(most, len(cluster.agents))
                await asyncio.sleep(0.1)

        looking = cluster.outside.start(look())

        async def known() -> bool:
            found = await cluster.store.session(call.session_id)
            return found is not None and found.status == "active"

        await cluster.until(known, "the session has a record again", 10)
        await asyncio.sleep(12)  # two rounds of the clean-up, which must not end it
        looking.cancel()
        assert inside == {(before.agent_id,)}
        assert most <= 2
        after = await cluster.session(call)
        assert (after.agent_id, after.takeovers) == (before.agent_id, 0)
        await cluster.end(call)
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)


def test_a_spawn_task_that_comes_again_and_again_starts_one_agent(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 2, pool_target=0, user_join_seconds=600)
        await cluster.start()
        call = await cluster.begin("ada")
        for _ in range(10):
            await cluster.do(_publish(cluster, Task(tasks.SPAWN_AGENT, (call.session_id,))))
        session = await cluster.served(call, 20)
        await asyncio.sleep(5)
        assert cluster.boots == 1
        living = [each for each in await cluster.do(cluster.store.agents()) if each.state is not AgentState.EXITED]
        assert [each.id for each in living] == [session.agent_id]
        await cluster.end(call)
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)


async def _publish(cluster: Cluster, task: Task) -> None:
    cluster.broker.publish(task)


def test_a_celery_worker_that_stops_ends_no_call_and_the_next_one_goes_on(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=2, user_join_seconds=600, max_session_seconds=600)
        await cluster.start()
        call = await cluster.begin("ada")
        before = await cluster.served(call, 10)
        worker = cluster.computers[0].worker
        await asyncio.wait([worker.start(worker.stop())])
        assert not worker.alive
        assert before.agent_id in {agent.id for agent in cluster.agents}
        other = await cluster.begin("bob")
        await cluster.served(other, 20)
        await cluster.until(cluster.full, "the next refill fills the pool", 20)
        after = await cluster.session(call)
        assert (after.agent_id, after.takeovers, after.replacements) == (before.agent_id, 0, 0)
        for each in (call, other):
            await cluster.end(each)
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)
