"""The program beside an agent's process: its start, the two ways to talk to it, and its end.

It leads a process group of its own, so that what stops the agent's group does not interrupt it: it is told to stop, and
has a while. It never outlives the agent's process: on Linux the kernel kills it, elsewhere its input ends.
"""

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from agent_runtime.program.lines import LineReader, decode, encode
from orchestrator.reasons import Reason, exit_of

#: Name of the variable that holds the number of the socket.
AGENT_FD = "AGENT_FD"
#: Seconds for what a program wrote last, while something that it has started may hold its output open.
_LAST_LINES_SECONDS = 0.5
#: Seconds between SIGTERM and SIGKILL.
TERM_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
# Loaded before a fork: nothing may be loaded between a fork and an exec.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Program:
    """A running program. `heard` is called with each message from it."""

    #: How it ended. Done when its last lines were read.
    exit: "asyncio.Task[Reason]"

    def __init__(self, argv: Sequence[str], heard: Callable[[dict[str, Any]], None]) -> None:
        self._argv, self._heard = argv, heard
        self._writers: dict[str, asyncio.WriteTransport] = {}
        #: Where the program speaks: decided by its first message.
        self._channel: str | None = None

    async def start(self) -> None:
        """Start it. Raises `OSError`."""
        ours, theirs = socket.socketpair()
        try:
            self._popen = subprocess.Popen(  # noqa: ASYNC220 - a millisecond, before the agent is warm
                self._argv, env=os.environ | {AGENT_FD: str(theirs.fileno())}, bufsize=0, process_group=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(theirs.fileno(),),
                preexec_fn=functools.partial(_die_with, os.getpid()),  # noqa: PLW1509 - no other thread runs
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.exit = asyncio.create_task(self._end(await self._connect(ours)))

    async def _connect(self, ours: socket.socket) -> list["asyncio.Future[None]"]:
        loop = asyncio.get_running_loop()
        output, link = (LineReader(functools.partial(self._on_line, name)) for name in ("stdio", "socket"))
        assert self._popen.stdin
        self._writers["stdio"], _ = await loop.connect_write_pipe(asyncio.BaseProtocol, self._popen.stdin)
        await loop.connect_read_pipe(lambda: output, self._popen.stdout)
        self._writers["socket"], _ = await loop.create_connection(lambda: link, sock=ours)
        return [output.closed, link.closed]

    def tell(self, kind: str, **fields: Any) -> None:
        """Send it a message, the way that it speaks. Before it has spoken it hears nothing."""
        if self._channel is not None:
            self._writers[self._channel].write(encode(kind, **fields))

    def _on_line(self, channel: str, line: bytes) -> None:
        message = decode(line)
        if message is None or self._channel not in {None, channel}:
            with contextlib.suppress(OSError):  # a full disk
                os.write(2, line + b"\n")
            return
        self._channel = channel
        self._heard(message)

    def signal(self, number: signal.Signals) -> None:
        """Send its process group a signal."""
        if not self.exit.done():
            _signal_group(self._popen.pid, number)

    async def stop(self, seconds: float) -> None:
        """Wait for its end that long, and then end it."""
        for patience, number in ((seconds, signal.SIGTERM), (TERM_SECONDS, signal.SIGKILL)):
            await asyncio.wait([self.exit], timeout=patience)
            self.signal(number)
        await self.exit

    async def _end(self, closed: list["asyncio.Future[None]"]) -> Reason:
        code = await asyncio.to_thread(self._reap)
        await asyncio.wait(closed, timeout=_LAST_LINES_SECONDS)
        return exit_of(code if code >= 0 else None, -code if code < 0 else None)

    def _reap(self) -> int:
        os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        # What it has started ends with it. While it is a zombie, no other group gets its number.
        # guard: program-group
        _signal_group(self._popen.pid, signal.SIGKILL)
        return self._popen.wait()


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _die_with(parent: int) -> None:
    """In the program's process: be killed when its parent is gone."""
    if _libc is not None:
        # guard: program-orphan
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
