"""Starts sessions: one atomic assignment, a check that the agent's process is alive, an estimate of the wait."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.errors import (
    AtCapacity,
    BootsFail,
    Draining,
    KeyReused,
    LiveKitUnavailable,
    NotFound,
    NotSetUp,
    OrchestratorError,
    RateLimited,
    RoomTaken,
    TooManySessions,
)
from orchestrator.models import new_id
from orchestrator.reasons import because
from orchestrator.settings import Settings
from orchestrator.states import SessionState
from orchestrator.store import Assignment, Capacity, DispatchRef, Store

#: Returns whether the process (node, pid, start ticks) may be alive; False only if it is certainly dead.
MayLive = Callable[[str, int, int], bool]
#: Returns the agent's LiveKit tokens for a room, by their names in the assignment.
MintAgentTokens = Callable[[str], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A request for a session. The limits count by `address` and its `network`, unless the caller is trusted."""

    user_id: str
    metadata: Mapping[str, object]
    address: str = ""
    network: str = ""
    idempotency_key: str = ""
    trusted: bool = False
    room: str = ""  #: '' = a new room
    affinity: bool = False  #: prefer a warm agent of the node that served the user last
    job: DispatchRef | None = None  #: the LiveKit job that requests it; such a session does not wait in line
    livekit_job: str = ""  #: that job, whole, in base64: for the agent

    @property
    def fingerprint(self) -> str:
        """Digest of what two requests with one idempotency key must have in common."""
        content = json.dumps([self.user_id, self.metadata, *(["affinity"] if self.affinity else [])], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Started:
    """The answer to a start."""

    session_id: str
    status: SessionState
    prewarmed: bool
    existing: bool = False
    repeated: bool = False  #: the same request was already answered
    refill: bool = False  #: a refill must be queued
    spawn: bool = False  #: an agent must be spawned for it
    position: int | None = None  #: while it waits: 1 is next
    estimated_wait: float | None = None  #: seconds, from measurements; None if there are none yet


class Assigner:
    """Assigns agents to users."""

    def __init__(self, store: Store, settings: Settings, mint: MintAgentTokens, may_live: MayLive) -> None:
        self._store, self._settings = store, settings
        self._mint, self._may_live = mint, may_live
        self._rate_amount = settings.rate.amount
        self._rate_window_ms = settings.rate.get_expiry() * 1000

    async def start(self, request: SessionRequest) -> Started:
        """Start a session for a user. A user with a live session gets that one.

        Raises:
            RoomTaken: the room of a job has a session.
            TooManySessions: this address has too many.
            RateLimited, AtCapacity, BootsFail, Draining: with the seconds to wait.
            KeyReused: the idempotency key belongs to another request.
            NotSetUp, StoreUnavailable: no node is up, or Redis does not answer.
        """
        began = time.perf_counter()
        result = await self._assign(request)
        match result.outcome:
            case "assigned":
                started = await self._assigned(result)
                if started.status is SessionState.READY:
                    # The time that the caller waits: by Redis's clock an assignment takes none.
                    self._store.observe("start:hit", time.perf_counter() - began)
                return started
            case "starting":
                wait = await self.estimated_wait(SessionState.STARTING, 1)
                return Started(
                    result.session_id, SessionState.STARTING, False,
                    refill=result.refill, spawn=True, estimated_wait=wait,
                )  # fmt: skip
            case "queued":
                return await self._current(result.session_id)
            case "existing":
                return await self.existing(result.session_id)
            case "repeated":
                return await self._current(result.session_id, repeated=True)
            case _:
                raise await self._refusal(result)

    async def _assign(self, request: SessionRequest) -> Assignment:
        room = request.room or new_id("room")
        payload = {
            "type": "assign", "room": room, "userId": request.user_id, "metadata": request.metadata,
            **self._mint(room), **({"job": request.livekit_job} if request.livekit_job else {}),
        }  # fmt: skip
        return await self._store.assign(
            user_id=request.user_id,
            waiting_id=new_id("session"),
            room_name=room,
            payload=json.dumps(payload),
            address=request.address,
            rate_amount=0 if request.trusted else self._rate_amount,
            rate_window_ms=self._rate_window_ms,
            idempotency_key=request.idempotency_key,
            fingerprint=request.fingerprint if request.idempotency_key else "",
            job=request.job,
            affinity=request.affinity,
            network=request.network,
            per_address=0 if request.trusted else self._settings.sessions_per_address,
            waiting_per_address=0 if request.trusted else self._settings.waiting_per_address,
        )

    async def refusal(self, capacity: Capacity | None = None) -> OrchestratorError | None:
        """Return why a dispatch from LiveKit would get no agent now; None if it would get one. Without `capacity`, of
        any node."""
        capacity = capacity or await self._store.capacity("")
        if not capacity.refusal:
            return None
        error = await self._refusal(
            Assignment(capacity.refusal, "", capacity.detail, False, shortage=capacity.shortage)
        )
        error.retry_after = error.retry_after or 5
        return error

    async def _refusal(self, result: Assignment) -> OrchestratorError:  # noqa: PLR0911 - one line for each
        match result.outcome:
            case "limited":
                seconds = int(result.detail) / 1000
                limit = f"More than {self._settings.rate_limit.replace('/', ' starts a ')} from this address"
                return RateLimited(limit, retry_after=seconds)
            case "many":
                waiting = " wait in line" if result.detail == "line" else " are live"
                return TooManySessions(f"As many sessions as one address may have{waiting}; end one, or try later.")
            case "full" if result.detail:
                return AtCapacity(await self._why_full(result))
            case "occupied":
                return RoomTaken(f"The room has a session already: {result.session_id}.")
            case "full":
                length = self._settings.queue_limit
                wait = await self.estimated_wait(SessionState.QUEUED, length + 1)
                return AtCapacity(
                    f"All {await self._max_sessions()} sessions are taken and {length} wait in line; try again later.",
                    retry_after=min(wait or 5, 60),
                )
            case "broken":
                breaker = await self._store.breaker()
                return BootsFail(
                    f"Agents do not boot ({result.detail}); the next attempt is in {breaker.retry_seconds:.0f} s. "
                    "See `orchestrator status`.",
                    retry_after=max(1.0, breaker.retry_seconds),
                )
            case "livekit":
                return LiveKitUnavailable(f"No call can begin: {result.detail}", retry_after=5)
            case "reused":
                return KeyReused()
            case "draining":
                return Draining(retry_after=self._settings.drain_seconds + 5)
            case "unset":
                return NotSetUp(retry_after=2)
            case unknown:
                return OrchestratorError(f"unknown outcome of an assignment: {unknown}")

    async def _why_full(self, result: Assignment) -> str:
        match result.detail:
            case "sessions":
                return f"All {await self._max_sessions()} sessions are taken."
            case "line":
                return "Others wait in line for a session."
            case "memory":
                return f"No agent is started: {result.shortage}."
            case unknown:
                return f"No session can begin: {unknown}."

    async def estimated_wait(self, state: SessionState, position: int) -> float | None:
        """Return the seconds until the session at a position gets its agent, from the mean boot and session lengths."""
        boot, session = await self._store.means()
        if state is SessionState.STARTING:
            return None if boot is None else boot * math.ceil(position / self._settings.spawn_concurrency)
        # guard: wait-estimate
        return None if session is None else session * position / await self._max_sessions()

    async def _max_sessions(self) -> int:
        return max(1, (await self._store.capacity(self._settings.node_id)).max_sessions)

    async def _assigned(self, result: Assignment) -> Started:
        # guard: may-live
        if self._may_live(result.node, result.pid, result.start_ticks):
            return Started(result.session_id, SessionState.READY, True, refill=result.refill)
        # It was killed a moment ago, and its death has not been recorded yet.
        await self._store.record_exit(result.agent_id, because("found_dead"))
        await pass_over_the_dead(self._store, result.session_id, self._may_live)
        return await self._current(result.session_id)

    async def existing(self, session_id: str) -> Started:
        """Return an existing session as the answer to a start. Raises `NotFound`."""
        return await self._current(session_id, existing=True)

    async def _current(self, session_id: str, *, existing: bool = False, repeated: bool = False) -> Started:
        session = await self._store.session(session_id)
        if session is None:
            raise NotFound
        wait = position = None
        if session.status in {SessionState.QUEUED, SessionState.STARTING}:
            position = await self._store.position(session_id) or 1
            wait = await self.estimated_wait(session.status, position)
        return Started(
            session_id, session.status, session.prewarmed, existing=existing, repeated=repeated,
            refill=not existing and not repeated, position=position, estimated_wait=wait,
        )  # fmt: skip


async def pass_over_the_dead(store: Store, session_id: str, may_live: MayLive) -> None:
    """Replace the agent that a session has just got while it is certainly dead: several may have died at once."""
    while (session := await store.session(session_id)) and session.status is SessionState.READY and session.agent_id:
        agent = await store.agent(session.agent_id)
        if agent is None or may_live(agent.node or "", agent.pid or 0, agent.start_ticks or 0):
            return
        await store.record_exit(agent.id, because("found_dead"))
