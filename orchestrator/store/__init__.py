"""The only room with Redis in it."""

from orchestrator.store.reading import Reading
from orchestrator.store.records import Action, Assignment, Breaker, Capacity, DispatchRef, Ended, Exit, Snapshot
from orchestrator.store.store import Store

__all__ = [
    "Action",
    "Assignment",
    "Breaker",
    "Capacity",
    "DispatchRef",
    "Ended",
    "Exit",
    "Reading",
    "Snapshot",
    "Store",
]
