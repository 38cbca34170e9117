"""Importing this module loads what every call needs, in each process's prewarm or in livekit-agents' fork server.

It loads more than the prewarm() of agents/voice.py only where a cost of our agent would else count in the reference's
call: the agent opens livekit-agents' HTTP session, and the first one in a process reads all certificates.
"""

import asyncio

from livekit.agents import utils

from agents import voice


async def _open_session() -> None:
    async with utils.http_context.open():
        pass


voice.prewarm()
asyncio.run(_open_session())
