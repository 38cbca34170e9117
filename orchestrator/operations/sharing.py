"""Detects who else uses our Redis: nodes with other settings, and other programs."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

#: What follows if nodes that share a Redis differ in one of these settings.
_EFFECTS = {
    "AGENT_MODULE": "agents of the one answer callers of the other",
    "AGENT_COMMAND": "agents of the one answer callers of the other",
    "AGENT_NAME": "each serves the other's dispatches",
    "LIVEKIT_API_KEY": "tokens of the one are invalid at the other's LiveKit",
}
#: Settings of which a node tells only a digest.
_HIDDEN = frozenset({"LIVEKIT_API_KEY"})
#: REDIS_URL says ssl_cert_reqs=none.
UNVERIFIED = (
    "REDIS_URL has ssl_cert_reqs=none: whoever stands between can read and change everything. Set REDIS_CA_FILE instead"
)


def troubles(nodes: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield a warning for each problem of sharing a Redis. `nodes`: the records of the live nodes."""
    for programs in sorted({fields["strangers"] for fields in nodes.values() if fields.get("strangers")}):
        yield (
            f"another program uses this Redis database's queues ({programs}): its workers drop our tasks, and ours "
            "return its tasks to the queue. Set REDIS_PREFIX, or give it a database of its own"
        )
    serves = {node: json.loads(fields.get("serves") or "{}") for node, fields in sorted(nodes.items())}
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
    for setting, values in _values(serves).items():
        (first, one), (second, other) = list(values.items())[:2]
        shown = "" if setting in _HIDDEN else f" ({first or 'none'} and {second or 'none'})"
        effect = _EFFECTS.get(setting, "they serve each other's callers")
        yield (
            f"nodes {one} and {other} share this Redis and differ in {setting}{shown}: {effect}. "
            "Give each orchestrator a REDIS_PREFIX or a database of its own"
        )


def _values(serves: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return the settings with several values, and for each value the first node that has it."""
    values: dict[str, dict[str, str]] = defaultdict(dict)
    for node, settings in serves.items():
        if not settings:
            continue
        for setting, value in settings.items():
            if isinstance(value, str):
                values[setting].setdefault(value, node)
        # A node with AGENT_COMMAND has no AGENT_MODULE.
        values["AGENT_MODULE"].setdefault(settings.get("AGENT_MODULE", ""), node)
    return {setting: found for setting, found in values.items() if len(found) > 1}


def _policy_differences(serves: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """Compare what each node has written to the hash `policy`, of which the last writer's values apply to all."""
    policies = {node: settings["policy"] for node, settings in serves.items() if settings.get("policy")}
    if not policies:
        return
    (first, reference), *others = policies.items()
    for node, policy in others:
        differing = [
            f"{name.upper()} ({reference[name]:g} and {policy[name]:g})"
            for name in reference
            if name in policy and reference[name] != policy[name]
        ]
        if differing:
            yield (
                f"nodes {first} and {node} share this Redis and differ in {', '.join(differing)}: the settings of the "
                "node that started last apply to all. Set the same on all nodes, or give each orchestrator a "
                "REDIS_PREFIX or a database of its own"
            )
