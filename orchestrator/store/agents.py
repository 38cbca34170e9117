"""Agents: their boots, their heartbeats, their ends, their logs."""

import asyncio
from collections.abc import Mapping, Sequence

from orchestrator.models import Agent
from orchestrator.reasons import Reason
from orchestrator.store import keys
from orchestrator.store.base import Base, translated
from orchestrator.store.connection import BLOCK_SECONDS
from orchestrator.store.records import Exit

#: Most bytes of one agent's log that are kept: lines may be long.
LOG_BYTES = 262_144


class Agents(Base):
    """The store of agents."""

    async def announce_replacement(self, session_id: str, agent_id: str) -> str:
        """Announce one more agent for a waiting session: announced, over (it waits no more) or open (the breaker)."""
        return str(await self._scripts.call("announce_replacement", args=[session_id, agent_id]))

    async def claim_agent(self, agent_id: str, node: str, *, anywhere: bool = False) -> tuple[str, str]:
        """Claim an announced agent for a node: claimed, taken (by an earlier delivery), gone, or elsewhere and where.

        `anywhere`: any node may boot it, and the one with the smallest load is to.
        """
        outcome, where = await self._scripts.call(
            "claim_agent", keys=[keys.agent(agent_id)], args=[agent_id, node, int(anywhere)]
        )
        return outcome, where

    async def record_spawn(self, agent_id: str, pid: int, start_ticks: int, boot_id: str, node: str) -> bool:
        """Record an agent's process; False when the agent has no record."""
        names = [keys.agent(agent_id), keys.agent_pid(agent_id)]
        return bool(
            await self._scripts.call("record_spawn", keys=names, args=[pid, start_ticks, boot_id, node, agent_id])
        )

    @translated
    async def wait_boot(self, agent_id: str, seconds: float) -> str | None:
        """Wait until a boot is decided: `ready`, anything else when it failed, or None at the deadline."""
        now, decided = asyncio.get_running_loop().time, keys.agent_boot(agent_id)
        deadline = now() + seconds
        while (remaining := deadline - now()) > 0:
            # Onto itself: a task that is delivered twice waits twice, and both must get the outcome.
            # guard: boot-decided
            outcome = await self._blocking.blmove(decided, decided, min(remaining, BLOCK_SECONDS), "LEFT", "RIGHT")
            if outcome:
                return str(outcome)
        return None

    async def record_exit(
        self,
        agent_id: str,
        reason: Reason,
        exit_code: int | None = None,
        signal: int | None = None,
        peak_memory_kib: int | None = None,
    ) -> Exit:
        """Record that an agent's process is gone; its session is given another agent or ended. Idempotent."""
        arguments = ("" if value is None else value for value in (exit_code, signal, peak_memory_kib))
        session_id, outcome, before = await self._scripts.call(
            "record_exit", args=[agent_id, reason.record(), *arguments]
        )
        return Exit(session_id or None, outcome, before)

    async def retire_unfit(self, agent_id: str, reason: Reason) -> str:
        """Take one agent out of service; returns its state before, '' when it is already leaving or gone."""
        return str(await self._scripts.call("retire_unfit", args=[agent_id, reason.record()]))

    @translated
    async def agent(self, agent_id: str) -> Agent | None:
        """Return one agent, None when it is unknown."""
        fields = await self._redis.hgetall(keys.agent(agent_id))
        return Agent.from_hash(agent_id, fields) if fields.get("state") else None

    @translated
    async def agents(self) -> list[Agent]:
        """Return all agents that have not exited."""
        return await self.agent_records(sorted(await self._redis.smembers(keys.AGENTS)))

    @translated
    async def agent_records(self, ids: Sequence[str]) -> list[Agent]:
        """Return these agents, those that are gone too, as long as their records are kept."""
        hashes = await self._hashes([keys.agent(agent_id) for agent_id in ids])
        return [Agent.from_hash(i, h) for i, h in zip(ids, hashes, strict=True) if h.get("state")]

    @translated
    async def record_health(self, agent_id: str, fields: Mapping[str, str | int | float]) -> None:
        """Write `agent:{id}:health`."""
        encoded = {name: str(value) for name, value in fields.items()}
        await self._redis.hset(keys.agent_health(agent_id), mapping=encoded)
        await self._redis.expire(keys.agent_health(agent_id), self._keep)

    @translated
    async def health(self, agent_ids: Sequence[str]) -> list[dict[str, str]]:
        """Return the last health record of each agent, {} where there is none."""
        return await self._hashes([keys.agent_health(agent_id) for agent_id in agent_ids])

    async def append_logs(
        self, agent_id: str, lines: Sequence[str], keep_lines: int, offset: int | None = None
    ) -> None:
        """Append log lines of an agent; the newest `keep_lines` are kept, and no more than `LOG_BYTES` of them.

        `offset`: how far its file is shipped.
        """
        names = [keys.agent_logs(agent_id), keys.agent_log_count(agent_id), keys.agent_log_bytes(agent_id)]
        shipped = "" if offset is None else offset
        args = [keep_lines, LOG_BYTES, self._keep, shipped, *lines]
        await self._scripts.call("append_logs", [*names, keys.agent_log_offset(agent_id)], args)

    @translated
    async def close_log(self, agent_id: str) -> None:
        """Record that the last line of an agent is in its log."""
        await self._redis.set(keys.agent_log_closed(agent_id), 1, ex=self._keep)

    @translated
    async def logs_closed(self, agent_ids: Sequence[str]) -> bool:
        """Return whether the last lines of all these agents are in their logs."""
        names = [keys.agent_log_closed(agent_id) for agent_id in agent_ids]
        return not names or int(await self._redis.exists(*names)) == len(names)

    @translated
    async def log_offset(self, agent_id: str) -> int:
        """Return how many bytes of an agent's log file are shipped."""
        return int(await self._redis.get(keys.agent_log_offset(agent_id)) or 0)

    @translated
    async def logs(self, agent_id: str, limit: int) -> list[str]:
        """Return the newest log lines of an agent, oldest first."""
        return list(await self._redis.lrange(keys.agent_logs(agent_id), -limit, -1))

    async def log_lines(self, agent_id: str, after: int) -> tuple[int, list[str]]:
        """Return how many lines an agent has ever printed, and those after the `after`-th that are kept."""
        names = [keys.agent_logs(agent_id), keys.agent_log_count(agent_id)]
        count, lines = await self._scripts.call("log_lines", names, [after])
        return int(count), list(lines)
