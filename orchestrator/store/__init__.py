"""The only room with Redis in it."""

from orchestrator.store.reading import Reading
from orchestrator.store.records import Action, Assignment, Breaker, Capacity, Ended, Exit, Job, Snapshot
from orchestrator.store.store import Store

__all__ = ["Action", "Assignment", "Breaker", "Capacity", "Ended", "Exit", "Job", "Reading", "Snapshot", "Store"]
