"""What one command may do to the store, in plain Python.

Nothing here is taken from the scripts: the rules are the promises (docs/states.md, the state tables, the schema). What
must hold at every moment, whatever was done before, is checked by the invariants of `orchestrator doctor`; the model
has what a single snapshot cannot show.
"""

from dataclasses import dataclass, field
from typing import Any

from orchestrator.operations.invariants import TRANSIENT, Code, Violation, in_records
from orchestrator.states import LIVE_SESSION_STATES, SESSION_MOVES, AgentState, SessionState
from tests.support.model.dump import Dump, ms
from tests.support.moves import AGENT_MOVES
from tests.support.snapshot import Snapshots

#: The longest time for which each kind of deadline may lie ahead, in ms.
LONGEST = {
    "boot": 5_000, "beat": ms("heartbeat_timeout_seconds"), "start": ms("start_timeout_seconds"),
    "stop": ms("stop_grace_seconds", "shutdown_seconds") + 2_500,  # after a call, there is work to do
    "join": ms("join_timeout_seconds"), "user": ms("user_join_seconds"),
    "gone": ms("join_timeout_seconds", "user_gone_seconds"), "max": ms("max_session_seconds"),
    "queue": ms("queue_seconds"), "goodbye": ms("goodbye_seconds"), "drain": 6_000, "refill": 75_001,
    "close": 5_000, "look": 2_000, "room": 0, "reconcile": 12_000, "job": 7_500, "alert": 30_000,
}  # fmt: skip
#: Before the first successful boot, no more than these boot at once.
UNPROVEN = 4
#: A node with so many failed boots in a row boots no agents while another node can.
NODE_FAILURES = 3
#: A further session of one user waits as if it had arrived this much later.
FAIRNESS_US = 60_000_000
#: If deadlines were not processed for longer than this, that time does not count.
UNPROCESSED_MS = 3_000


@dataclass
class Process:
    """An agent's process, as it sees itself."""

    id: str
    node: str  #: that has claimed it
    pid: int
    home: str = ""  #: node that it was announced for
    alive: bool = True
    warm: bool = False  #: it has reported that it is ready
    assignment: dict[str, Any] | None = None  #: the message that gave it its session
    active_at: int | None = None
    exit: tuple[str, str] | None = None  #: the exit code and signal that were reported first


@dataclass
class Model:
    """What has happened so far, and what that allows."""

    policy: dict[str, float]
    states: dict[str, str] = field(default_factory=dict)  #: of each session and agent, by its events
    queued_at: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  #: when it arrived, in µs; sessions its user held then
    idempotency_keys: dict[str, tuple[str, str]] = field(default_factory=dict)  #: idempotency key: fingerprint, session
    processes: dict[str, Process] = field(default_factory=dict)
    user_present: dict[str, bool] = field(default_factory=dict)  #: by session, as its agent last reported
    lost_sessions: set[str] = field(default_factory=set)  #: whose record was lost, and not registered again since
    lost_agents: set[str] = field(default_factory=set)
    expired: set[str] = field(default_factory=set)  #: ended sessions whose record has expired
    restored_users: set[str] = field(default_factory=set)  #: users with a session that was registered after it was lost
    restored_rooms: set[str] = field(default_factory=set)  #: rooms with a session that was registered after it was lost
    records_lost: bool = False  #: records were lost: neither limit nor counters are exact
    queue_may_lag: bool = False  #: sessions may stay queued beside free capacity, until the next memory report
    user_of_agent: dict[str, str] = field(default_factory=dict)  #: the one user that each agent was given to
    snapshots: Snapshots = field(default_factory=Snapshots)

    # The answer to a start

    def start_outcomes(  # noqa: PLR0911 - a table
        self, before: Dump, user: str, key: str, fingerprint: str, job_room: str = ""
    ) -> set[str]:
        """Return the outcomes that a start may have. `job_room`: a LiveKit job asks for an agent in that room."""
        cap, held = self.policy["max_sessions"], before.held(user)
        if key in self.idempotency_keys:
            return {"repeated"} if self.idempotency_keys[key][0] == fingerprint else {"reused"}
        if job_room and any(fields["roomName"] == job_room for fields in before.live.values()):
            return {"occupied"}
        if len(held) >= self.policy["sessions_per_user"]:
            return {"existing"}
        if "livekit:down" in before.values:
            return {"livekit"}
        if before.members("nodes:draining") and not before.in_service:
            return {"draining"}
        full = len(before.queued) >= self.policy["queue_limit"]
        crowded = len(before.served) + len(self.lost_but_counted(before)) >= cap or bool(before.queued)
        if before.warm and not crowded:
            return {"assigned"}
        if before.failures >= 5:
            return {"broken"}
        if crowded or "pool:memory_low" in before.values:
            return {"full"} if full or job_room else {"queued"}
        return {"starting"}

    def lost_but_counted(self, dump: Dump) -> set[str]:
        """Return the sessions that count although their record is lost."""
        counted = dump.members("session:starting") | dump.members("session:ready") | dump.members("session:active")
        return self.lost_sessions & counted

    # Checks after every script

    def check(self, before: Dump, after: Dump) -> None:
        """Check the store, and what one script has changed."""
        self._invariants(after)
        self._replay(after)
        self._order(before, after)
        self._pool(before, after)
        self._deadlines(after)
        self._limits(after)
        self._ended_is_final(before, after)

    def _invariants(self, after: Dump) -> None:
        found = in_records(self.snapshots.of(after), self.policy)
        wrong = [violation.text for violation in found if not self._excused(violation)]
        assert not wrong, "; ".join(wrong)

    def _excused(self, violation: Violation) -> bool:
        """Return whether a violation is transient, or comes of lost records."""
        code, params = violation.code, violation.params
        return (
            (self.queue_may_lag if code is Code.QUEUED_WITH_CAPACITY else code in TRANSIENT)
            or (code is Code.SESSIONS_ABOVE_LIMIT and self.records_lost)
            or (code is Code.USER_ABOVE_LIMIT and params["user"] in self.restored_users)
            or (code is Code.ROOM_KEY_WRONG and params["room"] in self.restored_rooms)
            or (code is Code.SESSION_DEADLINE and params["deadline"] == "look" and params["session"] in self.expired)
            or violation.names(self.lost_sessions | self.lost_agents)
        )

    def _replay(self, after: Dump) -> None:
        """Every change of state has an event, and the state tables allow it."""
        for _, event in after.events:
            who, state = event.get("session") or event["agent"], event["state"]
            moves: Any = SESSION_MOVES if "session" in event else AGENT_MOVES
            kind = f"{'session' if 'session' in event else 'agent'} {who}"
            if state == "registered" or "registered" in event:
                known = after.sessions.get(who, {}).get("status") if "session" in event else state
                self.states[kind] = str(known)
                continue
            if state not in {*moves}:
                continue
            last = self.states.get(kind, "starting" if "agent" in event else None)
            assert last is None or state in moves[last], f"{kind}: {last} -> {state} is not a legal move"
            self.states[kind] = state
        for who, fields in after.sessions.items():
            assert self.states.get(f"session {who}") == fields["status"], f"session {who} moved without an event"
        for who, fields in after.agents.items():
            assert self.states.get(f"agent {who}", "starting") == fields["state"], f"agent {who} moved without an event"

    def _order(self, before: Dump, after: Dump) -> None:
        """Queued sessions are served in the order of their arrival."""
        gone = before.queued - after.queued
        promoted = {i for i in gone if after.sessions.get(i, {}).get("status") in LIVE_SESSION_STATES}
        for i in promoted:
            arrival, held = self.queued_at[i]
            for other in before.queued & after.queued:
                other_arrival, other_held = self.queued_at[other]
                first = other_arrival + other_held * FAIRNESS_US < arrival + held * FAIRNESS_US
                assert not first, f"{i} was promoted before {other}, which arrived earlier"
        served = {i for i in before.unbound if after.sessions.get(i, {}).get("status") == "ready"}
        for i in served:
            for other in before.unbound & after.unbound:
                late = int(after.sessions[other]["createdAt"]) < int(after.sessions[i]["createdAt"])
                assert not late, f"{i} was served before {other}, which started earlier"

    def _pool(self, before: Dump, after: Dump) -> None:
        for i in after.agents_of("assigned") - before.agents_of("assigned", "running"):
            user = after.sessions.get(after.agents[i]["sessionId"], {}).get("userId", "")
            assert self.user_of_agent.setdefault(i, user) == user, f"{i} was given to two users"
            if i in before.members("pool:ready"):
                assert after.fresh(i), f"{i} is silent and was given to a user"
            away = before.in_service and after.agents[i].get("node") in before.members("nodes:draining")
            assert not away, f"{i} was given a session, and its node is draining"

    def _deadlines(self, after: Dump) -> None:
        """Every deadline is within its bound; the deadline `gone` exists only while the user is away."""
        deadlines = after.scores("deadlines")
        unprocessed = after.now - float(after.values.get("deadlines:looked", after.now)) > UNPROCESSED_MS
        for member, at in deadlines.items():
            ahead = at - after.now
            longest = LONGEST[member.partition("|")[0]] + UNPROCESSED_MS
            assert unprocessed or ahead <= longest, f"{member} lies {ahead} ms ahead"
        for who, present in self.user_present.items():
            status = after.live.get(who, {}).get("status")
            if status in {"ready", "active"}:
                gone = f"gone|{who}" in deadlines
                assert present or gone, f"the user of {who} has left and there is no deadline"
                assert not present or status != "active" or not gone, f"the user of {who} is there, with a deadline"

    def _limits(self, after: Dump) -> None:
        most = self.policy["max_takeovers"] if self.policy["takeover"] else 0
        for i, fields in after.sessions.items():
            assert int(fields.get("takeovers", 0)) <= most, f"{i} was taken over too often"
            assert int(fields.get("replacements", 0)) <= 2, f"{i} was given too many agents"
        over = len(after.of("ended", "error"))
        stats = after.fields("pool:stats")
        counted = int(stats.get("total_ended", 0)) + int(stats.get("total_errors", 0))
        assert self.records_lost or over == counted, f"{over} sessions have ended, {counted} are counted"

    def _ended_is_final(self, before: Dump, after: Dump) -> None:
        """Ended sessions and exit codes do not change."""
        for i in after.of(SessionState.ENDED, SessionState.ERROR) & before.of("ended", "error"):
            assert before.sessions[i] == after.sessions[i], f"{i} has ended and was changed"
        for i in after.agents_of(AgentState.EXITED):
            seen = self.processes[i].exit if i in self.processes else None
            found = (after.agents[i].get("exitCode", ""), after.agents[i].get("signal", ""))
            assert seen is None or found == seen, f"{i} exited with {seen}, its record says {found}"
