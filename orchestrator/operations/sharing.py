"""Detects other users of our Redis: nodes with other settings, and other programs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from orchestrator.config.calls import POLICY
from orchestrator.store import Node

#: What follows if nodes that share a Redis differ in one of these settings.
_EFFECTS = {
    "AGENT_MODULE": "agents of the one answer callers of the other",
    "AGENT_COMMAND": "agents of the one answer callers of the other",
    "AGENT_NAME": "each serves the other's dispatches",
    "LIVEKIT_API_KEY": "tokens of the one are invalid at the other's LiveKit",
}
#: Settings of which a node publishes only a digest.
_HIDDEN = frozenset({"LIVEKIT_API_KEY"})
#: Settings that each node writes to the hash `policy`, of which the last writer's values apply to all.
_POLICY = tuple(name.upper() for name in POLICY)
#: REDIS_URL says ssl_cert_reqs=none.
UNVERIFIED = (
    "REDIS_URL has ssl_cert_reqs=none: whoever stands between can read and change everything. Set REDIS_CA_FILE instead"
)


def troubles(nodes: Mapping[str, Node]) -> Iterator[str]:
    """Yield a warning for each problem of sharing a Redis. `nodes`: the live ones."""
    for programs in sorted({node.strangers for node in nodes.values() if node.strangers}):
        yield (
            f"another program uses this Redis database's queues ({programs}): its workers drop our tasks, and ours "
            "return its tasks to the queue. Set REDIS_PREFIX, or give it a database of its own"
        )
    # A node of an earlier release may not publish its settings.
    serves = {name: node.serves for name, node in sorted(nodes.items()) if node.serves}
    yield from _kind_differences(serves)
    yield from _policy_differences(serves)


def traces(tasks: Iterable[str], workers: Iterable[str]) -> Iterator[str]:
    """Yield a warning if our queue contains other programs' tasks, or bindings of their Celery workers."""
    programs = sorted({f"task {name}" for name in tasks} | {f"Celery worker {name}" for name in workers})
    if programs:
        yield (
            f"another program has used this Redis database's queues ({', '.join(programs[:3])}): its workers drop our "
            "tasks, and ours return its tasks to the queue. Set REDIS_PREFIX, or give it a database of its own"
        )


def _kind_differences(serves: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    nodes: dict[str, dict[str, str]] = defaultdict(dict)  # setting → value → the first node that has it
    for node, settings in serves.items():
        for setting in _EFFECTS:
            # A node has either AGENT_MODULE or AGENT_COMMAND.
            if setting in settings or setting == "AGENT_MODULE":
                nodes[setting].setdefault(settings.get(setting, ""), node)
    for setting, by_value in nodes.items():
        if len(by_value) < 2:
            continue
        (first, one), (second, other) = list(by_value.items())[:2]
        shown = "" if setting in _HIDDEN else f" ({first or 'none'} and {second or 'none'})"
        yield (
            f"nodes {one} and {other} share this Redis and differ in {setting}{shown}: {_EFFECTS[setting]}. "
            "Give each orchestrator a REDIS_PREFIX or a database of its own"
        )


def _policy_differences(serves: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    nodes = {node: settings for node, settings in serves.items() if _POLICY[0] in settings}
    if not nodes:
        return
    (first, reference), *others = nodes.items()
    for node, settings in others:
        differing = [
            f"{name} ({reference[name]} and {settings[name]})"
            for name in _POLICY
            if name in settings and name in reference and reference[name] != settings[name]
        ]
        if differing:
            yield (
                f"nodes {first} and {node} share this Redis and differ in {', '.join(differing)}: the settings of the "
                "node that started last apply to all. Set the same on all nodes, or give each orchestrator a "
                "REDIS_PREFIX or a database of its own"
            )
