"""A model of the effects of each store command, and a bench that drives the Lua scripts with its own clock.

Nothing here is copied from the scripts: the rules are the documented promises (docs/states.md, the state tables, the
schema). The invariants of `orchestrator doctor` check what must be true of every snapshot; the model checks what needs
more than one.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from orchestrator.operations.invariants import TRANSIENT, Code, Violation, in_records
from orchestrator.states import LIVE_SESSION_STATES, SESSION_MOVES, AgentState, SessionState
from orchestrator.store.loader import sources
from tests.support.moves import AGENT_MOVES
from tests.support.snapshot import Snapshots

#: Every wait, in seconds: short, and all different.
WAITS = {
    "queue_seconds": 12, "boot_timeout_seconds": 4, "start_timeout_seconds": 6.5, "join_timeout_seconds": 3,
    "user_join_seconds": 8, "user_gone_seconds": 4.5, "max_session_seconds": 20, "heartbeat_timeout_seconds": 6,
    "stop_grace_seconds": 1.5, "goodbye_seconds": 2, "session_keep_seconds": 3_600, "reconcile_seconds": 9,
}  # fmt: skip


def ms(*names: str) -> int:
    """Return the sum of some waits, in ms."""
    return sum(int(WAITS[name] * 1000) for name in names)


#: How far ahead each kind of deadline may be, in ms.
LONGEST = {
    "boot": 5_000, "beat": ms("heartbeat_timeout_seconds"), "stop": 5_000, "start": ms("start_timeout_seconds"),
    "join": ms("join_timeout_seconds"), "user": ms("user_join_seconds"),
    "gone": ms("join_timeout_seconds", "user_gone_seconds"), "max": ms("max_session_seconds"),
    "queue": ms("queue_seconds"), "goodbye": ms("goodbye_seconds"), "drain": 6_000, "refill": 75_001,
    "close": 5_000, "look": 2_000, "room": 0, "reconcile": 12_000, "job": 7_500, "alert": 30_000,
}  # fmt: skip
#: At most this many agents boot at once until the first boot succeeds.
UNPROVEN = 4
#: After this many failed boots in a row a node gets no more boots while those of other nodes succeed.
NODE_FAILURES = 3
#: In the queue, each further session of one user counts as if it had arrived this much later.
FAIRNESS_US = 60_000_000
#: If the deadlines were not checked for longer than this, that time does not count.
BLIND_MS = 3_000

CLOCK = "test:clock"
#: Prepended to every script: the clock is a key, and each script runs a quarter of a millisecond after the one before
#: (several run in one millisecond, as in production); the clock also seeds random numbers, so a sequence is repeatable.
BENCH = f"""
local real, redis = redis, setmetatable({{}}, {{__index = redis}})
function redis.call(command, key, ...)
  if command == 'TIME' then
    local us = real.call('INCRBY', '{CLOCK}', 250)
    return {{math.floor(us / 1e6), us % 1e6}}
  elseif command == 'SPOP' or command == 'SRANDMEMBER' then
    local members = real.call('SMEMBERS', key)
    if #members == 0 then return false end
    table.sort(members)
    local found = members[tonumber(real.call('GET', '{CLOCK}')) / 250 % #members + 1]
    if command == 'SPOP' then real.call('SREM', key, found) end
    return found
  end
  if key == nil then return real.call(command) end
  return real.call(command, key, ...)
end
"""
_DUMP = """
local out = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local value
  if kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'string' then value = redis.call('GET', key)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  else value = redis.call('XLEN', key) end
  out[#out + 1] = {key, kind, value, redis.call('TTL', key) >= 0}
end
local fresh = {}
for _, entry in ipairs(redis.call('XRANGE', 'events', ARGV[1], '+')) do fresh[#fresh + 1] = entry end
return cjson.encode({out, fresh})
"""


class Refused(Exception):
    """A script refused an illegal move."""


@dataclass
class Dump:
    """Everything in the database, by key."""

    values: dict[str, Any]
    kept: set[str]  #: the keys that expire
    events: list[tuple[str, dict[str, str]]]  #: entries added to `events` since the previous dump

    def fields(self, key: str) -> dict[str, str]:
        return self.values.get(key, {})

    def members(self, key: str) -> set[str]:
        return self.values.get(key, set())

    def scores(self, key: str) -> dict[str, float]:
        return self.values.get(key, {})

    def _records(self, kind: str) -> Iterator[tuple[str, dict[str, str]]]:
        for key, value in self.values.items():
            if key.startswith(kind) and key.count(":") == 1 and isinstance(value, dict) and value.keys() - {""}:
                yield key.partition(":")[2], value

    def __post_init__(self) -> None:
        self.sessions = {i: f for i, f in self._records("session:") if "status" in f}
        self.agents = {i: f for i, f in self._records("agent:") if "state" in f}
        self.now = int(self.values.get(CLOCK, 0)) / 1000
        self.live = {i: f for i, f in self.sessions.items() if f["status"] in LIVE_SESSION_STATES}
        self.queued = self.of("queued")
        self.served = self.live.keys() - self.queued
        self.unbound = self.of("starting")

    def of(self, *states: str) -> set[str]:
        """The ids of the sessions in these states."""
        return {i for i, f in self.sessions.items() if f["status"] in states}

    def agents_of(self, *states: str) -> set[str]:
        """The ids of the agents in these states."""
        return {i for i, f in self.agents.items() if f["state"] in states}

    def held(self, user: str) -> set[str]:
        """A user's live sessions."""
        return {i for i, f in self.live.items() if f["userId"] == user}

    def fresh(self, agent: str) -> bool:
        """Whether an agent's heartbeat is recent."""
        return int(self.now) - int(self.agents[agent].get("lastBeat", 0)) <= ms("heartbeat_timeout_seconds")

    @property
    def warm(self) -> set[str]:
        """The agents that can be handed out."""
        return {
            i for i in self.members("pool:ready") if self.agents.get(i, {}).get("state") == "ready" and self.fresh(i)
        }

    @property
    def failures(self) -> int:
        return int(self.fields("pool:breaker").get("failures", 0))

    def boot_failures(self, node: str) -> int:
        """How many boots have failed in a row on a node."""
        return int(self.values.get(f"node:{node}:failures", 0))

    @property
    def in_service(self) -> set[str]:
        """The nodes that are alive and accept sessions."""
        living = {i for i in self.members("nodes") if f"node:{i}" in self.values}
        return living - self.members("nodes:draining")

    def difference(self, other: "Dump", ignored: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
        """The differences of two dumps, apart from the clock and keys with a real expiry of two seconds."""
        names = (self.values.keys() | other.values.keys()) - {CLOCK, "pool:refill"} - set(ignored)
        pairs = {name: (self.values.get(name), other.values.get(name)) for name in sorted(names)}
        return {name: (ours, theirs) for name, (ours, theirs) in pairs.items() if ours != theirs}


#: The scripts of the previous release, unchanged.
RELEASES = Path(__file__).parents[1] / "releases"


def previous_release() -> dict[str, str]:
    """Return every script of the previous release by name, with its prelude prepended."""
    found: dict[str, str] = json.loads((RELEASES / "previous.json").read_text())
    prelude = found.pop("_prelude")
    return {name: prelude + source for name, source in found.items()}


def policy_as_then(policy: Mapping[str, float]) -> dict[str, float]:
    """Return a policy as a node of the previous release writes it: with its own field names, most times in ms."""
    names = {
        "max_sessions": "maxSessions", "sessions_per_user": "perUser", "queue_limit": "queueLimit",
        "queue_seconds": "queueMs", "boot_timeout_seconds": "bootMs", "start_timeout_seconds": "startMs",
        "join_timeout_seconds": "joinMs", "user_join_seconds": "userJoinMs", "user_gone_seconds": "userGoneMs",
        "max_session_seconds": "maxMs", "heartbeat_timeout_seconds": "silentMs", "stop_grace_seconds": "stopMs",
        "goodbye_seconds": "goodbyeMs", "session_keep_seconds": "keepSeconds", "takeover": "takeover",
        "max_takeovers": "maxTakeovers", "reconcile_seconds": "reconcileMs", "alert_webhooks": "webhooks",
    }  # fmt: skip
    return {then: policy[now] * (1000 if then.endswith("Ms") else 1) for now, then in names.items() if now in policy}


#: The names in the previous release of scripts that were renamed since.
THEN = {
    "announce_replacement": "agent_announce", "claim_agent": "agent_claim", "record_exit": "agent_exited",
    "record_spawn": "agent_spawned", "retire_unfit": "agent_stop", "agent_leave": "agent_stop",
    "check_alerts": "alerts_look", "process_deadlines": "deadlines_due", "append_logs": "log_append",
    "drain_node": "node_drain", "forget_node": "node_forget", "undrain_node": "node_undrain",
    "recount_nodes": "nodes_recount", "report_memory": "pool_promote", "reserve_agents": "pool_reserve",
    "mark_stale": "pool_stale", "retire_surplus": "pool_surplus", "take_rate_limit": "rate",
    "end_session": "session_end", "agent_ended": "session_end", "reconcile_room": "session_look",
    "check_room_within": "session_look_by", "agent_first_audio": "session_note", "agent_presence": "session_presence",
    "agent_turn": "session_turn", "agent_stopped": "agent_failed",
}  # fmt: skip
_ASSIGN_THEN = (
    "userId", "waitingId", "roomName", "payload", "address", "rateAmount", "rateWindowMs", "idempotencyKey",
    "fingerprint", "jobId", "dispatchId", "jobNode", "affinity", "network", "perAddress", "waitingPerAddress",
)  # fmt: skip
_NUMBERS = {"rateAmount", "rateWindowMs", "affinity", "perAddress", "waitingPerAddress"}


def as_then(name: str, keys: Iterable[str], args: Sequence[str | int]) -> tuple[list[str], list[str | int]]:
    """Return a script's keys and arguments as the previous release takes them: a reason is its text alone."""
    at = {"record_exit": 1, "agent_failed": 1, "agent_stopped": 1, "retire_unfit": 1, "agent_leave": 1}.get(name, 2)
    if name in {"end_session", "agent_ended"} or at == 1:
        args = [json.loads(str(arg))["text"] if index == at else arg for index, arg in enumerate(args)]
    match name:
        case "assign":
            given = dict(zip(args[::2], args[1::2], strict=True))
            return [], [given.get(each, 0 if each in _NUMBERS else "") for each in _ASSIGN_THEN]
        case "retire_unfit" | "agent_leave":
            return [f"agent:{args[0]}"], list(args)
        case "end_session":
            return [], [*args, ""]
        case "agent_failed" | "agent_stopped":
            return [], [*args, int(name == "agent_stopped")]
        case "agent_first_audio":
            return list(keys), [*args, "firstAudioAt", "first_audio"]
    return list(keys), list(args)


#: The clock at the beginning of every sequence, in microseconds.
BEGINNING = 1_800_000_000_000_000


class Bench:
    """Runs the scripts on a real Valkey, synchronously. Their clock is a key, so that only the test makes time pass.

    `previous`: scripts of an earlier release. A random half of the calls run one of them, as both run during a deploy.
    """

    def __init__(
        self,
        url: str,
        mutate: Callable[[str, str], str] = lambda _, source: source,
        previous: Mapping[str, str] | None = None,
    ) -> None:
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True)
        self._scripts = self._registered({name: mutate(name, source) for name, source in sources().items()})
        self._previous = self._registered(previous or {})
        self._dump = self.redis.register_script(_DUMP)
        self._seen = "-"

    def _registered(self, found: Mapping[str, str]) -> dict[str, Any]:
        return {name: self.redis.register_script(BENCH + source) for name, source in found.items()}

    def clear(self, *, anew: bool = True) -> None:
        """Empty the database. `anew`: also reset the clock, so that the same sequence gives the same run."""
        now = BEGINNING if anew else int(self.redis.get(CLOCK))
        self.redis.flushdb()
        self.redis.set(CLOCK, now)
        self._seen = "-"

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.redis.incrby(CLOCK, ms * 1000)

    def call(self, name: str, *args: str | int, keys: Iterable[str] = ()) -> Any:
        """Run one script. Raises `Refused`; any other error is a fault of the script."""
        previous = self._previous.get(THEN.get(name, name))
        # By the clock, so that a sequence is repeatable. Not alternately, because tests also call scripts alternately.
        coin = previous and int(self.redis.get(CLOCK)) // 250 * 2_654_435_761 % 2**32 >> 31
        try:
            if coin and previous:
                names, arguments = as_then(name, keys, args)
                return previous(keys=names, args=arguments)
            return self._scripts[name](keys=list(keys), args=list(args))
        except redis.ResponseError as failure:
            if "ILLEGAL" in str(failure):
                raise Refused(str(failure)) from None
            raise AssertionError(f"{name}{args}: {failure}") from failure

    def dump(self) -> Dump:
        """Return everything in the database."""
        rows, events = json.loads(self._dump(args=[self._seen]))
        values: dict[str, Any] = {}
        for key, kind, value, _ in rows:
            if kind == "hash":
                values[key] = dict(zip(value[::2], value[1::2], strict=True))
            elif kind == "zset":
                values[key] = {name: float(score) for name, score in zip(value[::2], value[1::2], strict=True)}
            else:
                values[key] = set(value) if kind == "set" else value
        if events:
            self._seen = f"({events[-1][0]}"
        found = [(i, dict(zip(flat[::2], flat[1::2], strict=True))) for i, flat in events]
        return Dump(values, {key for key, _, _, kept in rows if kept}, found)


@dataclass
class Process:
    """An agent's process, with its own view of its state."""

    id: str
    node: str  #: the node that has claimed it
    pid: int
    home: str = ""  #: the node that it was announced for
    alive: bool = True
    warm: bool = False  #: whether it has reported that it is ready
    told: dict[str, Any] | None = None  #: the message that assigned its session
    active_at: int | None = None
    exit: tuple[str, str] | None = None  #: the first exit code and signal that were reported


@dataclass
class Model:
    """The history so far, and what it allows next."""

    policy: dict[str, float]
    states: dict[str, str] = field(default_factory=dict)  #: the state of each session and agent, from its events
    queued_at: dict[str, tuple[int, int]] = field(default_factory=dict)  #: arrival, and the user's sessions then
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)  #: idempotency key: fingerprint, session
    processes: dict[str, Process] = field(default_factory=dict)
    there: dict[str, bool] = field(default_factory=dict)  #: user is present, by the agent's last report
    lost_sessions: set[str] = field(default_factory=set)  #: record lost, and not registered again since
    lost_agents: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)  #: ended sessions whose record has expired
    late: set[str] = field(default_factory=set)  #: users with a session whose lost record was restored
    returned: set[str] = field(default_factory=set)  #: rooms with a session whose lost record was restored
    loss: bool = False  #: a record was lost, so neither limits nor counters are exact
    slack: bool = False  #: capacity was freed without serving the queue: the next memory report serves it
    taken: dict[str, str] = field(default_factory=dict)  #: agent: the only user it was assigned to
    snapshots: Snapshots = field(default_factory=Snapshots)

    # Answers to a start

    def start(  # noqa: PLR0911 - a table
        self, before: Dump, user: str, key: str, fingerprint: str, job_room: str = ""
    ) -> set[str]:
        """The possible outcomes of a start. `job_room`: a LiveKit job needs an agent in that room."""
        cap, held = self.policy["max_sessions"], before.held(user)
        if key in self.keys:
            return {"repeated"} if self.keys[key][0] == fingerprint else {"reused"}
        if job_room and any(fields["roomName"] == job_room for fields in before.live.values()):
            return {"occupied"}
        if len(held) >= self.policy["sessions_per_user"]:
            return {"existing"}
        if "livekit:down" in before.values:
            return {"livekit"}
        if before.members("nodes:draining") and not before.in_service:
            return {"draining"}
        full = len(before.queued) >= self.policy["queue_limit"]
        crowded = len(before.served) + len(self.ghosts(before)) >= cap or bool(before.queued)
        if before.warm and not crowded:
            return {"assigned"}
        if before.failures >= 5:
            return {"broken"}
        if crowded or "pool:memory_low" in before.values:
            return {"full"} if full or job_room else {"queued"}
        return {"starting"}

    def ghosts(self, dump: Dump) -> set[str]:
        """Sessions that count although their record is lost."""
        counted = dump.members("session:starting") | dump.members("session:ready") | dump.members("session:active")
        return self.lost_sessions & counted

    # Checks after every step

    def check(self, before: Dump, after: Dump) -> None:
        """Check the state after one script, and the changes that it made."""
        self._invariants(after)
        self._replay(after)
        self._order(before, after)
        self._pool(before, after)
        self._deadlines(after)
        self._limits(after)
        self._graveyard(before, after)

    def _invariants(self, after: Dump) -> None:
        found = in_records(self.snapshots.of(after), self.policy)
        wrong = [violation.text for violation in found if not self._excused(violation)]
        assert not wrong, "; ".join(wrong)

    def _excused(self, violation: Violation) -> bool:
        """Return whether a violation is caused by a lost record, or is transient."""
        code, params = violation.code, violation.params
        return (
            (self.slack if code is Code.QUEUED_WITH_CAPACITY else code in TRANSIENT)
            or (code is Code.SESSIONS_ABOVE_LIMIT and self.loss)
            or (code is Code.USER_ABOVE_LIMIT and params["user"] in self.late)
            or (code is Code.ROOM_KEY_WRONG and params["room"] in self.returned)
            or (code is Code.SESSION_DEADLINE and params["deadline"] == "look" and params["session"] in self.forgotten)
            or violation.names(self.lost_sessions | self.lost_agents)
        )

    def _replay(self, after: Dump) -> None:
        """Every change of state has an event, and is one that the tables allow."""
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
        """The queue is first come, first served."""
        gone = before.queued - after.queued
        promoted = {i for i in gone if after.sessions.get(i, {}).get("status") in LIVE_SESSION_STATES}
        for i in promoted:
            came, held = self.queued_at[i]
            for other in before.queued & after.queued:
                its, had = self.queued_at[other]
                first = its + had * FAIRNESS_US < came + held * FAIRNESS_US
                assert not first, f"{i} was promoted before {other}, which came earlier"
        bound = {i for i in before.unbound if after.sessions.get(i, {}).get("status") == "ready"}
        for i in bound:
            for other in before.unbound & after.unbound:
                late = int(after.sessions[other]["createdAt"]) < int(after.sessions[i]["createdAt"])
                assert not late, f"{i} was served before {other}, which started earlier"

    def _pool(self, before: Dump, after: Dump) -> None:
        for i in after.agents_of("assigned") - before.agents_of("assigned", "running"):
            user = after.sessions.get(after.agents[i]["sessionId"], {}).get("userId", "")
            assert self.taken.setdefault(i, user) == user, f"{i} was given to two users"
            if i in before.members("pool:ready"):
                assert after.fresh(i), f"{i} is silent and was given to a user"
            away = before.in_service and after.agents[i].get("node") in before.members("nodes:draining")
            assert not away, f"{i} was given a session, and its node is draining"

    def _deadlines(self, after: Dump) -> None:
        """Every deadline is within its bound; there is one for a user who has left, none for one present."""
        deadlines = after.scores("deadlines")
        blind = after.now - float(after.values.get("deadlines:looked", after.now)) > BLIND_MS
        for member, at in deadlines.items():
            ahead = at - after.now
            assert blind or ahead <= LONGEST[member.partition("|")[0]] + BLIND_MS, f"{member} lies {ahead} ms ahead"
        for who, there in self.there.items():
            status = after.live.get(who, {}).get("status")
            if status in {"ready", "active"}:
                gone = f"gone|{who}" in deadlines
                assert there or gone, f"the user of {who} has left and there is no deadline for it"
                assert not there or status != "active" or not gone, f"the user of {who} is not gone"

    def _limits(self, after: Dump) -> None:
        most = self.policy["max_takeovers"] if self.policy["takeover"] else 0
        for i, fields in after.sessions.items():
            assert int(fields.get("takeovers", 0)) <= most, f"{i} was taken over too often"
            assert int(fields.get("replacements", 0)) <= 2, f"{i} was given too many agents"
        over = len(after.of("ended", "error"))
        stats = after.fields("pool:stats")
        counted = int(stats.get("total_ended", 0)) + int(stats.get("total_errors", 0))
        assert self.loss or over == counted, f"{over} sessions are over, {counted} are counted"

    def _graveyard(self, before: Dump, after: Dump) -> None:
        """Records of ended sessions and exited agents do not change."""
        for i in after.of(SessionState.ENDED, SessionState.ERROR) & before.of("ended", "error"):
            assert before.sessions[i] == after.sessions[i], f"{i} has ended and was changed"
        for i in after.agents_of(AgentState.EXITED):
            seen = self.processes[i].exit if i in self.processes else None
            found = (after.agents[i].get("exitCode", ""), after.agents[i].get("signal", ""))
            assert seen is None or found == seen, f"{i} exited with {seen}, its record says {found}"
