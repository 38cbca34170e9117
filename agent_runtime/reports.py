"""An agent's reports to the store: it is in the room, the user is, what they say, and how the session ends.

Failure cases: Redis does not answer → the report is repeated, that of the end for `END_SECONDS`; the store rejects the
report (the session is over, or belongs to another agent) → it is dropped.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from agent_runtime.call import Call
from agent_runtime.relay_link import RelayLink
from orchestrator import faults
from orchestrator.errors import IllegalMove, OrchestratorError
from orchestrator.reasons import Reason

log = logging.getLogger("agent.runtime")

#: Seconds for which an agent tries to report the end of its session. Without that report another agent takes over.
END_SECONDS = 20.0


class Reports:
    """The reports of one session. `pause`: seconds until a report is repeated."""

    def __init__(self, link: RelayLink, context: Call, pause: float) -> None:
        self._link, self._context, self._pause = link, context, pause
        #: When user and agent were first in the room together, in Unix milliseconds.
        self.active_at: int | None = None

    async def send(self, report: Callable[[], Awaitable[object]]) -> None:
        """Send a report until the store accepts or rejects it."""
        while True:
            try:
                await report()
            except IllegalMove as failure:
                # The session belongs to another agent, or its record is gone: the next heartbeat finds out which.
                self._context.log.warning("the store rejected a report: %s", failure.detail)
            except OrchestratorError as failure:
                self._context.log.warning("not reported yet: %s", failure.detail)
                await asyncio.sleep(self._pause)
                continue
            return

    async def presence(self) -> None:
        """Report that the agent is in the room, and then each time the user comes or goes."""
        await self.send(self._link.joined)
        faults.hit("agent.joined")
        while True:
            await self._context.presence_changed.wait()
            self._context.presence_changed.clear()
            await self._user()

    async def _user(self) -> None:
        session_id, present = self._context.session_id, self._context.user_present.is_set()
        lost = not present and self._context.user_lost
        await self.send(lambda: self._link.presence(session_id, present=present, lost=lost))
        if present and self.active_at is None:
            self.active_at = int(time.time() * 1000)

    async def audio(self) -> None:
        """Report the agent's first sound."""
        await self._context.audible.wait()
        await self.send(lambda: self._link.first_audio(self._context.session_id))

    async def turns(self) -> None:
        """Save each turn of the conversation for an agent that may have to take over."""
        while True:
            turn = await self._context.unsaved.get()
            await self.send(lambda turn=turn: self._link.turn(self._context.session_id, asdict(turn)))  # type: ignore[misc]

    async def end(self, outcome: str, reason: Reason) -> None:
        """Report how the session ended, or that another agent is to take over."""
        if outcome == "replaced":
            return
        link, session_id = self._link, self._context.session_id
        hand_over = {"lost": link.failed, "stopped": link.stopped}.get(outcome)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self.send(lambda: hand_over(reason) if hand_over else link.ended(session_id, outcome, reason))
        except TimeoutError:
            log.warning("gave up reporting the end of the session")
