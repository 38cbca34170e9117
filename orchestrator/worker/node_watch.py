"""The event loop beside a Celery worker's task threads: listens to the agent host, enforces deadlines, ships logs.

States: disconnected → (hello, reconcile) → connected → disconnected when the host goes away, tried twice a second.
Failure cases: host gone → requests fail with HostUnavailable and tasks retry; Redis gone → the loops go on and
catch up (deaths stay unacknowledged in the host until they are recorded); Redis back empty → the living register,
then the node sets the store up again; this process killed → the next one hears from the host what lives and what
died meanwhile; the Celery consumer wedged → no canary comes through, and this process ends itself to be started anew.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from orchestrator import __version__, faults
from orchestrator.errors import (
    CANNOT_RUN,
    BootElsewhere,
    GivenUp,
    HostUnavailable,
    OrchestratorError,
    SchemaMismatch,
    SpawnFailed,
    StoreUnavailable,
)
from orchestrator.host.client import HostClient, HostSilent
from orchestrator.host.protocol import Death, Process
from orchestrator.livekit.rooms import Rooms
from orchestrator.machine.process import ProcessId, machine_boot_id, may_live
from orchestrator.models import Agent
from orchestrator.operations import restarts
from orchestrator.pool import refill
from orchestrator.pool.assignment import pass_over_the_dead
from orchestrator.settings import Settings
from orchestrator.states import AgentState, SessionState
from orchestrator.store import Action, Store
from orchestrator.store.constants import NODE_BEAT_SECONDS, NODE_TTL_SECONDS
from orchestrator.task_queue.foreign_tasks import sightings
from orchestrator.worker import alerts
from orchestrator.worker.examine import examine
from orchestrator.worker.log_shipper import LogShipper
from orchestrator.worker.node_rounds import Rounds
from orchestrator.worker.reconciler import Reconciler

log = logging.getLogger("orchestrator.node")
T = TypeVar("T")

#: Seconds between two rounds of each loop.
SHIP_SECONDS = 0.25
DEADLINE_SECONDS = 0.25
RECONCILE_SECONDS = 5.0
RECONNECT_SECONDS = 0.5

#: Somebody else's beats in a row after which two nodes have one name.
TWIN_BEATS = 2
#: A living process without a record has this long to register; then it is stopped.
REGISTER_SECONDS = 20.0
#: Where Redis has lost everything, the living have this long to register before the pool is filled anew.
SET_UP_SECONDS = 12.0
#: Seconds for which a task waits for the agent host: it loads its models when it starts or reloads.
HOST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Celery:
    """What the loop needs of the Celery worker it lives beside. All block: they are called in threads."""

    stop_elsewhere: Callable[[str, str], None]  #: queues the stop of an agent that lives on another node
    send_canary: Callable[[], None]  #: queues a task to this node's own queue, which calls `canary_seen`
    consume: Callable[[bool], None]  #: whether to take tasks from the shared queue
    send_alert: Callable[[str, str], None]  #: queues the delivery of a message to the operator's webhook


class NodeWatch:
    """One per Celery worker. `start` and `stop` it from any thread; tasks enter through `run`."""

    def __init__(self, settings: Settings, celery: Celery) -> None:
        self._settings = settings
        self._celery = celery
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="node-watch", daemon=True)
        self._stopping = asyncio.Event()
        self._host: HostClient | None = None
        self._connected = asyncio.Event()
        self._store: Store
        self._reconciler: Reconciler | None = None
        self._logs: LogShipper
        self._started = threading.Event()
        self._background: set[asyncio.Future[object]] = set()
        self._booting: set[str] = set()
        self._strangers: dict[str, float] = {}
        self._suspects: set[str] = set()
        self._missing: set[str] = set()
        self._draining = False
        self._life = secrets.token_hex(4)
        self._twins = 0
        self._rounds: Rounds

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

    # The loops

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            self._store = await stack.enter_async_context(
                Store(
                    settings.redis,
                    name=f"node.{settings.node_id}",
                    keep_seconds=settings.session_keep_seconds,
                )
            )
            rooms: Rooms | None = None
            if settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret:
                secret = settings.livekit_api_secret.get_secret_value()
                rooms = Rooms(
                    settings.livekit_url,
                    settings.livekit_api_key,
                    secret,
                    empty_seconds=settings.room_empty_seconds,
                    departure_seconds=settings.room_departure_seconds,
                )
                await stack.enter_async_context(rooms)
                self._reconciler = Reconciler(self._store, rooms, settings.agent_token_seconds)
            self._logs = LogShipper(self._store, settings.agents_dir, settings.log_lines)
            self._rounds = Rounds(
                settings, self._store, rooms, self._celery.send_canary, lambda: self._soon(self.refill())
            )
            self._started.set()
            loops = [
                self._watch_host(),
                self._beat_node(),
                self._watch_pool(),
                self._every(SHIP_SECONDS, self._logs.ship_all),
                self._every(DEADLINE_SECONDS, self._enforce_deadlines),
                self._every(RECONCILE_SECONDS, self._look_around),
                *(self._every(seconds, work) for seconds, work in self._rounds.all()),
            ]
            running = [asyncio.create_task(loop) for loop in loops]
            await self._stopping.wait()
            unfinished: list[asyncio.Future[Any]] = [*running, *self._background]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
            with contextlib.suppress(StoreUnavailable):
                await self._store.forget_node(settings.node_id, for_good=self._draining)
            if self._host:
                await self._host.close()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _every(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            await self._pause(seconds)
            try:
                await work()
            except StoreUnavailable:
                pass  # said by the api; every loop goes on
            except HostUnavailable as failure:
                log.info("%s waits for the agent host: %s", work.__name__, failure.detail)
            except Exception:
                log.exception("%s failed, and is tried again", work.__name__)

    async def _watch_host(self) -> None:
        refused = False
        while True:
            try:
                self._host = await HostClient.connect(self._settings.host_socket, self._on_death)
                records = await self._store.agents()
                await self._reconcile(records, *await self._hello(self._host))
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
            except Exception:
                log.exception("reconciling with the agent host failed")
            self._connected.clear()
            if self._host:
                await self._host.close()
                self._host = None
            await self._pause(RECONNECT_SECONDS)

    async def _hello(self, host: HostClient) -> tuple[list[Process], list[Death]]:
        """Ask the host what lives and what died. One that hangs is killed, and supervisord starts it anew."""
        try:
            return await host.hello()
        except HostSilent as failure:
            log.critical("%s: it is killed, to be started anew", failure.detail)
            host.kill()
            raise

    async def _watch_pool(self) -> None:
        while True:
            try:
                if await self._store.wait_wake(self._settings.node_id):
                    self._soon(self.refill())
            except Exception as failure:
                if not isinstance(failure, OrchestratorError):
                    log.exception("nobody hears that the pool lacks agents, and is tried again")
                await self._pause(RECONNECT_SECONDS)

    async def _beat_node(self) -> None:
        await self._until_store(self._agree)
        await self._until_store(lambda: self._store.undrain_node(self._settings.node_id))
        configured = False
        while True:
            try:
                if not configured or not await self._store.configured():
                    await self._set_up()
                    configured = True
                await self._beat_once()
            except StoreUnavailable:
                pass  # said by the api
            except Exception:
                log.exception("the node has not said that it lives, and tries again")
            await self._pause(NODE_BEAT_SECONDS)

    async def _agree(self) -> None:
        try:
            await self._store.agree()
        except SchemaMismatch as failure:
            log.critical("this node cannot run: %s", failure.detail)
            os._exit(CANNOT_RUN)  # nothing may touch what it does not understand

    async def _until_store(self, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await work()
            except StoreUnavailable:
                await self._pause(RECONNECT_SECONDS)
            else:
                return

    async def _set_up(self) -> None:
        """Tell the store what to decide by. Where it has lost everything, the living register first: until then no
        start is answered, so the cap holds."""
        await self._store.write_policy(self._settings.policy)
        if not await self._store.configured():
            deadline = time.monotonic() + SET_UP_SECONDS
            with contextlib.suppress(HostUnavailable):
                while time.monotonic() < deadline and not await self._all_registered():
                    await self._pause(0.2)
        # Before the first start is answered: one that finds no warm agent has one booted, unless memory is low.
        await self._rounds.look_at_memory()
        await self._rounds.probe_livekit()
        await self._store.configure(self._settings.policy, self._settings.pool_target)
        self._soon(self.refill())

    async def _all_registered(self) -> bool:
        living, _ = await self._hello(await self.host())
        return {process.agent_id for process in living} <= {agent.id for agent in await self._store.agents()}

    async def _beat_once(self) -> None:
        settings = self._settings
        fields: dict[str, str | int] = {
            "pid": os.getpid(),
            "bootId": machine_boot_id(),
            "host": int(self._connected.is_set()),
            "hostWarning": self._host.warning if self._host else "",
            "lastBeat": int(time.time()),
            "canaryAge": int(time.monotonic() - self._rounds.canary_at),
            "version": __version__,
            "life": self._life,
            "twin": int(self._twins >= TWIN_BEATS),
            "sessions": settings.node_sessions,
            "restarted": "; ".join(restarts.troubles(settings.run_dir)),
            "serves": settings.serves,
            "strangers": sightings.news(),
        }
        if (spare := self._rounds.spare_bytes()) is not None:
            fields["spareBytes"] = spare
        before = await self._store.beat_node(settings.node_id, fields, NODE_TTL_SECONDS)
        # The last life's record is found once; somebody else's again and again.
        self._twins = self._twins + 1 if before not in {None, self._life} else 0
        if self._twins == TWIN_BEATS:
            log.critical("another node calls itself %s too: give each a NODE_ID of its own", settings.node_id)

    def canary_seen(self) -> None:
        """Say that a task came through the queue. Called in a task's thread."""
        self._rounds.canary_at = time.monotonic()

    # Deadlines

    async def _enforce_deadlines(self) -> None:
        actions = await self._store.due()
        if actions:
            faults.hit("watch.after_due")
        for action in actions:
            self._soon(self._act(action))
        draining = self._settings.node_id in await self._store.draining()
        if draining is not self._draining:
            self._draining = draining
            log.info("the node drains" if draining else "the node is in service")
            self._soon(asyncio.to_thread(self._celery.consume, not draining))

    async def _act(self, action: Action) -> None:
        match action.what:
            case "stop":
                log.info("deadline missed: %s is stopped", action.id)
                await self._stop_there(action.id, action.node)
            case "close" if self._reconciler:
                await self._reconciler.close(action.id)
            case "close":
                await self._store.room_closed(action.id)  # there is no LiveKit, and no room
            case "refill":
                await self.refill()
            case "look" if self._reconciler:
                await self._reconciler.look(action.id)
            case "room" if self._reconciler:
                await self._reconciler.make(action.id)
            case "reconcile" if self._reconciler:
                await self._reconciler.all()
            case "alert":
                await self._send_alert(action.id)

    async def _send_alert(self, alert_id: str) -> None:
        if alert := await self._store.alert(alert_id):
            await asyncio.to_thread(self._celery.send_alert, alert_id, alerts.body(alert))
        await self._store.alert_queued(alert_id)

    async def _stop_there(self, agent_id: str, node: str) -> None:
        """Stop an agent on whichever node it lives; where it lives nowhere, say so."""
        if node and node != self._settings.node_id and node in await self._store.nodes():
            await asyncio.to_thread(self._celery.stop_elsewhere, agent_id, node)
        elif node != self._settings.node_id or not await self.stop_agent(agent_id):
            await self._store.exited(agent_id, "process gone, exit code unknown")

    # Births and deaths

    async def _look_around(self) -> None:
        """Compare records and processes: what an event said and nobody heard is found here."""
        if self._host and self._connected.is_set():
            # Records first: whoever is born in between is no stranger.
            records = await self._store.agents()
            await self._reconcile(records, *await self._hello(self._host))
        await self.cleanup_stale()

    async def _reconcile(self, records: list[Agent], living: list[Process], deaths: list[Death]) -> None:
        """Bring the records of this node's agents into line with what the host says."""
        for death in deaths:
            await self._record_death(death)
        known = {process.agent_id for process in living} | {death.agent_id for death in deaths} | self._booting
        for agent in records:
            # One that is not claimed yet has its own deadline.
            if agent.node == self._settings.node_id and agent.id not in known and (agent.spawned_at or agent.pid):
                cause = "process gone, exit code unknown" if agent.pid else "its Celery worker died before the spawn"
                await self._store.exited(agent.id, cause)
        strangers = {}
        for process in living:
            self._logs.follow(process.agent_id)
            found = await self._store.agent(process.agent_id)
            if found is None:
                first_seen = self._strangers.get(process.agent_id, time.monotonic())
                strangers[process.agent_id] = first_seen
                if time.monotonic() - first_seen > REGISTER_SECONDS:
                    log.warning("%s has no record and does not register: stopped", process.agent_id)
                    await self._stop_unwanted(process.agent_id)
            elif found.state is AgentState.EXITED:
                await self._stop_unwanted(process.agent_id)
            elif found.pid is None or found.start_ticks is None:
                await self._record_spawn(process)
        self._strangers = strangers

    async def _stop_unwanted(self, agent_id: str) -> None:
        # Not `stop_agent`: that waits until the host is reconciled with, and this is a part of it.
        if self._host:
            await self._host.stop(agent_id, self._settings.stop_grace_seconds)

    async def _on_death(self, death: Death) -> None:
        try:
            await self._record_death(death)
        except OrchestratorError as failure:
            # Not acknowledged: the host tells it again at the next hello.
            log.error("a death is not recorded yet: %s", failure.detail)
            if self._host:
                await self._host.close()

    async def _record_death(self, death: Death) -> None:
        faults.hit("watch.before_record_death")
        agent = await self._store.agent(death.agent_id)
        cause = death.cause
        seen = (death.exit_code, death.signal, death.peak_memory_kib)
        if agent is not None and agent.state is AgentState.STARTING:
            # Its last line is the reason that a waiting session is told.
            await self._logs.finish(death.agent_id, f"[agent {death.cause}]")
            last = self._logs.last_line(death.agent_id)
            result = await self._store.exited(
                death.agent_id, f"boot_error: {cause}" + (f": {last}" if last else ""), *seen
            )
        else:
            # Somebody may be on the line: whatever can wait until another agent is on its way, does.
            cause = (agent and agent.reason) or cause  # why it was stopped says more than the signal that did it
            result = await self._store.exited(death.agent_id, cause, *seen)
            if result.outcome == "replaced" and result.session_id:
                here = partial(may_live, self._settings.node_id)
                await pass_over_the_dead(self._store, result.session_id, here)
            await self._logs.finish(death.agent_id, f"[agent {death.cause}]")
        log.info(
            "agent exited", extra={"agent_id": death.agent_id, "cause": cause, "session": result.outcome or "none"}
        )
        faults.hit("watch.before_ack")
        if self._host:
            await self._host.acknowledge(death.agent_id)

    def _soon(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something beside what is being done; its failure is logged, and made up for by the next round."""
        task = asyncio.ensure_future(work)
        self._background.add(task)

        def done(finished: asyncio.Future[object]) -> None:
            self._background.discard(finished)
            if finished.cancelled() or (failure := finished.exception()) is None:
                return
            if isinstance(failure, OrchestratorError):
                log.warning("background work failed: %s", failure.detail)
            else:
                log.error("background work failed: %r", failure)

        task.add_done_callback(done)

    async def _record_spawn(self, process: Process) -> None:
        await self._store.spawned(
            process.agent_id, process.pid, process.start_ticks, process.boot_id, self._settings.node_id
        )

    # What tasks do

    async def host(self) -> HostClient:
        """Return the connected host. Raises `HostUnavailable` when there is none within 15 s."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOST_SECONDS):
                await self._connected.wait()
        if self._host is None or not self._connected.is_set():
            raise HostUnavailable
        return self._host

    async def boot(self, agent_id: str, *, anywhere: bool = False) -> None:
        """Start one announced agent and return when it is warm.

        Raises:
            BootElsewhere: `anywhere`, and another node is to.
            SpawnFailed: with the cause; the agent's record is closed and its process is being stopped.
        """
        self._booting.add(agent_id)
        try:
            claim, where = await self._store.claim(agent_id, self._settings.node_id, anywhere=anywhere)
            if claim == "gone":
                raise GivenUp
            if claim == "elsewhere":
                raise BootElsewhere(where)
            if claim == "claimed":
                faults.hit("worker.after_claim")
                await self._spawn(agent_id)
        finally:
            self._booting.discard(agent_id)
        # The deadline of the boot is kept in Redis; a little later it has been acted on.
        patience = self._settings.boot_timeout_seconds + 5
        outcome = await self._store.wait_boot(agent_id, patience)
        if outcome != "ready":
            raise SpawnFailed(outcome or f"boot_timeout: not warm after {patience:g} s")

    async def _spawn(self, agent_id: str) -> None:
        try:
            process = await (await self.host()).spawn(agent_id)
        except OrchestratorError as failure:
            kind = "boot_error" if isinstance(failure, SpawnFailed) else "not spawned"
            await self._store.exited(agent_id, f"{kind}: {failure.detail}")
            raise
        faults.hit("worker.after_spawn")
        self._logs.follow(agent_id)
        await self._record_spawn(process)

    async def spawn_for(self, session_id: str, agent_id: str, *, announce: bool, anywhere: bool) -> bool:
        """Boot an agent for a waiting session; False when it waits no more. Raises `SpawnFailed`, `BootElsewhere`."""
        session = await self._store.session(session_id)
        if session is None or session.status is not SessionState.STARTING:
            return False
        if announce and (answer := await self._store.announce_replacement(session_id, agent_id)) != "announced":
            if answer == "open":
                breaker = await self._store.breaker()
                await self.fail_session(session_id, breaker.cause or "boot_error: agents do not boot")
            return False
        try:
            await self.boot(agent_id, anywhere=anywhere)
        except GivenUp:
            return False  # the refill that its giving up has asked for makes up for it
        return True

    async def refill(self) -> int:
        """Bring the pool to its target."""
        if self._draining:
            return 0
        if refused := self._rounds.short_of_memory:
            log.warning("no agent is started: %s", refused)
        node = self._settings.node_id
        return await refill.refill(self._store, node, self.boot, self._stop_anywhere, refused=refused)

    async def _stop_anywhere(self, agent_id: str) -> None:
        agent = await self._store.agent(agent_id)
        await self._stop_there(agent_id, (agent and agent.node) or "")

    async def stop_agent(self, agent_id: str) -> bool:
        """Stop an agent process of this node: TERM, grace, KILL; False when it does not live here."""
        return await (await self.host()).stop(agent_id, self._settings.stop_grace_seconds)

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
        ended, self._suspects = await refill.end_stale(self._store, self._suspects)
        # At the second look: where Redis was away for a while, the living say so a moment later.
        before, self._missing = self._missing, await self._store.vanished()
        for node in sorted(before & self._missing):
            if await self._store.forget_node(node, for_good=True, if_silent=True):
                log.warning("node %s has vanished", node)
        if wrong := await self._store.recount():
            log.info("%d entries of the nodes' lists were wrong", wrong)
        return ended

    async def reload(self, reload_id: str) -> None:
        """Have the agent host load the agents' code anew, and the warm agents replaced; calls go on on the old code.

        How it goes stands in the record of the reload: running, done or what went wrong.
        """
        node = self._settings.node_id
        await self._store.note_reload(reload_id, node, "running")
        try:
            await (await self.host()).reload()
        except OrchestratorError as failure:
            log.error("not reloaded: %s", failure.detail)
            await self._store.note_reload(reload_id, node, f"failed: {failure.detail}")
            return
        agents = [agent for agent in await self._store.agents() if agent.node == node and agent.pid]
        count = await self._store.mark_stale([agent.id for agent in agents])
        log.info("agent code reloaded; %d warm agents are replaced", count)
        await self._store.note_reload(reload_id, node, "done")

    async def check_node(self) -> int:
        """Examine every agent process of this node; returns how many were unfit."""
        now = await self._store.now()
        unfit = 0
        for agent in await self._store.agents():
            if agent.node != self._settings.node_id or agent.state is AgentState.STOPPING:
                continue
            finding = examine(agent, memory_limit=self._settings.agent_memory_limit_mb << 20)
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
                await self._store.exited(agent.id, finding.fault)
        await self.refill()
        return unfit
