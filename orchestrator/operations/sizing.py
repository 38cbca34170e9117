"""How much memory a node needs, and whether it has enough.

The figures were measured in the image, with the voice agent and offline speech: the memory that the container's cgroup
counts as its own (see docs/deploy.md). Hosted speech was not measured; an agent of your own may need more or less.
"""

import math

from orchestrator.reasons import HealthWarning, warn
from orchestrator.settings import Settings

#: MiB: supervisord, api, Celery worker, beat, relay, drain, and the agent host with its models loaded. Three of these
#: were measured outside the image: the relay (34), the host (10 less without Redis), the drain (27 less).
BASE_MB = 602
#: MiB of each warm agent, and of each that is in a call, when all of them make a long sentence at the same moment.
AGENT_MB = 15
CALL_MB = 175
#: MiB of an embedded Valkey that holds little.
VALKEY_MB = 10


def pool_mb(settings: Settings) -> int:
    """Return the MiB of a node with a full pool, and no call."""
    _, agents = _pool(settings)
    return BASE_MB + (0 if settings.redis_url else VALKEY_MB) + agents * AGENT_MB


def warning(settings: Settings, limit_bytes: int | None) -> HealthWarning | None:
    """Return what to change when a full pool does not fit into the memory; None when it fits, or without a limit."""
    needed = pool_mb(settings) + settings.memory_headroom_mb
    if limit_bytes is None or needed <= (limit := limit_bytes >> 20):
        return None
    name, value = _pool(settings)
    fitting = value - math.ceil((needed - limit) / AGENT_MB)
    return warn(
        "pool_too_large",
        setting=name,
        value=value,
        headroomMib=settings.memory_headroom_mb,
        neededMib=needed,
        limitMib=limit,
        enoughMib=_rounded(needed),
        lower=fitting if fitting > 0 else None,
    )


def calls_warning(settings: Settings, limit_bytes: int | None) -> HealthWarning | None:
    """Return what to change when as many calls as are allowed do not fit into the memory; None when they do or the
    limit is unknown."""
    full = pool_mb(settings)
    name, most = "MAX_SESSIONS", settings.max_sessions
    if 0 < settings.node_sessions <= most:
        name, most = "NODE_SESSIONS", settings.node_sessions
    needed = full + most * CALL_MB
    if limit_bytes is None or needed <= (limit := limit_bytes >> 20):
        return None
    return warn(
        "calls_too_many",
        setting=name,
        value=most,
        neededMib=needed,
        limitMib=limit,
        lower=max(1, (limit - full) // CALL_MB),
        enoughMib=_rounded(needed),
    )


def _pool(settings: Settings) -> tuple[str, int]:
    return ("POOL_MAX", settings.pool_max) if settings.pool_auto else ("POOL_TARGET", settings.pool_target)


def _rounded(mib: int) -> int:
    return math.ceil(mib / 64) * 64
