"""Conflicts in a shared Redis: nodes of different orchestrators, and other programs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from orchestrator.store import Node

#: Settings in which the nodes of one Redis must agree, and the effect of a difference.
_EFFECTS = {
    "AGENT_MODULE": "callers of the one are answered by agents of the other",
    "AGENT_COMMAND": "callers of the one are answered by agents of the other",
    "AGENT_NAME": "dispatches for the one are served by the other",
    "LIVEKIT_API_KEY": "tokens of the one are no good at the other's LiveKit",
    "limits": "those of the node that started last count for all",
}
#: The warning about REDIS_URL with ssl_cert_reqs=none.
UNVERIFIED = (
    "REDIS_URL has ssl_cert_reqs=none: whoever stands between can read and change everything. Set REDIS_CA_FILE instead"
)
REMEDY = "Give each orchestrator a REDIS_PREFIX or a database of its own"


def troubles(nodes: Mapping[str, Node]) -> Iterator[str]:
    """Yield the conflicts between the living nodes of a Redis, and with other programs that they have seen."""
    for strangers in sorted({node.strangers for node in nodes.values() if node.strangers}):
        yield (
            f"another program uses this Redis database's queues ({strangers}): its workers drop our tasks, and ours "
            "give back its. Set REDIS_PREFIX, or give it a database of its own"
        )
    yield from _differences(nodes)


def traces(tasks: Iterable[str], workers: Iterable[str]) -> Iterator[str]:
    """Yield the conflict with other programs whose tasks or Celery workers are in our queue."""
    strange = sorted({f"task {name}" for name in tasks} | {f"Celery worker {name}" for name in workers})
    if strange:
        yield (
            f"another program has used this Redis database's queues ({', '.join(strange[:3])}): its workers drop our "
            "tasks, and ours give back its. Set REDIS_PREFIX, or give it a database of its own"
        )


def _differences(nodes: Mapping[str, Node]) -> Iterator[str]:
    values: dict[str, dict[str, str]] = defaultdict(dict)
    for name, node in sorted(nodes.items()):
        for setting, value in node.serves.items():
            values[setting].setdefault(value, name)
        if node.serves:
            values["AGENT_MODULE"].setdefault(node.serves.get("AGENT_MODULE", ""), name)
    for setting, nodes_by_value in values.items():
        if len(nodes_by_value) < 2:
            continue
        (first, one), (second, other) = list(nodes_by_value.items())[:2]
        plain = setting not in {"LIVEKIT_API_KEY", "limits"}
        shown = f" ({first or 'none'} and {second or 'none'})" if plain else ""
        called = "MAX_SESSIONS or another limit" if setting == "limits" else setting
        effect = _EFFECTS.get(setting, "they serve each other's callers")
        yield f"nodes {one} and {other} share this Redis and differ in {called}{shown}: {effect}. {REMEDY}"
