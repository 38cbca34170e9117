"""Nodes of another orchestrator, and other programs, cause a warning."""

from typing import Any

import pytest

from orchestrator.operations import sharing
from orchestrator.settings import Settings
from orchestrator.store import Node


def node(**settings: Any) -> Node:
    return Node.from_hash("n", {"serves": Settings(**settings).serves})


def test_nodes_of_one_orchestrator_cause_no_warning() -> None:
    alike = {
        "n1": node(node_id="n1", port=1),
        "n2": node(node_id="n2", node_sessions=3),
        "old": Node.from_hash("old", {"pid": "1"}),
    }
    assert not list(sharing.troubles(alike))


@pytest.mark.parametrize(
    ("differs", "told"),
    [
        ({"agent_module": "kind_sales"}, "differ in AGENT_MODULE (agents/voice.py and kind_sales): agents of the one"),
        ({"agent_command": "./bot"}, "AGENT_MODULE (agents/voice.py and none)"),
        ({"agent_name": "sales"}, "AGENT_NAME (voice-agent and sales)"),
        ({"livekit_api_key": "another"}, "LIVEKIT_API_KEY: tokens of the one"),
        ({"max_sessions": 7}, "differ in MAX_SESSIONS (50 and 7): the settings of the node that started last"),
        (
            {"queue_seconds": 12.5, "takeover": False, "agent_memory_limit_mb": 512},
            "differ in QUEUE_SECONDS (300 and 12.5), TAKEOVER (1 and 0): the settings",
        ),
    ],
)
def test_another_orchestrator_is_reported_with_the_difference(differs: dict[str, Any], told: str) -> None:
    (found,) = map(str, sharing.troubles({"n1": node(), "n2": node(**differs)}))
    assert "nodes n1 and n2 share this Redis" in found
    assert told in found
    assert "REDIS_PREFIX" in found
    assert "another" not in found, "the key is not shown"


def test_each_node_with_different_limits_is_named_once() -> None:
    nodes = {
        "n1": node(),
        "n2": node(),
        "n3": node(max_sessions=7),
        "n4": node(queue_limit=1),
        "old": Node.from_hash("old", {}),
    }
    found = [(each.code, each.params["node"], each.params["other"]) for each in sharing.troubles(nodes)]
    assert found == [("policies_differ", "n1", "n3"), ("policies_differ", "n1", "n4")]


def test_other_programs_are_reported_once() -> None:
    seen = Node.from_hash("n", {"strangers": "Celery worker celery@shop, task shop.add"})
    (found,) = sharing.troubles({"n1": seen, "n2": seen})
    assert (found.code, found.params) == ("queue_shared", {"programs": "Celery worker celery@shop, task shop.add"})
    assert "REDIS_PREFIX" in str(found)
