"""Rules: the pool of warm agents is filled and resized."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from orchestrator.reasons import Reason, because
from tests.support.machine.base import NODES, STEP_MS, picks, twice
from tests.support.machine.boots import Boots
from tests.support.model.dump import Dump
from tests.support.model.promises import NODE_FAILURES, UNPROVEN

NO_BOOT = because("boot_error", detail="no")


class Pool(Boots):
    """Nodes reserve agents for the pool, boot them, and retire surplus ones."""

    @rule(node=st.sampled_from(NODES))
    def refill_pool(self, node: str) -> None:
        """A node fills the pool; every boot succeeds."""
        self.reserve_agents(8, node)
        for agent in sorted(self.now.agents_of("starting")):
            self.claim_if_unclaimed(self.model.processes[agent], node)
            if self.state(self.model.processes[agent]) == "starting":
                self.report_ready(self.model.processes[agent])

    @rule(count=st.integers(1, 8), node=st.sampled_from(NODES))
    def node_reserves_agents(self, count: int, node: str) -> None:
        self.reserve_agents(count, node)

    @precondition(lambda self: self.now.agents_of("starting"))
    @rule(
        pick=picks, cause=st.sampled_from([NO_BOOT, NO_BOOT, because("not_spawned", detail="host away")]),
        more=st.sampled_from([0, 0, 0, 1, 5]), twice=twice,
    )  # fmt: skip
    def boot_fails(self, pick: int, cause: Reason, more: int, twice: bool) -> None:
        """A boot fails, and so do `more` further ones."""
        process = self.pick_process(pick, "starting")
        if self.state(process) == "starting":
            self.report_exit(process, cause, "1", "", twice)
        for _ in range(more):
            self.bench.advance(STEP_MS)
            self.reserve_agents(4)
            for agent in sorted(self.now.agents_of("starting"))[:1]:
                self.report_exit(self.model.processes[agent], cause, "1", "")

    def nodes_that_boot(self, now: Dump, asking: str = "") -> list[str]:
        """Return the nodes that boot agents: those with memory, and the one that asks.

        Nodes on which boots fail count only if boots fail on all of them.
        """
        able = sorted(n for n in now.in_service if n == asking or f"node:{n}:short" not in now.values)
        return [n for n in able if now.boot_failures(n) < NODE_FAILURES] or able

    def warm_target(self, nodes: list[str]) -> int:
        """Return the size that the pool should have: at least one agent on each node that boots agents."""
        return max(self.target, len(nodes)) if self.target else 0

    def missing_per_node(self, before: Dump, nodes: list[str]) -> dict[str, int]:
        """Return how many agents each of these nodes lacks. What other nodes have counts, up to a fair share."""
        target, found = self.warm_target(nodes), {}
        others = sorted(before.in_service - set(nodes))
        fair = target // max(1, len(nodes) + len(others))
        target -= sum(min(fair, len(before.members(f"node:{node}:warm"))) for node in others)
        for at, node in enumerate(nodes):
            mine = {i for i, fields in before.agents.items() if fields.get("node") == node}
            counts = [len(mine & before.members(f"pool:{name}")) for name in ("ready", "starting", "stale")]
            found[node] = target // len(nodes) + (at < target % len(nodes)) - counts[0] - counts[1] + counts[2]
        return found

    def reserve_agents(self, count: int, node: str = NODES[0]) -> None:
        ids, before = [self.new_id("prewarm") for _ in range(count)], self.now
        stale = len(before.members("pool:stale"))
        booting = len(before.agents_of("starting"))
        warm, unbound = len(before.members("pool:ready")), len(before.scores("session:unbound"))
        nodes = self.nodes_that_boot(before, node)
        lacks = self.missing_per_node(before, nodes)
        missing = 0
        if node in lacks:
            total = self.warm_target(nodes) + unbound - warm - booting + stale
            missing = max(0, lacks.pop(node), total - sum(lack for lack in lacks.values() if lack > 0))

        def after(found: list[str], now: Dump) -> None:
            for agent in found:
                self.add_process(agent)
                self.model.processes[agent].home = node
            assert len(found) <= min(missing, count), f"{len(found)} are announced, {missing} are missing"
            if before.failures:
                assert len(found) + booting * bool(found) <= 1, "boots fail, and more than one is tried at a time"
            elif before.boot_failures(node):
                assert len(found) <= 1, "boots fail there, and more than one is tried at a time"
            elif "pool:proven" not in before.values:
                assert not found or len(found) + booting <= UNPROVEN, "no boot has worked, and many are tried"
            else:
                assert len(found) == min(missing, count), f"{len(found)} are announced, {missing} are missing"

        self.run_script("reserve_agents", node, "", *ids, after=after)

    @rule(size=st.integers(0, 3), retire=st.booleans())
    def resize_pool(self, size: int, retire: bool) -> None:
        self.target = size
        self.bench.redis.set("pool:target", size)
        self.check_store()
        if retire:
            before = self.now.members("pool:ready") & self.now.agents_of("ready")
            stopped = self.run_script("retire_surplus", legal=True)
            most = self.warm_target(self.nodes_that_boot(self.now))
            assert len(before - set(stopped)) == min(len(before), most)
            assert set(stopped) <= before
