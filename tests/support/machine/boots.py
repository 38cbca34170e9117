"""Rules: processes of agents boot and report that they are ready."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.support.machine.base import NODES, Base, picks, twice
from tests.support.model.dump import Dump
from tests.support.model.promises import Process


class Boots(Base):
    """An agent's process from its claim by a node until it is ready."""

    @precondition(lambda self: self.model.processes)
    @rule(pick=picks, node=st.sampled_from(NODES), twice=twice)
    def claim_agent(self, pick: int, node: str, twice: bool) -> None:
        process = self.pick_process(pick, "starting")
        fields, broken = self.now.agents.get(process.id, {}), self.now.failures >= 5
        if fields.get("state") != "starting":
            expected = "gone"
        elif fields.get("spawnedAt") or fields.get("node", node) != node:
            expected = "taken"
        else:
            expected = "gone" if broken and process.id.startswith("session_") else "claimed"

        def after(answer: list[str], _: Dump) -> None:
            assert answer[0] == expected, f"a claim is {answer}, it should be {expected}"
            if answer[0] == "claimed":
                process.node = node

        self.run_script(
            "claim_agent", process.id, node, 0, keys=[f"agent:{process.id}"], after=after,
            unchanged=expected == "taken" or fields.get("state") != "starting", twice=twice,
        )  # fmt: skip
        if process.node:
            keys = [f"agent:{process.id}", f"agent:{process.id}:pid"]
            self.run_script(
                "record_spawn", process.pid, 7, "boot", process.node, process.id,
                keys=keys, unchanged=not self.state(process), twice=twice,
            )  # fmt: skip

    def claim_if_unclaimed(self, process: Process, node: str) -> None:
        if not process.node:
            process.node = self.now.agents[process.id].get("node", node)
            answer = self.run_script("claim_agent", process.id, process.node, 0, keys=[f"agent:{process.id}"])
            if answer[0] != "claimed":
                process.node = ""

    @precondition(lambda self: self.model.processes)
    @rule(pick=picks, twice=twice)
    def agent_ready(self, pick: int, twice: bool) -> None:
        self.report_ready(self.pick_process(pick, "starting"), twice)

    def report_ready(self, process: Process, twice: bool = False) -> None:
        before, legal = self.now, self.state(process) == "starting"

        def after(answer: str | list[str], now: Dump) -> None:
            # The release before answered with the session alone.
            session, refused = (answer, "") if isinstance(answer, str) else answer
            assert not refused, f"{process.id} is the process that the host spawned: {refused}"
            process.warm = True
            if session:
                assert session in before.unbound, f"{process.id} was given {session}, which waits for no agent"
                assert now.agents[process.id]["state"] == "assigned"
            assert now.failures == 0, "a successful boot closes the breaker"

        self.run_script("agent_ready", process.id, process.pid, legal=legal, twice=twice, after=after)

    @precondition(lambda self: self.now.agents_of("starting"))
    @rule(pick=picks, node=st.sampled_from(NODES))
    def boot(self, pick: int, node: str) -> None:
        """A whole boot succeeds."""
        process = self.pick_process(pick, "starting")
        if self.state(process) == "starting":
            self.claim_if_unclaimed(process, node)
            if self.state(process) == "starting":
                self.report_ready(process)

    @precondition(lambda self: self.now.unbound)
    @rule(pick=picks)
    def retry_spawn(self, pick: int) -> None:
        """The spawn task replaces the agent of a session that waits for one."""
        waiting = sorted(self.now.unbound) if pick < 13 else sorted(self.now.sessions)
        session, agent, before = waiting[pick % len(waiting)], self.new_id("prewarm"), self.now

        def after(answer: str, _: Dump) -> None:
            if session not in before.unbound:
                assert answer == "over"
            else:
                assert answer == ("open" if before.failures >= 5 else "announced")
            if answer == "announced":
                self.add_process(agent)

        self.run_script("announce_replacement", session, agent, after=after)
