"""How much memory a node needs, and whether it has that.

The figures were measured in the image, see docs/deploy.md: the resident memory that the container's cgroup counts, with
the voice agent and offline speech, at several sizes of the pool and in calls. An agent of your own may need more.
"""

import math

from orchestrator.settings import Settings

#: MiB: supervisord, api, Celery worker, beat, drain, and the agent host with its models loaded.
BASE_MB = 500
#: MiB of each warm agent.
AGENT_MB = 30
#: MiB of the embedded Valkey.
VALKEY_MB = 10


def needed_mb(settings: Settings) -> int:
    """Return the MiB that a node needs to fill its pool and to start one more agent."""
    agents = settings.pool_max if settings.pool_auto else settings.pool_target
    valkey = 0 if settings.redis_url else VALKEY_MB
    return BASE_MB + valkey + agents * AGENT_MB + settings.memory_headroom_mb


def warning(settings: Settings, limit_bytes: int | None) -> str | None:
    """Return what to change when the node does not fit into its memory; None when it fits or nobody can tell."""
    if limit_bytes is None:
        return None
    limit, needed = limit_bytes >> 20, needed_mb(settings)
    if needed <= limit:
        return None
    name = "POOL_MAX" if settings.pool_auto else "POOL_TARGET"
    value = settings.pool_max if settings.pool_auto else settings.pool_target
    fitting = value - math.ceil((needed - limit) / AGENT_MB)
    mend = f"give it {math.ceil(needed / 64) * 64} MiB"
    if fitting > 0:
        mend += f", or lower {name} to {fitting}"
    elif settings.memory_headroom_mb > needed - limit:
        mend += f", or lower MEMORY_HEADROOM_MB to {settings.memory_headroom_mb - (needed - limit)}"
    return (
        f"{name}={value} and MEMORY_HEADROOM_MB={settings.memory_headroom_mb} need about {needed} MiB of memory, "
        f"but the limit is {limit} MiB: {mend}."
    )
