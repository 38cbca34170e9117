"""A whole node, started as users start it: `orchestrator up` in a new folder, on free ports."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
import xmlrpc.client
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import psutil
from supervisor.xmlrpc import SupervisorTransport

from tests.support.processes import alive, free_ports, marked, poll

REPOSITORY = Path(__file__).resolve().parents[2]
#: Only these variables of the test runner's environment are passed to the node.
_KEPT = ("PATH", "HOME", "XDG_CACHE_HOME", "LANG", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "GOPROXY", "GOFLAGS")


class Node:
    """One node. `settings` are environment variables."""

    def __init__(self, folder: Path, **settings: object) -> None:
        # A Unix socket's path must be short, and pytest's folders are long.
        self.run_dir = folder
        livekit = free_ports(3)
        self.environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {
            "NODE_ID": f"test-{livekit}",
            "RUN_DIR": str(folder),
            "PORT": str(free_ports()),
            "FRONTEND_PORT": str(free_ports()),
            "LIVEKIT_PORT": str(livekit),
            "RATE_LIMIT": "100000/minute",
            "SESSIONS_PER_ADDRESS": "0",
            "WAITING_PER_ADDRESS": "0",
            "DRAIN_SECONDS": "0",  # a test that leaves a call open should not wait for a drain
            "PRELOAD_SECONDS": "150",  # loading the voices takes seconds of CPU time: on a busy machine, a minute
            "PYTHONPATH": str(REPOSITORY),
            **{name: str(value) for name, value in settings.items()},
        }
        self.url = f"http://127.0.0.1:{self.environment['PORT']}"
        self.output = folder / "up.log"
        #: The offset of this start's lines in the log: an earlier node in the same folder has logged that it is up too.
        self._printed = 0
        self.process: subprocess.Popen[bytes] | None = None
        #: The command that starts it, and its working directory.
        self.launch = [str(Path(sys.executable).parent / "orchestrator"), "up"]
        self.folder = folder
        # The API closes connections that were idle for 5 s; a request on one at that moment would be reset.
        self.http = httpx.Client(base_url=self.url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))

    # Life

    def start(self, *, wait: bool = True) -> "Node":
        """Start it; by default wait until its pool is full."""
        with self.output.open("ab") as output:
            self._printed = output.tell()
            self.process = subprocess.Popen(
                self.launch, env=self.environment, cwd=self.folder,
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        if wait:
            # It is printed last, so all other lines are there too.
            try:
                poll(lambda: "Ctrl-C stops everything." in self.said(), "the node is up", 180)
            except AssertionError as failure:
                failure.add_note(self.output.read_text())
                for log in sorted((self.run_dir / "logs").glob("*.log")):
                    failure.add_note("\n".join((log.name, *log.read_text(errors="replace").splitlines()[-8:])))
                raise
        return self

    def __enter__(self) -> "Node":
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None and self.process is not None and self.process.poll() is None:
                self.clean()
        finally:
            self.stop()

    def said(self) -> str:
        """Return its output since its start."""
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the node ended: {self.output.read_text()}")
        return self.output.read_bytes()[self._printed :].decode()

    def clean(self) -> None:
        """Assert that Redis, the agent host and the machine agree: `doctor --invariants` finds no violation."""

        def judged() -> subprocess.CompletedProcess[str] | None:
            done = self.command("doctor", "--invariants", check=False)
            # On a machine that is busy Redis may answer late.
            return None if "try again shortly" in done.stderr else done

        found = poll(judged, "doctor can read Redis", every=0.5)
        assert found.returncode == 0, found.stdout + found.stderr

    def stop(self) -> int:
        """Stop it with SIGTERM; asserts that every process of it is gone. Returns the exit code."""
        self.http.close()
        if self.process is None:
            return 0
        before = self.pids()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        # supervisord does not stop the process that prints the first lines: it exits after supervisord.
        # An exiting process has no environment any more, so `pids` does not find it while it still exists.
        poll(lambda: not self.pids() and not any(map(alive, before)), "every process of the node is gone", 5)
        self.process = None
        return code

    # Its processes and files

    def pids(self) -> list[int]:
        """Return the pids of all its processes. They are found by their environment and, because only root can read
        that of sealed processes, as descendants of such processes."""
        found = set(marked("RUN_DIR", str(self.run_dir)))
        with contextlib.suppress(psutil.Error):
            if self.process is not None and self.process.poll() is None:
                supervisord = psutil.Process(self.process.pid)
                found |= {supervisord.pid, *(child.pid for child in supervisord.children(recursive=True))}
        return sorted(found)

    def program(self, name: str) -> int | None:
        """Return the pid of one of its programs, None while it does not run."""
        return self.info(name)["pid"] or None

    def info(self, name: str) -> dict[str, Any]:
        """Return supervisord's fields of a program: `pid`, `statename` and more. Faster than supervisorctl."""
        transport = SupervisorTransport(serverurl=f"unix://{self.run_dir}/supervisor.sock")
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as supervisord:
            found: Any = supervisord.supervisor.getProcessInfo(name)
        return dict(found)

    def kill(self, name: str) -> int:
        """Kill one of its programs with SIGKILL, to simulate a crash; returns its pid."""
        pid = self.program(name)
        assert pid, f"{name} does not run"
        os.kill(pid, signal.SIGKILL)
        return pid

    def supervisorctl(self, *arguments: str) -> str:
        """Run supervisorctl against it."""
        command = [str(Path(sys.executable).parent / "supervisorctl"), "-c", str(REPOSITORY / "supervisord.conf")]
        done = subprocess.run(
            [*command, *arguments], env=self.environment, capture_output=True, text=True, timeout=20, check=False
        )
        assert "rror" not in done.stderr, done.stderr
        return done.stdout

    def log(self, name: str) -> str:
        """Return the log of one of its programs."""
        return (self.run_dir / "logs" / f"{name}.log").read_text()

    @property
    def redis_url(self) -> str:
        """The URL of its Redis with its password; the embedded one has no password before the first start."""
        if url := self.environment.get("REDIS_URL"):
            return url
        return f"unix://:{self.secrets['VALKEY_PASSWORD']}@{self.run_dir}/valkey.sock?db=0"

    @property
    def secrets(self) -> dict[str, str]:
        """Its generated secrets."""
        found: dict[str, str] = json.loads((self.run_dir / "secrets.json").read_text())
        return found

    # Requests to it

    @property
    def admin(self) -> dict[str, str]:
        """Headers of an administrator."""
        token = self.environment.get("ADMIN_TOKEN") or self.secrets["ADMIN_TOKEN"]
        return {"Authorization": f"Bearer {token}"}

    def begin(self, user: str, secret: str = "", **body: Any) -> dict[str, Any]:
        """Start a session. `secret`: that of the user's live session, to get the same session again."""
        # A start that was answered late has begun: sent again, it is to return the same session.
        headers = {"Idempotency-Key": str(uuid.uuid4())} | ({"Authorization": f"Bearer {secret}"} if secret else {})
        request = {"json": {"userId": user, **body}, "headers": headers}
        found = self._answer(lambda: self.http.post("/api/session/start", **request))
        assert found["success"], found
        return found

    def session(self, session_id: str) -> dict[str, Any]:
        """Return one session, with the operator's fields."""
        return self._answer(lambda: self.http.get(f"/api/session/{session_id}", headers=self.admin))

    def end(self, session_id: str) -> dict[str, Any]:
        """Stop a session."""
        return self._answer(lambda: self.http.post("/api/session/stop", json={"sessionId": session_id}))

    def logs(self, session_id: str) -> list[str]:
        """Return a session's logs."""
        answer = self._answer(lambda: self.http.get(f"/api/session/{session_id}/logs", headers=self.admin))
        found: list[str] = answer["logs"]
        return found

    def ready(self) -> bool:
        """Return whether it is ready to serve starts; False also while its API is down."""
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/readyz").is_success
        return False

    def health(self) -> dict[str, Any]:
        """Return the health route's answer for operators."""
        found: dict[str, Any] = self.http.get("/api/health", headers=self.admin).json()
        return found

    def counts(self) -> dict[str, int]:
        """Return the counts of the health route; retries while Redis or the API is down and the answer is an error."""
        found: dict[str, int] = poll(lambda: self.health().get("sessions"), "the health route answers with counts")
        return found

    def agents(self) -> list[dict[str, Any]]:
        """Return all living agents."""
        found: list[dict[str, Any]] = self._answer(lambda: self.http.get("/api/sessions", headers=self.admin))["agents"]
        return found

    @staticmethod
    def _answer(request: Callable[[], httpx.Response]) -> dict[str, Any]:
        """Return an answer's body. On a busy machine Redis may answer late: 503 asks the client to try again."""
        answer: httpx.Response = poll(
            lambda: (found := request()).status_code != HTTPStatus.SERVICE_UNAVAILABLE and found, "Redis answers"
        )
        found: dict[str, Any] = answer.json()
        return found

    def resize(self, size: int) -> None:
        """Resize the pool and wait until it has that size."""
        self.http.post("/api/pool/resize", json={"size": size}, headers=self.admin).raise_for_status()
        poll(lambda: self.counts()["pool"] == size and self.counts()["booting"] == 0, f"the pool has {size} agents")

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line against it."""
        command = [str(Path(sys.executable).parent / "orchestrator"), *arguments]
        environment = self.environment | {"COLUMNS": "80"}
        done = subprocess.run(
            command, env=environment, cwd=self.run_dir, capture_output=True, text=True, timeout=90, check=False
        )
        assert not check or done.returncode == 0, done.stderr + done.stdout
        return done
