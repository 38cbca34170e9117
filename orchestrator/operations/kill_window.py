"""How long a platform waits between its SIGTERM and its SIGKILL, and whether a drain fits into that."""

import math
from collections.abc import Mapping

from orchestrator.reasons import HealthWarning, warn
from orchestrator.settings import Settings

#: Seconds after DRAIN_SECONDS for which the drain waits for agents that are saying goodbye.
DRAIN_MARGIN = 3.0
#: Seconds that supervisord.conf gives the programs to stop, one after the other, after the drain.
STOP_SECONDS = {"api": 5, "beat": 4, "worker": 6, "host": 6, "relay": 1, "livekit": 1, "valkey": 5}

#: What Railway sets in each of its containers. A RAILWAY_TOKEN alone is a developer's machine.
_RAILWAY = frozenset(
    f"RAILWAY_{name}"
    for name in "PROJECT_ID SERVICE_ID SERVICE_NAME ENVIRONMENT ENVIRONMENT_ID ENVIRONMENT_NAME DEPLOYMENT_ID "
    "REPLICA_ID DEPLOYMENT_DRAINING_SECONDS".split()
)


def window(settings: Settings, environ: Mapping[str, str]) -> float | None:
    """Return the seconds between the platform's SIGTERM and its SIGKILL; None if unknown."""
    if settings.kill_window_seconds is not None:
        return settings.kill_window_seconds
    if _RAILWAY.isdisjoint(environ):
        return None
    try:
        seconds = float(environ.get("RAILWAY_DEPLOYMENT_DRAINING_SECONDS", ""))
    except ValueError:
        return 0.0  # Railway's default: SIGKILL follows at once
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def stopping(settings: Settings) -> float:
    """Return the seconds that this node's programs may need to stop once its calls are over."""
    embedded = {"valkey": not settings.redis_url, "livekit": not settings.livekit_url}
    return sum(seconds for name, seconds in STOP_SECONDS.items() if embedded.get(name, True))


def drain_limit(settings: Settings) -> float:
    """Return the seconds after which a drain ends, even if calls are left."""
    return settings.drain_seconds + DRAIN_MARGIN if settings.drain_seconds else 0.0


def warning(
    settings: Settings, environ: Mapping[str, str], stopping_seconds: float | None = None
) -> HealthWarning | None:
    """Return what to change when a drain does not fit into the platform's window; None when it fits or the window is
    unknown.

    `stopping_seconds`: what the programs need to stop; by default, what supervisord.conf allows.
    """
    seconds = window(settings, environ)
    after = stopping(settings) if stopping_seconds is None else stopping_seconds
    needed = drain_limit(settings) + after
    # guard: kill-window
    if seconds is None or needed <= seconds:
        return None
    enough = math.ceil(needed / 5) * 5
    room = math.floor(seconds - after - DRAIN_MARGIN)
    return warn(
        "kill_window_short",
        drainSeconds=settings.drain_seconds,
        stopSeconds=needed - settings.drain_seconds,
        neededSeconds=needed,
        windowSeconds=seconds,
        railwaySeconds=enough if settings.kill_window_seconds is None else None,
        waitSeconds=enough if settings.kill_window_seconds is not None else None,
        lowerSeconds=room if room > 0 else None,
    )


def drain_warning(settings: Settings, stop_seconds: float) -> HealthWarning | None:
    """Return what to change if supervisord kills the drain program, after `stop_seconds`, before the drain ends."""
    limit = drain_limit(settings)
    if stop_seconds >= limit:
        return None
    return warn(
        "drain_cut_short",
        drainSeconds=settings.drain_seconds,
        neededSeconds=limit,
        stopSeconds=stop_seconds,
        enoughSeconds=math.ceil(limit + 5),
    )
