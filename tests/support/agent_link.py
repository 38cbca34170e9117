"""An agent's link to Redis without a relay: its reports, and its inbox by BLPOP, over connections of its own."""

import json
from typing import Any

from redis.exceptions import RedisError

from orchestrator.config.redis_url import Address
from orchestrator.store import keys
from orchestrator.store.agent_reports import AgentReports
from orchestrator.store.connection import BLOCK_SECONDS, connect, connect_blocking
from orchestrator.store.loader import Scripts
from orchestrator.store.refusals import translate


class AgentLink(AgentReports):
    """One agent's own connections."""

    def __init__(self, redis: Address | str, agent_id: str) -> None:
        self._redis = connect(redis, name=f"agent.{agent_id[:16]}", max_connections=4)
        self._blocking = connect_blocking(redis, name=f"agent.{agent_id[:16]}.inbox", max_connections=1)
        super().__init__(Scripts(self._redis, getattr(self._redis, "prefix", "")), agent_id)

    async def next_message(self) -> dict[str, Any] | None:
        """Wait for the next message in the inbox, for at most `BLOCK_SECONDS`; None when there was none.

        One that is no JSON object comes as an empty one: it must not end the reading.
        """
        try:
            popped = await self._blocking.blpop([keys.agent_inbox(self.agent_id)], timeout=BLOCK_SECONDS)
        except RedisError as failure:
            raise translate(failure) from failure
        if popped is None:
            return None
        try:
            message = json.loads(popped[1])
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}

    async def close(self) -> None:
        """Close both connections."""
        await self._redis.aclose()
        await self._blocking.aclose()
