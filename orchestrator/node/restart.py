"""`orchestrator restart`: one program of this node, by its supervisord."""

import enum
import http.client
import socket
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from supervisor.states import RUNNING_STATES
from supervisor.xmlrpc import Faults, SupervisorTransport

from orchestrator.errors import HostUnavailable, OrchestratorError
from orchestrator.node.output import Json, console, print_json
from orchestrator.settings import Settings

#: Seconds for one answer: longer than any program is given to stop, or to be up.
PATIENCE_SECONDS = 30.0


class Program(enum.StrEnum):
    """What can be restarted alone."""

    API = "api"
    WORKER = "worker"
    BEAT = "beat"
    HOST = "host"
    VALKEY = "valkey"
    LIVEKIT = "livekit"


#: What another one's address is set by: then the node has none of its own.
_ELSEWHERE = {Program.VALKEY: "REDIS_URL", Program.LIVEKIT: "LIVEKIT_URL"}
ProgramArgument = Annotated[Program, typer.Argument(help="worker is the Celery worker, host the agent host.")]


def restart(program: ProgramArgument, json: Json = False) -> None:
    """Restart one program of this node: no call ends; while livekit is away calls have no sound."""
    run_dir = Settings.load().run_dir.resolve()
    transport = _Transport(run_dir / "supervisor.sock")
    with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
        node = proxy.supervisor
        before = _ask(node.getProcessInfo, program, run_dir)
        if not before["start"]:
            setting = _ELSEWHERE.get(program)
            raise OrchestratorError(
                f"this node has no {program} of its own: {setting} is set" if setting else f"{program} never ran"
            )
        if before["state"] in RUNNING_STATES:
            _ask(node.stopProcess, program, run_dir)
        _ask(node.startProcess, program, run_dir)
        pid = _ask(node.getProcessInfo, program, run_dir)["pid"]
    if json:
        print_json({"success": True, "program": program, "pid": pid, "pidBefore": before["pid"] or None})
    else:
        console.print(f"{program} is up again (pid {pid}).")


class _Connection(http.client.HTTPConnection):
    """To a Unix socket, with an end to its patience."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(SupervisorTransport):  # type: ignore[misc]
    def __init__(self, path: Path) -> None:
        super().__init__(serverurl=f"unix://{path}")
        self._get_connection = lambda: _Connection(path)


def _ask(method: Callable[[str], Any], program: Program, run_dir: Path) -> Any:
    try:
        return method(program.value)
    except xmlrpc.client.Fault as fault:
        raise OrchestratorError(_told(fault, program, run_dir)) from None
    except TimeoutError:
        raise HostUnavailable(f"supervisord in {run_dir} has not answered for {PATIENCE_SECONDS:.0f} s") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise HostUnavailable(f"no node runs in RUN_DIR={run_dir}. Start it with: make up") from None
    except (OSError, xmlrpc.client.ProtocolError, http.client.HTTPException) as failure:
        raise HostUnavailable(f"supervisord in {run_dir} cannot be asked: {failure}") from None


def _told(fault: xmlrpc.client.Fault, program: Program, run_dir: Path) -> str:
    if fault.faultCode == Faults.SHUTDOWN_STATE:
        return "the node is stopping"
    if fault.faultCode in {Faults.SPAWN_ERROR, Faults.ABNORMAL_TERMINATION}:
        return f"{program} has not stayed up; it is tried again. Its log: {run_dir}/logs/{program}.log"
    return f"{program}: {fault.faultString}"
