"""What an agent tells the store of its session: that it is in the room, who else is, what is said, and how it ends.

Failure cases: Redis silent → it is said again until it is heard, the end for `END_SECONDS`; the store knows better (the
session is over, or another agent's) → nothing is said again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from agents.context import AgentContext
from orchestrator import faults
from orchestrator.errors import IllegalMove, OrchestratorError
from orchestrator.reasons import Reason
from orchestrator.store.agent_link import AgentLink

log = logging.getLogger("agent.runtime")

#: Seconds for which an agent tries to say how its session ended: who does not know it would take the call over.
END_SECONDS = 20.0


class Reports:
    """The reports of one session. `pause`: seconds until what was not heard is said again."""

    def __init__(self, link: AgentLink, context: AgentContext, pause: float) -> None:
        self._link, self._context, self._pause = link, context, pause
        #: When user and agent were first in the room together, in Unix milliseconds.
        self.active_at: int | None = None

    async def say(self, tell: Callable[[], Awaitable[object]]) -> None:
        """Tell the store something, until it is heard or the store knows better."""
        while True:
            try:
                await tell()
            except IllegalMove as failure:
                # Not its session any more, or a record that is gone: the next heartbeat finds out which.
                self._context.log.warning("the store knows better: %s", failure.detail)
            except OrchestratorError as failure:
                self._context.log.warning("not reported yet: %s", failure.detail)
                await asyncio.sleep(self._pause)
                continue
            return

    async def presence(self) -> None:
        """Tell that the agent is in the room, and then who else is: every coming and going of the user."""
        await self.say(self._link.joined)
        faults.hit("agent.joined")
        while True:
            await self._context.presence_changed.wait()
            self._context.presence_changed.clear()
            await self._user()

    async def _user(self) -> None:
        session_id, present = self._context.session_id, self._context.user_present.is_set()
        lost = not present and self._context.user_lost
        await self.say(lambda: self._link.presence(session_id, present=present, lost=lost))
        if present and self.active_at is None:
            self.active_at = int(time.time() * 1000)

    async def audio(self) -> None:
        """Tell of the agent's first sound."""
        await self._context.audible.wait()
        await self.say(lambda: self._link.first_audio(self._context.session_id))

    async def turns(self) -> None:
        """Have each turn of the conversation kept, for an agent that may have to take over."""
        while True:
            turn = await self._context.unkept.get()
            await self.say(lambda turn=turn: self._link.turn(self._context.session_id, asdict(turn)))  # type: ignore[misc]

    async def end(self, outcome: str, reason: Reason) -> None:
        """Tell how the session ended, or that another agent is to go on with it."""
        if outcome == "replaced":
            return
        link, session_id = self._link, self._context.session_id
        told = {"lost": link.failed, "stopped": link.stopped}.get(outcome)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self.say(lambda: told(reason) if told else link.ended(session_id, outcome, reason))
        except TimeoutError:
            log.warning("the end is not recorded by the agent")
