"""Whether Redis has enough memory: a full Redis accepts no session, and one that evicts keys loses records."""

from collections.abc import Iterator

from orchestrator.store.records import MemoryUse

#: The share of the memory that Redis may use from which on there is a warning.
NEARLY_FULL = 0.8
#: The policy that refuses writes when memory is full; every other one drops sessions, agents or the task queue.
KEEPS_ALL = "noeviction"


def warnings(use: MemoryUse, here: int | None) -> Iterator[str]:
    """Yield the warnings. `here`: bytes that an embedded Redis may use; None for one elsewhere."""
    if use.policy not in {"", KEEPS_ALL}:
        yield (
            f"Redis drops keys when its memory is full (maxmemory-policy {use.policy}), and with them sessions that go "
            f"on: set maxmemory-policy to {KEEPS_ALL}"
        )
    bounds = [bound for bound in (use.limit, use.machine_total, here or 0) if bound]
    if bounds and use.used > NEARLY_FULL * min(bounds):
        yield (
            f"Redis uses {use.used >> 20} of the {min(bounds) >> 20} MiB that it may have; when it is full no session "
            "starts: give it more, or lower SESSION_KEEP_COUNT, SESSION_KEEP_SECONDS or LOG_LINES"
        )
