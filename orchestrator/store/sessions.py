"""Sessions: starting, reading, ending, and comparing with LiveKit's rooms."""

from collections.abc import Sequence
from typing import Any

from orchestrator import reasons
from orchestrator.models import Session
from orchestrator.reasons import Reason
from orchestrator.states import SESSION_ROWS
from orchestrator.store import keys
from orchestrator.store.base import Base, translated
from orchestrator.store.connection import BLOCK_SECONDS
from orchestrator.store.loader import named
from orchestrator.store.records import Assignment, Capacity, DispatchRef, Ended

#: Fields of events that are whole numbers; those of moments are Unix milliseconds.
_NUMBERS = frozenset({"position", "agentPid", "exitCode", "signal", "peakMemoryKib"}) | {
    row.timestamp for row in SESSION_ROWS.values()
}


class Sessions(Base):
    """The store of sessions."""

    async def assign(
        self,
        *,
        user_id: str,
        waiting_id: str,
        room_name: str,
        payload: str,
        address: str,
        rate_amount: int,
        rate_window_ms: int,
        idempotency_key: str = "",
        fingerprint: str = "",
        job: DispatchRef | None = None,
        affinity: bool = False,
        network: str = "",
        per_address: int = 0,
        waiting_per_address: int = 0,
    ) -> Assignment:
        """Take a warm agent for a user, or have one spawned, or put the session in line. One round trip, atomic.

        With `affinity` it is one of the node that served the user last, if that has one.

        `address` and the `network` that it is of may have so many live sessions, and so many in line; 0: any number.

        For a job the session is never put in line, and none begins where the room has one.
        """
        arguments = named(
            userId=user_id, waitingId=waiting_id, roomName=room_name, payload=payload, affinity=int(affinity),
            address=address, network=network, rateAmount=rate_amount, rateWindowMs=rate_window_ms,
            perAddress=per_address, waitingPerAddress=waiting_per_address,
            idempotencyKey=idempotency_key, fingerprint=fingerprint,
        )  # fmt: skip
        if job:
            arguments += named(jobId=job.id, dispatchId=job.dispatch_id, jobNode=job.node)
        outcome, session_id, detail, refill, *process = await self._scripts.call("assign", args=arguments)
        agent_id, node, pid, ticks, shortage = (*process, "", "", "", "", "")[:5]
        return Assignment(
            outcome, session_id or "", str(detail or ""), bool(refill),
            agent_id, node, int(pid or 0), int(ticks or 0), shortage,
        )  # fmt: skip

    async def take_rate_limit(self, what: str, address: str, network: str, amount: int, window_ms: int) -> float:
        """Count one more of something by address, and by the network that it is of; returns 0, or seconds after which
        it is allowed again."""
        return int(await self._scripts.call("take_rate_limit", args=[what, address, network, amount, window_ms])) / 1000

    async def capacity(self, node: str) -> Capacity:
        """Return whether a job that LiveKit offers to a node would be served now."""
        live, max_sessions, refusal, detail, shortage = await self._scripts.call("capacity", args=[node])
        return Capacity(int(live), int(max_sessions), refusal, detail, shortage)

    @translated
    async def keep_answer(self, idempotency_key: str, answer: str) -> None:
        """Keep the answer to a request with an Idempotency-Key, for its repetitions."""
        await self._redis.set(keys.answer(idempotency_key), answer, ex=self._keep)

    @translated
    async def release_key(self, idempotency_key: str) -> None:
        """Forget a request with an Idempotency-Key that came to nothing: it may be sent again."""
        await self._redis.delete(keys.idempotency(idempotency_key))

    @translated
    async def kept_answer(self, idempotency_key: str) -> str | None:
        """Return the answer that was given to the first request with this key, None before it was given."""
        answer: str | None = await self._redis.get(keys.answer(idempotency_key))
        return answer

    @translated
    async def session(self, session_id: str) -> Session | None:
        """Return one session, None when it is unknown."""
        fields = await self._redis.hgetall(keys.session(session_id))
        return Session.from_hash(session_id, fields) if fields.get("status") else None

    @translated
    async def sessions(self, limit: int = 200) -> list[Session]:
        """Return the kept sessions, newest first."""
        return await self.session_records(await self._redis.zrevrange(keys.SESSIONS, 0, limit - 1))

    @translated
    async def session_records(self, ids: Sequence[str]) -> list[Session]:
        """Return these sessions, as far as their records are kept."""
        hashes = await self._hashes([keys.session(session_id) for session_id in ids])
        return [Session.from_hash(i, h) for i, h in zip(ids, hashes, strict=True) if h.get("status")]

    async def live_sessions(self) -> list[Session]:
        """Return the sessions that are not over."""
        return await self.session_records(sorted(await self.live_session_ids()))

    @translated
    async def sessions_of(self, user_id: str) -> list[str]:
        """Return the ids of a user's live sessions."""
        return sorted(await self._redis.smembers(keys.user_sessions(user_id)))

    @translated
    async def position(self, session_id: str) -> int | None:
        """Return the place of a session that waits, in line or for its agent: 1 = next; None when it does not."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrank(keys.SESSION_QUEUED, session_id)
            pipe.zrank(keys.SESSION_UNBOUND, session_id)
            queued, unbound = await pipe.execute()
        rank = unbound if queued is None else queued
        return None if rank is None else int(rank) + 1

    async def end_session(self, session_id: str, status: str, reason: Reason) -> Ended | None:
        """End a session (`ended` or `error`): its agent must leave, its room is deleted by the next node that
        looks. Idempotent; None when unknown."""
        reply = await self._scripts.call("end_session", args=[session_id, status, reason.record()])
        if not reply:
            return None
        first, status = reply
        return Ended(bool(first), status)

    @translated
    async def events(self, session_id: str, after: str = "0-0") -> list[dict[str, Any]]:
        """Return the history of a session behind an entry, oldest first: `id`, `at` in Unix seconds, `state`, and what
        belongs to it."""
        rows = await self._redis.xrange(keys.events(session_id), min=f"({after}")
        return [
            {"id": entry, "at": int(entry.partition("-")[0]) / 1000}
            | {name: _read(name, value) for name, value in fields.items() if value}
            for entry, fields in rows
        ]

    @translated
    async def last_change(self) -> str:
        """Return the id of the last thing that happened to any session or agent."""
        rows = await self._redis.xrevrange(keys.EVENTS, count=1)
        return str(rows[0][0]) if rows else "0-0"

    @translated
    async def changes(self, after: str) -> tuple[str, set[str] | None]:
        """Wait for something to happen behind an entry, for at most `BLOCK_SECONDS`.

        Returns the last entry, and the ids of the sessions concerned; None when nothing happened.
        """
        rows = await self._blocking.xread({keys.EVENTS: after}, count=1000, block=int(BLOCK_SECONDS * 1000))
        if not rows:
            return after, None
        entries = [entry for batch in rows[keys.EVENTS] for entry in batch]
        return entries[-1][0], {fields["session"] for _, fields in entries if "session" in fields}

    async def end_lost_session(self, session_id: str, reason: Reason) -> str:
        """End a session whose agent has no record, or forget one that has none itself.

        Returns `ended`, `forgotten`, or '' when its agent has registered both again.
        """
        return str(await self._scripts.call("end_lost_session", args=[session_id, reason.record()]))

    @translated
    async def live_session_ids(self) -> set[str]:
        """Return the ids of all sessions that are not over."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sunion([keys.SESSION_STARTING, keys.SESSION_READY, keys.SESSION_ACTIVE])
            pipe.zrange(keys.SESSION_QUEUED, 0, -1)
            bound, queued = await pipe.execute()
        return set(bound) | set(queued)


def _read(name: str, value: str) -> Any:
    """Return a field of an event as the API shows it."""
    if name in _NUMBERS:
        return int(value)
    if name == "prewarmed":
        return value == "1"
    return reasons.params(value) if name in {"reasonParams", "causeParams"} else value
