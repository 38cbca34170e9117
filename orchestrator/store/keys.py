"""The names of the Redis keys that Python uses. Users script against all of them: see docs/redis.md."""

SESSION_STARTING = "session:starting"
SESSION_READY = "session:ready"
SESSION_ACTIVE = "session:active"
SESSION_QUEUED = "session:queued"  #: zset, the waiting line
SESSION_UNBOUND = "session:unbound"  #: zset of starting sessions, which have no agent, by time of start
SESSION_OVER = "session:over"  #: zset of kept sessions that are over, by the time of their end
AGENT_OVER = "agent:over"  #: zset of kept agents that have exited without ever having a session, by time
SESSIONS = "sessions"  #: zset of all kept session ids, by time of start
AGENTS = "agents"  #: set of agents that have not exited
POOL_READY = "pool:ready"
POOL_STARTING = "pool:starting"  #: set of agents that are booting
POOL_TARGET = "pool:target"
POOL_STATS = "pool:stats"
POOL_PROVEN = "pool:proven"  #: set while the current agents have booted at least once
POOL_STALE = "pool:stale"  #: set of warm and booting agents that run older code
SCHEMA = "schema"  #: hash: version of what is written here, and of the oldest that may read it
MEMORY_LOW = "pool:memory_low"  #: why no agent is started, while memory is low
POOL_SIZING = "pool:sizing"  #: hash: the target that POOL_AUTO chose, and why
BREAKER = "pool:breaker"
FAILING = "pool:failing"
POLICY = "policy"
DEADLINES = "deadlines"
LIVEKIT_DOWN = "livekit:down"  #: why LiveKit does not answer, while it does not
NODES_DRAINING = "nodes:draining"
BOOT_ERROR = "pool:boot_error"  #: cause of the last failed boot, until one works
BOOT_ERROR_AGENT = "pool:boot_error:agent"  #: whose boot that was
REGISTRATIONS = "doors"  #: set of the api processes that are, or want to be, registered with LiveKit
NODES = "nodes"
EVENTS = "events"  #: stream of everything that happens to sessions and agents
ROOMS_ASKED_FOR = "rooms:asked_for"  #: zset of rooms that tokens were given for, by time, until they have a session
CELERY_QUEUE = "celery"
PROBE = "probe"  #: written to see whether Redis takes writes
REWRITTEN = "redis:rewritten"  #: while the append-only file was rewritten not long ago
BEAT_TICKS = "beat:ticks"  #: hash: when beat last checked its schedule (`beat`) and sent each of its tasks


def session(session_id: str) -> str:
    return f"session:{session_id}"


def events(session_id: str) -> str:
    return f"session:{session_id}:events"


def conversation(session_id: str) -> str:
    """What was said so far: a list of JSON objects, gone at the end of the session."""
    return f"session:{session_id}:conversation"


def idempotency(key: str) -> str:
    return f"idempotency:{key}"


def answer(idempotency_key: str) -> str:
    """The answer that was given to the request of this Idempotency-Key."""
    return f"idempotency:{idempotency_key}:answer"


def arrivals(index: int) -> str:
    """Starts in the n-th ten seconds."""
    return f"arrivals:{index}"


def room(room_name: str) -> str:
    """The id of the room's newest session, kept as long as its record."""
    return f"session:room:{room_name}"


def alert(alert_id: str) -> str:
    """A message to the operator's webhook, as JSON, until its delivery is queued."""
    return f"alert:{alert_id}"


def histogram(series: str) -> str:
    """The hash of one series (see histograms.py)."""
    return f"histogram:{series}"


def recent(name: str) -> str:
    """The newest samples of a histogram, newest first, each `ms at`."""
    return f"recent:{name}"


def user(user_id: str) -> str:
    return f"session:user:{user_id}"


def room_asker(room: str) -> str:
    """The hash of a room that a token was given for before it had a session."""
    return f"room:asker:{room}"


def user_sessions(user_id: str) -> str:
    """The set of a user's live sessions."""
    return f"user:sessions:{user_id}"


def agent(agent_id: str) -> str:
    return f"agent:{agent_id}"


def agent_pid(agent_id: str) -> str:
    return f"agent:{agent_id}:pid"


def agent_logs(agent_id: str) -> str:
    return f"agent:{agent_id}:logs"


def agent_log_offset(agent_id: str) -> str:
    """How many bytes of the agent's log file are in `agent:{id}:logs`."""
    return f"agent:{agent_id}:logs:offset"


def agent_log_count(agent_id: str) -> str:
    """How many lines the agent has ever had in `agent:{id}:logs`."""
    return f"agent:{agent_id}:logs:count"


def agent_log_bytes(agent_id: str) -> str:
    """How many bytes are kept in `agent:{id}:logs`."""
    return f"agent:{agent_id}:logs:bytes"


def agent_log_closed(agent_id: str) -> str:
    """Whether the last line of the agent is in `agent:{id}:logs`."""
    return f"agent:{agent_id}:logs:closed"


def agent_health(agent_id: str) -> str:
    return f"agent:{agent_id}:health"


def agent_inbox(agent_id: str) -> str:
    return f"agent:{agent_id}:inbox"


def agent_boot(agent_id: str) -> str:
    """List with one element once the boot is decided: `ready`, or why it failed."""
    return f"agent:{agent_id}:boot"


def node_queue(node_id: str) -> str:
    """The Celery queue that only this node's Celery worker consumes."""
    return f"node.{node_id}"


def node(node_id: str) -> str:
    return f"node:{node_id}"


def node_warm(node_id: str) -> str:
    """The set of a node's warm agents."""
    return f"node:{node_id}:warm"


def node_busy(node_id: str) -> str:
    """The set of a node's agents that have a session."""
    return f"node:{node_id}:busy"


def node_short(node_id: str) -> str:
    """Why a node starts no agent, while it is short of memory."""
    return f"node:{node_id}:short"


def node_mail(node_id: str) -> str:
    """List of the node's agents that have a message in their inbox."""
    return f"node:{node_id}:mail"


def pool_wake(node_id: str) -> str:
    """List with one element when a node should check the pool."""
    return f"pool:wake:{node_id}"


def bindings(queue: str) -> str:
    """Where kombu keeps what is bound to a queue."""
    return f"_kombu.binding.{queue}"


def reload(reload_id: str) -> str:
    """Hash: each node's progress with a reload of the agents' code."""
    return f"reload:{reload_id}"


def registration(registration_id: str) -> str:
    """The hash of an api process's registration with LiveKit."""
    return f"door:{registration_id}"
