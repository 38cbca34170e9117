"""Whether Redis has enough memory: a full Redis accepts no session, and one that evicts keys loses records."""

from collections.abc import Iterator

from orchestrator.reasons import HealthWarning, warn
from orchestrator.store.records import MemoryUse

#: The share of the memory that Redis may use from which on there is a warning.
NEARLY_FULL = 0.8
#: The policy that refuses writes when memory is full; every other one drops sessions, agents or the task queue.
KEEPS_ALL = "noeviction"


def warnings(use: MemoryUse, here: int | None) -> Iterator[HealthWarning]:
    """Yield the warnings. `here`: bytes that an embedded Redis may use; None for one elsewhere."""
    if use.policy not in {"", KEEPS_ALL}:
        yield warn("redis_evicts", policy=use.policy)
    bounds = [bound for bound in (use.limit, use.machine_total, here or 0) if bound]
    if bounds and use.used > NEARLY_FULL * min(bounds):
        yield warn("redis_nearly_full", usedMib=use.used >> 20, limitMib=min(bounds) >> 20)
