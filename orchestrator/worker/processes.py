"""Compares the records of this node's agents with the processes that its agent host has.

Once for each new connection to the host, before it is used, and every few seconds after that: a report that was lost
is made up for here.
"""

import logging

from orchestrator.clock import Clock
from orchestrator.host.client import HostClient
from orchestrator.host.protocol import Process
from orchestrator.models import Agent
from orchestrator.reasons import because
from orchestrator.settings import Settings
from orchestrator.states import AgentState
from orchestrator.store import Store
from orchestrator.worker.boots import Boots
from orchestrator.worker.deaths import DeathRecorder
from orchestrator.worker.host_link import HostLink
from orchestrator.worker.log_shipper import LogShipper

log = logging.getLogger("orchestrator.worker.processes")

COMPARE_SECONDS = 5.0
#: A living process without a record has this long to register; then it is stopped.
REGISTER_SECONDS = 20.0


class Processes:
    """The comparison for one node."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        *,
        link: HostLink,
        deaths: DeathRecorder,
        boots: Boots,
        logs: LogShipper,
    ) -> None:
        self._settings, self._store, self._clock = settings, store, clock
        self._link, self._deaths, self._boots, self._logs = link, deaths, boots, logs
        #: Living processes without a record, with the time at which each was first seen.
        self._strangers: dict[str, float] = {}

    async def compare_if_connected(self) -> None:
        """Compare, if the host is connected."""
        if self._link.client and self._link.connected:
            await self.compare(self._link.client)

    async def compare(self, client: HostClient) -> None:
        """Bring the records of this node's agents into line with what the host says."""
        # Records first: an agent that is started in between has a record by the time its process is seen.
        records = await self._store.agents()
        living, deaths = await self._link.hello(client)
        for death in deaths:
            await self._deaths.record(death)
        # guard: registered-agents
        known = {process.agent_id for process in living} | {death.agent_id for death in deaths} | self._boots.booting
        for agent in records:
            # One that is not claimed yet has its own deadline.
            if agent.node == self._settings.node_id and agent.id not in known and (agent.spawned_at or agent.pid):
                cause = because("process_gone") if agent.pid else because("worker_died")
                # guard: unknown-agent
                await self._store.record_exit(agent.id, cause)
        strangers = {}
        for process in living:
            self._logs.follow(process.agent_id)
            if (since := await self._check(process, await self._store.agent(process.agent_id))) is not None:
                strangers[process.agent_id] = since
        self._strangers = strangers

    async def _check(self, process: Process, agent: Agent | None) -> float | None:
        """Check one living process; returns since when it has no record, None when it has one."""
        if agent is None:
            now = self._clock.monotonic()
            since = self._strangers.get(process.agent_id, now)
            if now - since > REGISTER_SECONDS:
                log.warning("%s has no record and does not register: stopped", process.agent_id)
                await self._stop(process.agent_id)
            return since
        # guard: stop-exited
        if agent.state is AgentState.EXITED:
            await self._stop(process.agent_id)
        elif agent.pid is None or agent.start_ticks is None:
            await self._boots.record_spawn(process)
        return None

    async def _stop(self, agent_id: str) -> None:
        # Not `Stops.here`: that waits until the processes are compared, and this is a part of it.
        if self._link.client:
            await self._link.client.stop(agent_id, self._settings.stop_grace_seconds)
