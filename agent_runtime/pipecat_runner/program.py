"""One bot's life: imported and warm, assigned, in the room, over."""

import asyncio
import dataclasses
import logging
import os
import signal
import sys
import traceback
from typing import Any

from . import bot_file
from .lines import Lines

log = logging.getLogger("agent.pipecat")

#: What Pipecat logs with: at DEBUG it logs all that is said, and with its diagnosis the values of variables: keys, too.
LOGGING = {"LOGURU_LEVEL": "INFO", "LOGURU_DIAGNOSE": "NO"}
#: Seconds for pipelines to end after they are cancelled, before the bot itself is.
CANCEL_SECONDS = 5.0


class Program:
    """Runs one bot for one session."""

    def __init__(self, lines: Lines, bot: bot_file.Bot, call: Any) -> None:
        self._lines, self._bot, self._call = lines, bot, call
        self._life: asyncio.Task[int] | None = None
        self._over: asyncio.Future[int]
        self._stopping = self._said_why = False

    async def run(self) -> int:
        """Run until the session is over; returns the exit code."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        reading = asyncio.create_task(self._read())
        self._lines.send("ready")
        try:
            return await self._over
        finally:
            reading.cancel()
            await self._lines.flush()

    async def _read(self) -> None:
        try:
            async for message in self._lines.messages():
                self._take(message)
        except (OSError, ValueError) as failure:
            log.warning("the node cannot be read: %r", failure)
        self._stop("the node has closed the connection")

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            # In the event loop: while that is blocked there is no answer.
            case {"type": "ping"}:
                self._lines.send("pong", n=message.get("n"))
            case {"type": "assign"} if not self._life and not self._stopping:
                self._life = asyncio.create_task(self._live(message))
                self._life.add_done_callback(self._finish)
            case {"type": "stop"}:
                self._stop(str(message.get("reason") or "stop"))
            case {"type": "goodbye"}:
                pass  # which words to say, and in which language, only the bot's author knows
            case _:
                self._lines.send("log", level="warning", message=f"ignored: {message.get('type')!r}")

    async def _live(self, assignment: dict[str, Any]) -> int:
        """Run the bot to its end and report how that was; returns the exit code."""
        try:
            self._call.begin(assignment, self._gone)
            await self._bot(_arguments(assignment))
        except asyncio.CancelledError:
            log.info("the bot was cancelled")
        except (Exception, SystemExit) as failure:
            if not isinstance(failure, SystemExit) or failure.code:
                traceback.print_exc()
                return self._fail(f"{type(failure).__name__}: {failure}")
        if not self._stopping and not self._call.room.joined:
            return self._fail(f"the bot ended before it was in the room: {self._call.room.refusal or 'no attempt'}")
        if not self._stopping and self._call.failure:
            return self._fail(self._call.failure)
        self._say_why("leave", reason="the bot is done")
        return int(self._call.lost)

    def _gone(self, why: str, ended: bool) -> None:
        """Follow the room, which is gone: the bot may not notice."""
        if ended:
            self._say_why("leave", reason=why)
        else:
            self._say_why("failed", cause=why)
        self._stop(why)

    def _fail(self, cause: str) -> int:
        self._say_why("failed", cause=cause)
        return 0 if self._stopping else 1

    def _say_why(self, kind: str, **why: str) -> None:
        if not self._said_why and not self._stopping:
            # LiveKit's words for a token that it refuses contain the token.
            token = self._call.token or "-"
            self._lines.send(kind, **{name: text.replace(token, "[token]") for name, text in why.items()})
        self._said_why = True

    def _stop(self, reason: str) -> None:
        if not self._stopping:
            self._stopping = True
            log.info("stops: %s", reason)
            if self._life:
                self._ending = asyncio.create_task(self._end(self._life))
            else:
                self._set_over(0)

    async def _end(self, life: "asyncio.Task[int]") -> None:
        """Cancel the pipelines, as the bot itself does when a user leaves. Its own code after that has its time."""
        if await self._call.cancel():
            await asyncio.wait([life], timeout=CANCEL_SECONDS)
        if not life.done() and not self._call.finished:
            life.cancel()

    def _terminate(self) -> None:
        if self._stopping and self._life:
            self._life.cancel()
        self._stop("SIGTERM")

    def _finish(self, life: "asyncio.Task[int]") -> None:
        self._set_over(0 if life.cancelled() else life.result())

    def _set_over(self, code: int) -> None:
        if not self._over.done():
            self._over.set_result(code)


def _arguments(assignment: dict[str, Any]) -> Any:
    """Return the arguments that Pipecat's own runner would make for this session."""
    from pipecat.runner.types import LiveKitRunnerArguments  # noqa: PLC0415 - the Pipecat of the bot's environment

    known = {field.name for field in dataclasses.fields(LiveKitRunnerArguments) if field.init}
    values = {
        "room_name": assignment["room"], "url": assignment["url"], "token": assignment["token"],
        "body": dict(assignment.get("metadata") or {}), "session_id": assignment["sessionId"],
    }  # fmt: skip
    return LiveKitRunnerArguments(**{name: value for name, value in values.items() if name in known})


def main(arguments: list[str]) -> None:
    """Run the bot of a file, and end the process without exit handlers, which LiveKit's library does not survive."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("livekit").setLevel(logging.WARNING)
    for name, value in LOGGING.items():
        os.environ.setdefault(name, value)
    lines = Lines.inherited()
    try:
        (file,) = arguments
        from .call import Call  # noqa: PLC0415 - a missing Pipecat is reported as the boot's failure

        call = Call(lines.send)
        program = Program(lines, bot_file.bot_of(bot_file.load(file)), call)
        code = asyncio.run(program.run())
    except BaseException as failure:
        traceback.print_exc()
        lines.send("failed", cause=f"{type(failure).__name__}: {failure}")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
