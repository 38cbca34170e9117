"""Records how agents of this node ended, and gives their sessions another agent or ends them.

Failure cases: Redis gone → the death is not acknowledged and the connection is closed: the host reports the death
again at the next hello; this process killed in between → the same.
"""

import logging

from orchestrator import faults
from orchestrator.errors import OrchestratorError
from orchestrator.host.protocol import Death
from orchestrator.models import Agent
from orchestrator.pool.assignment import MayLive, pass_over_the_dead
from orchestrator.reasons import Reason
from orchestrator.states import AgentState
from orchestrator.store import Exit, Store
from orchestrator.worker.host_link import HostLink
from orchestrator.worker.log_shipper import LogShipper

log = logging.getLogger("orchestrator.worker.deaths")


class DeathRecorder:
    """The deaths of one node's agents."""

    def __init__(self, store: Store, link: HostLink, logs: LogShipper, may_live: MayLive) -> None:
        self._store, self._link, self._logs = store, link, logs
        self._may_live = may_live

    async def on_death(self, death: Death) -> None:
        """Record a death that the host has just reported."""
        try:
            await self.record(death)
        except OrchestratorError as failure:
            # Not acknowledged: the host reports it again at the next hello.
            log.error("a death is not recorded yet: %s", failure.detail)
            if self._link.client:
                await self._link.client.close()

    async def record(self, death: Death) -> None:
        """Record a death and acknowledge it to the host. Idempotent."""
        faults.hit("watch.before_record_death")
        agent = await self._store.agent(death.agent_id)
        if agent is not None and agent.state is AgentState.STARTING:
            cause, result = await self._failed_boot(death)
        else:
            cause, result = await self._died(death, agent)
        log.info(
            "agent exited", extra={"agent_id": death.agent_id, "cause": cause.text, "session": result.outcome or "none"}
        )
        faults.hit("watch.before_ack")
        if self._link.client:
            await self._link.client.acknowledge(death.agent_id)

    async def _failed_boot(self, death: Death) -> tuple[Reason, Exit]:
        # Its last line becomes the reason of a waiting session.
        await self._ship_last_lines(death)
        last = self._logs.last_line(death.agent_id)
        reason = death.reason.within("boot_error").of(**({"detail": last} if last else {}))
        return death.reason, await self._store.record_exit(death.agent_id, reason, *_exit_status(death))

    async def _died(self, death: Death, agent: Agent | None) -> tuple[Reason, Exit]:
        # A user may be in the call: record the death first, and ship the last lines after the next agent is on its way.
        cause = (agent and agent.reason) or death.reason  # the stop reason is more informative than the signal
        result = await self._store.record_exit(death.agent_id, cause, *_exit_status(death))
        if result.outcome == "replaced" and result.session_id:
            await pass_over_the_dead(self._store, result.session_id, self._may_live)
        await self._ship_last_lines(death)
        return cause, result

    async def _ship_last_lines(self, death: Death) -> None:
        await self._logs.finish(death.agent_id, f"[agent {death.reason.text}]")


def _exit_status(death: Death) -> tuple[int | None, int | None, int | None]:
    return death.exit_code, death.signal, death.peak_memory_kib
