"""Stops agents, on whichever node each lives."""

import asyncio

from orchestrator.reasons import because
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.worker.host_link import HostLink
from orchestrator.worker.task_queue import TaskQueue


class Stops:
    """Stops agents for one node's services."""

    def __init__(self, settings: Settings, store: Store, link: HostLink, queue: TaskQueue) -> None:
        self._settings, self._store, self._link, self._queue = settings, store, link, queue

    async def here(self, agent_id: str) -> bool:
        """Stop an agent process of this node: TERM, grace, KILL; False when it does not live here."""
        return await (await self._link.host()).stop(agent_id, self._settings.stop_grace_seconds)

    async def on(self, agent_id: str, node: str) -> None:
        """Stop an agent that lives on a node; where it lives nowhere, record that it is gone."""
        if node and node != self._settings.node_id and node in await self._store.nodes():
            await asyncio.to_thread(self._queue.stop_elsewhere, agent_id, node)
        elif node != self._settings.node_id or not await self.here(agent_id):
            await self._store.record_exit(agent_id, because("process_gone"))

    async def anywhere(self, agent_id: str) -> None:
        """Stop an agent on the node that its record names."""
        agent = await self._store.agent(agent_id)
        await self.on(agent_id, (agent and agent.node) or "")
