"""The only room with Redis in it."""

from orchestrator.store.reading import Reading
from orchestrator.store.store import Action, Assignment, Breaker, Ended, Exit, Snapshot, Store

__all__ = ["Action", "Assignment", "Breaker", "Ended", "Exit", "Reading", "Snapshot", "Store"]
