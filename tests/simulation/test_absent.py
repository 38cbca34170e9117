"""Missing reports: a killed client, agents that do not report presence, rooms without webhooks."""

import asyncio

from orchestrator.models import Session
from tests.simulation import promises
from tests.simulation.cluster import Call, Cluster
from tests.simulation.conftest import Simulate
from tests.simulation.livekit import MISSES_SECONDS
from tests.simulation.world import World

SEEDS = range(12)
SETTINGS = {"user_join_seconds": 600.0, "max_session_seconds": 600.0}
#: Maximum seconds until LiveKit's state takes effect: RECONCILE_SECONDS and a third until a check, and the repeated
#: checks.
ROUND = 9 + 3 + 2 + 2
#: An agent may be missing from its room for 10 s before it is replaced, and for as long after its start.
PATIENCE = 10.0


async def talking(cluster: Cluster) -> tuple[Call, Session]:
    """Return a call whose user is in the room with an agent."""
    call = await cluster.begin("ada")
    session = await cluster.served(call, 10)
    cluster.livekit.join(session.room_name)
    await reaches(cluster, call, "active", ROUND + 2)
    return call, await cluster.session(call)


async def reaches(cluster: Cluster, call: Call, state: str, seconds: float) -> None:
    """Wait until a call's session is in a state."""

    async def so() -> bool:
        return (await cluster.session(call)).status == state

    await cluster.until(so, f"it is {state}", seconds)


def test_a_client_that_is_killed_frees_its_agent(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=1, **SETTINGS)
        await cluster.start()
        call = await cluster.begin("ada")
        await cluster.talk(call, seconds=world.dice.uniform(0.5, 3), dies=True)
        # LiveKit detects the loss of the client, then the user may return for USER_GONE_SECONDS.
        await reaches(cluster, call, "ended", MISSES_SECONDS[1] + cluster.settings.user_gone_seconds + 2)
        assert await cluster.code(call) == "user_lost"
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)


def test_a_call_goes_its_way_though_its_agent_does_not_say_who_is_there(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=1, **SETTINGS)
        cluster.computers[0].tells = False
        await cluster.start()
        call, session = await talking(cluster)
        await asyncio.sleep(world.dice.uniform(0, 10))
        assert (await cluster.session(call)).status == "active"
        cluster.livekit.part(session.room_name)
        await reaches(cluster, call, "ended", ROUND + cluster.settings.user_gone_seconds + 2)
        assert await cluster.code(call) == "user_gone"
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)


def test_an_agent_that_lives_and_is_not_in_the_room_is_replaced(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 2, **SETTINGS)
        await cluster.start()
        call, before = await talking(cluster)
        await asyncio.sleep(world.dice.uniform(0, 10))
        agent = cluster.process_of(before)
        assert agent is not None
        agent.unaware = True
        cluster.livekit.drop(before.room_name, agent.id)
        after = await cluster.served(call, 2 * PATIENCE + ROUND, but=agent.id)
        assert after.takeovers == 1
        await cluster.end(call)
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)


def test_the_room_of_a_call_that_is_over_is_deleted_when_it_is_entered_again_and_no_other(simulate: Simulate) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=1, **SETTINGS)
        await cluster.start()
        call, session = await talking(cluster)
        await cluster.end(call)
        await promises.when_quiet(cluster)
        rooms = cluster.livekit.rooms
        assert session.room_name not in rooms
        for name in (session.room_name, "of-another-program"):
            cluster.livekit.join(name)

        async def deleted() -> bool:
            return session.room_name not in rooms

        await cluster.until(deleted, "the room is deleted", ROUND)
        assert rooms["of-another-program"].user
        del rooms["of-another-program"]
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)
