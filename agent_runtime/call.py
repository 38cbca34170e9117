"""The session as its agent's process sees it, whoever is in the room for it: this process, or a program beside it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.reasons import Reason, words

#: Characters of one turn that are kept.
TURN_CHARACTERS = 2000

Role = Literal["user", "agent"]
Goodbye = Callable[[], Awaitable[None]]
#: What happens to the session when its agent leaves: it has ended normally, it has failed, another agent is to take
#: over, an agent of another node is (or it ends, if there is none), or another agent has taken over already.
Outcome = Literal["ended", "error", "lost", "stopped", "replaced"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing that was said in the call."""

    role: Role
    text: str
    at: float  #: Unix seconds


class Call:
    """One session, from inside its agent's process: who is there, what is said, and how the agent leaves.

    If `takeovers` is not 0, this agent replaces one that died in the call, and `conversation` is what was said until
    then.
    """

    def __init__(
        self,
        *,
        session_id: str,
        user_id: str,
        metadata: Mapping[str, Any],
        url: str,
        token: str,
        takeovers: int = 0,
        conversation: Sequence[Turn] = (),
    ) -> None:
        self.session_id = session_id
        self.user_id = user_id
        self.metadata = metadata
        self.url, self.token = url, token
        self.takeovers = takeovers
        self.conversation = list(conversation)
        self.log = logging.LoggerAdapter(logging.getLogger("agent"), {"session_id": session_id})
        #: How and why the agent leaves, once that is decided.
        self.leaving: asyncio.Future[tuple[Outcome, Reason]] = asyncio.get_running_loop().create_future()
        self.user_seen = asyncio.Event()
        self.user_present = asyncio.Event()
        #: Whether an absent user has lost the connection rather than left.
        self.user_lost = False
        #: Set at every change of the user's presence; its reader clears it.
        self.presence_changed = asyncio.Event()
        #: Set when the user can hear this agent for the first time.
        self.audible = asyncio.Event()
        #: Turns that are not in Redis yet.
        self.unsaved: asyncio.Queue[Turn] = asyncio.Queue()
        self.goodbyes: list[Goodbye] = []
        #: Seconds that are left for the goodbyes, once they have begun.
        self.goodbye_seconds = 0.0

    def remember(self, role: Role, text: str) -> None:
        """Save what was said for an agent that may have to take over."""
        turn = Turn(role, text[:TURN_CHARACTERS], time.time())
        self.conversation.append(turn)
        self.unsaved.put_nowait(turn)

    def mark_audible(self) -> None:
        """Report that the user hears this agent now: the time to first audio ends here."""
        self.audible.set()

    def on_goodbye(self, say: Goodbye) -> None:
        """Call `say` when the node must stop. It has a few seconds to tell the user."""
        self.goodbyes.append(say)

    def leave(self, reason: str | Reason, *, failed: bool = False) -> None:
        """End the session; the first reason counts. Words of your own are the operator's: callers do not read them."""
        self._leave("error" if failed else "ended", reason)

    def hand_over(self, cause: str | Reason) -> None:
        """Leave the session to another agent, because this one cannot continue."""
        self._leave("lost", cause)

    def stop(self, reason: Reason) -> None:
        """Leave because this process must stop: an agent of another node takes over, or the session ends."""
        self._leave("stopped", reason)

    def give_up(self, reason: Reason) -> None:
        """Leave a session that another agent has taken over already."""
        self._leave("replaced", reason)

    def _leave(self, outcome: Outcome, reason: str | Reason) -> None:
        if not self.leaving.done():
            self.leaving.set_result((outcome, words(reason) if isinstance(reason, str) else reason))

    def update_user(self, *, present: bool, lost: bool, seen: bool) -> None:
        """Update whether the user is there. `seen`: the user is there, or has just gone."""
        before = self.user_present.is_set()
        if seen:
            self.user_seen.set()
            self.user_lost = lost and not present
        if present is not before or (seen and not present):
            self.presence_changed.set()
        (self.user_present.set if present else self.user_present.clear)()


def given(assignment: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Return a call's arguments: what the message from the inbox says of it."""
    return {
        "session_id": assignment["sessionId"],
        "user_id": assignment["userId"],
        "metadata": assignment["metadata"],
        "url": url,
        "token": assignment["token"],
        "takeovers": assignment["takeovers"],
        "conversation": [Turn(**turn) for turn in assignment["conversation"]],
    }
