"""How an agent process comes into being: by fork of the host that has loaded its code, or by exec of a program.

Either way it leads a session of its own, writes its record before anything else, prints into its log file, and sees
only what it needs of the environment.
"""

import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from orchestrator import faults
from orchestrator.config.agent import AgentSettings
from orchestrator.config.fields import CHECKED
from orchestrator.host.loaded import reseed
from orchestrator.host.preload import threads
from orchestrator.host.protocol import Process
from orchestrator.host.state_dir import AgentFolder
from orchestrator.machine.process import machine_boot_id, read_stat

#: Variables of the host's environment that agents get besides AGENT_ENV and the settings without secrets.
AGENT_ENVIRONMENT = (
    frozenset(name.upper() for name in AgentSettings.model_fields)
    | frozenset(
        "PATH HOME USER LANG LC_ALL TZ TMPDIR PYTHONPATH PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE VIRTUAL_ENV "
        "SSL_CERT_FILE SSL_CERT_DIR HTTP_PROXY HTTPS_PROXY NO_PROXY OPENBLAS_CORETYPE OPENBLAS_L2_SIZE "
        "OPENAI_API_KEY OPENAI_BASE_URL DEEPGRAM_API_KEY CARTESIA_API_KEY ELEVEN_API_KEY ANTHROPIC_API_KEY "
        "GOOGLE_API_KEY DEEPGRAM_BASE_URL CARTESIA_BASE_URL ELEVEN_BASE_URL ANTHROPIC_BASE_URL GOOGLE_GEMINI_BASE_URL "
        "VOICE_TEXT_INPUT FAULT_LOG FAULTS".split()
    )
    | {CHECKED}
)
#: Set when this host's environment has only variables for agents.
CLEAN = "AGENT_HOST_CLEAN"
#: Added to the host's own oom_score_adj for agents; a platform may have set the host's.
# guard: oom-score
OOM_SCORE_MORE = 300
#: Libraries that would start threads in the host, which must have one when it forks.
SINGLE_THREADED = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "MOONSHINE_ORT_SINGLE_THREAD": "1",
}


def clear_environment(settings: AgentSettings) -> None:
    """Re-exec with only the environment that agents may see: /proc shows the environment that a process was started
    with as long as it lives, and a forked agent's is its host's."""
    if CLEAN not in os.environ:
        names = for_agents(settings)
        environment = {name: value for name, value in os.environ.items() if name in names}
        os.execve(sys.executable, sys.orig_argv, environment | {CLEAN: "1"})


def for_agents(settings: AgentSettings) -> frozenset[str]:
    """Return the names of the variables that agents may see."""
    return AGENT_ENVIRONMENT | {name.strip() for name in settings.agent_env.split(",") if name.strip()}


def agent_environment(settings: AgentSettings) -> dict[str, str]:
    """Return what every agent sees of this process's environment."""
    names = for_agents(settings)
    environment = {name: value for name, value in os.environ.items() if name in names}
    # `python my_agent.py` is the python that has the agent's libraries.
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", os.defpath)))
    return environment | SINGLE_THREADED | {"NODE_ID": settings.node_id}


def start_by_fork(main: Callable[[str], None], agent_id: str, folder: AgentFolder, disown: Callable[[], None]) -> int:
    """Fork an agent that runs `main(agent_id)`; returns its pid. `disown` closes, there, what is the host's alone.

    Raises `OSError`.
    """
    if threads() != 1:
        raise OSError(f"the agent host has {threads()} threads; it forks with one only")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become_agent(main, agent_id, folder, disown)
    return pid


def start_by_exec(argv: list[str], agent_id: str, folder: AgentFolder, environment: dict[str, str]) -> int:
    """Start a program as an agent; returns its pid. Raises `OSError`, `ValueError` or `SubprocessError`."""
    output = folder.open_log(agent_id)
    try:
        # The Popen object is not kept: children are reaped by pid, here, for forked and exec'd ones alike.
        popen = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            preexec_fn=functools.partial(_record_self, agent_id, folder),  # noqa: PLW1509 - this process has one thread
        )  # fmt: skip
    finally:
        os.close(output)
    popen.returncode = 0
    return popen.pid


def _become_agent(
    main: Callable[[str], None], agent_id: str, folder: AgentFolder, disown: Callable[[], None]
) -> NoReturn:
    code = 70  # EX_SOFTWARE: died before its own code ran
    try:
        os.setsid()
        # At once: a host that is killed now can still be followed by one that finds this process.
        # guard: record-self
        _record_self(agent_id, folder)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        output = folder.open_log(agent_id)
        empty = os.open(os.devnull, os.O_RDONLY)
        for source, targets in ((empty, (0,)), (output, (1, 2))):
            for target in targets:
                os.dup2(source, target)
            if source not in {0, 1, 2}:
                os.close(source)
        # Nothing else is closed or unset: the agent's module keeps what it opened and set while it was loaded. If its
        # descriptors were closed, a new connection would get the number, and the module would write into it.
        # guard: close-inherited
        disown()
        os.environ.pop(CLEAN, None)
        os.environ["AGENT_ID"] = agent_id
        # guard: reseed
        reseed()
        faults.arm()
        main(agent_id)
        code = 0
    except SystemExit as request:
        code = request.code if isinstance(request.code, int) else 1 if request.code else 0
    except BaseException:
        logging.getLogger("orchestrator.agent").exception("agent crashed")
        code = 1
    finally:
        # Not sys.exit: the host's exit handlers are not the agent's, and native libraries may hang in theirs.
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _record_self(agent_id: str, folder: AgentFolder) -> None:
    """In the agent's process: write its record. Raises `FileExistsError` when the agent has a process already."""
    folder.claim(process_of(agent_id, os.getpid()))
    # Out of memory, the kernel kills an agent, whose call another one takes over, and not the host, which starts them.
    with contextlib.suppress(OSError):
        own = Path("/proc/self/oom_score_adj")
        own.write_text(str(min(1000, int(own.read_text()) + OOM_SCORE_MORE)))


def process_of(agent_id: str, pid: int) -> Process:
    """Return the identity of an agent's process in this boot."""
    stat = read_stat(pid)
    return Process(agent_id, pid, stat.start_ticks if stat else 0, machine_boot_id())


def has_ended(pid: int) -> bool:
    """Return whether a child has ended and waits to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def reaped(pid: int) -> tuple[int, int] | None:
    """Reap a child that has ended: its status and its peak memory in KiB. None while it lives."""
    if not has_ended(pid):
        return None
    # Kill the leader's group too. While the leader is a zombie, no other process gets its pid.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_maxrss if sys.platform == "linux" else usage.ru_maxrss // 1024
