"""The services of a node that run beside its Celery worker, put together.

Failure cases: host gone → requests fail with HostUnavailable and tasks retry; Redis gone → the services continue and
catch up (deaths stay unacknowledged in the host until they are recorded); Redis back empty → the living register,
then the store is set up again; this process killed → the next one gets the living agents and the deaths
from the host.
"""

import contextlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.clock import SYSTEM_CLOCK, Clock
from orchestrator.errors import StoreUnavailable
from orchestrator.host.client import HostClient
from orchestrator.livekit.rooms import Rooms
from orchestrator.machine.memory import headroom_bytes
from orchestrator.machine.process import may_live
from orchestrator.pool.assignment import MayLive
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.worker import relay_watch
from orchestrator.worker.boots import Boots
from orchestrator.worker.canary import CANARY_SECONDS, Canary
from orchestrator.worker.checks import Checks, Examine
from orchestrator.worker.clean_up import CLEAN_UP_SECONDS, CleanUp
from orchestrator.worker.deadlines import DEADLINE_SECONDS, Deadlines
from orchestrator.worker.deaths import DeathRecorder
from orchestrator.worker.drain_watch import DrainWatch
from orchestrator.worker.duties import (
    ALERT_SECONDS,
    PROBE_SECONDS,
    REWRITE_SECONDS,
    AlertWatch,
    FileRewrite,
    LiveKitProbe,
)
from orchestrator.worker.examine import examine
from orchestrator.worker.headroom import MEMORY_SECONDS, Headroom, HeadroomReport
from orchestrator.worker.heartbeat import Heartbeat
from orchestrator.worker.host_link import Connect, HostLink, HostWatch
from orchestrator.worker.log_shipper import SHIP_SECONDS, LogShipper
from orchestrator.worker.pool_keeper import PoolKeeper
from orchestrator.worker.pool_sizing import SIZING_SECONDS, PoolSizing
from orchestrator.worker.processes import COMPARE_SECONDS, Processes
from orchestrator.worker.reconciler import Reconciler
from orchestrator.worker.reload import Reload
from orchestrator.worker.service import Background, Periodic, Service
from orchestrator.worker.set_up import SetUp
from orchestrator.worker.stops import Stops
from orchestrator.worker.task_queue import TaskQueue


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node needs of the machine it runs on."""

    clock: Clock
    connect: Connect  #: to the agent host
    may_live: MayLive
    examine: Examine = examine
    free_bytes: Callable[[], int | None] = headroom_bytes
    end_process: Callable[[int], object] = os._exit
    check_relay: Callable[[], Coroutine[Any, Any, None]] | None = None

    @classmethod
    def real(cls, settings: Settings) -> "Machine":
        """Return the machine that this process runs on."""
        connect = partial(HostClient.connect, settings.host_socket)
        check_relay = partial(relay_watch.check, settings.relay_socket)
        return cls(SYSTEM_CLOCK, connect, partial(may_live, settings.node_id), check_relay=check_relay)


class Node:
    """One node's services. Tasks use `boots`, `pool`, `stops`, `checks`, `reload`, `clean_up` and `canary`."""

    def __init__(
        self, settings: Settings, store: Store, rooms: Rooms | None, queue: TaskQueue, machine: Machine
    ) -> None:
        self._settings, self._store, self._clock = settings, store, machine.clock
        node = settings.node_id
        self._background = Background()
        self._link = HostLink(machine.clock)
        self._logs = LogShipper(store, settings.agents_dir, settings.log_lines, machine.clock)
        self._drain = DrainWatch(queue, self._background)
        self._headroom = Headroom(settings, machine.free_bytes)
        self._probe = LiveKitProbe(store, rooms)
        self.canary = Canary(store, machine.clock, queue.send_canary, machine.end_process)
        self.stops = Stops(settings, store, self._link, queue)
        self.boots = Boots(settings, store, self._link, self._logs)
        self.pool = PoolKeeper(
            settings, store, machine.clock,
            boots=self.boots, stops=self.stops, drain=self._drain, headroom=self._headroom,
            background=self._background,
        )  # fmt: skip
        self.checks = Checks(
            settings, store,
            stops=self.stops, pool=self.pool, examine=machine.examine, may_live=machine.may_live,
        )  # fmt: skip
        self.reload = Reload(node, store, self._link)
        self.clean_up = CleanUp(store, machine.clock)
        self._report = HeadroomReport(node, store, self._headroom, self.pool.refill_soon)
        reconciler = Reconciler(store, rooms, settings.agent_token_seconds) if rooms else None
        self._deadlines = Deadlines(
            store, queue=queue, stops=self.stops, refill=self.pool.refill, reconciler=reconciler,
            background=self._background,
        )  # fmt: skip
        self._services = [*self._host_services(machine), self.pool, *self._periodic(machine)]

    def _host_services(self, machine: Machine) -> list[Service]:
        """Return the services that need the agent host or report its state."""
        settings, store, clock = self._settings, self._store, self._clock
        set_up = SetUp(
            settings, store, clock, link=self._link, before_starts=self._before_starts, refill=self.pool.refill_soon,
            end_process=machine.end_process,
        )  # fmt: skip
        heartbeat = Heartbeat(
            settings, store, clock,
            link=self._link, headroom=self._headroom, canary=self.canary, set_up=set_up, drain=self._drain,
        )  # fmt: skip
        deaths = DeathRecorder(store, self._link, self._logs, machine.may_live)
        processes = Processes(settings, store, clock, link=self._link, deaths=deaths, boots=self.boots, logs=self._logs)

        def connected() -> None:
            self._background.begin(heartbeat.beat())
            self.pool.refill_soon()

        watch = HostWatch(
            self._link, machine.connect, clock,
            on_death=deaths.on_death, compare=processes.compare, on_connected=connected,
        )  # fmt: skip
        compare = Periodic("the comparison of processes", COMPARE_SECONDS, processes.compare_if_connected, clock)
        return [self._background, watch, heartbeat, compare]

    def _periodic(self, machine: Machine) -> list[Service]:
        settings, clock = self._settings, self._clock
        rounds = [
            ("the shipping of logs", SHIP_SECONDS, self._logs.ship_all),
            ("the enforcement of deadlines", DEADLINE_SECONDS, self._deadlines.enforce),
            ("the clean-up", CLEAN_UP_SECONDS, self.clean_up.run),
            ("the report of memory", MEMORY_SECONDS, self._report.report),
            ("the probe of LiveKit", PROBE_SECONDS, self._probe.probe),
            ("the canary", CANARY_SECONDS, self.canary.send),
        ]
        if machine.check_relay:
            rounds.append(("the check of the relay", relay_watch.CHECK_SECONDS, machine.check_relay))
        if settings.alert_webhook_url:
            rounds.append(("the check for alerts", ALERT_SECONDS, AlertWatch(self._store).check))
        rewrite = FileRewrite(settings, self._store)
        if every := rewrite.every_seconds:
            rounds.append(("the rewrite of Redis's file", min(REWRITE_SECONDS, every), rewrite.rewrite))
        if settings.pool_auto:
            sizing = PoolSizing(settings, self._store, self.pool.refill_soon)
            rounds.append(("the sizing of the pool", SIZING_SECONDS, sizing.size))
        return [Periodic(name, seconds, work, clock) for name, seconds, work in rounds]

    async def _before_starts(self) -> None:
        # A start that finds no warm agent has one booted, unless memory is low or LiveKit is away.
        await self._report.report()
        await self._probe.probe()

    @property
    def periodic(self) -> dict[str, float]:
        """The seconds between two rounds of each periodic service, by its name."""
        return {service.name: service.seconds for service in self._services if isinstance(service, Periodic)}

    def start(self) -> None:
        """Start every service, in order."""
        for service in self._services:
            service.start()

    async def stop(self) -> None:
        """Stop every service, in reverse order, and report that this node is gone; agents keep running."""
        for service in reversed(self._services):
            await service.stop()
        with contextlib.suppress(StoreUnavailable):
            await self._store.forget_node(self._settings.node_id, for_good=self._drain.draining)

    async def nodes(self) -> list[str]:
        """Return the ids of the nodes that live."""
        return list(await self._store.nodes())
