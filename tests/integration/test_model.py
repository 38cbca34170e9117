"""Compares the Lua scripts with a model: the promises are kept for every sequence of events.

`HYPOTHESIS_PROFILE=nightly` tries longer sequences. A failure prints its shortest sequence; run it again with
`@reproduce_failure` or, outside `ci`, from Hypothesis's own database.

The profile `ci` tries the same sequences however the tests are run: this file alone, the whole suite, or two processes.
Even when derandomized, Hypothesis would also draw constants from all loaded modules of the project;
`tests/conftest.py` prevents that.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.reasons import Reason, because, words
from orchestrator.store.loader import named
from tests.support.model import (
    NODE_FAILURES,
    UNPROVEN,
    WAITS,
    Bench,
    Dump,
    Model,
    Process,
    Refused,
    policy_as_then,
    previous_release,
)

pytestmark = pytest.mark.thorough

_COMMON = settings(deadline=None, stateful_step_count=50, suppress_health_check=list(HealthCheck))
PROFILES = {
    "ci": settings(_COMMON, max_examples=150, derandomize=True, database=None),
    # For `make guards` it is enough to find a failure; it need not be shrunk.
    "guard": settings(_COMMON, max_examples=500, database=None, phases=[Phase.generate]),
    "explore": settings(_COMMON, max_examples=2_000),
    "nightly": settings(_COMMON, max_examples=20_000),
}
NO_BOOT = because("boot_error", detail="no")
NODES = ("n1", "n2")
#: The step in which time passes; the deadlines are processed after each step.
STEP_MS = 2_500
#: Number of steps after which all sessions have ended if nothing else happens.
LAST_STEPS = 60
_LISTS = ("events", "pool:wake", *(f"pool:wake:{node}" for node in NODES))

picks = st.integers(0, 15)
twice = st.booleans()
users = st.sampled_from(["ada", "bob", "cyd", "dee"])
rooms = st.sampled_from(["lobby", "desk"])


class Machine(RuleBasedStateMachine):
    """The actions of users, agents and nodes, the passing of time, and failures, each as a rule."""

    url: ClassVar[str]
    mutate: ClassVar[Callable[[str, str], str]] = staticmethod(lambda _, source: source)
    bench: ClassVar[Bench | None] = None
    deploy: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        if type(self).bench is None:
            type(self).bench = Bench(self.url, self.mutate, previous_release() if self.deploy else None)
        assert self.bench
        self.b = self.bench
        self.count = 0
        self.sound = True
        self.rooms: dict[str, str] = {}

    @initialize(
        cap=st.integers(1, 4), line=st.integers(0, 3), each=st.integers(1, 2), size=st.integers(0, 3),
        takeovers=st.integers(0, 2), takeover=st.sampled_from([1, 1, 1, 0]), warm=st.booleans(),
    )  # fmt: skip
    def configure(  # noqa: PLR0917 - Hypothesis passes them by name
        self, cap: int, line: int, each: int, size: int, takeovers: int, takeover: int, warm: bool
    ) -> None:
        policy = {"max_sessions": cap, "queue_limit": line, "sessions_per_user": each, "alert_webhooks": 1}
        self.m = Model(WAITS | policy | {"max_takeovers": takeovers, "takeover": takeover})
        self.target = size
        self.b.clear()
        self.now = self.b.dump()
        self.set_up()
        if warm:
            self.refill(NODES[0])

    # Helpers of the rules

    def write_policy(self) -> None:
        """Write the policy as a node of each running release does."""
        self.b.redis.hset("policy", mapping=self.m.policy)
        if self.deploy:
            self.b.redis.hset("policy", mapping=policy_as_then(self.m.policy))

    def set_up(self) -> None:
        """Write the same keys as a node at its start."""
        self.write_policy()
        self.b.redis.set("pool:target", self.target)
        for node in NODES:
            self.b.redis.sadd("nodes", node)
            self.b.redis.hset(f"node:{node}", mapping={"pid": 1, "host": 1})
        self.look()

    def look(self) -> None:
        """Check the state after a change that no script made."""
        self.sound = False
        before, self.now = self.now, self.b.dump()
        self.m.check(before, self.now)
        self.sound = True

    def do(
        self,
        name: str,
        *args: str | int,
        keys: Iterable[str] = (),
        legal: bool | None = None,
        same: bool = False,
        twice: bool = False,
        after: Callable[[Any, Dump], None] | None = None,
    ) -> Any:
        """Run a script and check its result: refused (None) if illegal, and no change if `same`.

        Args:
            twice: run it a second time, which must change nothing or be refused.
            after: called with the answer before the checks.
        """
        self.sound = False
        before = self.now
        try:
            answer = self.b.call(name, *args, keys=keys)
        except Refused as refusal:
            note(f"  {name}{args} is refused: {refusal}")
            self.now = self.b.dump()
            changed = before.difference(self.now)
            assert not changed, f"{name} was refused and changed {changed}"
            assert legal is not True, f"{name}{args} is legal and was refused: {refusal}"  # noqa: PT017 - both are checked
            self.sound = True
            return None
        note(f"  {name}{args} -> {answer}")
        assert legal is not False, f"{name}{args} is illegal and was not refused"
        self.now = self.b.dump()
        if same:
            changed = before.difference(self.now)
            assert not changed, f"{name}{args} should change nothing and changed {changed}"
        if after:
            after(answer, self.now)
        self.m.check(before, self.now)
        if twice:
            self.deliver_again(name, *args, keys=keys)
        self.sound = True
        return answer

    def deliver_again(self, name: str, *args: str | int, keys: Iterable[str]) -> None:
        """Run a script again, as when a task is delivered twice: nothing changes but lists and heartbeats."""
        first = self.now
        with contextlib.suppress(Refused):
            self.b.call(name, *args, keys=keys)
        self.now = self.b.dump()
        ignored = [key for key in self.now.values if key.endswith(":events")]
        changed = first.difference(self.now, [*_LISTS, *ignored])
        for key in [key for key in changed if key.startswith("agent:")]:  # any script may record a heartbeat
            ours, theirs = (dict(side or {}) for side in changed[key])
            if all(isinstance(side, dict) for side in (ours, theirs)) and "lastBeat" in ours:
                ours.pop("lastBeat"), theirs.pop("lastBeat", None)
                if ours == theirs:
                    del changed[key]
        assert not changed, f"a second {name}{args} changed {changed}"
        self.m.check(first, self.now)

    def new(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def announced(self, agent: str) -> None:
        self.m.processes.setdefault(agent, Process(agent, "", 1000 + self.count))

    def some(self, pick: int, *states: str) -> Process:
        """Return an agent, usually one in these states."""
        known = [i for i in self.m.processes if i in self.now.agents]
        wanted = [i for i in known if self.now.agents[i]["state"] in states]
        choice = wanted if wanted and pick < 14 else known or list(self.m.processes)
        return self.m.processes[choice[pick % len(choice)]]

    def session_of(self, process: Process) -> str:
        """Return the session that the store has assigned to an agent."""
        return self.now.agents.get(process.id, {}).get("sessionId", "")

    def owns(self, process: Process) -> bool:
        session = self.session_of(process)
        return bool(session) and self.now.sessions.get(session, {}).get("agentId") == process.id

    def state(self, process: Process) -> str:
        return self.now.agents.get(process.id, {}).get("state", "")

    def listen(self, process: Process) -> None:
        """Let an agent read its inbox."""
        while (text := self.b.redis.lpop(f"agent:{process.id}:inbox")) is not None:
            message = json.loads(text)
            if message["type"] == "assign":
                assert process.told is None, f"{process.id} was assigned two sessions"
                process.told = message
        self.now = self.b.dump()

    def exit(self, process: Process, cause: Reason, code: str, signal: str, twice: bool = False) -> Any:
        """Report that a process is gone."""
        before, state = self.now, self.state(process)
        process.alive = False
        known = state == "exited" and self.now.agents[process.id].get("exitCode", "") != ""
        if state and process.exit is None and (code or signal):
            process.exit = (code, signal)

        def after(answer: Any, now: Dump) -> None:
            if state in {"", "exited"}:
                assert answer[:2] == ["", ""], f"a death was counted twice: {answer}"
            if answer[1] == "replaced":
                assert before.warm or before.unbound, "there was no agent for a takeover"

        same = (state == "exited" and known and not (code or signal)) or not state
        return self.do("record_exit", process.id, cause.record(), code, signal, "", twice=twice, same=same, after=after)

    def obey(self, actions: Iterable[list[str]], obedient: bool) -> None:
        """Process the deadlines, unless no node is alive."""
        for what, who, _ in actions:
            if what == "stop" and obedient and who in self.m.processes:
                self.exit(self.m.processes[who], words("stopped"), "", "15")

    def tick(self) -> list[list[str]]:
        actions: list[list[str]] = self.do("process_deadlines", 100)
        return actions

    # Users

    @rule(user=users, meets=st.booleans())
    def talk(self, user: str, meets: bool) -> None:
        """A user presses Talk, and usually the call succeeds."""
        self.begin(user)
        for agent in sorted(self.now.agents_of("assigned")) if meets else []:
            self.meet(self.m.processes[agent])

    @rule(
        user=users,
        key=st.sampled_from(["", "", "", "k1", "k2"]),
        print_=st.sampled_from(["f1", "f1", "f2"]),
        twice=twice,
    )
    def start(self, user: str, key: str, print_: str, twice: bool) -> None:
        self.begin(user, key, print_, twice)

    @rule(user=users, room=rooms, job=st.sampled_from(["j1", "j2", "j3"]), given=st.booleans(), twice=twice)
    def dispatch(self, user: str, room: str, job: str, given: bool, twice: bool) -> None:
        """LiveKit offers a job for a room, once or to two workers, and then assigns it to us, or does not."""
        self.begin(user, f"dispatch:{job}", "f1", twice, room, job)
        if given:
            _, session = self.m.keys.get(f"dispatch:{job}", ("", ""))
            self.b.redis.zrem("deadlines", f"job|{session}")
            self.look()

    def begin(  # noqa: PLR0917 - the parameters of a start
        self, user: str, key: str = "", print_: str = "f1", twice: bool = False, room: str = "", job: str = ""
    ) -> None:
        before, fresh = self.now, self.new("session")
        expected = self.m.start(before, user, key, print_, room)

        def after(answer: list[Any], now: Dump) -> None:
            (
                outcome,
                session,
                *_,
            ) = answer
            agent = answer[4] if len(answer) > 4 else ""
            assert outcome in expected, f"the start's outcome is {outcome}, expected one of {expected}"
            if outcome in {"assigned", "starting", "queued"}:
                assert session not in before.sessions, f"{session} existed before"
                assert now.sessions[session]["userId"] == user
                held = len(before.held(user))
                self.m.queued_at[session] = (int(now.now * 1000), held)
                if key:
                    self.m.keys[key] = (print_, session)
                self.rooms[session] = now.sessions[session]["roomName"]
                assert self.rooms[session] == (room or f"room_{fresh}")
                assert (f"job|{session}" in now.scores("deadlines")) is bool(job)
            else:
                changed = {k for k in before.difference(now) if k not in self.now.members("pool:ready")}
                warm = {f"node:{node}:warm" for node in NODES}  # silent agents leave the pool
                quiet = changed - {"pool:ready", f"user:sessions:{user}"} - warm
                assert not quiet, f"a start with the outcome {outcome} changed {quiet}"
            if outcome == "existing":
                assert session in before.held(user)
                newest = max(int(before.sessions[i]["createdAt"]) for i in before.held(user))
                assert int(before.sessions[session]["createdAt"]) == newest
            if outcome == "occupied":
                assert session in before.live
                assert before.sessions[session]["roomName"] == room
            if outcome in {"repeated", "reused"}:
                assert session == self.m.keys[key][1]
            if outcome == "assigned":
                assert agent in before.warm
            if outcome == "starting":
                self.announced(session)

        self.say_capacity(expected, key)
        asked = named(
            userId=user, waitingId=fresh, roomName=room or f"room_{fresh}", payload='{"type":"assign","token":"t"}',
            idempotencyKey=key, fingerprint=print_, jobId=job, dispatchId=job and f"d-{job}", jobNode=job and "n1",
        )  # fmt: skip
        self.do("assign", *asked, after=after, twice=twice and (bool(key) or self.m.policy["sessions_per_user"] == 1))

    def say_capacity(self, expected: set[str], key: str) -> None:
        """The load that we report to LiveKit is consistent with our answer to a job."""
        if key.startswith("dispatch:") and expected & {"assigned", "starting", "full", "broken", "draining", "livekit"}:
            silent = not self.now.warm and self.now.members("pool:ready")
            draining = "n1" in self.now.members("nodes:draining")
            _, _, refusal, *_ = self.do("capacity", "n1", same=True)
            served = expected & {"assigned", "starting"}
            assert silent or refusal == (
                "draining" if draining and "livekit" not in expected else "" if served else next(iter(expected))
            ), f"the load is {refusal}, but a job would be {expected}"

    @precondition(lambda self: self.now.sessions)
    @rule(pick=picks, status=st.sampled_from(["ended", "ended", "error"]), twice=twice)
    def stop(self, pick: int, status: str, twice: bool) -> None:
        ids = sorted(self.now.live) if self.now.live and pick < 13 else sorted(self.now.sessions)
        session = ids[pick % len(ids)]
        alive = session in self.now.live
        answer = self.do("end_session", session, status, words("asked for").record(), twice=twice, same=not alive)
        assert bool(answer[0]) is alive
        assert session not in self.now.live

    # Agents

    @precondition(lambda self: self.m.processes)
    @rule(pick=picks, node=st.sampled_from(NODES), twice=twice)
    def claim(self, pick: int, node: str, twice: bool) -> None:
        process = self.some(pick, "starting")
        fields, broken = self.now.agents.get(process.id, {}), self.now.failures >= 5
        if fields.get("state") != "starting":
            expected = "gone"
        elif fields.get("spawnedAt") or fields.get("node", node) != node:
            expected = "taken"
        else:
            expected = "gone" if broken and process.id.startswith("session_") else "claimed"

        def after(answer: list[str], _: Dump) -> None:
            assert answer[0] == expected, f"the claim's result is {answer}, expected {expected}"
            if answer[0] == "claimed":
                process.node = node

        self.do(
            "claim_agent", process.id, node, 0, keys=[f"agent:{process.id}"], after=after,
            same=expected == "taken" or fields.get("state") != "starting", twice=twice,
        )  # fmt: skip
        if process.node:
            keys = [f"agent:{process.id}", f"agent:{process.id}:pid"]
            self.do("record_spawn", process.pid, 7, "boot", process.node, process.id, keys=keys,
                    twice=twice, same=not self.state(process))  # fmt: skip

    @precondition(lambda self: self.m.processes)
    @rule(pick=picks, twice=twice)
    def ready(self, pick: int, twice: bool) -> None:
        self.say_ready(self.some(pick, "starting"), twice)

    def say_ready(self, process: Process, twice: bool = False) -> None:
        before, legal = self.now, self.state(process) == "starting"

        def after(answer: str | list[str], now: Dump) -> None:
            # The previous release answered with only the session.
            session, refused = (answer, "") if isinstance(answer, str) else answer
            assert not refused, f"{process.id} is the process that the host started, but was refused: {refused}"
            process.warm = True
            if session:
                assert session in before.unbound, f"{process.id} was assigned {session}, which was not waiting"
                assert now.agents[process.id]["state"] == "assigned"
            assert now.failures == 0, "a successful boot closes the breaker"

        self.do("agent_ready", process.id, process.pid, legal=legal, twice=twice, after=after)

    @precondition(lambda self: self.now.agents_of("starting"))
    @rule(pick=picks, node=st.sampled_from(NODES))
    def boot(self, pick: int, node: str) -> None:
        """All steps of a successful boot."""
        process = self.some(pick, "starting")
        if self.state(process) == "starting":
            self.claim_for(process, node)
            if self.state(process) == "starting":
                self.say_ready(process)

    def claim_for(self, process: Process, node: str) -> None:
        if not process.node:
            process.node = self.now.agents[process.id].get("node", node)
            if self.do("claim_agent", process.id, process.node, 0, keys=[f"agent:{process.id}"])[0] != "claimed":
                process.node = ""

    @precondition(lambda self: self.now.agents_of("starting"))
    @rule(
        pick=picks, cause=st.sampled_from([NO_BOOT, NO_BOOT, because("not_spawned", detail="host away")]),
        more=st.sampled_from([0, 0, 0, 1, 5]), twice=twice,
    )  # fmt: skip
    def boot_fails(self, pick: int, cause: Reason, more: int, twice: bool) -> None:
        """A boot fails, and perhaps its retries too."""
        process = self.some(pick, "starting")
        if self.state(process) == "starting":
            self.exit(process, cause, "1", "", twice)
        for _ in range(more):
            self.b.advance(STEP_MS)
            self.reserve_some(4)
            for agent in sorted(self.now.agents_of("starting"))[:1]:
                self.exit(self.m.processes[agent], cause, "1", "")

    @precondition(lambda self: self.now.unbound)
    @rule(pick=picks)
    def retry_spawn(self, pick: int) -> None:
        """The spawn task retries with another agent."""
        waiting = sorted(self.now.unbound) if pick < 13 else sorted(self.now.sessions)
        session, agent, before = waiting[pick % len(waiting)], self.new("prewarm"), self.now

        def after(answer: str, _: Dump) -> None:
            if session not in before.unbound:
                assert answer == "over"
            else:
                assert answer == ("open" if before.failures >= 5 else "announced")
            if answer == "announced":
                self.announced(agent)

        self.do("announce_replacement", session, agent, after=after)

    @precondition(lambda self: self.m.processes)
    @rule(pick=picks)
    def beat(self, pick: int) -> None:
        self.heartbeat(self.some(pick, "ready", "assigned", "running"))

    def heartbeat(self, process: Process) -> None:
        """A heartbeat; an agent whose record or session is lost registers again."""
        self.listen(process)
        lost = process.id not in self.now.agents or (
            self.session_of(process) in self.m.lost_sessions and self.state(process) in {"assigned", "running"}
        )

        def after(state: str, now: Dump) -> None:
            assert state == ("" if lost else now.agents[process.id]["state"])
            if state == "ready":
                assert process.id in now.members("pool:ready"), "a warm agent with heartbeats is in the pool"

        self.do("agent_beat", process.id, keys=[f"agent:{process.id}", "pool:ready"], after=after)
        if lost and process.alive and process.warm:
            self.register(process)

    def register(self, process: Process) -> None:
        told, before = process.told, self.now
        words = ""
        if told:
            payload = json.dumps({"type": "assign", "token": "t"})
            user = self.m.taken.get(process.id, "ada")
            room = self.rooms[told["sessionId"]]
            words = json.dumps({
                "id": told["sessionId"], "userId": user, "roomName": room, "createdAt": told["createdAt"],
                "activeAt": process.active_at, "payload": payload, "conversation": ["{}"],
            })  # fmt: skip

        def after(state: str, now: Dump) -> None:
            known = process.id in now.agents
            assert state == (now.agents[process.id]["state"] if known and state else state)
            if known:
                self.m.lost_agents.discard(process.id)
            if not told:
                assert state, "a warm agent must be accepted"
                return
            session = told["sessionId"]
            if session not in before.sessions:
                self.m.lost_sessions.discard(session)
                self.m.late.add(now.sessions[session]["userId"])
                self.m.returned.add(now.sessions[session]["roomName"])
                self.m.there.pop(session, None)
                self.m.queued_at.setdefault(session, (int(now.now * 1000), 0))
                assert now.sessions[session]["status"] == ("active" if process.active_at else "ready")

        if (
            self.do("agent_register", process.id, process.pid, process.node or process.home or "n1", words, after=after)
            == ""
        ):
            self.exit(process, because("finished", exitCode=0), "0", "")

    @precondition(lambda self: self.now.agents_of("assigned", "running"))
    @rule(pick=picks, twice=twice)
    def joined(self, pick: int, twice: bool) -> None:
        self.say_joined(self.some(pick, "assigned"), twice)

    def say_joined(self, process: Process, twice: bool = False) -> None:
        self.listen(process)
        own, state = self.owns(process), self.state(process)
        legal = own and state in {"assigned", "running"}

        def after(session: str, now: Dump) -> None:
            assert session == self.session_of(process)
            waits = now.scores("deadlines")
            assert f"join|{session}" not in waits, f"{process.id} is in the room, but {session} still waits for it"

        self.do("agent_joined", process.id, legal=legal, twice=twice, after=after)

    @precondition(lambda self: self.now.agents_of("assigned", "running"))
    @rule(pick=picks, there=st.booleans(), twice=twice)
    def presence(self, pick: int, there: bool, twice: bool) -> None:
        self.say_presence(self.some(pick, "running"), there, twice)

    def say_presence(self, process: Process, there: bool, twice: bool = False) -> None:
        session = self.session_of(process)
        fields = self.now.sessions.get(session, {})
        own = self.owns(process)
        live = fields.get("status") in {"ready", "active"}

        def after(_: int, now: Dump) -> None:
            if own and live:
                self.m.there[session] = there
            if there and own and live:
                assert now.sessions[session]["status"] == "active"
                process.active_at = process.active_at or int(now.sessions[session]["activeAt"])

        legal = own and (live or not there)
        lost = int(not there and twice)
        self.do("agent_presence", session, process.id, int(there), lost, legal=legal, twice=twice, after=after,
                same=own and not live)  # fmt: skip

    @precondition(lambda self: self.now.sessions)
    @rule(
        pick=picks, event=st.sampled_from("participant_joined participant_left room_finished track_published".split()),
        number=st.integers(0, 3), ago=st.sampled_from([0, 0, 0, 601]), dropped=st.sampled_from([0, 0, 1]), twice=twice,
    )  # fmt: skip
    def webhook(  # noqa: PLR0917 - Hypothesis passes them by name
        self, pick: int, event: str, number: int, ago: int, dropped: int, twice: bool
    ) -> None:
        """LiveKit reports events late and repeatedly: no state changes."""
        sessions = sorted(self.now.live) if self.now.live and pick < 10 else sorted(self.now.sessions)
        room = self.now.sessions[sessions[pick % len(sessions)]]["roomName"] if pick < 14 else "theirs"
        before, at = self.now, int(self.now.now / 1000) - ago

        def after(result: str, now: Dump) -> None:
            known = f"webhook:EV_{number}" in before.values
            ours = before.values.get(f"session:room:{room}") in before.sessions
            expected = "stale" if ago else "replayed" if known else "recorded" if ours else "foreign"
            assert result == expected, f"the webhook's result is {result}, expected {expected}"
            changed = before.difference(now, ["deadlines", "pool:stats", f"webhook:EV_{number}"])
            assert not changed, f"the webhook changed {changed}"

        self.do("webhook", f"EV_{number}", event, room, at, dropped, after=after)
        if twice:
            assert self.do("webhook", f"EV_{number}", event, room, at, dropped) in {"replayed", "stale"}

    @precondition(lambda self: self.now.sessions)
    @rule(
        pick=picks, room=st.booleans(), user=st.sampled_from(["there", "gone", "coming"]), agent=st.booleans(),
        looks=st.integers(1, 6),
    )  # fmt: skip
    def livekit_says(self, pick: int, room: bool, user: str, agent: bool, looks: int) -> None:
        """Nodes compare a room with its session several times in a row, and LiveKit's answer is always the same."""
        sessions = sorted(self.now.live) if self.now.live and pick < 13 else sorted(self.now.sessions)
        session = sessions[pick % len(sessions)]
        for _ in range(looks):
            if session not in self.now.sessions:
                return
            self.look_at(session, room, user if room else "gone", agent and room)
            self.b.advance(2_100)
            for process in self.m.processes.values():
                if process.alive and self.state(process) in {"ready", "assigned", "running"}:
                    self.heartbeat(process)
            self.obey(self.tick(), obedient=True)

    def look_at(self, session: str, room: bool, user: str, agent: bool) -> None:
        before, fields = self.now, self.now.sessions[session]
        doubt, bound = fields.get("doubt", ""), fields.get("agentId", "")

        def after(result: str, now: Dump) -> None:
            status = now.sessions[session]["status"]
            if result not in {"user_gone", "user_there", "agent_lost"}:
                changed = before.difference(now, ["deadlines", "pool:stats", f"session:{session}"])
                assert not changed, f"a check with the result {result} changed {changed}"
                old, new = (dict(dump.sessions[session], doubt="") for dump in (before, now))
                assert old == new, f"a check with the result {result} changed the session"
                assert status == fields["status"]
                return
            assert doubt, f"a single check was enough: {result}"
            assert fields["status"] in {"ready", "active"}
            assert before.agents[bound]["state"] == "running"
            if result == "agent_lost":
                assert not agent
                assert user == "there"
                assert now.agents[bound]["state"] == "stopping"
            else:
                assert (user == "there") is (result == "user_there")
                assert status == "active", "the absence of a user does not end a session immediately"
                self.m.there[session] = user == "there"

        self.do("reconcile_room", session, bound, int(room), user, int(agent), after=after)

    @precondition(lambda self: self.now.agents_of("assigned"))
    @rule(pick=picks)
    def call(self, pick: int) -> None:
        """The agent and the user join."""
        self.meet(self.some(pick, "assigned"))

    def meet(self, process: Process) -> None:
        if self.state(process) == "assigned" and self.owns(process):
            self.say_joined(process)
            self.say_presence(process, there=True)

    @precondition(lambda self: self.now.sessions and self.m.processes)
    @rule(pick=picks, other=picks)
    def turn(self, pick: int, other: int) -> None:
        sessions = sorted(self.now.sessions)
        session, process = sessions[other % len(sessions)], self.some(pick, "running")
        fields = self.now.sessions[session]
        own = fields.get("agentId") == process.id and session in self.now.live
        key = f"session:{session}:conversation"
        answer = self.do("agent_turn", session, process.id, '{"text":"x"}', 2, keys=[key], same=not own)
        assert answer == int(own)
        assert len(self.now.values.get(key, [])) <= 2

    @precondition(lambda self: self.m.processes)
    @rule(pick=picks, told_to_go=st.booleans(), twice=twice)
    def fails(self, pick: int, told_to_go: bool, twice: bool) -> None:
        """An agent reports that it cannot continue, or that its process must stop."""
        process = self.some(pick, "assigned", "running")
        same = self.state(process) not in {"assigned", "running"}
        session = self.session_of(process) if not same else ""
        self.do(
            "agent_stopped" if told_to_go else "agent_failed",
            process.id,
            because("room_lost").record(),
            same=same,
            twice=twice,
        )
        if told_to_go:
            # The session's record may be lost (`lose`): then it has no status.
            status = self.now.sessions.get(session, {}).get("status")
            assert status != "error", "an agent that stops has not failed"

    @precondition(lambda self: self.m.processes)
    @rule(pick=picks, status=st.sampled_from(["ended", "error"]), twice=twice)
    def hangs_up(self, pick: int, status: str, twice: bool) -> None:
        """An agent ends its session; another session's agent cannot."""
        process = self.some(pick, "running", "assigned")
        session = process.told["sessionId"] if process.told else self.session_of(process)
        if session not in self.now.sessions:
            return
        own = self.now.sessions.get(session, {}).get("agentId") == process.id and session in self.now.live
        self.do("agent_ended", session, status, words("hung up").record(), process.id, same=not own, twice=twice)
        assert not own or session not in self.now.live

    @precondition(lambda self: self.m.processes)
    @rule(
        pick=picks, state=st.sampled_from(["starting", "ready", "assigned", "running", "stopping", "exited"]),
        seen=st.sampled_from([("", ""), ("1", ""), ("", "9")]), twice=twice,
    )  # fmt: skip
    def exits(self, pick: int, state: str, seen: tuple[str, str], twice: bool) -> None:
        process = self.some(pick, state)
        if self.state(process) == "exited" and process.exit is not None:
            seen = process.exit if pick % 2 else ("", "")  # all observers report the same cause of a death
        self.exit(process, because("process_gone"), *seen, twice)

    @precondition(lambda self: self.m.processes)
    @rule(pick=picks, state=st.sampled_from(["starting", "ready", "assigned", "running"]), twice=twice)
    def unfit(self, pick: int, state: str, twice: bool) -> None:
        process = self.some(pick, state)
        before = self.state(process)
        over = before in {"", "stopping", "exited"}
        answer = self.do("retire_unfit", process.id, because("zombie").record(), same=over, twice=twice)
        assert answer == ("" if over else before)

    # The pool

    @rule(node=st.sampled_from(NODES))
    def refill(self, node: str) -> None:
        """The pool is filled to its target; every boot succeeds."""
        self.reserve_some(8, node)
        for agent in sorted(self.now.agents_of("starting")):
            self.claim_for(self.m.processes[agent], node)
            if self.state(self.m.processes[agent]) == "starting":
                self.say_ready(self.m.processes[agent])

    @rule(count=st.integers(1, 8), node=st.sampled_from(NODES))
    def reserve(self, count: int, node: str) -> None:
        self.reserve_some(count, node)

    def builders(self, now: Dump, asking: str = "") -> list[str]:
        """The nodes that can boot agents. The node that reserves counts by its own report. Nodes with failing agents
        are left out while those of other nodes boot."""
        able = sorted(n for n in now.in_service if n == asking or f"node:{n}:short" not in now.values)
        return [n for n in able if now.boot_failures(n) < NODE_FAILURES] or able

    def warm_target(self, nodes: list[str]) -> int:
        """Each node that can boot agents keeps at least one."""
        return max(self.target, len(nodes)) if self.target else 0

    def lacks(self, before: Dump, nodes: list[str]) -> dict[str, int]:
        """The missing agents of each of these nodes; the others keep their agents, up to their share."""
        target, found = self.warm_target(nodes), {}
        keepers = sorted(before.in_service - set(nodes))
        fair = target // max(1, len(nodes) + len(keepers))
        target -= sum(min(fair, len(before.members(f"node:{node}:warm"))) for node in keepers)
        for at, node in enumerate(nodes):
            mine = {i for i, fields in before.agents.items() if fields.get("node") == node}
            counts = [len(mine & before.members(f"pool:{name}")) for name in ("ready", "starting", "stale")]
            found[node] = target // len(nodes) + (at < target % len(nodes)) - counts[0] - counts[1] + counts[2]
        return found

    def reserve_some(self, count: int, node: str = NODES[0]) -> None:
        ids, before = [self.new("prewarm") for _ in range(count)], self.now
        stale = len(before.members("pool:stale"))
        booting = len(before.agents_of("starting"))
        warm, unbound = len(before.members("pool:ready")), len(before.scores("session:unbound"))
        nodes = self.builders(before, node)
        lacks = self.lacks(before, nodes)
        missing = 0
        if node in lacks:
            total = self.warm_target(nodes) + unbound - warm - booting + stale
            missing = max(0, lacks.pop(node), total - sum(lack for lack in lacks.values() if lack > 0))

        def after(found: list[str], now: Dump) -> None:
            for agent in found:
                self.announced(agent)
                self.m.processes[agent].home = node
            assert len(found) <= min(missing, count), f"{len(found)} are announced, but {missing} are missing"
            if before.failures:
                assert len(found) + booting * bool(found) <= 1, "boots fail, but more than one is tried at a time"
            elif before.boot_failures(node):
                assert len(found) <= 1, "boots fail there, but more than one is tried at a time"
            elif "pool:proven" not in before.values:
                assert not found or len(found) + booting <= UNPROVEN, "no boot has succeeded yet, but many are tried"
            else:
                assert len(found) == min(missing, count), f"{len(found)} are announced, but {missing} are missing"

        self.do("reserve_agents", node, "", *ids, after=after)

    @rule(size=st.integers(0, 3), acts=st.booleans())
    def resize(self, size: int, acts: bool) -> None:
        self.target = size
        self.b.redis.set("pool:target", size)
        self.look()
        if acts:
            before = self.now.members("pool:ready") & self.now.agents_of("ready")
            stopped = self.do("retire_surplus", legal=True)
            most = self.warm_target(self.builders(self.now))
            assert len(before - set(stopped)) == min(len(before), most)
            assert set(stopped) <= before

    @rule(what=st.sampled_from(["memory", "memory", "low", "up", "up", "down"]))
    def weather(self, what: str) -> None:
        """Memory becomes short or free again, and LiveKit goes down or up."""
        match what:
            case "memory" | "low":
                self.m.slack = True
                for node in NODES:  # while one node has memory, no session waits for memory of the other
                    self.do("report_memory", node, "3 MiB are free" if what == "low" else "", 3600)
                self.m.slack = False
                self.do("admit_waiting")
            case "up":
                self.b.redis.delete("livekit:down")
                self.look()
            case "down":
                self.b.redis.set("livekit:down", "no answer")
                self.look()

    @rule(
        what=st.sampled_from(["reload", "drain", "undrain", "undrain"]), node=st.sampled_from(NODES),
        window=st.sampled_from([0, 2_000, 6_000]), twice=twice,
    )  # fmt: skip
    def node(self, what: str, node: str, window: int, twice: bool) -> None:
        match what:
            case "reload":
                ids = [i for i, process in self.m.processes.items() if process.node == node]
                self.do("mark_stale", *ids, twice=twice)
                assert {i for i in self.now.agents_of("ready", "starting") if i in ids} <= self.now.members(
                    "pool:stale"
                )
            case "drain":
                self.do("drain_node", node, window, twice=twice)
                left = self.now.unbound | self.now.queued
                assert self.now.in_service or not left, "sessions wait, but no node can serve them"
            case "undrain":
                self.do("undrain_node", node, twice=twice)
                told = {i for i in self.now.live if f"goodbye|{i}" in self.now.scores("deadlines")}
                ends = {i for i in told if self.now.sessions[i].get("node") == node}
                assert not ends, f"{ends} end because of a drain that was cancelled"

    # Time

    @rule(steps=st.integers(1, 4), beats=st.booleans(), obedient=st.booleans())
    def time_passes(self, steps: int, beats: bool, obedient: bool) -> None:
        for _ in range(steps):
            self.b.advance(STEP_MS)
            if beats:
                for agent in sorted(self.now.agents_of("ready", "assigned", "running")):
                    process = self.m.processes[agent]
                    if process.alive:
                        self.heartbeat(process)
            self.obey(self.tick(), obedient)

    @rule(ms=st.sampled_from([1, 500, 2_900, 10_000, 120_000]), then=st.booleans())
    def nobody_looks(self, ms: int, then: bool) -> None:
        """Redis or all nodes are down for a while."""
        self.b.advance(ms)
        self.look()
        if then:
            self.obey(self.tick(), obedient=True)

    # Loss

    @precondition(lambda self: self.now.agents_of("ready", "assigned", "running"))
    @rule(pick=picks, what=st.sampled_from(["agent", "session"]), register=st.booleans())
    def lose(self, pick: int, what: str, register: bool) -> None:
        """One record is lost; its agent detects the loss with its next heartbeat."""
        process = self.some(pick, "ready", "assigned", "running")
        if not process.alive or self.state(process) not in {"ready", "assigned", "running"}:
            return
        self.listen(process)
        session = self.session_of(process)
        if what == "agent":
            self.m.lost_agents.add(process.id)
            self.b.redis.delete(f"agent:{process.id}")
        elif session in self.now.live:
            self.m.lost_sessions.add(session)
            self.b.redis.delete(f"session:{session}")
        self.m.loss = True
        self.look()
        if register:
            self.heartbeat(process)

    @precondition(lambda self: self.now.sessions or self.m.lost_sessions)
    @rule(pick=picks, lost=st.booleans())
    def forget(self, pick: int, lost: bool) -> None:
        """A lost session is noticed; its agent may have registered it again since."""
        sessions = sorted(self.m.lost_sessions if lost and self.m.lost_sessions else self.now.sessions)
        if sessions:
            session = sessions[pick % len(sessions)]
            fields = self.now.sessions.get(session)
            if not fields or fields.get("agentId") in {None, *self.now.agents}:
                self.do("end_lost_session", session, words("lost").record(), same=bool(fields))

    @precondition(lambda self: self.now.agents)
    @rule(register_first=st.booleans())
    def lose_everything(self, register_first: bool) -> None:
        """Redis restarts empty: a node writes the policy, living agents register, and starts are answered again."""
        warm = [process for process in self.m.processes.values() if process.alive and process.warm]
        alive = [process for process in warm if self.state(process) not in {"", "exited"}]
        for process in alive:
            self.listen(process)
        taken, processes, late = self.m.taken, self.m.processes, self.m.late
        self.m = Model(self.m.policy, taken=taken, processes=processes, late=late, loss=True)
        for process in processes.values():
            process.exit = None
            process.alive = process in alive
        self.b.clear(anew=False)
        self.now = self.b.dump()
        if register_first:
            self.write_policy()
            self.look()
            for process in alive:
                self.heartbeat(process)
        self.set_up()

    @precondition(lambda self: self.now.of("ended", "error") or self.now.agents_of("exited"))
    @rule()
    def records_expire(self) -> None:
        """Records of ended sessions and exited agents expire."""
        old = [key for key in sorted(self.now.kept) if key.startswith(("session:", "agent:", "idempotency:"))]
        over = self.now.of("ended", "error")
        for key in old:
            self.b.redis.delete(key)
        for i in over:
            self.m.forgotten.add(i)
            self.m.states.pop(f"session {i}", None)
            self.m.there.pop(i, None)  # the next session with this id has another user
            self.b.redis.zrem("deadlines", f"close|{i}")  # its room was deleted long before
        self.m.keys.clear()
        self.m.loss = True
        self.look()

    # The end

    @invariant()
    def consistent(self) -> None:
        """Does nothing: each rule checks after each script."""
        assert self.sound

    def teardown(self) -> None:
        if not self.sound or not hasattr(self, "m"):
            return
        note("nothing happens any more")
        for _ in range(LAST_STEPS):
            if not self.now.live and not self.left():
                break
            self.b.advance(STEP_MS)
            self.obey(self.tick(), obedient=True)
        assert not self.now.live, f"sessions that never end: {[self.now.sessions[i] for i in self.now.live]}"
        assert not self.left(), f"agents that never exit: {[self.now.agents[i] for i in self.left()]}"

    def left(self) -> set[str]:
        return self.now.agents.keys() - self.now.agents_of("exited")


@pytest.mark.timeout(0)
def test_the_promises_hold_whatever_happens(valkey_url: str) -> None:
    Machine.url, Machine.bench = valkey_url, None
    run_state_machine_as_test(Machine, settings=PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "ci")])


class Deploy(Machine):
    """The same while the previous release runs on the same records, as during a deploy."""

    bench = None
    deploy = True


@pytest.mark.timeout(0)
def test_two_releases_share_a_redis_for_the_length_of_a_deploy(valkey_url: str) -> None:
    Deploy.url, Deploy.bench = valkey_url, None
    run_state_machine_as_test(Deploy, settings=PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "ci")])
