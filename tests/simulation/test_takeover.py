"""With the default settings, an agent that fails in a call is replaced in its room within the promised time."""

import pytest

from orchestrator.settings import Settings
from tests.simulation import promises
from tests.simulation.cluster import Cluster
from tests.simulation.conftest import Simulate
from tests.simulation.world import World

SEEDS = range(25)
#: Maximum seconds until another agent is in the room, after a crash and after a hang.
CRASH, HANG = 2.0, 10.0
DEFAULTS = ("heartbeat_seconds", "heartbeat_timeout_seconds", "boot_timeout_seconds", "join_timeout_seconds")


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize(("hangs", "bound"), [(False, CRASH), (True, HANG)], ids=["crash", "hang"])
def test_another_agent_is_in_the_room_in_time(simulate: Simulate, nodes: int, hangs: bool, bound: float) -> None:
    given = {name: Settings.model_fields[name].default for name in DEFAULTS}

    async def scenario(world: World) -> None:
        cluster = Cluster(world, nodes, user_join_seconds=600, max_session_seconds=600, **given)
        await cluster.start()
        call = await cluster.begin("ada")
        before = await cluster.served(call, 10)
        cluster.livekit.join(before.room_name)

        async def active() -> bool:
            return (await cluster.session(call)).status == "active"

        await cluster.until(active, "it is active", 5)
        await cluster.until(cluster.full, "a warm agent waits", 20)
        agent = cluster.process_of(before)
        assert agent is not None
        began = world.now
        if hangs:
            agent.hang()
        else:
            agent.kill()

        async def replaced() -> bool:
            room = cluster.livekit.room(before.room_name)
            return any(each != agent.id for each in room.agents)

        await cluster.until(replaced, "another agent is in the room", 30)
        assert world.now - began <= bound, f"{world.now - began:.2f} s"
        await cluster.until(active, "the call continues", 2)
        assert (await cluster.session(call)).takeovers == 1
        await cluster.end(call)
        await promises.when_quiet(cluster)

    simulate(scenario, SEEDS)
