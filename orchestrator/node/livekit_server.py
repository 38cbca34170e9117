"""Finds a LiveKit server on this machine, or builds one with Go into the user's cache folder."""

import collections
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from orchestrator.errors import Preflight
from orchestrator.machine import private
from orchestrator.node import programs

#: The newest version that `go install` accepts: from 1.13.6 on its go.mod has `replace` lines.
VERSION = "1.13.5"
MODULE = f"github.com/livekit/livekit-server/cmd/server@v{VERSION}"
#: Prefixes of the variables that Go, git and a C compiler read.
_GO = ("GO", "CGO_", "GIT_", "CC", "CXX", "SSH_")
_REMEDY = "set LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET, or put a livekit-server on PATH"


def cached() -> Path:
    """Return the path of the built server."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if not cache_home.is_absolute():  # a relative path is invalid, and Go ignores it
        cache_home = Path.home() / ".cache"
    return cache_home / "voice-agent-orchestrator" / f"livekit-server-{VERSION}"


def find() -> Path | None:
    """Return the server on PATH, else the one that was built before, else None. Raises `Preflight`."""
    if path := shutil.which("livekit-server"):
        return Path(path)
    if not os.access(cached(), os.X_OK):
        return None
    private.check_program(cached())
    return cached()


def obtain() -> Path:
    """Return a LiveKit server, built if necessary. A build takes minutes and prints its progress.

    Raises:
        Preflight: there is no server, and it cannot be built here.
    """
    if path := find():
        return path
    go = shutil.which("go")
    if go is None:
        raise Preflight(f"no LiveKit server: {_REMEDY}, or install Go (https://go.dev/dl) to have one built.")
    target = cached()
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second `make up` waits for the first build
        if path := find():
            return path
        _build(go, target)
    return target


def _build(go: str, target: Path) -> None:
    _say(f"No livekit-server on PATH: building v{VERSION} once, with Go, into {target.parent}. This takes minutes.")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        environment = _for_go() | {"GOBIN": folder, "CGO_ENABLED": os.environ.get("CGO_ENABLED", "0")}
        with subprocess.Popen(
            [go, "install", "-v", MODULE], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as build:
            assert build.stdout is not None
            last: collections.deque[str] = collections.deque(maxlen=8)
            done = threading.Event()
            packages = [0]

            def report() -> None:
                while not done.wait(10):
                    at = last[-1] if last else "starting"
                    _say(f"  {time.monotonic() - started:4.0f} s, {packages[0]} packages, now {at[:70]}")

            reporter = threading.Thread(target=report, daemon=True)
            reporter.start()
            for line in build.stdout:
                last.append(line.strip())
                packages[0] += 1
            done.set()
            reporter.join()
        if build.returncode != 0:
            output = "\n  ".join(last)
            raise Preflight(f"building livekit-server failed:\n  {output}\nFix the cause, {_REMEDY}.")
        (Path(folder) / "server").rename(target)
    _say(f"livekit-server v{VERSION} was built in {time.monotonic() - started:.0f} s and is kept for the next start.")


def _for_go() -> dict[str, str]:
    """Return the variables that Go and its compilers read, without the node's secrets."""
    own = {name: value for name, value in os.environ.items() if name in programs.PROXIES or name.startswith(_GO)}
    return programs.shared(os.environ) | own


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
