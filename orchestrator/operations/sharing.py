"""Detects other users of our Redis: nodes with other settings, and other programs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from orchestrator.config.calls import POLICY
from orchestrator.reasons import HealthWarning, warn
from orchestrator.store import Node

#: The warning where nodes that share a Redis differ in one of these settings.
_DIFFERENCES = {
    "AGENT_MODULE": "agents_differ",
    "AGENT_COMMAND": "agents_differ",
    "AGENT_NAME": "agent_names_differ",
    "LIVEKIT_API_KEY": "livekit_keys_differ",
}
#: Settings of which a node publishes only a digest.
_HIDDEN = frozenset({"LIVEKIT_API_KEY"})
#: Settings that each node writes to the hash `policy`, of which the last writer's values apply to all.
_POLICY = tuple(name.upper() for name in POLICY)


def troubles(nodes: Mapping[str, Node]) -> Iterator[HealthWarning]:
    """Yield a warning for each problem of sharing a Redis. `nodes`: the live ones."""
    for programs in sorted({node.strangers for node in nodes.values() if node.strangers}):
        yield warn("queue_shared", programs=programs)
    # A node of an earlier release may not publish its settings.
    serves = {name: node.serves for name, node in sorted(nodes.items()) if node.serves}
    yield from _kind_differences(serves)
    yield from _policy_differences(serves)


def traces(tasks: Iterable[str], workers: Iterable[str]) -> Iterator[HealthWarning]:
    """Yield a warning if our queue contains other programs' tasks, or bindings of their Celery workers."""
    programs = sorted({f"task {name}" for name in tasks} | {f"Celery worker {name}" for name in workers})
    if programs:
        yield warn("queue_was_shared", programs=", ".join(programs[:3]))


def _kind_differences(serves: Mapping[str, Mapping[str, str]]) -> Iterator[HealthWarning]:
    nodes: dict[str, dict[str, str]] = defaultdict(dict)  # setting → value → the first node that has it
    for node, settings in serves.items():
        for setting in _DIFFERENCES:
            # A node has either AGENT_MODULE or AGENT_COMMAND.
            if setting in settings or setting == "AGENT_MODULE":
                nodes[setting].setdefault(settings.get(setting, ""), node)
    for setting, by_value in nodes.items():
        if len(by_value) < 2:
            continue
        (first, one), (second, other) = list(by_value.items())[:2]
        values = {} if setting in _HIDDEN else {"value": first or "none", "otherValue": second or "none"}
        yield warn(_DIFFERENCES[setting], node=one, other=other, setting=setting, **values)


def _policy_differences(serves: Mapping[str, Mapping[str, str]]) -> Iterator[HealthWarning]:
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
            yield warn("policies_differ", node=first, other=node, settings=", ".join(differing))
