"""Loads what every call needs, when it is imported: in each process's prewarm, or in livekit-agents' fork server.

More than agents.voice.prewarm() only where the reference would else pay in the call for what is ours: the agent
opens livekit-agents' HTTP session, and the first one in a process reads all certificates.
"""

import asyncio

from livekit.agents import utils

from agents import voice


async def _open_session() -> None:
    async with utils.http_context.open():
        pass


voice.prewarm()
asyncio.run(_open_session())
