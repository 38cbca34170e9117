"""The Lua scripts beside a model: the promises hold for every order of events, and however often each is delivered.

The rules are in `tests/support/machine`, the model is in `tests/support/model`. `HYPOTHESIS_PROFILE=nightly` tries more
sequences. A failure prints its shortest sequence; run it again with `@reproduce_failure` or, outside `ci`, from
Hypothesis's own database.

The profile `ci` tries the same sequences however the tests are run: this file alone, the whole suite, or two processes.
Even when derandomized, Hypothesis would also draw constants from all loaded modules of the project;
`tests/conftest.py` prevents that.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, run_state_machine_as_test

from tests.support.machine.base import NODES, STEP_MS
from tests.support.machine.livekit import LiveKit
from tests.support.machine.losses import Losses
from tests.support.machine.nodes import Nodes
from tests.support.machine.pool import Pool
from tests.support.machine.starts import Starts
from tests.support.model.dump import WAITS
from tests.support.model.promises import Model

pytestmark = pytest.mark.thorough

_COMMON = settings(deadline=None, stateful_step_count=50, suppress_health_check=list(HealthCheck))
PROFILES = {
    "ci": settings(_COMMON, max_examples=150, derandomize=True, database=None),
    # For `make guards` it is enough to find a failure; it need not be shrunk.
    "guard": settings(_COMMON, max_examples=500, database=None, phases=[Phase.generate]),
    "explore": settings(_COMMON, max_examples=2_000),
    "nightly": settings(_COMMON, max_examples=20_000),
}
#: Number of steps after which every session has ended and every agent has exited if nothing else happens.
LAST_STEPS = 60


class Machine(Starts, Pool, Nodes, LiveKit, Losses):
    """Sessions, agents, nodes, LiveKit, time and losses: each rule is something that happens to them."""

    @initialize(
        cap=st.integers(1, 4), line=st.integers(0, 3), each=st.integers(1, 2), size=st.integers(0, 3),
        takeovers=st.integers(0, 2), takeover=st.sampled_from([1, 1, 1, 0]), warm=st.booleans(),
    )  # fmt: skip
    def configure(  # noqa: PLR0917 - Hypothesis passes them by name
        self, cap: int, line: int, each: int, size: int, takeovers: int, takeover: int, warm: bool
    ) -> None:
        policy = {"max_sessions": cap, "queue_limit": line, "sessions_per_user": each, "alert_webhooks": 1}
        self.model = Model(WAITS | policy | {"max_takeovers": takeovers, "takeover": takeover})
        self.target = size
        self.bench.clear()
        self.now = self.bench.dump()
        self.start_nodes()
        if warm:
            self.refill_pool(NODES[0])

    @invariant()
    def consistent(self) -> None:
        """Every script is checked as soon as it has run; here it is only asserted that the last one passed."""
        assert self.checked

    def teardown(self) -> None:
        """Only time passes: every session ends, and every agent exits."""
        if not self.checked or not hasattr(self, "model"):
            return
        note("nothing else happens")
        for _ in range(LAST_STEPS):
            if not self.now.live and not self.remaining_agents():
                break
            self.bench.advance(STEP_MS)
            self.stop_processes(self.process_deadlines(), stops=True)
        assert not self.now.live, f"never ended: {[self.now.sessions[i] for i in self.now.live]}"
        assert not self.remaining_agents(), f"never exited: {[self.now.agents[i] for i in self.remaining_agents()]}"

    def remaining_agents(self) -> set[str]:
        return self.now.agents.keys() - self.now.agents_of("exited")


@pytest.mark.timeout(0)
def test_the_promises_hold_whatever_happens(valkey_url: str) -> None:
    Machine.url, Machine.shared_bench = valkey_url, None
    run_state_machine_as_test(Machine, settings=PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "ci")])


class Deploy(Machine):
    """The same, while the release before runs beside this one on the same records, as during a deploy."""

    shared_bench = None
    deploy = True


@pytest.mark.timeout(0)
def test_two_releases_share_a_redis_for_the_length_of_a_deploy(valkey_url: str) -> None:
    Deploy.url, Deploy.shared_bench = valkey_url, None
    run_state_machine_as_test(Deploy, settings=PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "ci")])
