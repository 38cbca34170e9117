"""One session from its agent's side: join the room, run the entrypoint, report, say goodbye, leave."""

import asyncio
import contextlib
import inspect
from typing import Any

from agent_runtime.call import Call, Goodbye
from agent_runtime.kind import Kind
from agent_runtime.relay_link import RelayLink
from agent_runtime.reports import Reports
from agent_runtime.watched_tasks import WatchedTasks
from orchestrator import faults
from orchestrator.config.agent import AgentSettings
from orchestrator.reasons import because

#: Time limit for disconnecting from LiveKit and from Redis.
LEAVE_SECONDS = 1.0


class ServedSession:
    """The session that an agent was assigned.

    Args:
        assignment: the message from the inbox.
        goodbyes: seconds that are left, once for each drain of the node.
    """

    def __init__(
        self,
        settings: AgentSettings,
        livekit_url: str,
        link: RelayLink,
        kind: Kind[Any],
        *,
        assignment: dict[str, Any],
        goodbyes: asyncio.Queue[float],
    ) -> None:
        self._kind, self._link = kind, link
        self.assignment = assignment
        self._goodbyes = goodbyes
        self.context: Call = kind.begin(assignment, livekit_url, settings)
        self.reports = Reports(link, self.context, settings.heartbeat_seconds / 5)
        self._shutdown_seconds = settings.shutdown_seconds
        self._tasks = WatchedTasks(self.context.hand_over)

    async def run(self) -> None:
        """Serve the session until the agent leaves it."""
        context = self.context
        faults.hit("agent.before_join")
        self._tasks.start(because("join_failed"), self._join(), ends=True)
        outcome, reason = await context.leaving
        context.log.info("leaves: %s", reason.text)
        self._tasks.cancel()
        # Reported before the room is left, or another agent would take the call over. Without Redis none does, so the
        # user is not kept waiting for the report.
        # guard: end-reported
        ending = asyncio.create_task(self.reports.end(outcome, reason))
        await asyncio.wait([ending], timeout=LEAVE_SECONDS)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._kind.leave(context)
                await self._tasks.ended()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._kind.part(context)
        await ending
        await self._wind_down()

    async def _wind_down(self) -> None:
        """Do the work after the call: the entrypoint's `finally`, and what the agent's framework has to do."""
        try:
            async with asyncio.timeout(self._shutdown_seconds):
                await self._tasks.ended()
                await self._kind.wind_down(self.context)
        except TimeoutError:
            self.context.log.warning(
                "the work after the call is cut off: it has taken longer than SHUTDOWN_SECONDS=%g",
                self._shutdown_seconds,
            )

    async def _join(self) -> None:
        await self._kind.enter(self.context, self._no_room)
        self.context.log.info("joined %s", self.assignment["room"])
        start, reports = self._tasks.start, self.reports
        start(because("agent_error", detail="reporting the user's presence ended"), reports.presence())
        start(because("agent_error", detail="reporting the first sound failed"), reports.audio(), ends=True)
        start(because("agent_error", detail="keeping the turns ended"), reports.turns())
        start(because("agent_error", detail="saying goodbye failed"), self._say_goodbye(), ends=True)
        # The entrypoint may return: the session lasts until its user or the agent leaves.
        start(because("agent_error"), self._kind.serve(self.context), ends=True)

    async def _no_room(self, words: str) -> None:
        await self.reports.send(lambda: self._link.no_room(words))

    async def _say_goodbye(self) -> None:
        """Let the agent say goodbye to its user, then leave. An agent without a goodbye stays until the end."""
        seconds = await self._goodbyes.get()
        self.context.log.info("the node is stopping: %g s are left", seconds)
        while not self.context.goodbyes:
            seconds = await self._goodbyes.get()
        self.context.goodbye_seconds = seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*map(_say_one, self.context.goodbyes), return_exceptions=True)
        self.context.leave(because("node_stopping"))


async def _say_one(say: Goodbye) -> None:
    saying = say()
    if inspect.isawaitable(saying):
        await saying
