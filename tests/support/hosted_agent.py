"""The voice agent where no offline speech is installed."""

from agents.voice import entrypoint, prewarm
from tests.support import no_offline

__all__ = ["entrypoint", "no_offline", "prewarm"]
