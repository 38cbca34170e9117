"""The connection to this node's agent host.

States: disconnected → (hello, processes compared) → connected → disconnected when the host goes away. A connection is
tried twice a second. A host that accepts the connection and does not answer is killed; supervisord starts the next.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from orchestrator.clock import Clock
from orchestrator.errors import HostUnavailable, StoreUnavailable
from orchestrator.host.client import HostClient, HostSilent, OnDeath
from orchestrator.host.protocol import Death, Process
from orchestrator.worker.service import LoopService

log = logging.getLogger("orchestrator.worker.host_link")

#: Opens a connection. Raises `HostUnavailable`.
Connect = Callable[[OnDeath], Awaitable[HostClient]]

RECONNECT_SECONDS = 0.5
#: Seconds for which a task waits for the agent host: it loads its models when it starts or reloads.
HOST_SECONDS = 15.0


class HostLink:
    """The connection as the other services use it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._usable = asyncio.Event()
        #: The connection, already set before its first hello.
        self.client: HostClient | None = None

    @property
    def connected(self) -> bool:
        """Whether the host answers and its processes are compared with the records."""
        return self._usable.is_set()

    @property
    def warning(self) -> str:
        """What is wrong with the host; '' when nothing is."""
        return self.client.warning if self.client else ""

    async def host(self) -> HostClient:
        """Return the connected host. Raises `HostUnavailable` when there is none within 15 s."""
        with contextlib.suppress(TimeoutError):
            async with self._clock.timeout(HOST_SECONDS):
                await self._usable.wait()
        if self.client is None or not self.connected:
            raise HostUnavailable
        return self.client

    async def hello(self, client: HostClient) -> tuple[list[Process], list[Death]]:
        """Ask the host for living agents and deaths. A host that hangs is killed."""
        try:
            return await client.hello()
        except HostSilent as failure:
            log.critical("%s: it is killed and will be restarted", failure.detail)
            # guard: host-hangs
            client.kill()
            raise

    def use(self) -> None:
        """Mark the connection as usable."""
        self._usable.set()

    async def drop(self) -> None:
        """Close the connection, if there is one."""
        self._usable.clear()
        client, self.client = self.client, None
        if client:
            await client.close()


class HostWatch(LoopService):
    """Keeps the link connected."""

    def __init__(
        self,
        link: HostLink,
        connect: Connect,
        clock: Clock,
        *,
        on_death: OnDeath,
        compare: Callable[[HostClient], Awaitable[None]],
        on_connected: Callable[[], None],
    ) -> None:
        """`compare`: brings records and processes into line over a new connection, before it is used."""
        self._link, self._connect, self._clock = link, connect, clock
        self._on_death, self._compare, self._on_connected = on_death, compare, on_connected

    async def run(self) -> None:
        """Connect, again whenever the connection is lost."""
        waiting = False
        while True:
            try:
                self._link.client = client = await self._connect(self._on_death)
                await self._compare(client)
                self._link.use()
                waiting = False
                log.info("connected to the agent host")
                self._on_connected()
                await client.closed()
                log.warning("the agent host closed the connection")
            except (HostUnavailable, StoreUnavailable) as failure:
                if not waiting:
                    log.info("waiting for the agent host and Redis: %s", failure.detail)
                waiting = True
            except Exception:
                log.exception("the connection to the agent host failed and will be tried again")
            await self._link.drop()
            await self._clock.sleep(RECONNECT_SECONDS)

    async def stop(self) -> None:
        """Stop, and close the connection; agents keep running."""
        await super().stop()
        await self._link.drop()
