"""The invariants of a deployment: compares Redis, the agent host and the operating system."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from orchestrator.errors import HostUnavailable
from orchestrator.host.client import HostClient
from orchestrator.host.protocol import Process
from orchestrator.machine.process import ProcessId
from orchestrator.models import Agent, Session
from orchestrator.operations import census
from orchestrator.settings import Settings
from orchestrator.states import AGENT_ROWS, BUSY_AGENT_STATES, SESSION_ROWS, AgentState, SessionState
from orchestrator.store import Snapshot, Store, keys

#: Seconds between two checks.
CHECK_SECONDS = 0.5

_LIVING = frozenset(AgentState) - {AgentState.EXITED}
_SERVING = BUSY_AGENT_STATES
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


async def check(store: Store, settings: Settings, host: HostClient | None, *, settle_seconds: float = 10) -> list[str]:
    """Return the violations as text; [] when every invariant holds.

    State changes during a check: only violations that every check within `settle_seconds` finds are returned.

    Args:
        settings: those of the node whose processes are checked. The records of all nodes are checked.
        host: the agent host of that node. None: its list of processes is not compared.
    """
    deadline = time.monotonic() + settle_seconds
    violations = await _violations(store, settings, host)
    while violations and (remaining := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(CHECK_SECONDS, remaining))
        again = set(await _violations(store, settings, host))
        violations = [violation for violation in violations if violation in again]
    return violations


async def _violations(store: Store, settings: Settings, host: HostClient | None) -> list[str]:
    snapshot = await store.snapshot()
    mine = [agent for agent in snapshot.agents.values() if agent.node == settings.node_id and agent.state in _LIVING]
    violations = [*in_records(snapshot, settings.policy), *_processes(mine)]
    present = await asyncio.to_thread(census.take, settings)
    violations += [f"process {pid} is dead, and {parent} does not reap it" for pid, parent in present.zombies.items()]
    if host is not None:
        try:
            listed, _ = await host.hello()
        except HostUnavailable as failure:
            return [*violations, f"the agent host cannot be asked: {failure.detail}"]
        violations += [*_known(snapshot, mine, listed), *_strangers(present, listed)]
    return violations


def in_records(snapshot: Snapshot, policy: Mapping[str, float]) -> list[str]:
    """Return the violations in the records alone, without processes. `policy`: the default where Redis has none."""
    policy = dict(policy) | dict(snapshot.reading.policy)
    return [
        *(f"{key} is not a whole record" for key in sorted(snapshot.broken)),
        *_lists(snapshot),
        *_nodes(snapshot),
        *_bindings(snapshot),
        *_caps(snapshot, policy),
        *_rooms(snapshot),
        *_pool(snapshot, policy["heartbeat_timeout_seconds"]),
        *_waits(snapshot),
        *_leftovers(snapshot),
    ]


# Each rule yields its violations. The next check must yield the same text, so it contains no value that changes.


def _lists(snapshot: Snapshot) -> Iterator[str]:
    states: dict[str, dict[str, str]] = {
        "session": {session.id: session.status for session in snapshot.sessions.values()},
        "agent": {agent.id: agent.state for agent in snapshot.agents.values()},
    }
    for name, (kind, right, complete) in _LISTS.items():
        for each in sorted(snapshot.lists[name]):
            if (state := states[kind].get(each)) not in right:
                yield f"{name} names {kind} {each}, which {_is(state)}"
        for each, state in states[kind].items():
            if complete and state in right and each not in snapshot.lists[name]:
                yield f"{kind} {each} is {state}, and {name} does not name it"


def _nodes(snapshot: Snapshot) -> Iterator[str]:
    for node in sorted(snapshot.lists[keys.NODES]):
        here = [agent for agent in snapshot.agents.values() if agent.node == node]
        right = {
            keys.node_warm(node): {agent.id for agent in here if agent.id in snapshot.lists[keys.POOL_READY]},
            keys.node_busy(node): {agent.id for agent in here if agent.state in _SERVING},
        }
        for name, ids in right.items():
            for each in sorted(snapshot.lists[name] ^ ids):
                agent = snapshot.agents.get(each)
                what = f"agent {each}, which {_is(agent.state if agent else None)}"
                yield f"{name} does not name {what}" if each in ids else f"{name} names {what}"


def _bindings(snapshot: Snapshot) -> Iterator[str]:
    sessions_of, agents_of = defaultdict(list), defaultdict(list)
    for session in snapshot.sessions.values():
        if session.status not in _BOUND:
            continue
        sessions_of[session.agent_id].append(session.id)
        agent = snapshot.agents.get(session.agent_id or "")
        if agent is None or agent.state not in _SERVING:
            yield f"session {session.id} is {session.status}, and its agent {session.agent_id} {_is(agent)}"
        elif agent.session_id != session.id:
            yield f"session {session.id} has agent {agent.id}, which serves {agent.session_id}"
    for agent in snapshot.agents.values():
        if not agent.session_id or agent.state not in _LIVING:
            continue
        agents_of[agent.session_id].append(agent.id)
        served = snapshot.sessions.get(agent.session_id)
        if agent.state in _SERVING and (served is None or served.status not in _BOUND or served.agent_id != agent.id):
            what = f"has agent {served.agent_id}" if served and served.status in _BOUND else _is(served)
            yield f"agent {agent.id} is {agent.state} for session {agent.session_id}, which {what}"
    for agent_id, ids in sessions_of.items():
        if agent_id and len(ids) > 1:
            yield f"agent {agent_id} has more than one session: {', '.join(sorted(ids))}"
    for session_id, ids in agents_of.items():
        if len(ids) > 1:
            yield f"session {session_id} has more than one living agent: {', '.join(sorted(ids))}"


def _caps(snapshot: Snapshot, policy: Mapping[str, float]) -> Iterator[str]:
    live = [session for session in snapshot.sessions.values() if session.live]
    for user, count in Counter(session.user_id for session in live).items():
        if count > policy["sessions_per_user"]:
            yield f"user {user!r} has more live sessions than {policy['sessions_per_user']:g}"
    if sum(session.status is not SessionState.QUEUED for session in live) > policy["max_sessions"]:
        yield f"more sessions than {policy['max_sessions']:g} are served at once"
    for session in live:
        if session.id not in snapshot.counted:
            yield f"session {session.id} does not count for its user {session.user_id!r}"


def _rooms(snapshot: Snapshot) -> Iterator[str]:
    for session in snapshot.sessions.values():
        if session.live and snapshot.rooms[session.room_name] != session.id:
            yield f"session {session.id} is {session.status}, and is not found by its room {session.room_name!r}"


def _pool(snapshot: Snapshot, patience: float) -> Iterator[str]:
    for agent in snapshot.agents.values():
        if agent.state is not AgentState.READY:
            continue
        heard = agent.last_beat is not None and snapshot.reading.now - agent.last_beat <= patience
        pooled = agent.id in snapshot.lists[keys.POOL_READY]
        if pooled and not heard:
            yield f"{keys.POOL_READY} names agent {agent.id}, which is silent"
        if heard and not pooled:
            yield f"agent {agent.id} is ready, and {keys.POOL_READY} does not name it"


def _waits(snapshot: Snapshot) -> Iterator[str]:
    waiting = [("session", session.id, _SESSION_WAITS.get(session.status)) for session in snapshot.sessions.values()]
    waiting += [("agent", agent.id, _AGENT_WAITS.get(agent.state)) for agent in snapshot.agents.values()]
    for what, each, kinds in waiting:
        if kinds and not any((kind, each) in snapshot.deadlines for kind in kinds):
            yield f"{what} {each} has no deadline {' or '.join(f'{kind}|' for kind in kinds)}"
    for kind, each in sorted(snapshot.deadlines):
        if kind in _SESSION_DEADLINES:
            session = snapshot.sessions.get(each)
            over = (session is None or not session.live) and f"a session that {_is(session)}"
        elif kind in _AGENT_DEADLINES:
            agent = snapshot.agents.get(each)
            over = (agent is None or agent.state not in _LIVING) and f"an agent that {_is(agent)}"
        elif kind == "look":
            over = each not in snapshot.sessions and "a session that has no record"
        elif kind == "alert":
            over = "a message to the operator's webhook that does not exist"
        elif kind == "close":
            over = "a room that is not deleted, and its session is over"
        elif kind == "drain":
            over = each not in snapshot.lists[keys.NODES_DRAINING] and "a node that does not drain"
        else:
            over = kind not in {"refill", "reconcile"} and "an unknown kind of deadline"
        if over:
            yield f"deadline {kind}|{each} is for {over}"


def _leftovers(snapshot: Snapshot) -> Iterator[str]:
    for session_id, part in sorted(snapshot.private):
        session = snapshot.sessions.get(session_id)
        if session is None or not session.live:
            yield f"session {session_id} {_is(session)}, and its {part} is still there"


def _processes(mine: Iterable[Agent]) -> Iterator[str]:
    for agent in mine:
        if agent.pid is None:
            if agent.state is not AgentState.STARTING:
                yield f"agent {agent.id} is {agent.state} and has no pid"
        elif agent.start_ticks is None:
            yield f"agent {agent.id} is {agent.state}, and when its process {agent.pid} has started is not recorded"
        elif not ProcessId(agent.pid, agent.start_ticks).alive:
            yield f"agent {agent.id} is {agent.state}, and its process {agent.pid} is gone"


def _known(snapshot: Snapshot, mine: Iterable[Agent], listed: Iterable[Process]) -> Iterator[str]:
    pids = {process.agent_id: process.pid for process in listed}
    for agent_id, pid in pids.items():
        agent = snapshot.agents.get(agent_id)
        if agent is None or agent.state is AgentState.EXITED:
            yield f"process {pid} lives as agent {agent_id}, which {_is(agent)}"
        elif agent.pid not in {None, pid}:
            yield f"agent {agent_id} is process {agent.pid} by its record, and {pid} for the agent host"
    for agent in mine:
        if agent.pid is not None and agent.id not in pids:
            yield f"agent {agent.id} is {agent.state}, and the agent host does not know it"


def _strangers(present: census.Census, listed: Iterable[Process]) -> Iterator[str]:
    known = {process.agent_id for process in listed}
    for pid, agent_id in present.agents.items():
        if agent_id not in known:
            yield f"process {pid} belongs to agent {agent_id}, and the agent host does not know it"


def _is(record: Session | Agent | str | None) -> str:
    if record is None:
        return "has no record"
    return (
        f"is {record.status if isinstance(record, Session) else record.state if isinstance(record, Agent) else record}"
    )
