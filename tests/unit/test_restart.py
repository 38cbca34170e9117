"""`orchestrator restart PROGRAM`, on a real supervisord with programs of a few lines."""

import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.cli import restart
from orchestrator.cli.main import main
from tests.support.processes import poll
from tests.unit.test_supervise import GOOD, Supervised

pytestmark = pytest.mark.thorough

_HOST = "trap 'echo HUP; exit 0' HUP; trap 'echo TERM; exit 0' TERM; echo up; while :; do sleep 0.1; done"
_SERVER = """\
[program:valkey]
command=sleep 300
autostart=false
[unix_http_server]
file=%(ENV_RUN_DIR)s/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def node(short_folder: Path) -> Iterator[Supervised]:
    """A node that is not started yet."""
    found = Supervised(Path(tempfile.mkdtemp(dir=short_folder)))
    found.programs = {"api": GOOD, "host": f'/bin/sh -c "{_HOST}"'}
    found.more = "stopsignal=HUP\n" + _SERVER
    yield found
    if hasattr(found, "process"):
        found.__exit__()


@pytest.fixture
def run(node: Supervised, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; returns exit code, output and errors."""
    monkeypatch.setenv("RUN_DIR", str(node.folder))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["orchestrator", "restart", *arguments])
        try:
            main()
        except SystemExit as ending:
            code = ending.code
        return (int(code or 0), *capsys.readouterr())

    return call


def test_a_program_is_restarted(node: Supervised, run: Run) -> None:
    node.start().up()
    before = node.program("api")
    code, said, _ = run("api")
    after = node.program("api")
    assert (code, said) == (0, f"api is up again (pid {after}).\n")
    assert after != before
    assert json.loads(run("api", "--json")[1]) == {
        "success": True, "program": "api", "pid": node.program("api"), "pidBefore": after,
    }  # fmt: skip


def test_restarting_the_host_sends_it_hup(node: Supervised, run: Run) -> None:
    node.start().up()
    assert run("host")[0] == 0
    assert (node.folder / "host.log").read_text().split() == ["up", "HUP", "up"]


def test_a_stopped_program_is_started(node: Supervised, run: Run) -> None:
    node.start().up()
    assert run("api")[0] == 0
    os.kill(node.program("api"), 9)
    assert run("api")[0] == 0


def test_an_unknown_program_is_refused_with_the_list(node: Supervised, run: Run) -> None:
    for name in ("celery", "drain", "all", "host:*", ""):
        code, _, told = run(name)
        assert code == 2
        for known in restart.Program:
            assert known in told


def test_a_program_that_this_node_does_not_run_is_named(node: Supervised, run: Run) -> None:
    node.start().up()
    assert run("valkey") == (1, "", "orchestrator: this node has no valkey of its own: REDIS_URL is set\n")
    code, _, told = run("livekit")
    assert (code, told.count("\n")) == (1, 1)


def test_a_program_that_fails_to_start_is_named_with_its_log(node: Supervised, run: Run) -> None:
    mark = node.folder / "second"
    del node.programs["api"]  # `more` applies to the last one
    node.programs["api"] = f"/bin/sh -c 'test -e {mark} && exit 1; touch {mark}; exec sleep 300'"
    node.more = node.more.replace("[program", "startretries=9\n[program", 1)
    node.start().up()
    code, _, told = run("api")
    assert code == 1
    assert told.startswith("orchestrator: api did not stay up")
    assert told.rstrip().endswith(f"{node.folder}/logs/api.log")


def test_a_missing_node_is_reported(node: Supervised, run: Run) -> None:
    code, _, told = run("api")
    assert (code, told) == (3, f"orchestrator: no node runs in RUN_DIR={node.folder}. Start it with: make up\n")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(node.folder / "supervisor.sock"))
    assert run("api")[0] == 3


def test_a_hung_supervisord_causes_a_timeout(node: Supervised, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "PATIENCE_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(node.folder / "supervisor.sock"))
        silent.listen()
        code, _, told = run("api")
    assert code == 3
    assert "did not answer within" in told


def test_a_stopping_node_refuses_a_restart(node: Supervised, run: Run) -> None:
    node.programs["stuck"] = "/bin/sh -c \"trap '' TERM; echo deaf; while :; do sleep 0.1; done\""
    node.more = "stopsignal=TERM\n" + _SERVER
    node.start().up()
    poll(lambda: "deaf" in (node.folder / "stuck.log").read_text(), "it ignores SIGTERM")
    node.process.terminate()
    poll(lambda: node.has("to die"), "the node stops")
    assert run("api") == (1, "", "orchestrator: the node is stopping\n")
