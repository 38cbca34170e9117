"""A session's history, as both the status page and `orchestrator explain` show it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any


def marked(events: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Mark the events that the next event repeats (`toldNext`): the status page and `explain` omit them."""
    for event, following in pairwise(events):
        if _told_by_next(event, following):
            event["toldNext"] = True
    return events


def _told_by_next(event: dict[str, Any], following: dict[str, Any]) -> bool:
    if event["state"] == "agent_exited":
        # How an agent ended is what it was replaced for.
        lost = following.get("agentId") if following["state"] in {"takeover", "replacement"} else None
        return bool(event.get("agentId") == lost)
    # With a warm agent there, the store moves a session on in the same millisecond.
    return bool(event["state"] == "starting" and following["state"] == "ready" and following["at"] == event["at"])
