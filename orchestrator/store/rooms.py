"""LiveKit's rooms and jobs as Redis knows them: whose they are, and what LiveKit says of them."""

from orchestrator.models import Session
from orchestrator.store import keys
from orchestrator.store.base import Base, translated

#: A token is valid for a quarter of an hour; a user who joined with it at its end is searched for a while longer.
ROOM_SECONDS = 1800


class SessionRooms(Base):
    """The rooms of sessions, and the jobs by which LiveKit asked for some."""

    @translated
    async def newest_session_of_room(self, room_name: str) -> str | None:
        """Return the id of a room's newest session, live or over; None when no kept one was in it."""
        session_id: str | None = await self._redis.get(keys.room(room_name))
        return session_id

    @translated
    async def session_of_job(self, key: str) -> str | None:
        """Return the id of the session that was made for a request with this Idempotency-Key."""
        session_id: str | None = await self._redis.hget(keys.idempotency(key), "session")
        return session_id

    @translated
    async def room_asked_for(self, room_name: str, address: str = "", network: str = "") -> None:
        """Remember a room that a token was given for: whose call it will be, and that it is to be closed when nobody
        comes to serve it."""
        at = await self.now()
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.room_asker(room_name), mapping={"address": address, "network": network})
            pipe.expire(keys.room_asker(room_name), ROOM_SECONDS)
            pipe.zadd(keys.ROOMS_ASKED_FOR, {room_name: at})
            pipe.zremrangebyscore(keys.ROOMS_ASKED_FOR, "-inf", at - ROOM_SECONDS)
            await pipe.execute()

    @translated
    async def rooms_without_session(self) -> list[str]:
        """Return the rooms that tokens were given for in the last while, and that have had no session."""
        rooms = list(await self._redis.zrange(keys.ROOMS_ASKED_FOR, 0, -1))
        served = await self._redis.mget([keys.room(name) for name in rooms]) if rooms else []
        if done := [name for name, session in zip(rooms, served, strict=True) if session]:
            await self._redis.zrem(keys.ROOMS_ASKED_FOR, *done)
        return [name for name, session in zip(rooms, served, strict=True) if not session]

    @translated
    async def unserved_for(self, room_name: str) -> float:
        """Return for how many seconds a room is known to be there without a session; from the first call on."""
        now = await self.now()
        key = keys.room_asker(room_name)
        await self._redis.hsetnx(key, "seen", now)
        await self._redis.expire(key, ROOM_SECONDS)
        return now - float(await self._redis.hget(key, "seen") or now)

    @translated
    async def job_assigned(self, session_id: str) -> None:
        """Say that LiveKit has given us the job of a session."""
        await self._scripts.call("job_assigned", args=[session_id])

    @translated
    async def room_closed(self, session_id: str) -> None:
        """Say that the room of a session that is over is gone."""
        await self._scripts.call("room_closed", args=[session_id])

    @translated
    async def room_made(self, session_id: str) -> None:
        """Say that the room of a session is there: its agent is no longer refused for that."""
        await self._redis.hdel(keys.session(session_id), "refused")

    async def webhook(self, event_id: str, event: str, room: str, created_at: int, dropped: int) -> str:
        """Record a webhook with a verified signature, once. It moves no session: a node checks the room.

        Returns recorded, foreign (a room that is not ours, or none), replayed or stale.
        """
        return str(await self._scripts.call("webhook", args=[event_id, event, room, created_at, dropped]))

    async def reconcile_room(
        self, session_id: str, agent_id: str, *, exists: bool, user: str = "gone", agent: bool = False
    ) -> str:
        """Say what LiveKit says of a session's room; `agent_id`: whom the session had before LiveKit was asked.

        Returns what was done about it, see reconcile_room.lua; '' when nothing had to be.
        """
        return str(
            await self._scripts.call("reconcile_room", args=[session_id, agent_id, int(exists), user, int(agent)])
        )

    async def check_room_within(self, session_id: str, seconds: float) -> None:
        """Have a node compare a session with its LiveKit room after `seconds` at the latest."""
        await self._scripts.call("check_room_within", args=[session_id, int(seconds * 1000)])

    @translated
    async def bound_and_over(self, since: float) -> tuple[list[Session], list[Session]]:
        """Return the sessions that have an agent, and of those that began after `since` (Unix seconds) the ones that
        are over."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sunion([keys.SESSION_READY, keys.SESSION_ACTIVE])
            pipe.zrangebyscore(keys.SESSIONS, since * 1000, "+inf")
            bound, recent = await pipe.execute()
        records = await self._records(Session.from_hash, sorted(bound.union(recent)), keys.session, set())
        live = [session for session in records.values() if session.id in bound and session.live]
        return live, [session for session in records.values() if not session.live]
