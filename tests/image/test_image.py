"""The image: what is in it, who runs in it, how it is called, how it stops and how it fails."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.image.engine import RUN_DIR, Container, Engine
from tests.support.node import REPOSITORY
from tests.support.processes import poll
from tests.support.sampler import Sampler
from tests.support.spoken import A_TIME, words

BIN = Path(sys.executable).parent
GIGABYTE = ("--memory", "1g", "--memory-swap", "1g")
#: Of each process in the container: pid, parent, user, state and command.
PROCESSES = """
import json, psutil
print(json.dumps([[p.pid, p.ppid(), p.uids().real, p.status(), p.cmdline()] for p in psutil.process_iter()]))
"""


def test_the_dockerfile_is_lint_free() -> None:
    done = subprocess.run(
        [str(BIN / "hadolint"), str(REPOSITORY / "Dockerfile.orchestrator")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_outdated_pins_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Here, where the network is needed anyway. Whatever it lists, it is to be read: nothing fails for it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.outdated"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+ behind:\n|Nothing is behind\.\n", done.stdout)
    with capsys.disabled():
        print(f"\n{done.stdout}")  # noqa: T201


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image")


@pytest.fixture
def container(image: Engine, settings: dict[str, str], valkey_url: str) -> Iterator[Container]:
    """A container with a gigabyte of memory and everything else by default, on an empty Valkey."""
    with redis.Redis.from_url(valkey_url) as raw:
        raw.flushall()
    with Container(image, "node", *GIGABYTE, **settings) as found:
        yield found.start().up()


def call(container: Container, *sentences: str, user: str = "ada") -> dict[str, object]:
    """Talk with an agent, as a user does."""
    done = subprocess.run(
        [str(BIN / "orchestrator"), "call", "--json", "--user", user, "--url", container.url,
         *(part for sentence in sentences for part in ("--say", sentence))],
        env={"PATH": os.environ["PATH"], "API_KEYS": container.settings["API_KEYS"]},
        cwd="/", capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + container.logs()
    found: dict[str, object] = json.loads(done.stdout)
    return found


def api(container: Container, method: str, path: str, body: object = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {container.settings['API_KEYS']}"}
    return httpx.request(method, container.url + path, json=body, headers=headers, timeout=10)


def operator(container: Container, path: str) -> dict[str, Any]:
    """Return the operator's answer: a caller's says only that something is wrong."""
    token = json.loads(container.run("cat", f"{RUN_DIR}/secrets.json"))["ADMIN_TOKEN"]
    answer = httpx.get(container.url + path, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    found: dict[str, Any] = answer.json()
    return found


def health(container: Container) -> dict[str, Any]:
    return operator(container, "/api/health")


def test_a_call_works_in_one_gib_read_only_without_root_and_logs_no_secret(
    container: Container,
) -> None:
    told = health(container)
    assert told["status"] == "ok", told["warnings"]
    assert told["sessions"]["pool"] == told["sessions"]["target"] == 3
    made = call(container, "what time is it", "goodbye")
    assert made["prewarmed"] is True
    assert re.search(A_TIME, words(str(made["turns"]))), "as the recogniser hears it"

    processes = container.python(PROCESSES)
    assert {user for _, _, user, _, _ in processes} == {10001}
    assert "orchestrator.node.supervise" in processes[0][4]
    assert processes[0][0] == 1
    assert "Read-only file system" in container.run("touch", "/app/x", check=False)
    assert container.run("sh", "-c", "command -v cc gcc make go livekit-server; true") == ""
    assert container.run("python", "-I", "/app/orchestrator/api/probe.py", "/readyz").startswith("200 ")
    assert container.engine("healthcheck", "run", container.name).returncode == 0
    assert container.run("orchestrator", "nodes").startswith("node "), "it is on PATH there, as the docs say"
    assert container.state()["OOMKilled"] is False

    logs = container.logs()
    for program in ("api: ", "worker: ", "beat: ", "host: "):
        assert f"\n{program}" in logs, "the programs' logs are the container's"
    secrets = json.loads(container.run("cat", f"{RUN_DIR}/secrets.json"))
    for secret in (*secrets.values(), container.settings["LIVEKIT_API_SECRET"], container.settings["API_KEYS"]):
        assert secret not in logs
    assert "lower MAX_SESSIONS to 2" in logs, "what will not fit is said"


def test_two_concurrent_calls_fit_into_a_gigabyte(container: Container) -> None:
    """As the node itself prints it at its start."""
    sentence = "repeat after me, the quick brown fox jumps over the lazy dog and then it goes home to sleep all day"
    with Sampler(container.resident, 0.2) as memory, ThreadPoolExecutor(2) as threads:
        made = list(threads.map(lambda user: call(container, sentence, sentence, user=user), ("ada", "bob")))
    assert all("sleep" in str(each["turns"]) or "fox" in str(each["turns"]) for each in made), made
    state = container.state()
    assert (state["Running"], state["OOMKilled"]) == (True, False)
    found = [operator(container, f"/api/session/{each['sessionId']}") for each in made]
    print(f"{min(memory.values):.0f} MiB at first, {max(memory.values):.0f} MiB at most")  # noqa: T201
    assert [each["takeovers"] for each in found] == [0, 0], [each.get("cause") for each in found]


def test_dead_processes_leave_no_zombies_in_the_container(container: Container) -> None:
    def pids(part: str) -> dict[int, int]:
        return {pid: parent for pid, parent, _, _, words in container.python(PROCESSES) if part in words}

    host = min(pids("orchestrator.host.host"))
    agents = set(pids("orchestrator.host.host")) - {host}
    assert len(agents) == 3
    # Without their host the agents are orphans: PID 1 has to reap them.
    container.run("python", "-c", f"import os; os.kill({host}, 9)")
    poll(lambda: all(pids("orchestrator.host.host").get(agent) == 1 for agent in agents), "they are PID 1's", every=0.2)
    victim = min(agents)
    container.run("python", "-c", f"import os; os.kill({victim}, 9)")
    poll(lambda: victim not in [row[0] for row in container.python(PROCESSES)], "it is reaped", every=0.2)
    poll(lambda: api(container, "GET", "/api/health").json()["sessions"]["pool"] == 3, "the pool is full", every=0.2)
    assert [row for row in container.python(PROCESSES) if row[3] == "zombie"] == []


def test_a_call_is_drained_and_the_exit_code_is_0(container: Container) -> None:
    started = api(container, "POST", "/api/session/start", {"userId": "ada"}).json()
    path = f"/api/session/{started['sessionId']}"
    container.signal("TERM")
    poll(lambda: httpx.get(container.url + "/readyz", timeout=5).status_code == 503, "it is not ready", every=0.1)
    assert api(container, "POST", "/api/session/start", {"userId": "grace"}).status_code == 503
    assert api(container, "GET", path).json()["status"] in {"ready", "active"}
    assert container.state()["Running"]
    api(container, "POST", "/api/session/stop", {"sessionId": started["sessionId"]})
    assert container.ends() == 0
    assert "Draining: 1 call has up to 30 s." in container.logs()


def _catches(status: Path, number: signal.Signals) -> bool:
    caught = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_container_can_be_stopped_during_its_start(image: Engine, settings: dict[str, str]) -> None:
    with Container(image, "stopped", **settings) as container:
        container.start()
        status = Path(f"/proc/{container.state()['Pid']}/status")
        poll(lambda: _catches(status, signal.SIGTERM), "its Python has begun", 10, every=0.005)
        image("stop", "--time", "30", container.name)
        assert container.state()["ExitCode"] in {0, 143}, "not killed"


def test_a_program_that_cannot_run_ends_the_container_with_an_error(image: Engine, settings: dict[str, str]) -> None:
    del settings["REDIS_URL"]  # so the embedded Valkey is tried too
    begin = f"mkdir -p {RUN_DIR}/host.sock/x && exec orchestrator up"
    with Container(image, "fatal", "--entrypoint", "sh", **settings | {"AGENT_MODULE": "agents/echo.py"}) as container:
        container.start("-c", begin)
        assert container.ends(120) == 1
        assert "host does not start: " in container.logs()


def test_a_program_that_exits_repeatedly_causes_a_warning(
    image: Engine, settings: dict[str, str], valkey_url: str
) -> None:
    with redis.Redis.from_url(valkey_url) as raw:
        raw.flushall()
    with Container(image, "ending", **settings | {"AGENT_MODULE": "agents/echo.py"}) as container:
        container.start().up()
        host = min(pid for pid, _, _, _, words in container.python(PROCESSES) if "orchestrator.host.host" in words)
        age = f"import psutil, time; print(time.time() - psutil.Process({host}).create_time())"
        poll(lambda: container.python(age) > 8, "it has run for its startsecs", every=0.5)
        socket = f"{RUN_DIR}/host.sock"
        script = f"import os; os.unlink('{socket}'); os.makedirs('{socket}/x'); os.kill({host}, 9)"
        container.run("python", "-c", script)

        def warned() -> bool:
            return any("host was started again" in each for each in health(container.alive())["warnings"])

        poll(warned, "it is named", 60, every=0.2)


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (("LIVEKIT_URL",), "no LiveKit server: set LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET"),
        (("API_KEYS",), "set API_KEYS (openssl rand -hex 24), or OPEN_ACCESS=true if that is meant"),
        (("LIVEKIT_API_SECRET",), "set LIVEKIT_API_KEY and LIVEKIT_API_SECRET too"),
    ],
)
def test_missing_settings_are_named(
    image: Engine, settings: dict[str, str], missing: tuple[str, ...], told: str
) -> None:
    for name in missing:
        del settings[name]
    with Container(image, "refused", **settings) as container:
        assert container.start().ends() == 1
        said = container.logs()
    assert told in said
    assert said.count("\n") == 1
