"""How much memory a node needs, and whether it has enough.

The figures were measured in the image, with the voice agent and offline speech: the memory that the container's cgroup
counts as its own (see docs/deploy.md). Hosted speech was not measured; an agent of your own may need more or less.
"""

import math

from orchestrator.settings import Settings

#: MiB: supervisord, api, Celery worker, beat, drain, and the agent host with its models loaded.
BASE_MB = 605
#: MiB of each warm agent, and of each that is in a call, when all of them make a long sentence at the same moment.
AGENT_MB = 15
CALL_MB = 175
#: MiB of an embedded Valkey that holds little.
VALKEY_MB = 10


def pool_mb(settings: Settings) -> int:
    """Return the MiB of a node with a full pool, and no call."""
    _, agents = _pool(settings)
    return BASE_MB + (0 if settings.redis_url else VALKEY_MB) + agents * AGENT_MB


def warning(settings: Settings, limit_bytes: int | None) -> str | None:
    """Return what to change if a full pool does not fit into the memory; None if it fits or the limit is unknown."""
    needed = pool_mb(settings) + settings.memory_headroom_mb
    limit = math.inf if limit_bytes is None else limit_bytes >> 20
    if needed <= limit:
        return None
    name, value = _pool(settings)
    fitting = value - math.ceil((needed - limit) / AGENT_MB)
    remedy = f"give it {_rounded(needed)} MiB"
    if fitting > 0:
        remedy += f", or lower {name} to {fitting}"
    return (
        f"{name}={value} and MEMORY_HEADROOM_MB={settings.memory_headroom_mb} need about {needed} MiB of memory, "
        f"and the limit is {limit} MiB: {remedy}."
    )


def calls_warning(settings: Settings, limit_bytes: int | None) -> str | None:
    """Return what to change if the maximum number of calls does not fit into the memory; None if it fits or the limit
    is unknown."""
    full, limit = pool_mb(settings), math.inf if limit_bytes is None else limit_bytes >> 20
    name, max_sessions = "MAX_SESSIONS", settings.max_sessions
    if 0 < settings.node_sessions <= max_sessions:
        name, max_sessions = "NODE_SESSIONS", settings.node_sessions
    needed = full + max_sessions * CALL_MB
    if needed <= limit:
        return None
    fitting = max(1, int(limit - full) // CALL_MB)
    return (
        f"{name}={max_sessions} calls with offline speech need about {needed} MiB of memory, and the "
        f"limit is {limit} MiB: lower {name} to {fitting}, so that more than that wait in line, or give it "
        f"{_rounded(needed)} MiB."
    )


def _pool(settings: Settings) -> tuple[str, int]:
    return ("POOL_MAX", settings.pool_max) if settings.pool_auto else ("POOL_TARGET", settings.pool_target)


def _rounded(mib: int) -> int:
    return math.ceil(mib / 64) * 64
