"""A process dies, stops or fails at each critical point; the session still gets exactly one agent."""

import pytest

from orchestrator.faults import ACTIONS, POINTS
from orchestrator.models import Session
from orchestrator.states import AgentState
from tests.simulation import promises
from tests.simulation.cluster import Call, Cluster
from tests.simulation.conftest import Simulate
from tests.simulation.world import World

#: Fault points in the handling of an agent's death have their own test.
DEATHS = ("watch.before_record_death", "watch.before_ack")
#: A session has its agent within the time limit of a start, plus a few rounds for work that was interrupted.
SETTLED = 20.0
SEEDS = range(5)
_happened: set[str] = set()


async def one_agent(cluster: Cluster, call: Call, session: Session) -> None:
    """Assert that the session's agent is the only one, on the computers and in Redis, and all is back to normal."""

    async def alone() -> bool:
        found = await cluster.store.agents()
        return [agent.id for agent in cluster.agents] == [session.agent_id] == [agent.id for agent in found]

    await cluster.until(alone, "its agent is the only one", SETTLED)
    await cluster.end(call)
    await promises.when_quiet(cluster)


@pytest.mark.parametrize("action", sorted(ACTIONS))
@pytest.mark.parametrize("point", [point for point in POINTS if point not in DEATHS])
def test_a_session_gets_one_agent_whatever_fails_at(simulate: Simulate, point: str, action: str) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=0, user_join_seconds=600)
        await cluster.start()
        # Stopped processes get SIGCONT here, except agents.
        world.arm(point, action, stands_still=600 if point.startswith("agent.") else 5)
        if point == "watch.after_due":
            world.arm("agent.before_ready", "hang", stands_still=600)

        async def struck() -> bool:
            return (point, action) in world.happened

        call = await cluster.begin("ada")
        await cluster.until(struck, "the fault has happened", 2 * SETTLED)
        session = await cluster.served(call, SETTLED + (SETTLED if point == "watch.after_due" else 0))
        await one_agent(cluster, call, session)

    for world in simulate(scenario, SEEDS):
        assert (point, action) in world.happened
        _happened.add(point)


@pytest.mark.parametrize("point", DEATHS)
@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_a_death_is_acted_on_once_though_its_witness_fails(simulate: Simulate, point: str, action: str) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=0, user_join_seconds=600)
        await cluster.start()
        call = await cluster.begin("ada")
        first = await cluster.served(call, SETTLED)
        world.arm(point, action)
        agent = cluster.process_of(first)
        assert agent is not None
        agent.kill()
        second = await cluster.served(call, SETTLED, but=agent.id)
        assert (second.replacements, second.takeovers) == (1, 0)
        (dead,) = await cluster.do(cluster.store.agent_records([agent.id]))
        assert dead.state is AgentState.EXITED
        await one_agent(cluster, call, second)

    for world in simulate(scenario, SEEDS):
        assert (point, action) in world.happened
        _happened.add(point)


@pytest.mark.parametrize("point", DEATHS)
@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_a_death_in_the_pool_is_made_up_for_though_its_witness_fails(
    simulate: Simulate, point: str, action: str
) -> None:
    async def scenario(world: World) -> None:
        cluster = Cluster(world, 1, pool_target=1)
        await cluster.start()
        world.arm(point, action)
        (warm,) = cluster.agents
        warm.kill()
        await promises.when_quiet(cluster)
        assert cluster.agents
        assert warm not in cluster.agents

    assert all((point, action) in world.happened for world in simulate(scenario, SEEDS))


def test_every_fault_point_was_hit(request: pytest.FixtureRequest) -> None:
    """The last test of this file: all listed fault points were used by the tests before."""
    if request.config.option.keyword or any("::" in argument for argument in request.config.args):
        pytest.skip("only a part of the file was run")
    assert _happened == set(POINTS)
