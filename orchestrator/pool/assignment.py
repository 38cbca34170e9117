"""Starting a session: one atomic assignment, a last look at the process, an honest estimate for whoever must wait."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.errors import AtCapacity, NotFound, OrchestratorError, RateLimited
from orchestrator.models import Session, new_id
from orchestrator.settings import Settings
from orchestrator.states import SessionState
from orchestrator.store import Assignment, Store

#: Returns whether the process (node, pid, start ticks) may be alive: False only where it is surely not.
MayLive = Callable[[str, int, int], bool]
#: Returns the agent's LiveKit token for a room.
MintAgentToken = Callable[[str], str]

#: A waiting session keeps what its agent will get for this long; the token in it lives as long.
PAYLOAD_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Started:
    """The answer to a start."""

    session_id: str
    status: SessionState
    prewarmed: bool
    existing: bool = False
    refill: bool = False  #: a refill must be queued
    spawn: bool = False  #: an agent must be spawned for it
    estimated_wait: float | None = None  #: seconds, from measured boots; None before the first


class Assigner:
    """Hands agents to users."""

    def __init__(self, store: Store, settings: Settings, mint: MintAgentToken, may_live: MayLive) -> None:
        self._store, self._settings = store, settings
        self._mint, self._may_live = mint, may_live
        self._rate_amount = settings.rate.amount
        self._rate_window_ms = settings.rate.get_expiry() * 1000

    async def start(self, user_id: str, metadata: Mapping[str, object], address: str) -> Started:
        """Start a session for a user; the same user with a live session gets that one again.

        `address` is what the rate limit counts by ('' = exempt).

        Raises:
            RateLimited, AtCapacity: with the seconds to wait.
            StoreUnavailable: Redis does not answer.
        """
        room = new_id("room")
        payload = {"type": "assign", "room": room, "token": self._mint(room), "userId": user_id, "metadata": metadata}
        result = await self._store.assign(
            user_id=user_id,
            waiting_id=new_id("session"),
            room_name=room,
            payload=json.dumps(payload),
            payload_seconds=PAYLOAD_SECONDS,
            max_sessions=self._settings.max_sessions,
            address=address,
            rate_amount=self._rate_amount,
            rate_window_ms=self._rate_window_ms,
        )
        match result.outcome:
            case "assigned":
                return await self._assigned(result)
            case "starting":
                wait = await self.estimated_wait(result.session_id)
                return Started(
                    result.session_id, SessionState.STARTING, False,
                    refill=result.refill, spawn=True, estimated_wait=wait,
                )  # fmt: skip
            case "existing":
                return await self._current(result.session_id, existing=True)
            case "limited":
                seconds = result.retry_after_ms / 1000
                raise RateLimited(
                    f"More than {self._settings.rate_limit.replace('/', ' starts a ')} from this address; "
                    f"try again in {math.ceil(seconds)} s.",
                    retry_after=seconds,
                )
            case "full":
                raise AtCapacity(
                    f"All {self._settings.max_sessions} sessions are taken; try again shortly.", retry_after=5
                )
            case unknown:
                raise OrchestratorError(f"unknown outcome of an assignment: {unknown}")

    async def estimated_wait(self, session_id: str) -> float | None:
        """Return the seconds until a waiting session gets its agent: measured boot time by place in line."""
        boot = await self._store.mean_boot_seconds()
        position = await self._store.queue_position(session_id) or 1
        return None if boot is None else boot * math.ceil(position / self._settings.spawn_concurrency)

    async def _assigned(self, result: Assignment) -> Started:
        if self._may_live(result.node, result.pid, result.start_ticks):
            return Started(result.session_id, SessionState.READY, True, refill=result.refill)
        # Killed a moment ago, and its death is not recorded yet: the store gives the session another agent.
        await self._store.exited(result.agent_id, "found dead at assignment", None, None)
        return await self._current(result.session_id, existing=False)

    async def _current(self, session_id: str, *, existing: bool) -> Started:
        session = await self._store.session(session_id)
        if session is None:
            raise NotFound
        wait = await self.estimated_wait(session_id) if session.status is SessionState.STARTING else None
        return Started(
            session_id, session.status, session.prewarmed, existing=existing, refill=not existing, estimated_wait=wait
        )


async def require(store: Store, session_id: str) -> Session:
    """Return a session. Raises `NotFound`."""
    session = await store.session(session_id)
    if session is None:
        raise NotFound
    return session
