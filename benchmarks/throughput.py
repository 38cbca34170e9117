"""P2: how many starts per second one API process answers."""

import itertools
import json
import selectors
import time
from collections.abc import Iterator
from statistics import median

import psutil

from benchmarks.support import PING, Aim, Api, Connection, Figure, api, note, percentile, start_request

CLIENTS = 32
SLICES = 5
REQUESTS = 2_000  #: in each slice
WARM_UP = 200
AIM = Aim("value", 1_000, at_least=True)


class Load:
    """Many clients, each of which sends its next request when the last one is answered."""

    def __init__(self, served: Api) -> None:
        self.rates: list[float] = []
        self.seconds: list[float] = []
        self.cpu: dict[str, float] = dict.fromkeys(served.pids, 0.0)  #: seconds by program
        self.sent = 0
        self._processes = {name: psutil.Process(pid) for name, pid in served.pids.items()}

    def slice(self, clients: list[Connection], requests: Iterator[bytes], count: int) -> list[bytes]:
        """Send `count` requests and return the answers."""
        before = self._cpu()
        begun = time.perf_counter()
        answers = self._drive(clients, itertools.islice(requests, count))
        self.rates.append(count / (time.perf_counter() - begun))
        self.sent += count
        for name, used in self._cpu().items():
            self.cpu[name] += used - before[name]
        return answers

    def _drive(self, clients: list[Connection], requests: Iterator[bytes]) -> list[bytes]:
        answers: list[bytes] = []
        sent_at: dict[Connection, float] = {}
        with selectors.DefaultSelector() as selector:
            for client, request in zip(clients, requests, strict=False):
                selector.register(client.socket, selectors.EVENT_READ, client)
                sent_at[client] = time.perf_counter()
                client.send(request)
            while sent_at:
                ready = selector.select(30)
                assert ready, "the API did not answer within 30 s"
                for key, _ in ready:
                    status, body = key.data.receive()
                    assert status == 200, body
                    answers.append(body)
                    now = time.perf_counter()
                    self.seconds.append(now - sent_at.pop(key.data))
                    for request in itertools.islice(requests, 1):
                        sent_at[key.data] = time.perf_counter()
                        key.data.send(request)
        return answers

    def _cpu(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: used.user + used.system for name, used in times.items()}


def measure() -> list[Figure]:
    """Load the API with pings and starts in turn; checks that no agent was assigned twice."""
    warm = WARM_UP + SLICES * REQUESTS
    note(f"P2: {SLICES} times {REQUESTS} pings and {REQUESTS} starts from {CLIENTS} connections")
    with api(warm) as served:
        clients = [Connection(served.port) for _ in range(CLIENTS)]
        pings = itertools.repeat(PING)
        starts = (start_request(number) for number in itertools.count())
        ping, start = Load(served), Load(served)
        answers = Load(served).slice(clients, starts, WARM_UP)
        Load(served).slice(clients, pings, WARM_UP)
        for _ in range(SLICES):
            ping.slice(clients, pings, REQUESTS)
            answers += start.slice(clients, starts, REQUESTS)
        for client in clients:
            client.close()
        _check(served, answers, warm)
    against = "a route with one PING"
    return [
        Figure("starts per second, median slice", median(start.rates), "/s", median(ping.rates), against, AIM),
        Figure(f"answer under this load, p50 of {CLIENTS} at once", percentile(start.seconds, 0.5) * 1000, "ms",
               percentile(ping.seconds, 0.5) * 1000, against),
        Figure(f"answer under this load, p99 of {CLIENTS} at once", percentile(start.seconds, 0.99) * 1000, "ms",
               percentile(ping.seconds, 0.99) * 1000, against),
        *(Figure(f"CPU of {program} per start", start.cpu[program] / start.sent * 1000, "ms",
                 ping.cpu[program] / ping.sent * 1000, against) for program in served.pids),
    ]  # fmt: skip


def _check(served: Api, answers: list[bytes], warm: int) -> None:
    bodies = [json.loads(answer) for answer in answers]
    assert all(body["prewarmed"] for body in bodies), "a start got no warm agent although the pool was large enough"
    sessions = {body["sessionId"] for body in bodies}
    assert len(sessions) == len(bodies) == warm, f"{len(bodies)} starts got {len(sessions)} sessions"
    assert served.redis.scard("pool:ready") == 0, "an assigned agent is in the pool"
    assert served.redis.scard("session:ready") == warm, "sessions are missing"
