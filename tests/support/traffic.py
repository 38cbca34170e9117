"""Users that start and stop sessions in the background."""

import asyncio
import itertools
import threading
from collections import Counter
from types import TracebackType

import httpx


class Traffic:
    """Starts `rate` sessions a second, in its own thread, and stops each after `length` seconds.

    On exit it starts no more and stops those that run. A start without an answer is given up, as users do; a stop is
    repeated until it is answered.
    """

    def __init__(self, url: str, *, rate: float, length: float, user: str = "traffic") -> None:
        self._url, self._rate, self._length, self._user = url, rate, length, user
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic", daemon=True)
        #: The sessions whose start was answered with 2xx.
        self.accepted: list[str] = []
        #: How often each problem code, and each type of connection error, occurred.
        self.refused: Counter[str] = Counter()
        self.warm = 0  #: how many got a warm agent immediately

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(90)
        assert not self._thread.is_alive(), "the traffic thread does not end"

    async def _run(self) -> None:
        limits = httpx.Limits(max_keepalive_connections=0)
        client = httpx.AsyncClient(base_url=self._url, timeout=10, limits=limits)
        async with client, asyncio.TaskGroup() as visits:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                visits.create_task(self._visit(client, f"{self._user}{number}"))
                await asyncio.sleep(1 / self._rate)

    async def _visit(self, http: httpx.AsyncClient, user: str) -> None:
        try:
            answer = await http.post("/api/session/start", json={"userId": user})
        except httpx.HTTPError as failure:
            self.refused[type(failure).__name__] += 1
            return
        if not answer.is_success:
            self.refused[answer.json()["code"]] += 1
            return
        session_id = answer.json()["sessionId"]
        self.accepted.append(session_id)
        self.warm += answer.json()["prewarmed"]
        await asyncio.sleep(self._length)
        for _ in range(200):
            if await self._stopped(http, session_id):
                return
            await asyncio.sleep(0.3)

    async def _stopped(self, http: httpx.AsyncClient, session_id: str) -> bool:
        try:
            answer = await http.post("/api/session/stop", json={"sessionId": session_id})
        except httpx.HTTPError:
            return False
        return answer.status_code in {200, 404}
