"""Rules: agents send heartbeats, and register again when Redis has lost their records."""

import json

from hypothesis.stateful import precondition, rule

from orchestrator.reasons import because
from tests.support.machine.base import Base, picks
from tests.support.model.dump import Dump
from tests.support.model.promises import Process


class Heartbeats(Base):
    """An agent's heartbeat, and its registration after a loss."""

    @precondition(lambda self: self.model.processes)
    @rule(pick=picks)
    def agent_beats(self, pick: int) -> None:
        self.send_heartbeat(self.pick_process(pick, "ready", "assigned", "running"))

    def send_heartbeat(self, process: Process) -> None:
        """Send a heartbeat; an agent whose record or session is lost registers again."""
        self.read_inbox(process)
        lost = process.id not in self.now.agents or (
            self.session_of(process) in self.model.lost_sessions and self.state(process) in {"assigned", "running"}
        )

        def after(state: str, now: Dump) -> None:
            assert state == ("" if lost else now.agents[process.id]["state"])
            if state == "ready":
                assert process.id in now.members("pool:ready"), "a warm agent that sends heartbeats is in the pool"

        self.run_script("agent_beat", process.id, keys=[f"agent:{process.id}", "pool:ready"], after=after)
        if lost and process.alive and process.warm:
            self.register_agent(process)

    def register_agent(self, process: Process) -> None:
        assignment, before = process.assignment, self.now
        session_fields = ""
        if assignment:
            payload = json.dumps({"type": "assign", "token": "t"})
            user = self.model.user_of_agent.get(process.id, "ada")
            room = self.rooms[assignment["sessionId"]]
            session_fields = json.dumps({
                "id": assignment["sessionId"], "userId": user, "roomName": room, "createdAt": assignment["createdAt"],
                "activeAt": process.active_at, "payload": payload, "conversation": ["{}"],
            })  # fmt: skip

        def after(state: str, now: Dump) -> None:
            known = process.id in now.agents
            assert state == (now.agents[process.id]["state"] if known and state else state)
            if known:
                self.model.lost_agents.discard(process.id)
            if not assignment:
                assert state, "a warm agent is always registered"
                return
            session = assignment["sessionId"]
            if session not in before.sessions:
                self.model.lost_sessions.discard(session)
                self.model.restored_users.add(now.sessions[session]["userId"])
                self.model.restored_rooms.add(now.sessions[session]["roomName"])
                self.model.user_present.pop(session, None)
                self.model.queued_at.setdefault(session, (int(now.now * 1000), 0))
                assert now.sessions[session]["status"] == ("active" if process.active_at else "ready")

        node = process.node or process.home or "n1"
        if self.run_script("agent_register", process.id, process.pid, node, session_fields, after=after) == "":
            self.report_exit(process, because("finished", exitCode=0), "0", "")
