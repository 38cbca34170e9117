"""Our additions to supervisord, on a real one with programs of a few lines."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervisor.xmlrpc import SupervisorTransport

from orchestrator.errors import CANNOT_RUN
from orchestrator.node.supervisor import LONGEST_PAUSE
from orchestrator.operations import restarts
from tests.support.disk import full_disk
from tests.support.drain_api import DrainApi, asleep
from tests.support.processes import alive, marked, poll

pytestmark = pytest.mark.thorough

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = "sleep 300"
BAD = "/bin/sh -c 'echo first; echo the port is taken; echo; exit 3'"

_HEAD = """\
[supervisord]
nodaemon=true
silent=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
"""
_PROGRAM = """\
[program:{name}]
command={command}
priority={priority}
autorestart=true
startsecs=1
startretries=0
stopwaitsecs=5
redirect_stderr=true
stdout_events_enabled=true
stdout_logfile={folder}/{name}.log
"""


class Supervised:
    """`orchestrator.node.supervise` with some programs; `more` is appended to the last one's section."""

    def __init__(self, folder: Path, **programs: str) -> None:
        self.folder = folder
        self.output = folder / "stderr"
        self.programs = programs
        self.more = ""
        self.settings: dict[str, str] = {}
        self.before: list[str] = [sys.executable]
        self.more_popen: dict[str, Any] = {}

    def start(self) -> "Supervised":
        """Start it, without waiting for anything."""
        text = _HEAD.format(folder=self.folder)
        for number, (name, run) in enumerate(self.programs.items()):
            text += _PROGRAM.format(name=name, command=run, priority=number, folder=self.folder)
        configuration = self.folder / "own.conf"
        configuration.write_text(text + self.more)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "RUN_DIR": str(self.folder)}
        command = [*self.before, "-m", "orchestrator.node.supervise", "-c", str(configuration)]
        self.errors = self.output.open("w+")
        streams = {"stdin": subprocess.DEVNULL, "stdout": self.errors, "stderr": self.errors} | self.more_popen
        self.process = subprocess.Popen(
            command, env=environment | self.settings, cwd=self.folder, start_new_session=True, **streams
        )
        return self

    def __enter__(self) -> "Supervised":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in marked("RUN_DIR", str(self.folder)):
            with contextlib.suppress(ProcessLookupError):  # the others exit with their supervisord
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.errors.close()

    def has(self, line: str) -> bool:
        """Return whether supervisord's own log contains a text."""
        path = self.folder / "supervisord.log"
        return path.exists() and line in path.read_text()

    def up(self) -> "Supervised":
        """Wait until all its programs have stayed up."""
        for name in self.programs:
            poll(lambda name=name: self.has(f"success: {name} entered RUNNING"), f"{name} is up")  # type: ignore[misc]
        if "drain" in self.programs:
            poll(lambda: asleep(self.program("drain")), "the drain program sleeps")
        return self

    def program(self, name: str) -> int:
        """Return the pid of a program. One that executes another program has no environment for a moment."""
        here = "RUN_DIR", str(self.folder)
        return poll(lambda: set(marked("SUPERVISOR_PROCESS_NAME", name)) & set(marked(*here)), f"{name} runs").pop()

    def said(self) -> str:
        """Return its output."""
        return self.output.read_text()

    def ends(self, seconds: float = 20) -> int:
        """Wait for its exit, assert that no process of it is left, and return its exit code."""
        code = self.process.wait(seconds)
        # A killed process is listed until the kernel has removed it.
        poll(lambda: not marked("RUN_DIR", str(self.folder)), "no process of it is left", 5)
        return code


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    with Supervised(tmp_path) as found:
        yield found


def test_a_program_that_does_not_start_ends_the_node(supervised: Supervised) -> None:
    supervised.programs = {"first": GOOD, "second": GOOD, "bad": BAD}
    assert supervised.start().ends() == 1
    assert supervised.said() == (
        f"orchestrator: bad does not start: the port is taken (its log: {supervised.folder}/bad.log). The node stops.\n"
    )
    log = (supervised.folder / "supervisord.log").read_text()
    assert 0 < log.index("stopped: second") < log.index("stopped: first"), "programs are stopped in reverse order"


def test_a_program_with_a_permanent_error_is_not_retried(supervised: Supervised) -> None:
    """Even if it exits only after a while."""
    supervised.programs = {"good": GOOD, "bad": f"/bin/sh -c 'echo no such schema; sleep 1.5; exit {CANNOT_RUN}'"}
    supervised.more = "startretries=1000\n"
    assert supervised.start().ends() == 1
    assert supervised.has("success: bad entered RUNNING")
    assert "bad does not start: no such schema (" in supervised.said()
    assert (supervised.folder / "bad.log").read_text().count("no such schema") == 1


@pytest.mark.parametrize("code", [0, 1, CANNOT_RUN])
def test_a_program_that_has_run_is_always_restarted(supervised: Supervised, code: int) -> None:
    """A program that has run is always restarted, whatever its exit code, as only a dependency may be down."""
    away = supervised.folder / "away"
    run = f"/bin/sh -c 'echo run; if test -e {away}; then echo no Redis; exit {code}; fi; echo well; exec sleep 300'"
    supervised.programs = {"good": GOOD, "needy": run}
    supervised.more = "startretries=1\n"
    supervised.start().up()
    away.touch()
    os.kill(supervised.program("needy"), signal.SIGKILL)
    log = supervised.folder / "needy.log"
    poll(lambda: log.read_text().count("no Redis") > 3, "it is restarted more often than startretries")
    (trouble,) = restarts.troubles(supervised.folder)
    assert re.fullmatch(r"needy was started again \d times in \d+ s; its last words: no Redis", str(trouble))
    assert trouble.subject == ("program_restarts", "needy")
    well = log.read_text().count("well")
    away.unlink()
    poll(lambda: log.read_text().count("well") > well, "it runs again", LONGEST_PAUSE + 2)
    assert supervised.process.poll() is None
    assert restarts.troubles(supervised.folder, time.time() + restarts.STEADY + 15) == []
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ends() == 0
    assert supervised.said() == ""


def test_a_command_that_disappears_later_does_not_end_the_node(supervised: Supervised) -> None:
    """For example while a release is installed over the running one."""
    program = supervised.folder / "program"
    program.symlink_to("/bin/sleep")
    supervised.programs = {"good": GOOD, "replaced": f"{program} 300"}
    supervised.start().up()
    program.unlink()
    os.kill(supervised.program("replaced"), signal.SIGKILL)
    poll(lambda: restarts.troubles(supervised.folder), "it is started repeatedly")
    program.symlink_to("/bin/sleep")
    poll(lambda: marked("SUPERVISOR_PROCESS_NAME", "replaced"), "it runs again", LONGEST_PAUSE + 2)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ends() == 0


def test_exits_after_startsecs_are_reported(supervised: Supervised) -> None:
    script = 'import sys, time; time.sleep(1.2); sys.exit("no permission")'
    supervised.programs = {"good": GOOD, "dies": f"{sys.executable} -c '{script}'"}
    supervised.start()
    (trouble,) = poll(lambda: restarts.troubles(supervised.folder), "the warning is there")
    found = [trouble.params[name] for name in ("program", "times", "detail")]
    assert found == ["dies", 3, "no permission"]
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ends() == 0


def test_a_full_disk_does_not_end_the_node(supervised: Supervised, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No output and no log of supervisord's own can be written, but no error is printed."""
    supervised.programs = {"first": GOOD, "noisy": f"/bin/sh -c 'while :; do echo {'noise' * 200}; done'"}
    supervised.more = "stdout_logfile_maxbytes=6KB\nstdout_logfile_backups=1\n"
    supervised.output = tmp_path_factory.mktemp("terminal") / "said"
    with full_disk(supervised.folder) as fill:
        supervised.start().up()
        fill()
        pid = supervised.program("first")
        os.kill(pid, signal.SIGKILL)
        os.kill(supervised.program("noisy"), signal.SIGKILL)
        poll(lambda: set(marked("SUPERVISOR_PROCESS_NAME", "first")) - {pid}, "it is started again")
        supervised.process.send_signal(signal.SIGTERM)
        assert supervised.ends() == 0
        assert supervised.said() == ""


def test_a_command_that_is_missing_is_named(supervised: Supervised) -> None:
    supervised.programs = {"bad": "/nowhere/program"}
    (supervised.folder / "bad.log").write_text("of an earlier life\n")
    assert supervised.start().ends() == 1
    assert supervised.said().count("\n") == 1
    assert "bad does not start: can't find command '/nowhere/program' (" in supervised.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_restarts_exits_with_0(supervised: Supervised, number: signal.Signals) -> None:
    supervised.programs = {"good": GOOD, "retried": BAD}
    supervised.more = "startretries=50\n"
    supervised.start()
    poll(lambda: supervised.has("exited: retried"), "it waits for its next try")
    os.kill(supervised.process.pid, number)
    assert supervised.ends() == 0
    assert supervised.said() == ""


def test_the_host_gets_another_signal_when_its_node_stops(supervised: Supervised) -> None:
    script = "trap 'echo HUP; exit 1' HUP; trap 'echo TERM; exit 1' TERM; echo $$; while :; do sleep 0.1; done"
    supervised.programs = {"other": f'/bin/sh -c "{script}"', "host": f'/bin/sh -c "{script}"'}
    supervised.more = "stopsignal=HUP\n"
    supervised.start().up()
    log = supervised.folder / "host.log"
    os.kill(int(log.read_text()), signal.SIGHUP)  # the signal for `supervisorctl restart host`
    poll(lambda: len(log.read_text().splitlines()) == 3, "it is started again")
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ends() == 0
    assert log.read_text().splitlines()[1::2] == ["HUP", "TERM"]
    assert (supervised.folder / "other.log").read_text().splitlines()[1:] == ["TERM"]


def test_a_failed_reload_of_supervisord_ends_the_node_with_an_error(supervised: Supervised) -> None:
    mark = supervised.folder / "second"
    supervised.programs = {"once": f"/bin/sh -c 'test -e {mark} && exit 1; touch {mark}; exec sleep 300'"}
    socket = f"{supervised.folder}/s.sock"
    supervised.more = (
        f"[unix_http_server]\nfile={socket}\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
    )
    supervised.start().up()
    transport = SupervisorTransport(serverurl=f"unix://{socket}")
    with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as supervisord:
        supervisord.supervisor.restart()  # `supervisorctl reload`
    assert supervised.ends() == 1
    assert "once does not start: no output" in supervised.said()


def test_each_signal_wakes_supervisord_immediately(supervised: Supervised) -> None:
    """Each signal wakes the main loop, so it stops eight programs in turn although its poll() has no timeout."""
    asleep_for_good = supervised.folder / "asleep"
    script = f"""
import os, runpy, sys
from supervisor.poller import Poller
real = Poller.poll
Poller.poll = lambda self, timeout: real(self, 3600 if os.path.exists({str(asleep_for_good)!r}) else timeout)
del sys.argv[1:3]
runpy.run_module("orchestrator.node.supervise", run_name="__main__")
"""
    supervised.before = [sys.executable, "-c", script]
    supervised.programs = dict.fromkeys([f"program{number}" for number in range(8)], GOOD)
    supervised.start().up()
    asleep_for_good.touch()
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ends() == 0


def test_a_starting_program_gets_the_signal(supervised: Supervised) -> None:
    script = """
import os, runpy, sys, time
real = os.setpgrp  # the first thing that a child does
os.setpgrp = lambda: (time.sleep(1.5), real())
del sys.argv[1:3]
runpy.run_module("orchestrator.node.supervise", run_name="__main__")
"""
    supervised.before = [sys.executable, "-c", script]
    supervised.programs = {"good": GOOD}
    supervised.start()
    poll(lambda: supervised.has("spawned: 'good'"), "it is being started")
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ends() == 0
    assert not supervised.has("with SIGKILL")


def test_a_signal_blocked_during_the_start_is_handled(supervised: Supervised) -> None:
    # Signals are blocked as by `orchestrator up`: PID 1 would lose those that come before it has a handler.
    script = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); os.kill(os.getpid(), 15); "
    supervised.before = [sys.executable, "-c", script + "os.execv(sys.executable, sys.argv[1:])", sys.executable]
    supervised.programs = {"good": GOOD}
    assert supervised.start().ends() == 0


def test_logs_go_to_standard_output_when_configured(supervised: Supervised) -> None:
    supervised.programs = {"good": "/bin/sh -c 'echo hello; exec sleep 300'", "bad": BAD}
    supervised.settings = {"LOG_TO": "stdout"}
    assert supervised.start().ends() == 1
    said = supervised.said()
    assert "good: hello\n" in said
    assert "bad: first\nbad: the port is taken\n" in said
    assert "bad does not start: the port is taken" in said, "its last output is kept"


def test_the_programs_end_when_supervisord_is_killed(supervised: Supervised) -> None:
    supervised.programs = {"first": GOOD, "second": GOOD}
    supervised.start().up()
    supervised.process.kill()
    supervised.process.wait()
    poll(lambda: marked("RUN_DIR", str(supervised.folder)) == [], "no process is left", 10)


def test_supervisord_reaps_orphans(supervised: Supervised) -> None:
    # Adopts orphans, as `orchestrator up` and PID 1 do.
    script = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1); os.execv(sys.executable, sys.argv[1:])"
    supervised.before = [sys.executable, "-c", script, sys.executable]
    pid_file = supervised.folder / "orphan"
    supervised.programs = {"parent": f"/bin/sh -c '(sleep 2 & echo $! > {pid_file}); exec sleep 300'"}
    supervised.start().up()
    orphan = int(pid_file.read_text())
    assert Path(f"/proc/{orphan}/stat").read_text().split()[3] == str(supervised.process.pid)
    poll(lambda: not Path(f"/proc/{orphan}").exists(), "it is reaped")


def test_no_orphan_is_left_after_the_stop(supervised: Supervised) -> None:
    script = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1); os.execv(sys.executable, sys.argv[1:])"
    supervised.before = [sys.executable, "-c", script, sys.executable]
    pid_file = supervised.folder / "orphan"
    orphan = f"env -i setsid -f /bin/sh -c 'echo $$ > {pid_file}; exec sleep 300'"
    supervised.programs = {"parent": f'/bin/sh -c "{orphan}; exec sleep 300"'}
    supervised.start().up()
    pid = int(poll(lambda: pid_file.exists() and pid_file.read_text(), "it has an orphan"))
    assert alive(pid)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ends() == 0
    poll(lambda: not alive(pid), "the orphan is gone", 5)


# The drain


@pytest.fixture
def draining(supervised: Supervised) -> Iterator[tuple[Supervised, DrainApi]]:
    """A node with two calls."""
    with DrainApi(2) as api:
        supervised.programs = {"good": GOOD, "drain": f"{sys.executable} -u -m orchestrator.node.drain_at_stop"}
        supervised.more = "stopwaitsecs=40\n"
        supervised.settings = {"PORT": str(api.port), "NODE_ID": "n1", "ADMIN_TOKEN": "a-token-for-tests"}
        yield supervised, api


def test_calls_are_drained_before_anything_stops(draining: tuple[Supervised, DrainApi]) -> None:
    node, api = draining
    node.start().up()
    # Like a terminal: to the whole process group, which the programs must not be in.
    os.killpg(node.process.pid, signal.SIGINT)
    poll(lambda: len(api.asked) > 2, "it waits for the calls")
    assert node.said() == "Draining: 2 calls have up to 30 s. Ctrl-C again stops now.\n"
    assert not node.has("stopped: good")
    api.answers[:] = [0]
    assert node.ends() == 0
    assert node.has("stopped: good")
    assert node.said().count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_without_waiting_for_calls(
    draining: tuple[Supervised, DrainApi], number: signal.Signals
) -> None:
    node, api = draining
    node.start().up()
    node.process.send_signal(number)
    poll(lambda: api.asked, "it drains")
    node.process.send_signal(number)
    assert node.ends(5) == 0
    assert node.has("stopped: good")


def test_a_fatal_program_error_drains_calls(draining: tuple[Supervised, DrainApi]) -> None:
    node, api = draining
    go = node.folder / "go"
    node.programs = {"bad": f"/bin/sh -c 'until test -e {go}; do sleep 0.1; done; exit {CANNOT_RUN}'"} | node.programs
    node.start().up()
    go.touch()
    poll(lambda: api.asked, "it drains")
    assert "bad does not start" in node.said()
    api.answers[:] = [0]
    assert node.ends() == 1


# Kill windows


def test_a_drain_that_does_not_fit_causes_a_warning_at_the_start(draining: tuple[Supervised, DrainApi]) -> None:
    node, api = draining
    api.answers[:] = [0]
    node.more = "stopwaitsecs=10\n"
    node.settings |= {"RAILWAY_PROJECT_ID": "p", "RAILWAY_DEPLOYMENT_DRAINING_SECONDS": "37"}
    node.start().up()
    node.process.send_signal(signal.SIGTERM)
    assert node.ends() == 0
    window, own = node.said().splitlines()
    assert "DRAIN_SECONDS=30 and 8 s to stop need 38 s, but the platform kills after 37 s" in window, (
        "5 s of it are for `good`"
    )
    assert "supervisord kills the drain program after 10 s" in own


def test_a_bad_setting_is_reported_in_one_line(supervised: Supervised) -> None:
    supervised.programs = {"good": GOOD}
    supervised.settings = {"DRAIN_SECONDS": "long"}
    assert supervised.start().ends() == 1
    assert supervised.said().startswith("orchestrator: DRAIN_SECONDS='long'")
    assert not alive(supervised.process.pid)


def test_an_unreachable_livekit_url_causes_a_warning_at_the_start(supervised: Supervised) -> None:
    supervised.programs = {"calm": GOOD}
    supervised.settings = {"HOST": "0.0.0.0", "API_KEYS": "a-key-of-sixteen-and-more"}
    supervised.start().up()
    assert "! HOST=0.0.0.0: callers from elsewhere are given ws://127.0.0.1:7880" in supervised.said()
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.ends() == 0
