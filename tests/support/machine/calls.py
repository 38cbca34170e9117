"""Rules: agents and users join rooms, speak and leave."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from orchestrator.reasons import because, words
from tests.support.machine.base import Base, picks, twice
from tests.support.model.dump import Dump
from tests.support.model.promises import Process


class Calls(Base):
    """A session from its assignment to its end, as its agent reports it."""

    @precondition(lambda self: self.now.agents_of("assigned", "running"))
    @rule(pick=picks, twice=twice)
    def agent_joins(self, pick: int, twice: bool) -> None:
        self.report_joined(self.pick_process(pick, "assigned"), twice)

    def report_joined(self, process: Process, twice: bool = False) -> None:
        """The agent reports that it has joined its room."""
        self.read_inbox(process)
        own, state = self.owns(process), self.state(process)
        legal = own and state in {"assigned", "running"}

        def after(session: str, now: Dump) -> None:
            assert session == self.session_of(process)
            waits = now.scores("deadlines")
            assert f"join|{session}" not in waits, f"{process.id} has joined and {session} still has the deadline"

        self.run_script("agent_joined", process.id, legal=legal, twice=twice, after=after)

    @precondition(lambda self: self.now.agents_of("assigned", "running"))
    @rule(pick=picks, present=st.booleans(), twice=twice)
    def user_comes_or_goes(self, pick: int, present: bool, twice: bool) -> None:
        self.report_presence(self.pick_process(pick, "running"), present, twice)

    def report_presence(self, process: Process, present: bool, twice: bool = False) -> None:
        session = self.session_of(process)
        fields = self.now.sessions.get(session, {})
        own = self.owns(process)
        live = fields.get("status") in {"ready", "active"}

        def after(_: int, now: Dump) -> None:
            if own and live:
                self.model.user_present[session] = present
            if present and own and live:
                assert now.sessions[session]["status"] == "active"
                process.active_at = process.active_at or int(now.sessions[session]["activeAt"])

        legal = own and (live or not present)
        lost = int(not present and twice)
        self.run_script(
            "agent_presence", session, process.id, int(present), lost,
            legal=legal, unchanged=own and not live, twice=twice, after=after,
        )  # fmt: skip

    @precondition(lambda self: self.now.agents_of("assigned"))
    @rule(pick=picks)
    def agent_and_user_join(self, pick: int) -> None:
        """The agent and the user both join the room."""
        self.agent_meets_user(self.pick_process(pick, "assigned"))

    def agent_meets_user(self, process: Process) -> None:
        if self.state(process) == "assigned" and self.owns(process):
            self.report_joined(process)
            self.report_presence(process, present=True)

    @precondition(lambda self: self.now.sessions and self.model.processes)
    @rule(pick=picks, other=picks)
    def conversation_turn(self, pick: int, other: int) -> None:
        sessions = sorted(self.now.sessions)
        session, process = sessions[other % len(sessions)], self.pick_process(pick, "running")
        fields = self.now.sessions[session]
        own = fields.get("agentId") == process.id and session in self.now.live
        key = f"session:{session}:conversation"
        answer = self.run_script("agent_turn", session, process.id, '{"text":"x"}', 2, keys=[key], unchanged=not own)
        assert answer == int(own)
        assert len(self.now.values.get(key, [])) <= 2

    @precondition(lambda self: self.model.processes)
    @rule(pick=picks, must_stop=st.booleans(), twice=twice)
    def agent_fails_or_stops(self, pick: int, must_stop: bool, twice: bool) -> None:
        """An agent reports that it cannot continue, or that its process must stop."""
        process = self.pick_process(pick, "assigned", "running")
        unchanged = self.state(process) not in {"assigned", "running"}
        session = self.session_of(process) if not unchanged else ""
        self.run_script(
            "agent_stopped" if must_stop else "agent_failed",
            process.id,
            because("room_lost").record(),
            unchanged=unchanged,
            twice=twice,
        )
        if must_stop:
            # The session's record may be lost (`lose_record`): then it has no status.
            status = self.now.sessions.get(session, {}).get("status")
            assert status != "error", "nothing has failed"

    @precondition(lambda self: self.model.processes)
    @rule(pick=picks, status=st.sampled_from(["ended", "error"]), twice=twice)
    def agent_ends_session(self, pick: int, status: str, twice: bool) -> None:
        """An agent ends its session; an agent that does not own it cannot."""
        process = self.pick_process(pick, "running", "assigned")
        session = process.assignment["sessionId"] if process.assignment else self.session_of(process)
        if session not in self.now.sessions:
            return
        own = self.now.sessions.get(session, {}).get("agentId") == process.id and session in self.now.live
        self.run_script(
            "agent_ended", session, status, words("hung up").record(), process.id, unchanged=not own, twice=twice
        )
        assert not own or session not in self.now.live

    @precondition(lambda self: self.model.processes)
    @rule(
        pick=picks, state=st.sampled_from(["starting", "ready", "assigned", "running", "stopping", "exited"]),
        seen=st.sampled_from([("", ""), ("1", ""), ("", "9")]), twice=twice,
    )  # fmt: skip
    def agent_exits(self, pick: int, state: str, seen: tuple[str, str], twice: bool) -> None:
        process = self.pick_process(pick, state)
        if self.state(process) == "exited" and process.exit is not None:
            seen = process.exit if pick % 2 else ("", "")  # one exit is never reported with two results
        self.report_exit(process, because("process_gone"), *seen, twice)

    @precondition(lambda self: self.model.processes)
    @rule(pick=picks, state=st.sampled_from(["starting", "ready", "assigned", "running"]), twice=twice)
    def agent_is_unfit(self, pick: int, state: str, twice: bool) -> None:
        process = self.pick_process(pick, state)
        before = self.state(process)
        over = before in {"", "stopping", "exited"}
        answer = self.run_script("retire_unfit", process.id, because("zombie").record(), unchanged=over, twice=twice)
        assert answer == ("" if over else before)
