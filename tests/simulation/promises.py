"""What must be true of a cluster at every moment, and of one without further failures."""

import asyncio

from orchestrator.operations.invariants import TRANSIENT, Code, in_records
from orchestrator.states import AgentState
from orchestrator.store import keys
from tests.simulation.cluster import OVER, Cluster
from tests.simulation.virtual_time import BEGINNING

#: Seconds without failures after which the cluster must be back to normal: the breaker's longest pause (60 s and up
#: to a quarter more), a boot and some rounds.
SETTLED_SECONDS = 90.0
_SERVED = (keys.SESSION_STARTING, keys.SESSION_READY, keys.SESSION_ACTIVE)


class Broken(AssertionError):
    """A promise was not kept."""


#: Limits that a cluster may exceed after it has lost its records.
_ABOVE = frozenset({Code.SESSIONS_ABOVE_LIMIT, Code.USER_ABOVE_LIMIT})
#: Seconds within which an expired deadline must be processed while a node works: two rounds, and a slow network.
LATE_SECONDS = 3.0


class Watch:
    """Checks periodically what must always be true. A check takes no virtual time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._works_since = cluster, float("inf")
        self._broken: Broken | None = None

    async def run(self) -> None:
        """Check four times a second, and the records every two seconds."""
        looks = 0
        while True:
            if self._broken:
                raise self._broken
            self._look()
            if looks % 8 == 0:
                self._records()
            looks += 1
            await asyncio.sleep(0.25)

    def check(self) -> None:
        """Raise the violations of the last check."""
        self._cluster.world.valkey.peek([])
        if self._broken:
            raise self._broken

    def _look(self) -> None:
        world = self._cluster.world
        oldest = int((BEGINNING + world.now - LATE_SECONDS) * 1000) if self._must_be_in_time() else "-inf"
        lost = self._cluster.lost
        world.valkey.peek_soon(
            [*(("SCARD", key) for key in _SERVED), ("ZRANGEBYSCORE", keys.DEADLINES, "-inf", oldest)],
            lambda found: self._judge(sum(found[:-1]), found[-1], lost=lost),
        )

    def _judge(self, served: int, late: list[str], *, lost: bool) -> None:
        most = self._cluster.settings.max_sessions
        if served > most and not lost:
            self._broken = Broken(f"{served} sessions are served at once, MAX_SESSIONS is {most}")
        elif late:
            self._broken = Broken(f"{LATE_SECONDS:g} s ago these waits were over: {', '.join(late)}")

    def _records(self) -> None:
        seen = self._cluster.at_once(self._cluster.oracle.snapshot())
        allowed = TRANSIENT | (_ABOVE if self._cluster.lost else frozenset())
        found = in_records(seen, self._cluster.settings.policy)
        if wrong := [violation.text for violation in found if violation.code not in allowed]:
            raise Broken("; ".join(wrong))

    def _must_be_in_time(self) -> bool:
        """Return whether all expired deadlines must be processed by now, because a node has worked for long enough."""
        world = self._cluster.world
        working = [computer.worker for computer in self._cluster.computers]
        if not any(each.alive and not each.hangs and not each.network.trouble for each in working):
            self._works_since = float("inf")
            return False
        self._works_since = min(self._works_since, world.now)
        return world.now - self._works_since >= LATE_SECONDS


async def when_quiet(cluster: Cluster) -> float:
    """Wait until nothing is left to do, and check everything; returns the seconds that this took."""
    began, found = cluster.world.now, ["nothing was looked at"]
    while found:
        if cluster.world.now - began > SETTLED_SECONDS:
            raise Broken(f"{SETTLED_SECONDS:g} s after the last fault: " + "; ".join(found))
        await asyncio.sleep(0.5)
        found = await cluster.do(_unsettled(cluster))
    took = cluster.world.now - began
    await _answers(cluster)
    return took


async def _unsettled(cluster: Cluster) -> list[str]:
    if waiting := [call.user for call in cluster.calls if call.answered_at is None]:
        return [f"{', '.join(waiting)} wait for an answer"]
    if waiting := sum(
        cluster.world.valkey.peek([("ZCARD", keys.SESSION_QUEUED), *(("SCARD", key) for key in _SERVED)])
    ):
        return [f"{waiting} sessions are live"]
    seen = await cluster.store.snapshot()
    if live := [f"{session.id[8:14]} is {session.status}" for session in seen.sessions.values() if session.live]:
        return live
    found = [violation.text for violation in in_records(seen, cluster.settings.policy)]
    warm, _, target = cluster.pool()
    # A node whose boots have just failed repeatedly gets no boots for a while, and others do not take its share.
    paused = any(cluster.world.valkey.peek([("GET", f"node:{each.name}:failures") for each in cluster.computers]))
    if warm not in range(target if paused else cluster.wanted(target), cluster.wanted(target) + 1):
        found.append(f"{warm} agents are warm, and the target is {target} on {len(cluster.computers)} nodes")
    records = {agent.id: agent for agent in seen.agents.values() if agent.state is not AgentState.EXITED}
    for process in cluster.agents:
        if process.id not in records:
            found.append(f"{process.name} runs, and has no record or has exited")
        elif process.hangs:
            found.append(f"{process.name} stands still")
    found += await _outdated(cluster, {agent.id for agent in records.values() if agent.state is AgentState.READY})
    running = {process.id for process in cluster.agents}
    found += [f"agent {agent_id[8:14]} is {records[agent_id].state}, and no process runs" for agent_id in
              sorted(records.keys() - running)]  # fmt: skip
    for computer in cluster.computers:
        if computer.deaths:
            found.append(f"{computer.name} has deaths that are not acknowledged")
    for name, room in cluster.livekit.rooms.items():
        if room.agents or room.user:
            found.append(f"room {name} is not empty: {list(room.agents)}, user {room.user}")
    return found


async def _outdated(cluster: Cluster, warm: set[str]) -> list[str]:
    """Return the warm agents with replaced code."""
    found = []
    for reload_id, computer, version in cluster.reloads:
        if cluster.lost or (await cluster.store.reload(reload_id)).get(computer.name) != "done":
            continue
        old = [each.name for each in computer.living if each.id in warm and each.version < version]
        found += [f"{name} is warm with the code before version {version}" for name in old]
    return found


async def _answers(cluster: Cluster) -> None:
    """No session is lost: each has ended with a reason."""
    for call in cluster.calls:
        if not call.session_id:
            if not call.refused:
                raise Broken(f"{call.user} was given neither a session nor a reason")
            continue
        session = await cluster.do(cluster.store.session(call.session_id))
        if session is None and cluster.lost:
            continue
        if session is None:
            raise Broken(f"the session of {call.user} has no record")
        if session.status not in OVER or not session.reason:
            raise Broken(f"the session of {call.user} is {session.status}, reason {session.reason!r}")
