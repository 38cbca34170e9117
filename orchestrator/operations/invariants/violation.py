"""What a check of the invariants finds: a code and its parameters. The text is made of them at the edge."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

Param = str | int | float | None


class Code(StrEnum):
    """What is violated."""

    # Records and the lists of them
    BROKEN_RECORD = "broken_record"
    LISTED_WRONGLY = "listed_wrongly"
    NOT_LISTED = "not_listed"
    NOT_LISTED_BY_NODE = "not_listed_by_node"
    # Sessions and their agents
    BOUND_WHILE_WAITING = "bound_while_waiting"
    SESSION_WITHOUT_AGENT = "session_without_agent"
    AGENT_SERVES_ANOTHER = "agent_serves_another"
    AGENT_WITHOUT_SESSION = "agent_without_session"
    AGENT_REPLACED = "agent_replaced"
    AGENT_SHARED = "agent_shared"
    SESSION_SHARED = "session_shared"
    # Capacity
    USER_ABOVE_LIMIT = "user_above_limit"
    SESSIONS_ABOVE_LIMIT = "sessions_above_limit"
    QUEUE_ABOVE_LIMIT = "queue_above_limit"
    NOT_COUNTED = "not_counted"
    QUEUED_WITH_CAPACITY = "queued_with_capacity"
    WAITING_WITH_WARM_AGENTS = "waiting_with_warm_agents"
    # How sessions are found
    USER_KEY_WRONG = "user_key_wrong"
    ROOM_KEY_WRONG = "room_key_wrong"
    # The pool
    SILENT_IN_POOL = "silent_in_pool"
    DRAINING_IN_POOL = "draining_in_pool"
    # Deadlines
    NO_DEADLINE = "no_deadline"
    SESSION_DEADLINE = "session_deadline"
    AGENT_DEADLINE = "agent_deadline"
    ROOM_NOT_DELETED = "room_not_deleted"
    ALERT_NOT_QUEUED = "alert_not_queued"
    DRAIN_DEADLINE = "drain_deadline"
    UNKNOWN_DEADLINE = "unknown_deadline"
    # What is over
    KEPT_AFTER_END = "kept_after_end"
    NO_REASON = "no_reason"
    NO_CAUSE = "no_cause"
    NO_EXPIRY = "no_expiry"
    # Processes
    NO_PID = "no_pid"
    NO_START_TIME = "no_start_time"
    PROCESS_GONE = "process_gone"
    PROCESS_OF_EXITED_AGENT = "process_of_exited_agent"
    TWO_PIDS = "two_pids"
    AGENT_UNKNOWN_TO_HOST = "agent_unknown_to_host"
    PROCESS_UNKNOWN_TO_HOST = "process_unknown_to_host"
    ZOMBIE = "zombie"
    HOST_UNAVAILABLE = "host_unavailable"


#: Violations that a sound deployment has for a moment: a room that is to be deleted, an agent that was replaced and
#: stops, one that is silent until a node acts on it, an alert until a node queues it, capacity until the queue is
#: admitted.
TRANSIENT = frozenset({
    Code.ROOM_NOT_DELETED, Code.SESSION_SHARED, Code.SILENT_IN_POOL, Code.ALERT_NOT_QUEUED, Code.QUEUED_WITH_CAPACITY,
})  # fmt: skip

#: `{found}` is the state of a record, or None where there is no record.
TEXTS: Mapping[Code, str] = {
    Code.BROKEN_RECORD: "{kind}:{id} is not a whole record",
    Code.LISTED_WRONGLY: "{list} names {kind} {id}, which {found}",
    Code.NOT_LISTED: "{kind} {id} is {state}, and {list} does not name it",
    Code.NOT_LISTED_BY_NODE: "{list} does not name agent {agent}, which {found}",
    Code.BOUND_WHILE_WAITING: "session {session} is {state}, and has agent {agent} already",
    Code.SESSION_WITHOUT_AGENT: "session {session} is {state}, and its agent {agent} {found}",
    Code.AGENT_SERVES_ANOTHER: "session {session} has agent {agent}, which serves {other}",
    Code.AGENT_WITHOUT_SESSION: "agent {agent} is {state} for session {session}, which {found}",
    Code.AGENT_REPLACED: "agent {agent} is {state} for session {session}, which has agent {other}",
    Code.AGENT_SHARED: "agent {agent} has more than one session: {sessions}",
    Code.SESSION_SHARED: "session {session} has more than one living agent: {agents}",
    Code.USER_ABOVE_LIMIT: "user {user!r} has more live sessions than {limit:g}",
    Code.SESSIONS_ABOVE_LIMIT: "more sessions than {limit:g} are served at once",
    Code.QUEUE_ABOVE_LIMIT: "more sessions than {limit:g} are queued",
    Code.NOT_COUNTED: "session {session} does not count for its user {user!r}",
    Code.QUEUED_WITH_CAPACITY: "session {session} is queued, and there is capacity for it",
    Code.WAITING_WITH_WARM_AGENTS: "session {session} waits for an agent, and there are warm ones",
    Code.USER_KEY_WRONG: "user {user!r} is found with session {session}, which is no live session of that user",
    Code.ROOM_KEY_WRONG: "session {session} is {state}, and is not found by its room {room!r}",
    Code.SILENT_IN_POOL: "{list} names agent {agent}, which is silent",
    Code.DRAINING_IN_POOL: "{list} names agent {agent}, whose node {node} drains",
    Code.NO_DEADLINE: "{kind} {id} has no deadline {deadlines}",
    Code.SESSION_DEADLINE: "deadline {deadline}|{session} is for a session that {found}",
    Code.AGENT_DEADLINE: "deadline {deadline}|{agent} is for an agent that {found}",
    Code.ROOM_NOT_DELETED: "deadline close|{session} is for a room that is not deleted, and its session is over",
    Code.ALERT_NOT_QUEUED: "deadline alert|{alert} is for a message to the operator's webhook that nobody queues",
    Code.DRAIN_DEADLINE: "deadline drain|{node} is for a node that does not drain",
    Code.UNKNOWN_DEADLINE: "deadline {deadline}|{id} is for an unknown kind of deadline",
    Code.KEPT_AFTER_END: "session {session} {found}, and its {part} is still there",
    Code.NO_REASON: "session {session} is {state}, and has no reason",
    Code.NO_CAUSE: "agent {agent} is exited, and has no cause",
    Code.NO_EXPIRY: "{kind} {id} is over, and {key} never expires",
    Code.NO_PID: "agent {agent} is {state} and has no pid",
    Code.NO_START_TIME: "agent {agent} is {state}, and when its process {pid} has started is not recorded",
    Code.PROCESS_GONE: "agent {agent} is {state}, and its process {pid} is gone",
    Code.PROCESS_OF_EXITED_AGENT: "process {pid} lives as agent {agent}, which {found}",
    Code.TWO_PIDS: "agent {agent} is process {recorded} by its record, and {pid} for the agent host",
    Code.AGENT_UNKNOWN_TO_HOST: "agent {agent} is {state}, and the agent host does not know it",
    Code.PROCESS_UNKNOWN_TO_HOST: "process {pid} belongs to agent {agent}, and the agent host does not know it",
    Code.ZOMBIE: "process {pid} is dead, and {parent} does not reap it",
    Code.HOST_UNAVAILABLE: "the agent host cannot be asked: {detail}",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One invariant that does not hold. Its parameters must be the same in the next check: no times, no counts."""

    code: Code
    params: Mapping[str, Param]

    @property
    def text(self) -> str:
        """What the operator reads."""
        params = dict(self.params)
        if "found" in params:
            params["found"] = "has no record" if params["found"] is None else f"is {params['found']}"
        return TEXTS[self.code].format(**params)

    def names(self, ids: Collection[str]) -> bool:
        """Return whether one of its parameters is one of these."""
        return any(value in ids for value in self.params.values())


def violation(code: Code, **params: Param) -> Violation:
    """Build a violation."""
    return Violation(code, params)
