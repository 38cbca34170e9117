"""The event loop beside a Celery worker's task threads: listens to the agent host, ships logs, boots and stops agents.

States: disconnected → (hello, reconcile) → connected → disconnected when the host goes away, tried again every second.
Failure cases: host gone → requests fail with HostUnavailable and tasks retry; Redis gone → the loop goes on and
catches up (deaths stay unacknowledged in the host until they are recorded); this process killed → the next one
hears from the host what lives and what died meanwhile.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from orchestrator.errors import HostUnavailable, LiveKitUnavailable, OrchestratorError, SpawnFailed, StoreUnavailable
from orchestrator.livekit.rooms import Rooms
from orchestrator.node.client import HostClient
from orchestrator.node.health import examine
from orchestrator.node.logs import LogShipper
from orchestrator.node.process import ProcessId, machine_boot_id
from orchestrator.node.protocol import Death, Process
from orchestrator.pool import upkeep
from orchestrator.settings import Settings
from orchestrator.states import AgentState, SessionState
from orchestrator.store import Store

log = logging.getLogger("orchestrator.node")
T = TypeVar("T")
#: Queues the stop of an agent that lives on another node: (agent id, node id).
StopElsewhere = Callable[[str, str], None]

#: Seconds between two shipments of log lines, and between two heartbeats of the node.
SHIP_SECONDS = 0.25
NODE_BEAT_SECONDS = 5
NODE_TTL_SECONDS = 30
RECONNECT_SECONDS = 0.5


class NodeWatch:
    """One per Celery worker. `start` and `stop` it from any thread; tasks enter through `run`."""

    def __init__(self, settings: Settings, stop_elsewhere: StopElsewhere) -> None:
        self._settings = settings
        self._stop_elsewhere = stop_elsewhere
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="node-watch", daemon=True)
        self._stopping = asyncio.Event()
        self._host: HostClient | None = None
        self._connected = asyncio.Event()
        self._store: Store
        self._rooms: Rooms | None = None
        self._logs: LogShipper
        self._started = threading.Event()
        self._background: set[asyncio.Future[object]] = set()

    def start(self) -> None:
        """Start the loop in its own thread."""
        self._thread.start()
        if not self._started.wait(10):
            raise OrchestratorError("the node's event loop did not start")

    def stop(self) -> None:
        """Stop the loop; agents go on."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run a coroutine on the loop and wait for it: the one way from a Celery task into async code."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise OrchestratorError(f"a task did not finish within {timeout:.0f} s") from None

    # The loop

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            self._store = await stack.enter_async_context(
                Store(
                    settings.required_redis_url,
                    name=f"node.{settings.node_id}",
                    keep_seconds=settings.session_keep_seconds,
                    silent_seconds=settings.heartbeat_timeout_seconds,
                )
            )
            if settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret:
                secret = settings.livekit_api_secret.get_secret_value()
                rooms = Rooms(settings.livekit_url, settings.livekit_api_key, secret)
                self._rooms = await stack.enter_async_context(rooms)
            self._logs = LogShipper(self._store, settings.agents_dir, settings.log_lines)
            self._started.set()
            loops = (self._watch_host(), self._ship_logs(), self._beat_node())
            running = [asyncio.create_task(loop) for loop in loops]
            await self._stopping.wait()
            unfinished: list[asyncio.Future[Any]] = [*running, *self._background]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
            with contextlib.suppress(StoreUnavailable):
                await self._store.forget_node(settings.node_id)
            if self._host:
                await self._host.close()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _watch_host(self) -> None:
        refused = False
        while True:
            try:
                self._host = await HostClient.connect(self._settings.host_socket, self._on_death)
                await self._reconcile(*await self._host.hello())
                self._connected.set()
                self._soon(self._beat_once())
                refused = False
                log.info("connected to the agent host")
                self._soon(self.refill())
                await self._host.closed()
                log.warning("the agent host closed the connection")
            except (HostUnavailable, StoreUnavailable) as failure:
                if not refused:
                    log.info("waiting for the agent host and Redis: %s", failure.detail)
                refused = True
            except OrchestratorError:
                log.exception("reconciling with the agent host failed")
            self._connected.clear()
            if self._host:
                await self._host.close()
                self._host = None
            await self._pause(RECONNECT_SECONDS)

    async def _ship_logs(self) -> None:
        while True:
            await self._pause(SHIP_SECONDS)
            with contextlib.suppress(StoreUnavailable):
                await self._logs.ship_all()

    async def _beat_node(self) -> None:
        configured = False
        while True:
            with contextlib.suppress(StoreUnavailable):
                if not configured:
                    await self._store.configure_target(self._settings.pool_target)
                    configured = True
                await self._beat_once()
            await self._pause(NODE_BEAT_SECONDS)

    async def _beat_once(self) -> None:
        fields: dict[str, str | int] = {
            "pid": os.getpid(),
            "bootId": machine_boot_id(),
            "host": int(self._connected.is_set()),
            "lastBeat": int(time.time()),
        }
        await self._store.beat_node(self._settings.node_id, fields, NODE_TTL_SECONDS)

    # Births and deaths

    async def _reconcile(self, living: list[Process], deaths: list[Death]) -> None:
        """Bring the records of this node's agents into line with what the host says."""
        for death in deaths:
            await self._record_death(death)
        alive = {process.agent_id: process for process in living}
        for process in living:
            agent = await self._store.agent(process.agent_id)
            if agent is None or agent.state in {AgentState.STOPPING, AgentState.EXITED}:
                await self.stop_agent(process.agent_id)
            elif agent.pid is None:
                await self._record_spawn(process)
            self._logs.follow(process.agent_id)
        for agent in await self._store.agents():
            if agent.node == self._settings.node_id and agent.id not in alive and agent.pid is not None:
                await self._store.exited(agent.id, "process gone, exit code unknown", None, None)

    async def _on_death(self, death: Death) -> None:
        try:
            await self._record_death(death)
        except OrchestratorError as failure:
            # Not acknowledged: the host tells it again at the next hello.
            log.error("a death is not recorded yet: %s", failure.detail)
            if self._host:
                await self._host.close()

    async def _record_death(self, death: Death) -> None:
        cause = death.cause
        await self._logs.finish(death.agent_id, f"[agent {cause}]")
        agent = await self._store.agent(death.agent_id)
        if agent is not None and agent.state is AgentState.STARTING:
            last = self._logs.last_line(death.agent_id)
            cause = f"boot_error: {cause}" + (f": {last}" if last else "")
        elif agent is not None and agent.reason:
            cause = agent.reason  # why it was stopped says more than the signal that did it
        result = await self._store.exited(death.agent_id, cause, death.exit_code, death.signal)
        log.info(
            "agent exited", extra={"agent_id": death.agent_id, "cause": cause, "session": result.outcome or "none"}
        )
        # An agent that died while booting is replaced by its spawn's retry or the next tick, not at once for ever.
        if result.before in {AgentState.READY, AgentState.ASSIGNED, AgentState.RUNNING} and self._connected.is_set():
            self._soon(self.refill())
        if agent is not None and agent.session_id:
            await self._close_room(agent.session_id)
        if self._host:
            await self._host.acknowledge(death.agent_id)

    def _soon(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something beside what is being done; its failure is logged, and made up for by the next tick of beat."""
        task = asyncio.ensure_future(work)
        self._background.add(task)

        def done(finished: asyncio.Future[object]) -> None:
            self._background.discard(finished)
            if not finished.cancelled() and (failure := finished.exception()):
                log.error("background work failed: %r", failure)

        task.add_done_callback(done)

    async def _close_room(self, session_id: str) -> None:
        session = await self._store.session(session_id)
        if session is not None and not session.live and self._rooms:
            try:
                await self._rooms.delete(session.room_name)
            except LiveKitUnavailable as failure:
                # LiveKit itself closes a room that holds only agents.
                log.warning("room not deleted: %s", failure.detail)

    async def _record_spawn(self, process: Process) -> None:
        await self._store.spawned(
            process.agent_id, process.pid, process.start_ticks, process.boot_id, self._settings.node_id
        )

    # What tasks do

    async def host(self) -> HostClient:
        """Return the connected host. Raises `HostUnavailable` when there is none within 5 s."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._connected.wait()
        if self._host is None or not self._connected.is_set():
            raise HostUnavailable
        return self._host

    async def boot(self, agent_id: str) -> None:
        """Start one announced agent and return when it is warm.

        Raises:
            SpawnFailed: with the cause; the agent's record is closed and its process is being stopped.
        """
        claim = await self._store.claim(agent_id, self._settings.node_id)
        if claim == "gone":
            raise SpawnFailed("the agent was given up before it was spawned")
        if claim == "claimed":
            try:
                process = await (await self.host()).spawn(agent_id)
            except OrchestratorError as failure:
                await self._store.exited(agent_id, failure.detail, None, None)
                raise
            self._logs.follow(agent_id)
            await self._record_spawn(process)
        outcome = await self._store.wait_boot(agent_id, self._settings.boot_timeout_seconds)
        if outcome is None:
            outcome = f"boot_timeout: not warm after {self._settings.boot_timeout_seconds:g} s"
            await self._store.exited(agent_id, outcome, None, None)
            await self.stop_agent(agent_id)
        if outcome != "ready":
            raise SpawnFailed(outcome)

    async def spawn_for(self, session_id: str, agent_id: str, *, announce: bool) -> bool:
        """Boot an agent for a waiting session; False when it waits no more. Raises `SpawnFailed`."""
        session = await self._store.session(session_id)
        if session is None or session.status is not SessionState.STARTING:
            return False
        if announce and not await self._store.announce_replacement(session_id, agent_id):
            return False
        await self.boot(agent_id)
        return True

    async def refill(self) -> int:
        """Bring the pool to its target."""
        return await upkeep.refill(self._store, self.boot, self._stop_anywhere)

    async def _stop_anywhere(self, agent_id: str) -> None:
        agent = await self._store.agent(agent_id)
        if agent and agent.node and agent.node != self._settings.node_id:
            await asyncio.to_thread(self._stop_elsewhere, agent_id, agent.node)
        else:
            await self.stop_agent(agent_id)

    async def stop_agent(self, agent_id: str) -> bool:
        """Stop an agent process of this node: TERM, grace, KILL."""
        host = self._host
        if host is None:
            raise HostUnavailable
        return await host.stop(agent_id, self._settings.stop_grace_seconds)

    async def finish_session(self, session_id: str, agent_id: str | None) -> None:
        """Enforce the end of a session: its agent is stopped and its room deleted. Idempotent."""
        if agent_id:
            await self.stop_agent(agent_id)
        await self._close_room(session_id)

    async def fail_session(self, session_id: str, reason: str) -> None:
        """End a session that still waits, as an error."""
        session = await self._store.session(session_id)
        if session is not None and session.status is SessionState.STARTING:
            await self._store.end_session(session_id, SessionState.ERROR, reason)
            log.error("session failed", extra={"session_id": session_id, "reason": reason})

    async def nodes(self) -> list[str]:
        """Return the ids of the nodes that live."""
        return list(await self._store.nodes())

    async def cleanup_stale(self) -> list[str]:
        """End what nobody serves any more."""
        ended = await upkeep.end_stale(self._store, self._settings, await self.nodes())
        for session_id in ended:
            await self._close_room(session_id)
        return ended

    async def check_node(self) -> int:
        """Examine every agent process of this node; returns how many were unfit."""
        now = await self._store.now()
        unfit = 0
        for agent in await self._store.agents():
            if agent.node != self._settings.node_id or agent.state is AgentState.STOPPING:
                continue
            finding = examine(
                agent,
                now,
                silent_seconds=self._settings.heartbeat_timeout_seconds,
                memory_limit=self._settings.agent_memory_limit_mb << 20,
            )
            await self._store.record_health(
                agent.id,
                {
                    "last_check": int(now),
                    "status": finding.fault or "ok",
                    "memory_bytes": finding.memory,
                    "cpu_seconds": round(finding.cpu_seconds, 2),
                    "threads": finding.threads,
                },
            )
            if finding.fault is None:
                continue
            unfit += 1
            log.warning("unfit agent", extra={"agent_id": agent.id, "fault": finding.fault})
            await self._store.unfit(agent.id, finding.fault)
            if not await self.stop_agent(agent.id) and agent.pid and not ProcessId.of(agent.pid):
                await self._store.exited(agent.id, finding.fault, None, None)
        await self.refill()
        return unfit
