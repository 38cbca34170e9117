"""The only package that imports redis."""

from orchestrator.store.reading import Reading, Snapshot
from orchestrator.store.records import (
    Action,
    Assignment,
    Breaker,
    Capacity,
    DispatchRef,
    Ended,
    Exit,
    Node,
    Registration,
)
from orchestrator.store.store import Store

__all__ = [
    "Action", "Assignment", "Breaker", "Capacity", "DispatchRef", "Ended", "Exit", "Node", "Reading", "Registration",
    "Snapshot", "Store",
]  # fmt: skip
