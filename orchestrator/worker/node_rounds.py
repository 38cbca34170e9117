"""What a node looks at again and again, agent host or not: its memory, LiveKit, its Celery worker, the pool's size."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable

from orchestrator.errors import OrchestratorError, StoreUnavailable
from orchestrator.livekit.rooms import Rooms
from orchestrator.machine.memory import headroom_bytes
from orchestrator.pool import refill
from orchestrator.settings import Settings
from orchestrator.states import AgentState
from orchestrator.store import Store
from orchestrator.task_queue.app import WEDGED_SECONDS

log = logging.getLogger("orchestrator.node")

#: Seconds between two rounds.
MEMORY_SECONDS = 2.0
PROBE_SECONDS = 3.0
SIZING_SECONDS = 5.0
CANARY_SECONDS = 5.0
ALERT_SECONDS = 1.0
#: Bytes of RUN_DIR's disk that are to be free for an agent's record and its log.
DISK_BYTES = 1 << 20
REWRITE_SECONDS = 60.0
#: The embedded Valkey's append-only file is written anew so often, unless REDIS_REWRITE_SECONDS says otherwise: what
#: is deleted is gone from the disk well within an hour.
EMBEDDED_REWRITE_SECONDS = 1200.0


class Rounds:
    """The rounds of one node."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        rooms: Rooms | None,
        send_canary: Callable[[], None],
        refill: Callable[[], None],
    ) -> None:
        self._settings, self._store, self._rooms = settings, store, rooms
        self._send_canary, self._refill = send_canary, refill
        #: Why no agent can be started here, '' when one can.
        self.short_of_memory = self._shortage()
        #: Monotonic time at which a task last came through the queue.
        self.canary_at = time.monotonic()
        self._canary_flies = False
        self._wrong: set[str] = set()

    def all(self) -> list[tuple[float, Callable[[], Awaitable[None]]]]:
        """Return each round with the seconds between two of it."""
        rounds: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (MEMORY_SECONDS, self.look_at_memory),
            (PROBE_SECONDS, self.probe_livekit),
            (CANARY_SECONDS, self.fly_canary),
        ]
        if self._settings.alert_webhook_url:
            rounds.append((ALERT_SECONDS, self.look_at_alerts))
        if self.rewrite_seconds:
            rounds.append((min(REWRITE_SECONDS, self.rewrite_seconds), self.rewrite_log))
        return [*rounds, (SIZING_SECONDS, self.size_pool)] if self._settings.pool_auto else rounds

    async def fly_canary(self) -> None:
        """Queue a task to this node's own Celery worker, and end the process when none comes through: it hangs in a
        connection to the broker that is long dead. supervisord starts it anew; agents do not notice."""
        try:
            await self._store.take_write()
        except StoreUnavailable:
            self.canary_at = time.monotonic()  # its silence is no wonder
            raise
        silent = time.monotonic() - self.canary_at
        if silent > WEDGED_SECONDS and self._canary_flies:
            log.critical("the Celery worker has consumed nothing for %.0f s: it ends, to be started anew", silent)
            os._exit(1)
        self._canary_flies = False  # one that the queue has not taken says nothing of who consumes
        await asyncio.to_thread(self._send_canary)
        self._canary_flies = True

    async def probe_livekit(self) -> None:
        """Say whether LiveKit answers: no session is started while it does not."""
        if self._rooms:
            trouble = await self._rooms.reachable()
            if trouble:
                log.warning("%s", trouble)
            await self._store.livekit_down(trouble)

    async def look_at_alerts(self) -> None:
        """Have the operator's webhook told of what has begun to be wrong, and of what is well again."""
        wrong = set(await self._store.look_at_alerts())
        for name in wrong - self._wrong:
            log.warning("alert: %s", name)
        self._wrong = wrong

    @property
    def rewrite_seconds(self) -> float:
        """Seconds between two rewrites of the append-only file; 0: it is not rewritten from here."""
        if (given := self._settings.redis_rewrite_seconds) is not None:
            return given
        return EMBEDDED_REWRITE_SECONDS if os.environ.get("EMBEDDED_VALKEY") == "true" else 0.0

    async def rewrite_log(self) -> None:
        """Have Redis write its append-only file anew when that is due."""
        try:
            if await self._store.rewrite_log(self.rewrite_seconds):
                log.info("the append-only file is written anew, without what is deleted")
        except StoreUnavailable:
            raise
        except OrchestratorError as failure:
            log.warning("the append-only file is not written anew, so what is deleted stays in it: %s", failure.detail)

    async def look_at_memory(self) -> None:
        """Say whether there is memory for one more agent; where there is, the waiting line is served."""
        before, self.short_of_memory = self.short_of_memory, self._shortage()
        node = self._settings.node_id
        await self._store.memory(node, self.short_of_memory, hold_seconds=int(3 * MEMORY_SECONDS))
        if before and not self.short_of_memory:
            self._refill()

    def spare_bytes(self) -> int | None:
        """Return the memory that further agents may take here; None where nobody knows."""
        free = headroom_bytes()
        return None if free is None else free - (self._settings.memory_headroom_mb << 20)

    def _shortage(self) -> str:
        return self._short_of_memory() or self._short_of_disk()

    def _short_of_disk(self) -> str:
        """An agent that cannot write its record would be nobody's when its host is started anew."""
        with contextlib.suppress(OSError):
            found = os.statvfs(self._settings.run_dir)
            free = found.f_bavail * found.f_frsize
            if found.f_blocks and free < DISK_BYTES:
                return f"the disk of RUN_DIR={self._settings.run_dir} is full: {free >> 10} KiB are free"
        return ""

    def _short_of_memory(self) -> str:
        floor, free = self._settings.memory_headroom_mb, headroom_bytes()
        if not floor or free is None or free >= floor << 20:
            return ""
        return f"{free >> 20} MiB of memory are free, MEMORY_HEADROOM_MB is {floor}"

    async def size_pool(self) -> None:
        """Set the pool's target by what arrives (POOL_AUTO)."""
        settings = self._settings
        boot, _ = await self._store.means()
        if boot is None:
            return
        room = None
        agents = await self._store.agents()
        looks = await self._store.health([agent.id for agent in agents])
        sizes = [int(look["memory_bytes"]) for look in looks if "memory_bytes" in look]
        # A node that is short takes nothing away from the others.
        spare = [
            max(0, int(node["spareBytes"])) for node in (await self._store.nodes()).values() if "spareBytes" in node
        ]
        if spare and any(sizes):
            warm = sum(agent.state is AgentState.READY for agent in agents)
            room = max(0, warm + int(sum(spare) / (sum(sizes) / len(sizes))))
        rate = await self._store.arrivals()
        target, why = refill.wanted(rate, boot, least=settings.pool_min, most=settings.pool_max, room=room)
        before = (await self._store.counts())["target"]
        await self._store.set_sizing(target, why)
        if target != before:
            log.info("pool target %d → %d: %s", before, target, why)
            self._refill()
