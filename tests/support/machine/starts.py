"""Rules: sessions are started, by users and by LiveKit jobs, and stopped."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from orchestrator.reasons import words
from orchestrator.store.loader import named
from tests.support.machine.base import NODES, picks, twice
from tests.support.machine.calls import Calls
from tests.support.model.dump import Dump

users = st.sampled_from(["ada", "bob", "cyd", "dee"])
rooms = st.sampled_from(["lobby", "desk"])


class Starts(Calls):
    """Sessions start in every way, and are stopped."""

    @rule(user=users, meets=st.booleans())
    def press_talk(self, user: str, meets: bool) -> None:
        """A user presses Talk; if `meets`, every assigned agent and its user join their room."""
        self.start_session(user)
        for agent in sorted(self.now.agents_of("assigned")) if meets else []:
            self.agent_meets_user(self.model.processes[agent])

    @rule(
        user=users,
        key=st.sampled_from(["", "", "", "k1", "k2"]),
        fingerprint=st.sampled_from(["f1", "f1", "f2"]),
        twice=twice,
    )
    def start_with_key(self, user: str, key: str, fingerprint: str, twice: bool) -> None:
        self.start_session(user, key, fingerprint, twice)

    @rule(user=users, room=rooms, job=st.sampled_from(["j1", "j2", "j3"]), job_assigned=st.booleans(), twice=twice)
    def dispatch(self, user: str, room: str, job: str, job_assigned: bool, twice: bool) -> None:
        """LiveKit asks for an agent in a room, through one node or two; then it may assign the job to us."""
        self.start_session(user, f"dispatch:{job}", "f1", twice, room, job)
        if job_assigned:
            _, session = self.model.idempotency_keys.get(f"dispatch:{job}", ("", ""))
            self.bench.redis.zrem("deadlines", f"job|{session}")
            self.check_store()

    def start_session(  # noqa: PLR0917 - the arguments of a start
        self, user: str, key: str = "", fingerprint: str = "f1", twice: bool = False, room: str = "", job: str = ""
    ) -> None:
        before, fresh = self.now, self.new_id("session")
        expected = self.model.start_outcomes(before, user, key, fingerprint, room)

        def after(answer: list[Any], now: Dump) -> None:
            outcome, session, *_ = answer
            agent = answer[4] if len(answer) > 4 else ""
            assert outcome in expected, f"a start is {outcome}, it should be one of {expected}"
            if outcome in {"assigned", "starting", "queued"}:
                assert session not in before.sessions, f"{session} existed before"
                assert now.sessions[session]["userId"] == user
                held = len(before.held(user))
                self.model.queued_at[session] = (int(now.now * 1000), held)
                if key:
                    self.model.idempotency_keys[key] = (fingerprint, session)
                self.rooms[session] = now.sessions[session]["roomName"]
                assert self.rooms[session] == (room or f"room_{fresh}")
                assert (f"job|{session}" in now.scores("deadlines")) is bool(job)
            else:
                changed = {k for k in before.difference(now) if k not in self.now.members("pool:ready")}
                warm = {f"node:{node}:warm" for node in NODES}  # silent agents leave the pool
                unexpected = changed - {"pool:ready", f"user:sessions:{user}"} - warm
                assert not unexpected, f"a start that is {outcome} changed {unexpected}"
            if outcome == "existing":
                assert session in before.held(user)
                newest = max(int(before.sessions[i]["createdAt"]) for i in before.held(user))
                assert int(before.sessions[session]["createdAt"]) == newest
            if outcome == "occupied":
                assert session in before.live
                assert before.sessions[session]["roomName"] == room
            if outcome in {"repeated", "reused"}:
                assert session == self.model.idempotency_keys[key][1]
            if outcome == "assigned":
                assert agent in before.warm
            if outcome == "starting":
                self.add_process(session)

        self.check_capacity(expected, key)
        asked = named(
            userId=user, waitingId=fresh, roomName=room or f"room_{fresh}", payload='{"type":"assign","token":"t"}',
            idempotencyKey=key, fingerprint=fingerprint, jobId=job, dispatchId=job and f"d-{job}", jobNode=job and "n1",
        )  # fmt: skip
        self.run_script(
            "assign", *asked, after=after, twice=twice and (bool(key) or self.model.policy["sessions_per_user"] == 1)
        )

    def check_capacity(self, expected: set[str], key: str) -> None:
        """Check that the load which is reported to LiveKit agrees with the answer to a job."""
        if key.startswith("dispatch:") and expected & {"assigned", "starting", "full", "broken", "draining", "livekit"}:
            silent = not self.now.warm and self.now.members("pool:ready")
            draining = "n1" in self.now.members("nodes:draining")
            _, _, refusal, *_ = self.run_script("capacity", "n1", unchanged=True)
            served = expected & {"assigned", "starting"}
            assert silent or refusal == (
                "draining" if draining and "livekit" not in expected else "" if served else next(iter(expected))
            ), f"{refusal}, a job is {expected}"

    @precondition(lambda self: self.now.sessions)
    @rule(pick=picks, status=st.sampled_from(["ended", "ended", "error"]), twice=twice)
    def stop_session(self, pick: int, status: str, twice: bool) -> None:
        ids = sorted(self.now.live) if self.now.live and pick < 13 else sorted(self.now.sessions)
        session = ids[pick % len(ids)]
        alive = session in self.now.live
        answer = self.run_script(
            "end_session", session, status, words("asked for").record(), twice=twice, unchanged=not alive
        )
        assert bool(answer[0]) is alive
        assert session not in self.now.live
