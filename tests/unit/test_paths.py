"""Folders with characters that are special to supervisord, shells, YAML, printf or URLs."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.node.configuration import Options
from orchestrator.node.preflight import CONFIGURATION
from tests.support.processes import marked, poll

pytestmark = pytest.mark.thorough

REPOSITORY = Path(__file__).resolve().parents[2]
NASTY = [
    "two words",
    "100%",
    "100%s and %(ENV_ADMIN_TOKEN)s",
    "%%(here)s%d",
    "it's",
    'a "quote"',
    "back\\slash\\n",
    "; comment # hash",
    "$HOME `id` ${PATH}",
    "-leading --dash",
    "naïve 语音 \N{PARTY POPPER}",
    "a&b|c>d<e*?[f]{g}~!",
    "~",
    " around ",
    "key=value,other:1",
]
SECRET = "hidden-from-everybody"

_SECTIONS = """\
[supervisord]
nodaemon=true
silent=true
logfile=%(ENV_RUN_DIR)s/supervisord.log
pidfile=%(ENV_RUN_DIR)s/supervisord.pid

[unix_http_server]
file=%(ENV_RUN_DIR)s/s.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[program:show]
command=%(ENV_PYTHON)s %(ENV_RUN_DIR)s/show.py --dir %(ENV_RUN_DIR)s/data "two words" ''
startsecs=0
redirect_stderr=true
stdout_logfile=%(ENV_RUN_DIR)s/show.log
"""
_SHOW = """\
import json, os, sys, time
print(json.dumps([sys.argv, os.environ["RUN_DIR"]]), flush=True)
time.sleep(300)
"""


def _environment(folder: Path, **more: str) -> dict[str, str]:
    found = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "RUN_DIR": str(folder), "ADMIN_TOKEN": SECRET}
    return found | more


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "orchestrator.node.supervise", "-c", str(folder / "own.conf")]


@pytest.mark.parametrize("name", NASTY)
def test_a_node_runs_in_a_folder_of_any_name(short_folder: Path, name: str) -> None:
    folder = short_folder / name
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    (folder / "show.py").write_text(_SHOW)
    (folder / "own.conf").write_text(_SECTIONS)
    with (short_folder / "said").open("w+") as said:
        process = subprocess.Popen(
            _command(folder), env=_environment(folder, PYTHON=str(folder / "python")), cwd=folder,
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
        try:
            log = folder / "show.log"
            line = poll(lambda: log.exists() and "\n" in log.read_text() and log.read_text(), "the program runs")
            assert json.loads(line) == [
                [f"{folder}/show.py", "--dir", f"{folder}/data", "two words", ""],
                str(folder),
            ]
            poll((folder / "s.sock").exists, "supervisord answers there")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            for pid in marked("RUN_DIR", str(folder)):
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        assert (short_folder / "said").read_text() == ""


@pytest.mark.parametrize("name", NASTY)
def test_every_program_of_a_node_gets_its_paths_unchanged(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    (folder / "logs").mkdir(parents=True)
    given = dict.fromkeys(_names(), "7") | {
        "RUN_DIR": str(folder), "PYTHON": f"{folder}/python", "VALKEY_SERVER": f"{folder}/valkey-server",
        "VALKEY_CONF": f"{folder}/valkey.conf",
        "LIVEKIT_SERVER": f"{folder}/livekit-server", "EMBEDDED_VALKEY": "true", "EMBEDDED_LIVEKIT": "false",
    }  # fmt: skip
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("ADMIN_TOKEN", SECRET)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    options = Options()
    options.realize(["-c", str(CONFIGURATION)])
    programs = {found.name: found for group in options.process_group_configs for found in group.process_configs}
    for found in programs.values():
        assert found.stdout_logfile == f"{folder}/logs/{found.name}.log"
    words = {found: shlex.split(program.command) for found, program in programs.items()}
    assert words["valkey"][0] == f"{folder}/valkey-server"
    assert f"{folder}/valkey.conf" in words["valkey"]
    assert words["livekit"] == [f"{folder}/livekit-server", "--config", f"{folder}/livekit.yaml"]
    assert f"{folder}/python" in words["host"]
    assert {words[program][0] for program in ("worker", "beat", "api", "drain")} == {f"{folder}/python"}
    assert options.logfile == f"{folder}/logs/supervisord.log"


def _names() -> set[str]:
    text = CONFIGURATION.read_text()
    return {part.partition(")")[0] for part in text.split("%(ENV_")[1:]}


def _fails(folder: Path, text: str, **more: str) -> str:
    (folder / "own.conf").write_text(text)
    done = subprocess.run(
        _command(folder), env=_environment(folder, **more), cwd=folder, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert SECRET not in done.stderr + done.stdout
    return done.stderr


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("command=/bin/true 100%", "program:bad.command"),
        ("command=/bin/true %(nothing)s", "program:bad.command"),
        ("command=/bin/true %(ENV_NOWHERE)s", "NOWHERE in the environment"),
        ("command=/bin/true\nstartsecs=%(ENV_ADMIN_TOKEN)s", "program:bad"),
        ("command=/bin/true\nautostart=maybe", "program:bad"),
    ],
)
def test_an_error_of_supervisord_shows_no_value_of_the_environment(tmp_path: Path, mistake: str, told: str) -> None:
    head: Any = _SECTIONS.partition("[program:show]")[0]
    said = _fails(tmp_path, f"{head}[program:bad]\n{mistake}\n")
    assert said.startswith("orchestrator: own.conf ")
    assert told in said
