"""The voice agent on a machine without the offline speech packages."""

from agents.voice import entrypoint, prewarm
from tests.support import no_offline

__all__ = ["entrypoint", "no_offline", "prewarm"]
