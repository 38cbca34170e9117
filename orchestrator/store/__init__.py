"""The only room with Redis in it."""

from orchestrator.store.store import Assignment, Ended, Exit, Store

__all__ = ["Assignment", "Ended", "Exit", "Store"]
