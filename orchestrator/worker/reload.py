"""Has the agent host load the agents' code again, and the warm agents replaced; calls keep the old code."""

import logging

from orchestrator.errors import OrchestratorError
from orchestrator.store import Store
from orchestrator.worker.host_link import HostLink

log = logging.getLogger("orchestrator.worker.reload")


class Reload:
    """The reload on one node. How it goes is in the reload's record: running, done or what went wrong."""

    def __init__(self, node: str, store: Store, link: HostLink) -> None:
        self._node, self._store, self._link = node, store, link

    async def reload(self, reload_id: str) -> None:
        """Reload, and have every warm agent of the old code replaced."""
        await self._store.note_reload(reload_id, self._node, "running")
        try:
            await (await self._link.host()).reload()
        except OrchestratorError as failure:
            log.error("not reloaded: %s", failure.detail)
            await self._store.note_reload(reload_id, self._node, f"failed: {failure.detail}")
            return
        # One that has no pid yet may have been forked by the old code all the same.
        agents = [agent for agent in await self._store.agents() if agent.node == self._node]
        count = await self._store.mark_stale([agent.id for agent in agents])
        log.info("agent code reloaded; %d warm agents are replaced", count)
        await self._store.note_reload(reload_id, self._node, "done")
