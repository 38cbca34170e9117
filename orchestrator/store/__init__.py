"""The only room with Redis in it."""

from orchestrator.store.reading import Reading
from orchestrator.store.store import Action, Assignment, Breaker, Capacity, Ended, Exit, Job, Snapshot, Store

__all__ = ["Action", "Assignment", "Breaker", "Capacity", "Ended", "Exit", "Job", "Reading", "Snapshot", "Store"]
