"""The thread beside a Celery worker's task threads in which the node's event loop runs."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from orchestrator.errors import OrchestratorError
from orchestrator.livekit.rooms import Rooms
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.worker.node import Machine, Node
from orchestrator.worker.task_queue import TaskQueue

T = TypeVar("T")

_START_SECONDS = _STOP_SECONDS = 10.0


class NodeThread:
    """One per Celery worker. `start` and `stop` it from any thread; tasks enter through `run`."""

    def __init__(self, settings: Settings, queue: TaskQueue) -> None:
        self._settings, self._queue = settings, queue
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="node", daemon=True)
        self._started = threading.Event()
        self._stopping = asyncio.Event()
        self._node: Node

    def start(self) -> None:
        """Start the loop and the node's services in it."""
        self._thread.start()
        if not self._started.wait(_START_SECONDS):
            raise OrchestratorError("the node's event loop did not start")

    def stop(self) -> None:
        """Stop the services and the loop; agents keep running."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_STOP_SECONDS)

    def run(self, work: Callable[[Node], Coroutine[Any, Any, T]], timeout: float) -> T:
        """Run work of the node on the loop and wait for it: the one way from a Celery task into async code."""
        future = asyncio.run_coroutine_threadsafe(work(self._node), self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise OrchestratorError(f"a task did not finish within {timeout:.0f} s") from None

    def note_canary(self) -> None:
        """Note that a task came through the queue."""
        self._node.canary.note()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            store = await stack.enter_async_context(
                Store(settings.redis, name=f"node.{settings.node_id}", keep_seconds=settings.session_keep_seconds)
            )
            rooms = _rooms(settings)
            if rooms:
                await stack.enter_async_context(rooms)
            self._node = Node(settings, store, rooms, self._queue, Machine.real(settings))
            self._node.start()
            self._started.set()
            await self._stopping.wait()
            await self._node.stop()


def _rooms(settings: Settings) -> Rooms | None:
    if not (settings.livekit_url and settings.livekit_api_key and settings.livekit_api_secret):
        return None
    return Rooms(
        settings.livekit_url,
        settings.livekit_api_key,
        settings.livekit_api_secret.get_secret_value(),
        empty_seconds=settings.room_empty_seconds,
        departure_seconds=settings.room_departure_seconds,
    )
