"""Who shares our Redis: nodes that are no parts of one orchestrator, and other programs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from orchestrator.store import Node

#: What nodes of one Redis may differ in without being of one kind, and what comes of it.
_EFFECTS = {
    "AGENT_MODULE": "callers of the one are answered by agents of the other",
    "AGENT_COMMAND": "callers of the one are answered by agents of the other",
    "AGENT_NAME": "dispatches for the one are served by the other",
    "LIVEKIT_API_KEY": "tokens of the one are no good at the other's LiveKit",
    "limits": "those of the node that started last count for all",
}
#: REDIS_URL says ssl_cert_reqs=none.
UNVERIFIED = (
    "REDIS_URL has ssl_cert_reqs=none: whoever stands between can read and change everything. Set REDIS_CA_FILE instead"
)
MEND = "Give each orchestrator a REDIS_PREFIX or a database of its own"


def troubles(nodes: Mapping[str, Node]) -> Iterator[str]:
    """Yield, in words, what is wrong with those that share a Redis: its living nodes."""
    for strangers in sorted({node.strangers for node in nodes.values() if node.strangers}):
        yield (
            f"another program uses this Redis database's queues ({strangers}): its workers drop our tasks, and ours "
            "give back its. Set REDIS_PREFIX, or give it a database of its own"
        )
    yield from _differences(nodes)


def traces(tasks: Iterable[str], workers: Iterable[str]) -> Iterator[str]:
    """Yield, in words, whom tasks in our queue and bindings of Celery workers are of, when they are not ours."""
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
    for setting, found in values.items():
        if len(found) < 2:
            continue
        (first, one), (second, other) = list(found.items())[:2]
        plain = setting not in {"LIVEKIT_API_KEY", "limits"}
        shown = f" ({first or 'none'} and {second or 'none'})" if plain else ""
        called = "MAX_SESSIONS or another limit" if setting == "limits" else setting
        effect = _EFFECTS.get(setting, "they serve each other's callers")
        yield f"nodes {one} and {other} share this Redis and differ in {called}{shown}: {effect}. {MEND}"
