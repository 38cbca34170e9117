"""How an agent's code is run: what differs between agents of our own entrypoint, of a framework, and programs.

The runtime calls `prepare` and `warm_up` in the agent's own process, and follows `failure` from then on; for a session
`begin`, `enter`, `serve`, `part` and `wind_down`; at the end `close`. This module imports no LiveKit: a program joins
the room itself, and the process beside it stays small.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from agent_runtime.call import Call
from orchestrator.config.agent import AgentSettings
from orchestrator.reasons import Reason

C = TypeVar("C", bound=Call)
#: Reports that LiveKit neither has nor creates the room, in LiveKit's words.
NoRoom = Callable[[str], Awaitable[None]]


class NotWarm(Exception):
    """The agent's code cannot become warm, and its log says why: this process exits with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Kind(ABC, Generic[C]):
    """One agent's code, loaded. It is made before agents are forked, and each process serves one session with it."""

    def prepare(self) -> None:
        """Start what every agent of this kind needs, in the agent's own process."""

    async def warm_up(self) -> None:
        """Prepare what can only be prepared in the agent's own process, before it reports that it is warm."""

    async def failure(self) -> Reason | None:
        """Wait until the agent can serve no longer; returns why. None at once where nothing has to be watched."""
        return None

    @abstractmethod
    def begin(self, assignment: Mapping[str, Any], url: str, settings: AgentSettings) -> C:
        """Return the call of this assignment, before its room is joined."""

    @abstractmethod
    async def enter(self, call: C, no_room: NoRoom) -> None:
        """Return when the agent is in the room."""

    @abstractmethod
    async def serve(self, call: C) -> None:
        """Serve the session. It may return: the session lasts until its user or the agent leaves."""

    async def leave(self, call: C) -> None:
        """Do what must be done before the room is left: the end of the session is reported already, or is now."""

    @abstractmethod
    async def part(self, call: C) -> None:
        """Leave the room."""

    async def wind_down(self, call: C) -> None:
        """Do the work after the call, for SHUTDOWN_SECONDS at most: the room is left, and the seat is free."""

    async def close(self, reason: Reason | None) -> None:
        """Release what `warm_up` has made. `reason`: why the agent leaves; None after a session."""
