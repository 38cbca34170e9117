"""`orchestrator restart`: restarts one program of this node, through its supervisord."""

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

from orchestrator.cli.answer import shown_by
from orchestrator.errors import HostUnavailable, OrchestratorError
from orchestrator.node.output import console
from orchestrator.settings import Settings

#: Seconds to wait for one answer: longer than any program may take to stop or to start.
PATIENCE_SECONDS = 30.0


class Program(enum.StrEnum):
    """The programs that can be restarted one by one."""

    API = "api"
    WORKER = "worker"
    BEAT = "beat"
    HOST = "host"
    RELAY = "relay"
    VALKEY = "valkey"
    LIVEKIT = "livekit"


#: With these settings the node uses a server elsewhere and does not run its own.
_EXTERNAL = {Program.VALKEY: "REDIS_URL", Program.LIVEKIT: "LIVEKIT_URL"}
_PROGRAMS = "api, worker (the Celery worker), beat, host (the agent host), relay, valkey or livekit."
ProgramArgument = Annotated[Program, typer.Argument(metavar="PROGRAM", help=_PROGRAMS)]


def _show_restarted(answer: dict[str, Any]) -> None:
    console.print(f"{answer['program']} is up again (pid {answer['pid']}).")


@shown_by(_show_restarted)
def restart(program: ProgramArgument) -> dict[str, Any]:
    """Restart one program of this node. Calls continue; while livekit restarts they are silent."""
    run_dir = Settings.load().run_dir.resolve()
    transport = _Transport(run_dir / "supervisor.sock")
    with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
        node = proxy.supervisor
        before = _ask(node.getProcessInfo, program, run_dir)
        if not before["start"]:
            setting = _EXTERNAL.get(program)
            raise OrchestratorError(
                f"this node has no {program} of its own: {setting} is set" if setting else f"{program} never ran"
            )
        if before["state"] in RUNNING_STATES:
            _ask(node.stopProcess, program, run_dir)
        _ask(node.startProcess, program, run_dir)
        pid = _ask(node.getProcessInfo, program, run_dir)["pid"]
    return {"success": True, "program": program, "pid": pid, "pidBefore": before["pid"] or None}


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket, with a time limit."""

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
        raise OrchestratorError(_explained(fault, program, run_dir)) from None
    except TimeoutError:
        raise HostUnavailable(f"supervisord in {run_dir} did not answer within {PATIENCE_SECONDS:.0f} s") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise HostUnavailable(f"no node runs in RUN_DIR={run_dir}. Start it with: make up") from None
    except (OSError, xmlrpc.client.ProtocolError, http.client.HTTPException) as failure:
        raise HostUnavailable(f"cannot talk to supervisord in {run_dir}: {failure}") from None


def _explained(fault: xmlrpc.client.Fault, program: Program, run_dir: Path) -> str:
    if fault.faultCode == Faults.SHUTDOWN_STATE:
        return "the node is stopping"
    if fault.faultCode in {Faults.SPAWN_ERROR, Faults.ABNORMAL_TERMINATION}:
        return f"{program} did not stay up; supervisord tries again. Its log: {run_dir}/logs/{program}.log"
    return f"{program}: {fault.faultString}"
