"""The agent processes of one agent host: living ones, and dead ones that no client has acknowledged.

States of an agent here: alive → (TERM → grace → KILL) → dead, unacknowledged → forgotten.
Failure cases: an agent whose record is of another boot → dead by definition; a wrapper that ends before its
children → it counts as alive until its grace is over.
"""

import contextlib
import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.host.protocol import Death, Process
from orchestrator.host.spawn import has_ended, process_of, reaped
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine.process import ProcessId, kill_strays, machine_boot_id

log = logging.getLogger("orchestrator.host")

#: Seconds between checks of log sizes (and of adopted agents where there is no pidfd) while any agent lives; and the
#: same after one of them has written a tenth of its limit.
CHECK_SECONDS = 0.25
FLOOD_CHECK_SECONDS = 0.02
#: Seconds between scans for agents that recorded themselves when no host ran.
SCAN_SECONDS = 2.0


@dataclass(slots=True)
class Child:
    """One living agent process."""

    process: Process
    own: bool  #: a child of this host, so it can be reaped
    pidfd: int | None = None
    stopped: bool = False
    killed: bool = False
    kill_at: float | None = None  #: monotonic time of SIGKILL
    log_size: int = 0  #: at the last check

    @property
    def identity(self) -> ProcessId:
        """The process, as nothing else can be mistaken for it."""
        return ProcessId(self.process.pid, self.process.start_ticks)

    @property
    def outlived_by_others(self) -> bool:
        """Whether an agent that is being stopped is gone with its leader alone: a wrapper ends at once, and what it
        has started has the same grace."""
        return self.kill_at is not None and not self.identity.alive and self.identity.leads_others


class Children:
    """The agents of one host. `on_death` is called for each that has ended."""

    def __init__(
        self,
        folder: AgentFolder,
        selector: selectors.BaseSelector,
        on_death: Callable[[Death], None],
        stops: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """`stops`: the stops that an earlier image of this host has begun, by agent."""
        self._folder, self._selector, self._on_death, self._stops = folder, selector, on_death, stops
        self.living: dict[str, Child] = {}
        self.deaths: dict[str, Death] = {}
        self._strays_of: set[str] = set()  #: dead agents whose strays were not searched for yet
        self.next_check = self.next_scan = 0.0

    def started(self, agent_id: str, pid: int) -> Process:
        """Add a process that this host has just started."""
        child = Child(process_of(agent_id, pid), own=True)
        self.living[agent_id] = child
        return child.process

    def stop(self, agent_id: str, grace: float) -> bool:
        """Send TERM to an agent's process group now and KILL after `grace` seconds; False when it is not here."""
        child = self.living.get(agent_id)
        if child is None:
            return False
        child.stopped = True
        deadline = time.monotonic() + grace
        if child.kill_at is None or deadline < child.kill_at:
            child.kill_at = deadline
        child.identity.signal_group(signal.SIGTERM)
        return True

    @property
    def stops(self) -> dict[str, dict[str, Any]]:
        """The stops under way, for the next image of this host."""
        return {
            agent_id: {"killed": child.killed, "killAt": child.kill_at}
            for agent_id, child in self.living.items()
            if child.stopped
        }

    @property
    def deadlines(self) -> list[float]:
        """The monotonic times of what is due, the next scan aside."""
        return [child.kill_at for child in self.living.values() if child.kill_at is not None]

    def kill_overdue(self, now: float) -> None:
        """Kill each agent whose grace is over."""
        for child in self.living.values():
            if child.kill_at is not None and now >= child.kill_at:
                child.killed, child.kill_at = True, None
                # guard: kill-after-term
                child.identity.signal_group(signal.SIGKILL)

    def check(self, now: float, log_bytes: int) -> None:
        """Bound the log files, and find the ends that nothing else reports."""
        self.next_check = now + CHECK_SECONDS
        for agent_id, child in list(self.living.items()):
            before, child.log_size = child.log_size, self._folder.bound_log(agent_id, log_bytes)
            if abs(child.log_size - before) > log_bytes // 10:
                # guard: flood-check
                self.next_check = now + FLOOD_CHECK_SECONDS
            if not child.own and child.pidfd is None and not child.identity.alive and not child.outlived_by_others:
                self._record_end(child)

    def reap(self) -> None:
        """Reap the children that have ended."""
        for child in list(self.living.values()):
            if not child.own or not has_ended(child.process.pid) or child.outlived_by_others:
                continue
            if (ended := reaped(child.process.pid)) is None:
                continue
            status, peak = ended
            code = os.waitstatus_to_exitcode(status)
            self._record_end(child, code if code >= 0 else None, -code if code < 0 else None, peak)

    def _record_end(
        self, child: Child, code: int | None = None, number: int | None = None, peak: int | None = None
    ) -> None:
        process = child.process
        self._forget_pidfd(child)
        del self.living[process.agent_id]
        # guard: reaped
        self._strays_of.add(process.agent_id)
        if self.has_another(process.agent_id):
            self.scan()  # this process gave up because an earlier one has the id
            return
        if not child.own and process.boot_id == machine_boot_id():
            # guard: kill-group
            child.identity.kill_left_behind()
        death = Death(
            process.agent_id, process.pid, process.start_ticks, process.boot_id, code, number, peak,
            stopped=child.stopped, killed=child.killed,
        )  # fmt: skip
        self.deaths[process.agent_id] = death
        try:
            self._folder.write(death)
        # guard: host-full-disk
        except OSError as failure:
            # Reported anyway. A later host finds the older record, of a process that is gone.
            log.warning("how %s ended is not written down: %s", process.agent_id, failure)
        # guard: death-event
        self._on_death(death)

    def acknowledge(self, agent_id: str) -> None:
        """Forget a death that a client has recorded."""
        if self.deaths.pop(agent_id, None):
            self._folder.forget(agent_id)

    # Agents that this host did not start

    def scan(self) -> None:
        """Find the agents that an earlier host of this node has left, or that recorded themselves after its end; and
        the processes that dead agents have left outside their process groups."""
        self.next_scan = time.monotonic() + SCAN_SECONDS
        self.kill_strays()
        for record in list(self._folder.records(self.living.keys() | self.deaths.keys())):
            if isinstance(record, Death):
                self.deaths[record.agent_id] = record
            else:
                # guard: adopt
                self._adopt(record)

    def kill_strays(self) -> None:
        """Kill what dead agents have sent out of their process groups."""
        if self._strays_of:
            # guard: kill-strays
            kill_strays(self._strays_of - self.living.keys())
            self._strays_of.clear()

    def _adopt(self, process: Process) -> None:
        child = Child(process, own=False)
        self.living[process.agent_id] = child
        # guard: stop-handover
        if stop := self._stops.get(process.agent_id):
            child.stopped, child.killed, child.kill_at = True, stop["killed"], stop["killAt"]
        same_boot = process.boot_id == machine_boot_id()
        if same_boot and child.identity.is_child:
            child.own = True
        elif not same_boot or not child.identity.alive:
            self._record_end(child)
            return
        elif hasattr(os, "pidfd_open"):
            try:
                child.pidfd = os.pidfd_open(process.pid)
            except ProcessLookupError:
                self._record_end(child)
                return
            self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._on_adopted_end(child))
        log.info("adopted %s (pid %d)", process.agent_id, process.pid)

    def _on_adopted_end(self, child: Child) -> None:
        if child.outlived_by_others:
            self._forget_pidfd(child)  # `check` finds its end
        else:
            self._record_end(child)

    def _forget_pidfd(self, child: Child) -> None:
        if child.pidfd is not None:
            self._selector.unregister(child.pidfd)
            os.close(child.pidfd)
            child.pidfd = None

    def has_another(self, agent_id: str) -> bool:
        """Return whether a living process that this host does not know has the record of this agent."""
        record = self._folder.read(agent_id)
        return isinstance(record, Process) and ProcessId(record.pid, record.start_ticks).alive

    def record(self) -> None:
        """Write the record of every child that may not have come to write it itself."""
        for child in self.living.values():
            if child.own:
                with contextlib.suppress(OSError):
                    self._folder.claim(child.process)

    def disown(self) -> None:
        """In a forked agent: close what is this host's."""
        for child in self.living.values():
            if child.pidfd is not None:
                os.close(child.pidfd)
