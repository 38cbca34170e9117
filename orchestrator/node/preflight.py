"""Checks that the node can start on this machine. Each check raises `Preflight` with one line that says what to do."""

import contextlib
import os
import sys
from pathlib import Path

import psutil

from orchestrator.config.fields import plain_path
from orchestrator.errors import Preflight, StoreUnavailable
from orchestrator.machine import private
from orchestrator.node import clients, ports
from orchestrator.node.output import errors, styled
from orchestrator.reasons import warn
from orchestrator.settings import Settings

#: Longest path of a Unix socket (Linux 107, macOS 103), less the suffix of supervisord's temporary name.
_SOCKET_PATH = 92
CONFIGURATION = Path(__file__).resolve().parents[2] / "supervisord.conf"
#: The module that runs a node's supervisord.
SUPERVISE = "orchestrator.node.supervise"


def check(settings: Settings) -> None:
    """Run every check, and create the node's folders."""
    check_paths(settings)
    prepare_folders(settings)
    check_ports(settings)
    check_redis(settings)


def check_paths(settings: Settings) -> None:
    """Check that the node's paths fit on one line, and into the address of a Unix socket."""
    for path in (CONFIGURATION.parent, Path(sys.executable)):
        try:
            plain_path(path)
        except ValueError as failure:
            raise Preflight(f"{str(path)!r}: {failure}.") from None
    run_dir = settings.run_dir.resolve()
    if len(os.fsencode(run_dir / "supervisor.sock")) > _SOCKET_PATH:
        raise Preflight(
            f"RUN_DIR={run_dir} is too long for a Unix socket: set RUN_DIR to a shorter path, say /tmp/run."
        )


def prepare_folders(settings: Settings) -> None:
    """Create the node's folders, and check that no other user can write to them and that this node does not run."""
    run_dir = settings.run_dir.resolve()
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        # guard: private-folder
        private.check_folder(settings.run_dir)
        check_supervisor(run_dir)
        for name in private.FOLDERS:
            (run_dir / name).mkdir(exist_ok=True, mode=0o700)
    except OSError as failure:
        raise Preflight(f"RUN_DIR={settings.run_dir} cannot be used: {failure}. Set another RUN_DIR.") from None


def check_supervisor(run_dir: Path) -> None:
    """Check that this node does not run already, and that supervisord's configuration is there."""
    pid_file = run_dir / "supervisord.pid"
    if pid_file.exists():
        pid = int(pid_file.read_text().strip() or 0)
        with contextlib.suppress(psutil.Error):
            if pid and SUPERVISE in psutil.Process(pid).cmdline():
                raise Preflight(f"this node runs already (supervisord, pid {pid}). Stop it, or set another RUN_DIR.")
    if not CONFIGURATION.exists():
        raise Preflight(f"{CONFIGURATION} is missing: run `make up` in a checkout of the project.")


def needed_ports(settings: Settings) -> list[tuple[str, str, int, bool]]:
    """Return (setting to change, address, port, UDP?) of every port that the node will open."""
    needed = [("PORT", settings.host, settings.port, False)]
    if settings.frontend_port not in {0, settings.port}:
        needed.append(("FRONTEND_PORT", settings.host, settings.frontend_port, False))
    if not settings.livekit_url:
        needed += [("LIVEKIT_PORT", "127.0.0.1", settings.livekit_port + step, step == 2) for step in range(3)]
    return needed


def check_ports(settings: Settings) -> None:
    """Check that every port is free."""
    for setting, host, port, udp in needed_ports(settings):
        if holder := ports.holder(host, port, udp=udp):
            raise Preflight(f"port {port} is held by {holder}: stop that, or set {setting} to a free port.")


def check_redis(settings: Settings) -> None:
    """Check that every client can use the Redis of REDIS_URL. If it does not answer, the node will wait for it."""
    if not settings.redis_url:
        return
    try:
        if refusal := clients.refusal(settings):
            raise Preflight(str(refusal))
    except StoreUnavailable as failure:
        errors.print(styled((f"! {failure.detail}. The node waits for it.", "yellow")))
        return
    if not settings.redis.verify:
        errors.print(styled((f"! {warn('redis_unverified')}", "yellow")))
    for warning in clients.sharing_warnings(settings):
        errors.print(styled((f"! {warning}.", "yellow")))
