"""Rules: LiveKit sends webhooks, and nodes compare rooms with the store."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.support.machine.base import picks, twice
from tests.support.machine.heartbeats import Heartbeats
from tests.support.model.dump import Dump


class LiveKit(Heartbeats):
    """What LiveKit reports, and what it answers about rooms."""

    @precondition(lambda self: self.now.sessions)
    @rule(
        pick=picks, event=st.sampled_from("participant_joined participant_left room_finished track_published".split()),
        number=st.integers(0, 3), ago=st.sampled_from([0, 0, 0, 601]), dropped=st.sampled_from([0, 0, 1]), twice=twice,
    )  # fmt: skip
    def webhook(  # noqa: PLR0917 - Hypothesis gives them by name
        self, pick: int, event: str, number: int, ago: int, dropped: int, twice: bool
    ) -> None:
        """LiveKit reports events, perhaps late or twice: a webhook changes no record."""
        sessions = sorted(self.now.live) if self.now.live and pick < 10 else sorted(self.now.sessions)
        room = self.now.sessions[sessions[pick % len(sessions)]]["roomName"] if pick < 14 else "theirs"
        before, at = self.now, int(self.now.now / 1000) - ago

        def after(result: str, now: Dump) -> None:
            known = f"webhook:EV_{number}" in before.values
            ours = before.values.get(f"session:room:{room}") in before.sessions
            expected = "stale" if ago else "replayed" if known else "recorded" if ours else "foreign"
            assert result == expected, f"a webhook is {result}, it should be {expected}"
            changed = before.difference(now, ["deadlines", "pool:stats", f"webhook:EV_{number}"])
            assert not changed, f"a webhook has changed {changed}"

        self.run_script("webhook", f"EV_{number}", event, room, at, dropped, after=after)
        if twice:
            assert self.run_script("webhook", f"EV_{number}", event, room, at, dropped) in {"replayed", "stale"}

    @precondition(lambda self: self.now.sessions)
    @rule(
        pick=picks, room=st.booleans(), user=st.sampled_from(["there", "gone", "coming"]), agent=st.booleans(),
        times=st.integers(1, 6),
    )  # fmt: skip
    def room_is_reconciled(self, pick: int, room: bool, user: str, agent: bool, times: int) -> None:
        """Nodes compare a room with the store several times, with the same result."""
        sessions = sorted(self.now.live) if self.now.live and pick < 13 else sorted(self.now.sessions)
        session = sessions[pick % len(sessions)]
        for _ in range(times):
            if session not in self.now.sessions:
                return
            self.reconcile_room(session, room, user if room else "gone", agent and room)
            self.bench.advance(2_100)
            for process in self.model.processes.values():
                if process.alive and self.state(process) in {"ready", "assigned", "running"}:
                    self.send_heartbeat(process)
            self.stop_processes(self.process_deadlines(), stops=True)

    def reconcile_room(self, session: str, room: bool, user: str, agent: bool) -> None:
        before, fields = self.now, self.now.sessions[session]
        doubt, bound = fields.get("doubt", ""), fields.get("agentId", "")

        def after(result: str, now: Dump) -> None:
            status = now.sessions[session]["status"]
            if result not in {"user_gone", "user_there", "agent_lost"}:
                changed = before.difference(now, ["deadlines", "pool:stats", f"session:{session}"])
                assert not changed, f"a comparison with result {result} has changed {changed}"
                old, new = (dict(dump.sessions[session], doubt="") for dump in (before, now))
                assert old == new, f"a comparison with result {result} has changed the session"
                assert status == fields["status"]
                return
            assert doubt, f"one comparison was enough: {result}"
            assert fields["status"] in {"ready", "active"}
            assert before.agents[bound]["state"] == "running"
            if result == "agent_lost":
                assert not agent
                assert user == "there"
                assert now.agents[bound]["state"] == "stopping"
            else:
                assert (user == "there") is (result == "user_there")
                assert status == "active", "a user who is not there ends nothing at once"
                self.model.user_present[session] = user == "there"

        self.run_script("reconcile_room", session, bound, int(room), user, int(agent), after=after)
