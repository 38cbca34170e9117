"""The version of the data in Redis: two releases share it during a deploy, or the newer one refuses to start.

A release is compatible when it understands what is there (`OLDEST` and later), and when what is there may be read by it
(`readableBy`, which the newest release that has written says).
"""

from collections.abc import Mapping

#: What this release writes.
VERSION = 2
#: The oldest schema whose code may still use a Redis that this release writes to.
READABLE_BY = 2
#: The oldest schema that this release understands.
OLDEST = 2


def disagreement(recorded: Mapping[str, str]) -> str | None:
    """Return why this release cannot share a Redis, and what to do; None when it can.

    Args:
        found: the hash `schema`; {} before a release has written it.
    """
    if not recorded:
        return None
    version, readable_by = int(recorded["version"]), int(recorded["readableBy"])
    # guard: schema
    if readable_by > VERSION:
        return (
            f"Redis holds schema {version} of a newer release, and this one knows {VERSION}: start the newer release, "
            "or set another REDIS_URL"
        )
    if version < OLDEST:
        return (
            f"Redis holds schema {version} of an older release, and this one needs {OLDEST} at least: let the older "
            "release drain and stop, then empty that Redis or set another REDIS_URL"
        )
    return None
