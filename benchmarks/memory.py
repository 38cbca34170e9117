"""P6: the private memory of a warm agent, and of the process that it is forked from."""

import contextlib
import time
from collections.abc import Iterable, Sequence
from statistics import median

import psutil

from benchmarks.support import Aim, Figure, LiveKitWorker, note, short_folder
from tests.support.node import Node
from tests.support.processes import poll

WARM = 5
QUIET_SECONDS = 5.0  #: how long memory must have been steady
AIM = Aim("ratio", 0.1)


def uss(pids: Iterable[int]) -> list[float]:
    """Return the private memory of processes, in MiB."""
    return [psutil.Process(pid).memory_full_info().uss / 2**20 for pid in pids]


def pss(pids: Iterable[int]) -> float:
    """Return the proportional memory (PSS) of processes in MiB."""
    return float(sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / 2**20)


def rss(pid: int) -> float:
    """Return the resident memory of a process in MiB, shared pages in full."""
    return float(psutil.Process(pid).memory_info().rss / 2**20)


def measure() -> list[Figure]:
    """Measure warm agents and idle processes at the same time, once their memory is steady."""
    with short_folder() as folder, contextlib.ExitStack() as stack:
        (folder / "node").mkdir()
        note(f"P6: starts a node and livekit-agents' workers, {WARM} warm agents each")
        node = stack.enter_context(Node(folder / "node", POOL_TARGET=WARM, HEARTBEAT_SECONDS=1))
        references = [
            stack.enter_context(LiveKitWorker(node, folder, idle=WARM, models="prewarm").up()),
            stack.enter_context(LiveKitWorker(node, folder, idle=WARM, models="preload").up()),
        ]
        agents = [int(agent["pid"]) for agent in node.agents()]
        steady([*agents, *(pid for worker in references for pid in worker.states())])
        return _figures(node, agents, references)


def steady(pids: Sequence[int]) -> None:
    """Wait until no process's private memory has changed by more than 1 % for a while."""
    known = uss(pids)
    since = time.monotonic()

    def quiet() -> bool:
        nonlocal known, since
        now = uss(pids)
        if any(abs(new - old) > 0.01 * old for new, old in zip(now, known, strict=True)):
            known, since = now, time.monotonic()
        return time.monotonic() - since > QUIET_SECONDS

    poll(quiet, "memory is steady", 120)


def _figures(node: Node, agents: list[int], references: list[LiveKitWorker]) -> list[Figure]:
    assert len(set(agents)) == WARM, agents
    host = node.program("host")
    assert host is not None
    livekit = node.program("livekit")
    everything = [pid for pid in node.pids() if pid != livekit]
    private = uss(agents)
    figures = []
    for worker in references:
        idle = sorted(worker.states())
        assert len(idle) == WARM, idle
        others = [pid for pid in worker.family() if pid not in idle]
        figures += [
            Figure("private memory (USS) of a warm agent, median", median(private), "MiB", median(uss(idle)),
                   worker.name, AIM if worker is references[0] else None),
            Figure("resident memory (RSS) of what agents are forked from", rss(host), "MiB",
                   max(map(rss, others)), f"{worker.name}: its largest other process"),
            Figure(f"{WARM} warm agents with what they are forked from (PSS)", pss([*agents, host]), "MiB",
                   pss([*idle, *others]), f"{worker.name}: all of it"),
            Figure("the same with all of the node but LiveKit (PSS)", pss(everything), "MiB",
                   pss([*idle, *others]), f"{worker.name}: all of it"),
        ]  # fmt: skip
    return figures
