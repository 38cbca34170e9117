"""Agents that misbehave, for tests. A session with `echo` in its metadata gets the ordinary echo agent."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import threading
import time

from agent_runtime.context import AgentContext
from agents import echo

#: Must be escaped before it reaches a terminal or log: colours, a title, carriage returns, separators, forged JSON.
NASTY = (
    b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x9b31m\x00\x07\x08 back\r\n"
    b'\r{"level":"error","message":"forged"}\r\n'
    b'one\xe2\x80\xa8two\xc2\x85{"level":"critical"}\n'
)


async def entrypoint(ctx: AgentContext) -> None:
    """Do what the session's metadata says, once the user has joined."""
    await ctx.set_state("listening")
    print("ready for", ctx.metadata.get("do", "nothing"), flush=True)  # noqa: T201 - a crashing agent's output is kept
    await ctx.wait_for_user()
    match ctx.metadata.get("do"):
        case "raise":
            raise RuntimeError("told to fail")
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "show":
            ctx.log.info("sees OPENAI_API_KEY=%s OWN=%s", os.environ.get("OPENAI_API_KEY"), os.environ.get("OWN"))
            ctx.log.info("sees secret=%s", os.environ.get("LIVEKIT_API_SECRET"))
            ctx.leave("shown")
        case "hang":
            time.sleep(3600)  # the event loop hangs, as with a blocking call in a tool
        case "leave":
            ctx.leave("done here")
        case "goodbye":
            ctx.on_goodbye(lambda: _say_goodbye(ctx))
        case "noise":
            amount = (ctx.metadata["megabytes"], ctx.metadata["seconds"])
            threading.Thread(target=_noise, args=amount, daemon=True).start()
        case "deaf":
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
            print("deaf", flush=True)  # noqa: T201
            time.sleep(3600)
        case "family":
            # Grandchildren that ignore SIGTERM, and one whose parent has exited.
            subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 3600 & sleep 3600"])
            subprocess.Popen(["sh", "-c", "sleep 3600 & exit 0"])
            print("family", flush=True)  # noqa: T201
    if ctx.metadata.get("later") and not ctx.takeovers:
        asyncio.get_running_loop().call_later(1, _LATER[ctx.metadata["later"]])
    if ctx.metadata.get("echo"):
        await echo.entrypoint(ctx)


def _block() -> None:
    print("blocks", flush=True)  # noqa: T201
    time.sleep(3600)  # the event loop hangs, as with a blocking call in a tool


def _lose_relay() -> None:
    """Lose the relay for good, like a process that has no file descriptor left: what is open stays open."""
    files = os.listdir("/proc/self/fd")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    for name in files:
        with contextlib.suppress(OSError):
            found = socket.socket(fileno=int(name))
            with contextlib.suppress(OSError):
                if str(found.getpeername()).endswith("relay.sock"):
                    found.shutdown(socket.SHUT_RDWR)
            found.detach()
    print("has lost the relay", flush=True)  # noqa: T201


_LATER = {"block": _block, "lose_relay": _lose_relay}


async def _say_goodbye(ctx: AgentContext) -> None:
    ctx.log.info("says goodbye")
    await asyncio.sleep(0.5)
    ctx.log.info("has said goodbye")


def _noise(megabytes: int, seconds: float) -> None:
    """Print what is hard to log: control characters, binary, one line of 10 MB, and then a flood of lines."""
    os.write(1, NASTY + os.urandom(1 << 20) + b"\n")
    for _ in range(10):
        os.write(1, b"x" * (1 << 20))
    os.write(1, b"\n" + NASTY)
    began = time.monotonic()
    chunk = b"".join(b"%08d " % number + b"lorem ipsum dolor sit amet " * 3 + b"\n" for number in range(1000))
    written = 0
    while written < megabytes << 20:
        written += os.write(1, chunk)
        time.sleep(max(0.0, began + seconds * written / (megabytes << 20) - time.monotonic()))
    os.write(1, b"\n" + NASTY + b"noise is over\n")
