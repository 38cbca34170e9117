"""Boots agents on this node: claim, spawn, wait until warm.

Failure cases: the host is away → the record is closed and the caller tries again; this process is killed after the
claim or the spawn → `processes` finds a record without a process, or a process that has no pid in its record.
"""

import logging

from orchestrator import faults
from orchestrator.errors import BootElsewhere, OrchestratorError, SpawnAbandoned, SpawnFailed
from orchestrator.host.protocol import Process
from orchestrator.reasons import Reason, because
from orchestrator.settings import Settings
from orchestrator.states import SessionState
from orchestrator.store import Store
from orchestrator.worker.host_link import HostLink
from orchestrator.worker.log_shipper import LogShipper

log = logging.getLogger("orchestrator.worker.boots")


class Boots:
    """The boots of one node."""

    def __init__(self, settings: Settings, store: Store, link: HostLink, logs: LogShipper) -> None:
        self._settings, self._store, self._link, self._logs = settings, store, link, logs
        #: Agents that are being claimed or spawned now: they have no process yet.
        self.booting: set[str] = set()

    async def boot(self, agent_id: str, *, anywhere: bool = False) -> None:
        """Start one announced agent and return when it is warm.

        Raises:
            BootElsewhere: `anywhere` is set, and another node should boot it.
            SpawnFailed: with the cause; the agent's record is closed and its process is being stopped.
        """
        self.booting.add(agent_id)
        try:
            claim, where = await self._store.claim_agent(agent_id, self._settings.node_id, anywhere=anywhere)
            if claim == "gone":
                raise SpawnAbandoned
            if claim == "elsewhere":
                raise BootElsewhere(where)
            if claim == "claimed":
                faults.hit("worker.after_claim")
                await self._spawn(agent_id)
        finally:
            self.booting.discard(agent_id)
        # Redis enforces the boot deadline; wait slightly longer for its outcome.
        patience = self._settings.boot_timeout_seconds + 5
        outcome = await self._store.wait_boot(agent_id, patience)
        if outcome != "ready":
            agent = await self._store.agent(agent_id)
            raise SpawnFailed(reason=(agent and agent.cause) or because("boot_timeout", seconds=patience))

    async def _spawn(self, agent_id: str) -> None:
        try:
            process = await (await self._link.host()).spawn(agent_id)
        except OrchestratorError as failure:
            code = "boot_error" if isinstance(failure, SpawnFailed) else "not_spawned"
            await self._store.record_exit(agent_id, because(code, detail=failure.detail))
            raise
        faults.hit("worker.after_spawn")
        self._logs.follow(agent_id)
        await self.record_spawn(process)

    async def record_spawn(self, process: Process) -> None:
        """Write the process of an agent into its record."""
        await self._store.record_spawn(
            process.agent_id, process.pid, process.start_ticks, process.boot_id, self._settings.node_id
        )

    async def for_session(self, session_id: str, agent_id: str, *, announce: bool, anywhere: bool) -> bool:
        """Boot an agent for a waiting session; False if it no longer waits. Raises `SpawnFailed`, `BootElsewhere`.

        `announce`: announce the agent first, because it replaces another one.
        """
        session = await self._store.session(session_id)
        if session is None or session.status is not SessionState.STARTING:
            return False
        if announce and (answer := await self._store.announce_replacement(session_id, agent_id)) != "announced":
            if answer == "open":
                breaker = await self._store.breaker()
                await self.fail_session(session_id, breaker.cause or because("boot_error", detail="agents do not boot"))
            return False
        try:
            await self.boot(agent_id, anywhere=anywhere)
        except SpawnAbandoned:
            return False  # the recorded exit has requested a refill, which replaces it
        return True

    async def fail_session(self, session_id: str, reason: Reason) -> None:
        """End a session that still waits, as an error."""
        session = await self._store.session(session_id)
        if session is not None and session.status is SessionState.STARTING:
            await self._store.end_session(session_id, SessionState.ERROR, reason)
            log.error("session failed", extra={"session_id": session_id, "reason": reason.text})


def given_up_after(attempts: int, failure: OrchestratorError) -> Reason:
    """Return the reason of a session for which no agent booted in `attempts` attempts."""
    reason = failure.reason if isinstance(failure, SpawnFailed) else None
    return (reason or because("not_spawned", detail=failure.detail)).of(attempts=attempts)
