"""What a node's relay asks of Redis, for all agents of the node over one pool of connections."""

from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from orchestrator.config.redis_url import Address
from orchestrator.store import keys
from orchestrator.store.agent_reports import AgentReports
from orchestrator.store.connection import BLOCK_SECONDS, connect, connect_blocking
from orchestrator.store.loader import Scripts
from orchestrator.store.refusals import translate


class RelayStore:
    """The connections of one relay. Every method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, redis: Address | str) -> None:
        # redis-py types every reply as bytes or str, whatever decode_responses says.
        self._redis: Any = connect(redis, name="relay")
        self._blocking: Any = connect_blocking(redis, name="relay.mail", max_connections=1)
        self._scripts = Scripts(self._redis, getattr(self._redis, "prefix", ""))

    def reports(self, agent_id: str) -> AgentReports:
        """Return the reports of one agent."""
        return AgentReports(self._scripts, agent_id)

    async def check(self) -> None:
        """Raise `StoreUnavailable` when one of the two clients does not get in."""
        try:
            await self._redis.ping()
            await self._blocking.ping()
        except RedisError as failure:
            raise translate(failure) from failure

    async def next_mail(self, node: str) -> str | None:
        """Wait for the next agent of a node that has a message, for at most `BLOCK_SECONDS`; None when none has."""
        try:
            popped = await self._blocking.blpop([keys.node_mail(node)], timeout=BLOCK_SECONDS)
        except RedisError as failure:
            raise translate(failure) from failure
        return str(popped[1]) if popped else None

    async def inbox(self, agent_id: str) -> Sequence[str]:
        """Return the messages to an agent, the oldest first. They stay until they are removed."""
        try:
            return list(await self._redis.lrange(keys.agent_inbox(agent_id), 0, -1))
        except RedisError as failure:
            raise translate(failure) from failure

    async def remove(self, agent_id: str, text: str) -> None:
        """Remove a message that the agent has."""
        try:
            await self._redis.lrem(keys.agent_inbox(agent_id), 1, text)
        except RedisError as failure:
            raise translate(failure) from failure

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()
        await self._blocking.aclose()
