"""Builds the snapshot that the invariants check from a dump of a test's Redis, without further commands."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

from orchestrator.models import Agent, Session
from orchestrator.states import AgentState
from orchestrator.store import Breaker, Node, Reading, Snapshot, keys
from orchestrator.store.reading import PRIVATE, SETS, SORTED_SETS, Server
from orchestrator.store.records import MemoryUse

#: Sorted sets, which are dicts of floats in a dump, whose names match those of records.
_NOT_RECORDS = frozenset({keys.SESSION_QUEUED, keys.SESSION_UNBOUND, keys.SESSION_OVER, keys.AGENT_OVER})
_USER, _ROOM = keys.user(""), keys.room("")


class Dump(Protocol):
    """Everything in a database."""

    values: dict[str, Any]  #: by key; sorted sets with their scores
    kept: set[str]  #: the keys that have an expiry

    @property
    def now(self) -> float:
        """Unix time in ms."""


class Snapshots:
    """Makes snapshots of one database. Records that have not changed since the last one are not built again."""

    def __init__(self) -> None:
        self._built: dict[str, tuple[Mapping[str, str], Session | Agent | None]] = {}

    def of(self, dump: Dump) -> Snapshot:
        """Return the same as `Store.snapshot`."""
        values = dump.values
        records = dict(self._records(values))
        self._built = {key: (values[key], record) for key, record in records.items()}
        sessions = {each.id: each for each in records.values() if isinstance(each, Session)}
        agents = {each.id: each for each in records.values() if isinstance(each, Agent)}
        live = [session for session in sessions.values() if session.live]
        over = {keys.session(each.id) for each in sessions.values() if not each.live}
        over |= {keys.agent(each.id) for each in agents.values() if each.state is AgentState.EXITED}
        return Snapshot(
            reading=_reading(dump, agents),
            sessions=sessions,
            agents=agents,
            broken=frozenset(key for key, record in records.items() if record is None),
            private=frozenset(
                (key.split(":")[1], part) for part in PRIVATE for key in values if key.endswith(f":{part}")
            ),
            counted=frozenset(s.id for s in live if s.id in values.get(keys.user_sessions(s.user_id), ())),
            rooms={session.room_name: values.get(keys.room(session.room_name)) for session in live},
            users={key[len(_USER) :]: values[key] for key in values if key.startswith(_USER)},
            lasting={key: owner for key in values.keys() - dump.kept if (owner := _owner(key, values)) in over}
            if over
            else {},
        )

    def _records(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Session | Agent | None]]:
        for key, fields in values.items():
            kind, _, each = key.partition(":")
            build: Callable[..., Session | Agent] | None
            build = {"session": Session.from_hash, "agent": Agent.from_hash}.get(kind)
            if build is None or ":" in each or key in _NOT_RECORDS or not isinstance(fields, dict):
                continue
            known = self._built.get(key)
            if known is not None and known[0] == fields:
                yield key, known[1]
                continue
            try:
                yield key, build(each, fields)
            except (KeyError, ValueError):
                yield key, None


def _owner(key: str, values: Mapping[str, Any]) -> str:
    """Return the key of the record that a key belongs to, or ''."""
    if key.startswith(_ROOM):
        return keys.session(values[key])
    kind, _, rest = key.partition(":")
    return f"{kind}:{rest.partition(':')[0]}"


@cache
def _node(node_id: str, fields: tuple[tuple[str, str], ...], busy: int) -> Node:
    return replace(Node.from_hash(node_id, dict(fields)), busy=busy)


def _reading(dump: Dump, agents: Mapping[str, Agent]) -> Reading:
    """Return a reading with only the fields that the invariants use."""
    values = dump.values
    policy = {name: float(value) for name, value in values.get(keys.POLICY, {}).items()}
    lists = {key: frozenset(values.get(key, ())) for key in (*SETS, *SORTED_SETS)}
    node_ids = sorted(lists[keys.NODES] | lists[keys.NODES_DRAINING])
    lists |= {key(n): frozenset(values.get(key(n), ())) for n in node_ids for key in (keys.node_warm, keys.node_busy)}
    nodes = {
        node: _node(node, tuple(values.get(keys.node(node), {}).items()), len(lists[keys.node_busy(node)]))
        for node in node_ids
    }
    now = dump.now / 1000
    return Reading(
        server=Server(now, 0.0, None, MemoryUse(), int(policy.get("max_sessions", 0)) or None),
        lists=lists,
        policy=policy,
        target=None,
        stats={},
        histograms={},
        queues={},
        ticks={},
        nodes={name: node for name, node in nodes.items() if node.alive},
        draining_nodes={},
        registrations={},
        agents=tuple(agent for agent in agents.values() if agent.state is not AgentState.EXITED),
        health_checks={},
        breaker=Breaker.from_hash(values.get(keys.BREAKER, {}), now=now, booting=False),
        boot_error=None,
        boot_error_agent=None,
        failing_calls=0,
        failing_cause="",
        livekit_trouble=None,
        memory_shortage=values.get(keys.MEMORY_LOW),
        sizing=None,
    )
