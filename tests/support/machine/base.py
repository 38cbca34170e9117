"""The steps that rules consist of: run a script and check its effect, pick an agent, ask for its state."""

import contextlib
import json
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from orchestrator.reasons import Reason, words
from tests.support.model.bench import Bench, Refused
from tests.support.model.dump import Dump
from tests.support.model.previous import policy_of_previous_release, previous_release
from tests.support.model.promises import Model, Process

NODES = ("n1", "n2")
#: Time passes in steps of this, and the deadlines are processed after each.
STEP_MS = 2_500
_LISTS = ("events", "pool:wake", *(f"pool:wake:{node}" for node in NODES))

picks = st.integers(0, 15)
#: Whether the same task or message is delivered a second time.
twice = st.booleans()


class Base(RuleBasedStateMachine):
    """One Redis on which rules run scripts one by one, and the model that checks each of them."""

    url: ClassVar[str]
    mutate: ClassVar[Callable[[str, str], str]] = staticmethod(lambda _, source: source)
    #: The bench of all sequences of a test: the scripts are registered once.
    shared_bench: ClassVar[Bench | None] = None
    #: Whether the previous release's scripts run too.
    deploy: ClassVar[bool] = False

    bench: Bench
    model: Model
    now: Dump  #: the store as the last check saw it
    target: int  #: the size of the pool that is asked for
    checked: bool  #: whether the last script passed every check
    rooms: dict[str, str]  #: of each session

    def __init__(self) -> None:
        super().__init__()
        if type(self).shared_bench is None:
            type(self).shared_bench = Bench(self.url, self.mutate, previous_release() if self.deploy else None)
        assert self.shared_bench
        self.bench = self.shared_bench
        self.count = 0
        self.checked = True
        self.rooms = {}

    def check_store(self) -> None:
        """Check the store after a change that no script made."""
        self.checked = False
        before, self.now = self.now, self.bench.dump()
        self.model.check(before, self.now)
        self.checked = True

    def run_script(
        self,
        name: str,
        *args: str | int,
        keys: Iterable[str] = (),
        legal: bool | None = None,
        unchanged: bool = False,
        twice: bool = False,
        after: Callable[[Any, Dump], None] | None = None,
    ) -> Any:
        """Run a script, check its effect on the store, and return its answer; None if it refused.

        Args:
            legal: whether the script must accept the call. None: either is right.
            unchanged: the script must change nothing.
            twice: run it a second time; this must change nothing, or be refused.
            after: checks the answer and updates the model, before the store is checked.
        """
        self.checked = False
        before = self.now
        try:
            answer = self.bench.call(name, *args, keys=keys)
        except Refused as refusal:
            note(f"  {name}{args} is refused: {refusal}")
            self.now = self.bench.dump()
            changed = before.difference(self.now)
            assert not changed, f"{name} was refused and changed {changed}"
            assert legal is not True, f"{name}{args} is legal and was refused: {refusal}"  # noqa: PT017 - both outcomes are checked
            self.checked = True
            return None
        note(f"  {name}{args} -> {answer}")
        assert legal is not False, f"{name}{args} is illegal and was not refused"
        self.now = self.bench.dump()
        if unchanged:
            changed = before.difference(self.now)
            assert not changed, f"{name}{args} must change nothing and changed {changed}"
        if after:
            after(answer, self.now)
        self.model.check(before, self.now)
        if twice:
            self.deliver_again(name, *args, keys=keys)
        self.checked = True
        return answer

    def deliver_again(self, name: str, *args: str | int, keys: Iterable[str]) -> None:
        """Run a script a second time, as a redelivered task does: only lists and heartbeats may change."""
        first = self.now
        with contextlib.suppress(Refused):
            self.bench.call(name, *args, keys=keys)
        self.now = self.bench.dump()
        ignored = [key for key in self.now.values if key.endswith(":events")]
        changed = first.difference(self.now, [*_LISTS, *ignored])
        for key in [key for key in changed if key.startswith("agent:")]:  # any report counts as a heartbeat
            first_time, second_time = (dict(side or {}) for side in changed[key])
            if all(isinstance(side, dict) for side in (first_time, second_time)) and "lastBeat" in first_time:
                first_time.pop("lastBeat"), second_time.pop("lastBeat", None)
                if first_time == second_time:
                    del changed[key]
        assert not changed, f"a second {name}{args} changed {changed}"
        self.model.check(first, self.now)

    def write_policy(self) -> None:
        """Write the policy, as a node of each running release does."""
        self.bench.redis.hset("policy", mapping=self.model.policy)
        if self.deploy:
            self.bench.redis.hset("policy", mapping=policy_of_previous_release(self.model.policy))

    def start_nodes(self) -> None:
        """Write what every node writes when it starts."""
        self.write_policy()
        self.bench.redis.set("pool:target", self.target)
        for node in NODES:
            self.bench.redis.sadd("nodes", node)
            self.bench.redis.hset(f"node:{node}", mapping={"pid": 1, "host": 1})
        self.check_store()

    def new_id(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def add_process(self, agent: str) -> None:
        self.model.processes.setdefault(agent, Process(agent, "", 1000 + self.count))

    def pick_process(self, pick: int, *states: str) -> Process:
        """Return an agent: one in one of these states if there is any and `pick` is below 14."""
        known = [i for i in self.model.processes if i in self.now.agents]
        wanted = [i for i in known if self.now.agents[i]["state"] in states]
        choice = wanted if wanted and pick < 14 else known or list(self.model.processes)
        return self.model.processes[choice[pick % len(choice)]]

    def session_of(self, process: Process) -> str:
        """Return the session that the store gives an agent."""
        return self.now.agents.get(process.id, {}).get("sessionId", "")

    def owns(self, process: Process) -> bool:
        session = self.session_of(process)
        return bool(session) and self.now.sessions.get(session, {}).get("agentId") == process.id

    def state(self, process: Process) -> str:
        return self.now.agents.get(process.id, {}).get("state", "")

    def read_inbox(self, process: Process) -> None:
        """Read an agent's inbox, as its process does."""
        while (text := self.bench.redis.lpop(f"agent:{process.id}:inbox")) is not None:
            message = json.loads(text)
            if message["type"] == "assign":
                assert process.assignment is None, f"{process.id} was given two sessions"
                process.assignment = message
        self.now = self.bench.dump()

    def report_exit(self, process: Process, cause: Reason, code: str, signal: str, twice: bool = False) -> Any:
        """Report that a process has exited."""
        before, state = self.now, self.state(process)
        process.alive = False
        known = state == "exited" and self.now.agents[process.id].get("exitCode", "") != ""
        if state and process.exit is None and (code or signal):
            process.exit = (code, signal)

        def after(answer: Any, now: Dump) -> None:
            if state in {"", "exited"}:
                assert answer[:2] == ["", ""], f"an exit was counted twice: {answer}"
            if answer[1] == "replaced":
                assert before.warm or before.unbound, "no agent could replace it"

        unchanged = (state == "exited" and known and not (code or signal)) or not state
        return self.run_script(
            "record_exit", process.id, cause.record(), code, signal, "", twice=twice, unchanged=unchanged, after=after
        )

    def stop_processes(self, actions: Iterable[list[str]], stops: bool) -> None:
        """Do what the deadlines ask for: processes are stopped, if `stops`."""
        for what, who, _ in actions:
            if what == "stop" and stops and who in self.model.processes:
                self.report_exit(self.model.processes[who], words("stopped"), "", "15")

    def process_deadlines(self) -> list[list[str]]:
        actions: list[list[str]] = self.run_script("process_deadlines", 100)
        return actions
