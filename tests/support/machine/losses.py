"""Rules: time passes, and records are lost or expire."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from orchestrator.reasons import words
from tests.support.machine.base import STEP_MS, picks
from tests.support.machine.heartbeats import Heartbeats
from tests.support.model.promises import Model


class Losses(Heartbeats):
    """Time passes, with and without nodes that process deadlines; Redis loses records."""

    @rule(steps=st.integers(1, 4), beats=st.booleans(), stops=st.booleans())
    def time_passes(self, steps: int, beats: bool, stops: bool) -> None:
        for _ in range(steps):
            self.bench.advance(STEP_MS)
            if beats:
                for agent in sorted(self.now.agents_of("ready", "assigned", "running")):
                    process = self.model.processes[agent]
                    if process.alive:
                        self.send_heartbeat(process)
            self.stop_processes(self.process_deadlines(), stops)

    @rule(ms=st.sampled_from([1, 500, 2_900, 10_000, 120_000]), processed_after=st.booleans())
    def deadlines_are_unprocessed(self, ms: int, processed_after: bool) -> None:
        """No node processes deadlines for a while."""
        self.bench.advance(ms)
        self.check_store()
        if processed_after:
            self.stop_processes(self.process_deadlines(), stops=True)

    @precondition(lambda self: self.now.agents_of("ready", "assigned", "running"))
    @rule(pick=picks, what=st.sampled_from(["agent", "session"]), register=st.booleans())
    def lose_record(self, pick: int, what: str, register: bool) -> None:
        """One record is lost; its agent notices at its next heartbeat."""
        process = self.pick_process(pick, "ready", "assigned", "running")
        if not process.alive or self.state(process) not in {"ready", "assigned", "running"}:
            return
        self.read_inbox(process)
        session = self.session_of(process)
        if what == "agent":
            self.model.lost_agents.add(process.id)
            self.bench.redis.delete(f"agent:{process.id}")
        elif session in self.now.live:
            self.model.lost_sessions.add(session)
            self.bench.redis.delete(f"session:{session}")
        self.model.records_lost = True
        self.check_store()
        if register:
            self.send_heartbeat(process)

    @precondition(lambda self: self.now.sessions or self.model.lost_sessions)
    @rule(pick=picks, lost=st.booleans())
    def end_lost_session(self, pick: int, lost: bool) -> None:
        """A node ends a session whose record it missed; its agent may have registered it since."""
        sessions = sorted(self.model.lost_sessions if lost and self.model.lost_sessions else self.now.sessions)
        if sessions:
            session = sessions[pick % len(sessions)]
            fields = self.now.sessions.get(session)
            if not fields or fields.get("agentId") in {None, *self.now.agents}:
                self.run_script("end_lost_session", session, words("lost").record(), unchanged=bool(fields))

    @precondition(lambda self: self.now.agents)
    @rule(register_first=st.booleans())
    def redis_is_emptied(self, register_first: bool) -> None:
        """Redis comes back empty. If `register_first`, living agents register before nodes write their records."""
        warm = [process for process in self.model.processes.values() if process.alive and process.warm]
        alive = [process for process in warm if self.state(process) not in {"", "exited"}]
        for process in alive:
            self.read_inbox(process)
        users, processes, restored = self.model.user_of_agent, self.model.processes, self.model.restored_users
        self.model = Model(
            self.model.policy, user_of_agent=users, processes=processes, restored_users=restored, records_lost=True
        )
        for process in processes.values():
            process.exit = None
            process.alive = process in alive
        self.bench.clear(reset_clock=False)
        self.now = self.bench.dump()
        if register_first:
            self.write_policy()
            self.check_store()
            for process in alive:
                self.send_heartbeat(process)
        self.start_nodes()

    @precondition(lambda self: self.now.of("ended", "error") or self.now.agents_of("exited"))
    @rule()
    def records_expire(self) -> None:
        """The records of ended sessions and exited agents expire."""
        old = [key for key in sorted(self.now.kept) if key.startswith(("session:", "agent:", "idempotency:"))]
        ended = self.now.of("ended", "error")
        for key in old:
            self.bench.redis.delete(key)
        for i in ended:
            self.model.expired.add(i)
            self.model.states.pop(f"session {i}", None)
            self.model.user_present.pop(i, None)  # the next session of this name has another user
            self.bench.redis.zrem("deadlines", f"close|{i}")  # its room was deleted long before
        self.model.idempotency_keys.clear()
        self.model.records_lost = True
        self.check_store()
