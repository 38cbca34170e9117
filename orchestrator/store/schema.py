"""The version of what stands in Redis: two releases share it for the length of a deploy, or the newer one refuses.

A release is compatible when it understands what is there (`OLDEST` and later), and when what is there may be read by it
(`readableBy`, which the newest release that has written says).
"""

from collections.abc import Mapping

#: What this release writes. 1: before node:{id}:warm, node:{id}:busy and pool:wake:{node}, which only repeat or add to
#: what a release of schema 1 reads and writes, so that it may go on beside this one.
VERSION = 2
#: The oldest schema whose code may go on in a Redis that this release writes to.
READABLE_BY = 1
#: The oldest schema that this release understands.
OLDEST = 1


def disagreement(found: Mapping[str, str], *, in_use: bool) -> str | None:
    """Return why this release cannot share a Redis, and what to do; None when it can.

    Args:
        found: the hash `schema`; {} before a release has written one: then it is schema 1, or nothing at all.
        in_use: whether an orchestrator has written anything.
    """
    if not in_use and not found:
        return None
    version, readable_by = int(found.get("version", 1)), int(found.get("readableBy", 1))
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
