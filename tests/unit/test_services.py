"""A node's services beside Celery: a periodic one keeps its interval and survives failures; a stop ends them all."""

import asyncio
import logging

import pytest

from orchestrator.clock import SystemClock
from orchestrator.errors import HostUnavailable, OrchestratorError, StoreUnavailable
from orchestrator.worker.service import Background, Periodic


class Steps(SystemClock):
    """A clock whose sleeps end when the test ends them."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._turn = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self._turn.acquire()

    async def step(self) -> None:
        self._turn.release()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_periodic_service_waits_before_each_run_and_survives_failures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, failures = Steps(), iter([None, StoreUnavailable(), HostUnavailable(), RuntimeError("no"), None])
    turns = 0

    async def work() -> None:
        nonlocal turns
        turns += 1
        if failure := next(failures):
            raise failure

    service = Periodic("the work", 5, work, clock)
    service.start()
    with caplog.at_level(logging.INFO, "orchestrator"):
        await clock.step()
        assert turns == 1, "not before its first pause is over"
        for _ in range(4):
            await clock.step()
    assert turns == 5
    assert set(clock.slept) == {5}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, "the API reports that Redis is down"
    assert said[0].startswith("the work waits for the agent host")
    assert said[1] == "the work failed and will be tried again"
    await service.stop()
    await clock.step()
    assert turns == 5


async def test_stopping_cancels_background_work_and_failures_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    background, ended = Background(), []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waits")

    async def fails(failure: Exception) -> None:
        raise failure

    background.start()
    background.begin(waits())
    background.begin(fails(OrchestratorError("no luck")))
    background.begin(fails(KeyError("bug")))
    with caplog.at_level(logging.WARNING, "orchestrator"):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert not ended
    await background.stop()
    assert ended == ["waits"]


async def test_a_service_that_was_never_started_can_be_stopped() -> None:
    async def work() -> None: ...

    await Periodic("the work", 5, work, Steps()).stop()
    await Background().stop()
