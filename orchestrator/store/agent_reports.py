"""What an agent reports to Redis, through its node's relay: warm, heartbeat, presence, turns, end."""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import NotTheAgent
from orchestrator.models import TURNS
from orchestrator.reasons import Reason
from orchestrator.store import keys
from orchestrator.store.loader import Scripts


class AgentReports:
    """The reports of one agent. Every method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, scripts: Scripts, agent_id: str) -> None:
        self._scripts, self.agent_id = scripts, agent_id

    async def ready(self, pid: int, *ancestors: int) -> str | None:
        """Say that this agent is warm, and which process it is. Returns the id of a session that was already waiting.

        Raises:
            NotTheAgent: the process is neither the one that the agent host has started nor a descendant of it.
        """
        session_id, refused = await self._scripts.call("agent_ready", args=[self.agent_id, pid, *ancestors])
        if refused:
            raise NotTheAgent(refused)
        return session_id or None

    async def beat(self) -> str:
        """Say that this agent lives. Returns its state in the store, '' when the store has no record of it."""
        key = keys.agent(self.agent_id)
        return str(await self._scripts.call("agent_beat", keys=[key, keys.POOL_READY], args=[self.agent_id]))

    async def joined(self) -> None:
        """Say that this agent is in its room."""
        await self._scripts.call("agent_joined", args=[self.agent_id])

    async def no_room(self, words: str) -> None:
        """Report that LiveKit neither has nor creates the room: a node creates it. `words`: LiveKit's error."""
        await self._scripts.call("agent_no_room", args=[self.agent_id, words])

    async def presence(self, session_id: str, *, present: bool, lost: bool = False) -> None:
        """Report whether the user is in the room with this agent; `lost`: the connection broke without a leave."""
        await self._scripts.call("agent_presence", args=[session_id, self.agent_id, int(present), int(lost)])

    async def first_audio(self, session_id: str) -> None:
        """Report that the user can hear this agent. Only the first report counts."""
        args = [session_id, self.agent_id]
        await self._scripts.call("agent_first_audio", keys=[keys.session(session_id)], args=args)

    async def turn(self, session_id: str, turn: Mapping[str, Any]) -> None:
        """Keep one turn of the conversation, for an agent that may have to take over. The newest `TURNS` are kept."""
        names = [keys.conversation(session_id)]
        await self._scripts.call("agent_turn", names, [session_id, self.agent_id, json.dumps(turn), TURNS])

    async def register(self, pid: int, node: str, session: Mapping[str, Any], *ancestors: int) -> str:
        """Report this agent and its session ({} when warm), because Redis has lost them.

        Returns its state; '' when its session is over or another agent's; `unset` when it is to try again.
        """
        session_json = json.dumps(session) if session else ""
        return str(
            await self._scripts.call("agent_register", args=[self.agent_id, pid, node, session_json, *ancestors])
        )

    async def failed(self, cause: Reason) -> None:
        """Report that this agent cannot continue its session: another one takes over."""
        await self._scripts.call("agent_failed", args=[self.agent_id, cause.record()])

    async def stopped(self, reason: Reason) -> None:
        """Report that this agent's process must stop: another node's agent continues the call, or the call ends."""
        await self._scripts.call("agent_stopped", args=[self.agent_id, reason.record()])

    async def ended(self, session_id: str, status: str, reason: Reason) -> None:
        """Report that this agent's session is over (`ended` or `error`) and why. Idempotent."""
        await self._scripts.call("agent_ended", args=[session_id, status, reason.record(), self.agent_id])

    async def leave(self, reason: Reason) -> None:
        """Report that this agent, still warm, leaves: no session may get it."""
        await self._scripts.call("agent_leave", args=[self.agent_id, reason.record()])
