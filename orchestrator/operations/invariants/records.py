"""The invariants of the records: what must hold in Redis alone, whatever processes there are.

Each rule yields its violations. It judges one snapshot, which does not say under which policy a deadline was set or a
session was taken over: the bounds of those are not checked here.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from orchestrator.models import Agent
from orchestrator.operations.invariants.violation import Code, Violation, violation
from orchestrator.states import AGENT_ROWS, BUSY_AGENT_STATES, SESSION_ROWS, AgentState, SessionState
from orchestrator.store import Snapshot, keys
from orchestrator.store.constants import BREAKER_FAILURES

_LIVING = frozenset(AgentState) - {AgentState.EXITED}
_BOUND = frozenset({SessionState.READY, SessionState.ACTIVE})


def _states_by_list() -> dict[str, tuple[str, frozenset[str], bool]]:
    """For each list: whether it holds sessions or agents, in which states, and whether it must hold all of those."""
    states: dict[tuple[str, str], set[str]] = defaultdict(set)
    for kind, rows in (("session", SESSION_ROWS), ("agent", AGENT_ROWS)):
        for state, row in rows.items():
            for name in (*row.sets, *((row.queue,) if row.queue else ())):
                states[name, kind].add(state)
    # A silent agent is left out of the pool until its next heartbeat.
    lists = {name: (kind, frozenset(right), name != keys.POOL_READY) for (name, kind), right in states.items()}
    return lists | {keys.POOL_STALE: ("agent", frozenset({AgentState.STARTING, AgentState.READY}), False)}


_LISTS = _states_by_list()
#: The deadlines, by state, of which a live session or a living agent must have one.
_SESSION_WAITS = {state: tuple(d.kind for d in row.deadlines) for state, row in SESSION_ROWS.items() if row.moves}
_AGENT_WAITS = {state: tuple(d.kind for d in row.deadlines) for state, row in AGENT_ROWS.items() if row.moves}
#: The deadlines that a session that is over, or an agent that has exited, must not have.
_SESSION_DEADLINES = frozenset(SESSION_ROWS[SessionState.ENDED].clears) - {"look"}
_AGENT_DEADLINES = frozenset(AGENT_ROWS[AgentState.EXITED].clears)


def in_records(seen: Snapshot, policy: Mapping[str, float]) -> list[Violation]:
    """Return what does not hold in the records. `policy`: for what Redis has no setting of."""
    policy = dict(policy) | dict(seen.reading.policy)
    patience = policy["heartbeat_timeout_seconds"]
    return [
        *_broken(seen),
        *_lists(seen),
        *_nodes(seen),
        *_sessions(seen),
        *_agents(seen),
        *_limits(seen, policy),
        *_waiting(seen, patience),
        *_found(seen),
        *_pool(seen, patience),
        *_waits(seen),
        *_deadlines(seen),
        *_over(seen),
    ]


def _broken(seen: Snapshot) -> Iterator[Violation]:
    for key in sorted(seen.broken):
        kind, _, each = key.partition(":")
        yield violation(Code.BROKEN_RECORD, kind=kind, id=each)


def _lists(seen: Snapshot) -> Iterator[Violation]:
    states: dict[str, dict[str, str]] = {
        "session": {session.id: session.status for session in seen.sessions.values()},
        "agent": {agent.id: agent.state for agent in seen.agents.values()},
    }
    for name, (kind, right, complete) in _LISTS.items():
        for each in sorted(seen.lists[name]):
            if (state := states[kind].get(each)) not in right:
                yield violation(Code.LISTED_WRONGLY, list=name, kind=kind, id=each, found=state)
        if not complete:
            continue
        for each, state in states[kind].items():
            if state in right and each not in seen.lists[name]:
                yield violation(Code.NOT_LISTED, list=name, kind=kind, id=each, state=state)


def _nodes(seen: Snapshot) -> Iterator[Violation]:
    for node in sorted(seen.lists[keys.NODES]):
        here = [agent for agent in seen.agents.values() if agent.node == node]
        right = {
            keys.node_warm(node): {agent.id for agent in here if agent.id in seen.lists[keys.POOL_READY]},
            keys.node_busy(node): {agent.id for agent in here if agent.state in BUSY_AGENT_STATES},
        }
        for name, ids in right.items():
            for each in sorted(seen.lists[name] ^ ids):
                agent = seen.agents.get(each)
                state = agent.state if agent else None
                if each in ids:
                    yield violation(Code.NOT_LISTED_BY_NODE, list=name, agent=each, found=state)
                else:
                    yield violation(Code.LISTED_WRONGLY, list=name, kind="agent", id=each, found=state)


def _sessions(seen: Snapshot) -> Iterator[Violation]:
    """A session has one agent, which serves it and no other; one that waits has none."""
    sessions_of = defaultdict(list)
    for session in seen.sessions.values():
        state, agent = session.status, seen.agents.get(session.agent_id or "")
        if session.live and state not in _BOUND and session.agent_id:
            yield violation(Code.BOUND_WHILE_WAITING, session=session.id, state=state, agent=session.agent_id)
        if state not in _BOUND:
            continue
        sessions_of[session.agent_id].append(session.id)
        if agent is None or agent.state not in BUSY_AGENT_STATES:
            found = agent.state if agent else None
            yield violation(
                Code.SESSION_WITHOUT_AGENT, session=session.id, state=state, agent=session.agent_id, found=found
            )
        elif agent.session_id != session.id:
            yield violation(Code.AGENT_SERVES_ANOTHER, session=session.id, agent=agent.id, other=agent.session_id)
    for agent_id, ids in sessions_of.items():
        if agent_id and len(ids) > 1:
            yield violation(Code.AGENT_SHARED, agent=agent_id, sessions=", ".join(sorted(ids)))


def _agents(seen: Snapshot) -> Iterator[Violation]:
    """An agent that serves has a session, and the session has that agent alone."""
    agents_of = defaultdict(list)
    for agent in seen.agents.values():
        if agent.state in BUSY_AGENT_STATES:
            yield from _served(seen, agent)
        if agent.session_id and agent.state in _LIVING:
            agents_of[agent.session_id].append(agent.id)
    for session_id, ids in agents_of.items():
        if len(ids) > 1:
            yield violation(Code.SESSION_SHARED, session=session_id, agents=", ".join(sorted(ids)))


def _served(seen: Snapshot, agent: Agent) -> Iterator[Violation]:
    names = {"agent": agent.id, "state": agent.state, "session": agent.session_id}
    served = seen.sessions.get(agent.session_id or "")
    if served is None or served.status not in _BOUND:
        yield violation(Code.AGENT_WITHOUT_SESSION, **names, found=served.status if served else None)
    elif served.agent_id != agent.id:
        yield violation(Code.AGENT_REPLACED, **names, other=served.agent_id)


def _limits(seen: Snapshot, policy: Mapping[str, float]) -> Iterator[Violation]:
    live = [session for session in seen.sessions.values() if session.live]
    for user, count in Counter(session.user_id for session in live).items():
        if count > (limit := policy["sessions_per_user"]):
            yield violation(Code.USER_ABOVE_LIMIT, user=user, limit=limit)
    queued = sum(session.status is SessionState.QUEUED for session in live)
    if len(live) - queued > policy["max_sessions"]:
        yield violation(Code.SESSIONS_ABOVE_LIMIT, limit=policy["max_sessions"])
    if queued > policy["queue_limit"]:
        yield violation(Code.QUEUE_ABOVE_LIMIT, limit=policy["queue_limit"])
    for session in live:
        if session.id not in seen.counted:
            yield violation(Code.NOT_COUNTED, session=session.id, user=session.user_id)


def _waiting(seen: Snapshot, patience: float) -> Iterator[Violation]:
    """Nobody waits for what is there."""
    reading = seen.reading
    served = sum(len(seen.lists[key]) for key in (keys.SESSION_STARTING, keys.SESSION_READY, keys.SESSION_ACTIVE))
    capacity = served < (reading.max_sessions or 0) and reading.memory_shortage is None
    full = {node.id for node in reading.nodes.values() if 0 < node.max_sessions <= node.busy}
    warm = any(
        agent.node not in full
        for agent in (seen.agents.get(each) for each in seen.lists[keys.POOL_READY])
        if agent is not None and agent.state is AgentState.READY and _heard(seen, agent, patience)
    )
    for session in seen.sessions.values():
        if capacity and session.status is SessionState.QUEUED and reading.breaker.failures < BREAKER_FAILURES:
            yield violation(Code.QUEUED_WITH_CAPACITY, session=session.id)
        if warm and session.status is SessionState.STARTING:
            yield violation(Code.WAITING_WITH_WARM_AGENTS, session=session.id)


def _found(seen: Snapshot) -> Iterator[Violation]:
    """A live session is found by its room, and its user by a live session of theirs."""
    for session in seen.sessions.values():
        if session.live and seen.rooms[session.room_name] != session.id:
            yield violation(Code.ROOM_KEY_WRONG, session=session.id, state=session.status, room=session.room_name)
    for user, session_id in seen.users.items():
        found = seen.sessions.get(session_id)
        if found is None or not found.live or found.user_id != user:
            yield violation(Code.USER_KEY_WRONG, user=user, session=session_id)


def _pool(seen: Snapshot, patience: float) -> Iterator[Violation]:
    for agent in seen.agents.values():
        if agent.state is not AgentState.READY:
            continue
        heard, pooled = _heard(seen, agent, patience), agent.id in seen.lists[keys.POOL_READY]
        if pooled and not heard:
            yield violation(Code.SILENT_IN_POOL, list=keys.POOL_READY, agent=agent.id)
        if heard and not pooled:
            yield violation(Code.NOT_LISTED, list=keys.POOL_READY, kind="agent", id=agent.id, state=agent.state)
        if pooled and agent.node in seen.lists[keys.NODES_DRAINING]:
            yield violation(Code.DRAINING_IN_POOL, list=keys.POOL_READY, agent=agent.id, node=agent.node)


def _heard(seen: Snapshot, agent: Agent, patience: float) -> bool:
    return agent.last_beat is not None and seen.reading.now - agent.last_beat <= patience


def _waits(seen: Snapshot) -> Iterator[Violation]:
    """Every wait ends."""
    waiting = [("session", session.id, _SESSION_WAITS.get(session.status)) for session in seen.sessions.values()]
    waiting += [("agent", agent.id, _AGENT_WAITS.get(agent.state)) for agent in seen.agents.values()]
    deadlines = seen.deadlines
    for kind, each, waits in waiting:
        if waits and not any((wait, each) in deadlines for wait in waits):
            yield violation(Code.NO_DEADLINE, kind=kind, id=each, deadlines=" or ".join(f"{wait}|" for wait in waits))


def _deadlines(seen: Snapshot) -> Iterator[Violation]:
    """Nothing that is over waits."""
    for kind, each in sorted(seen.deadlines):
        session, agent = seen.sessions.get(each), seen.agents.get(each)
        status, live = (session.status, session.live) if session else (None, False)
        if (
            (kind in _SESSION_DEADLINES and not live)
            or (kind == "look" and session is None)
            or (kind == "close" and live)
            # A call goes on whatever becomes of the LiveKit job that asked for it.
            or (kind == "job" and status is SessionState.ACTIVE)
        ):
            yield violation(Code.SESSION_DEADLINE, deadline=kind, session=each, found=status)
        elif kind == "close":
            yield violation(Code.ROOM_NOT_DELETED, session=each)
        elif kind in _AGENT_DEADLINES and (agent is None or agent.state not in _LIVING):
            yield violation(Code.AGENT_DEADLINE, deadline=kind, agent=each, found=agent.state if agent else None)
        elif kind == "alert":
            yield violation(Code.ALERT_NOT_QUEUED, alert=each)
        elif kind == "drain" and each not in seen.lists[keys.NODES_DRAINING]:
            yield violation(Code.DRAIN_DEADLINE, node=each)
        elif kind not in _KINDS:
            yield violation(Code.UNKNOWN_DEADLINE, deadline=kind, id=each)


_KINDS = _SESSION_DEADLINES | _AGENT_DEADLINES | {"look", "close", "alert", "drain", "refill", "reconcile"}


def _over(seen: Snapshot) -> Iterator[Violation]:
    """What is over says why, keeps nothing that was said, and expires."""
    for session in seen.sessions.values():
        if not session.live and session.reason is None:
            yield violation(Code.NO_REASON, session=session.id, state=session.status)
    for agent in seen.agents.values():
        if agent.state is AgentState.EXITED and agent.cause is None:
            yield violation(Code.NO_CAUSE, agent=agent.id)
    for session_id, part in sorted(seen.private):
        found = seen.sessions.get(session_id)
        if found is None or not found.live:
            status = found.status if found else None
            yield violation(Code.KEPT_AFTER_END, session=session_id, found=status, part=part)
    for key, record in sorted(seen.lasting.items()):
        kind, _, each = record.partition(":")
        yield violation(Code.NO_EXPIRY, kind=kind, id=each, key=key)
