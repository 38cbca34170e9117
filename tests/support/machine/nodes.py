"""Rules: nodes reload, drain and report their memory; LiveKit becomes unreachable and comes back."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.support.machine.base import NODES, Base, twice


class Nodes(Base):
    """What happens to nodes, and to LiveKit."""

    @rule(what=st.sampled_from(["memory", "memory", "low", "up", "up", "down"]))
    def memory_or_livekit_changes(self, what: str) -> None:
        """The nodes report their memory, or LiveKit becomes unreachable or reachable."""
        match what:
            case "memory" | "low":
                self.model.queue_may_lag = True
                for node in NODES:  # sessions may wait until both nodes have reported
                    self.run_script("report_memory", node, "3 MiB are free" if what == "low" else "", 3600)
                self.model.queue_may_lag = False
                self.run_script("admit_waiting")
            case "up":
                self.bench.redis.delete("livekit:down")
                self.check_store()
            case "down":
                self.bench.redis.set("livekit:down", "no answer")
                self.check_store()

    @rule(
        what=st.sampled_from(["reload", "drain", "undrain", "undrain"]), node=st.sampled_from(NODES),
        window=st.sampled_from([0, 2_000, 6_000]), twice=twice,
    )  # fmt: skip
    def node_reloads_or_drains(self, what: str, node: str, window: int, twice: bool) -> None:
        match what:
            case "reload":
                ids = [i for i, process in self.model.processes.items() if process.node == node]
                self.run_script("mark_stale", *ids, twice=twice)
                assert {i for i in self.now.agents_of("ready", "starting") if i in ids} <= self.now.members(
                    "pool:stale"
                )
            case "drain":
                self.run_script("drain_node", node, window, twice=twice)
                left = self.now.unbound | self.now.queued
                assert self.now.in_service or not left, "no node is left for the sessions that wait"
            case "undrain":
                self.run_script("undrain_node", node, twice=twice)
                ending = {i for i in self.now.live if f"goodbye|{i}" in self.now.scores("deadlines")}
                ends = {i for i in ending if self.now.sessions[i].get("node") == node}
                assert not ends, f"{ends} end because of a drain that was cancelled"
