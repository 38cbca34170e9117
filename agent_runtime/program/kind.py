"""Programs in any language as agents: they join the room, and say by lines what a runtime sees in a room otherwise.

States of a program: starting → `ready` → `assign` → `joined` → … → `stop` → gone.
Failure cases: it cannot be started, or ends before it is ready → this process exits as it did, and its log says why; it
ends later, unbidden → another agent takes over; it answers no ping → it is killed, and another agent takes over.
"""

import asyncio
import logging
import shlex
import signal
from collections.abc import Mapping
from typing import Any

from agent_runtime.call import Call, given
from agent_runtime.kind import Kind, NoRoom, NotWarm
from agent_runtime.program.process import Program
from orchestrator.config.agent import AgentSettings
from orchestrator.reasons import Reason, because

log = logging.getLogger("agent.program")

#: Seconds without an answer to a ping after which a program hangs, and how many pings it gets in them.
PING_SECONDS, PINGS = 10.0, 5
#: What an assignment tells the program, beside LiveKit's address.
_TOLD = ("sessionId", "room", "token", "userId", "metadata", "takeovers", "conversation")
_LEVELS = logging.getLevelNamesMapping()


class ProgramKind(Kind[Call]):
    """The program of AGENT_COMMAND."""

    def __init__(self, settings: AgentSettings) -> None:
        assert settings.agent_command
        self._argv = shlex.split(settings.agent_command)
        self._grace = settings.stop_grace_seconds
        self._assignment: Mapping[str, Any] = {}
        self._program: Program | None = None
        self._call: Call | None = None
        #: Pings since its last answer. Counted, because this process may have been stopped for a while itself.
        self._unanswered = 0
        self._told_to_stop = False

    async def warm_up(self) -> None:
        """Start the program, and wait until it is ready."""
        self._ready, self._joined = asyncio.Event(), asyncio.Event()
        program = Program(self._argv, self._heard)
        try:
            await program.start()
        except OSError as failure:
            log.error("cannot start %s: %s", self._argv[0], failure.strerror)
            raise NotWarm(1) from None
        self._program = program
        ready = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait([ready, program.exit], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not self._ready.is_set():
            raise _not_ready(program.exit.result())

    async def failure(self) -> Reason:
        """Ping the program; returns how it ended, or that it hangs."""
        assert self._program
        while not self._program.exit.done():
            # guard: program-hung
            if self._unanswered >= PINGS:
                log.error("the program answers no ping: it is killed")
                self._program.signal(signal.SIGKILL)
                return because("program_hung", seconds=PING_SECONDS).within("agent_lost")
            self._unanswered += 1
            self._program.tell("ping", n=self._unanswered)
            await asyncio.wait([self._program.exit], timeout=PING_SECONDS / PINGS)
        how = self._program.exit.result()
        if self._call is None or not self._call.leaving.done():
            log.error("the program is gone: %s", how.text)
        return how.within("agent_lost")

    def begin(self, assignment: Mapping[str, Any], url: str, settings: AgentSettings) -> Call:
        """Return the call. What the program says is about it from now on."""
        self._assignment = assignment
        self._call = Call(**given(assignment, url))
        self._call.on_goodbye(self._say_goodbye)
        return self._call

    async def enter(self, call: Call, no_room: NoRoom) -> None:
        """Assign the session to the program, and wait until it has joined the room."""
        assert self._program
        self._program.tell("assign", url=call.url, **{name: self._assignment[name] for name in _TOLD})
        await self._joined.wait()

    async def serve(self, call: Call) -> None:
        """The program serves by itself."""

    async def _say_goodbye(self) -> None:
        assert self._program
        assert self._call
        self._program.tell("goodbye", seconds=round(self._call.goodbye_seconds, 1))
        await asyncio.wait([self._call.leaving])

    async def part(self, call: Call) -> None:
        """Tell the program to leave."""
        _, reason = call.leaving.result()
        self._stop(reason)

    async def wind_down(self, call: Call) -> None:
        """Wait for the program's end."""
        assert self._program
        await asyncio.wait([self._program.exit])

    async def close(self, reason: Reason | None) -> None:
        """Let the program end, or end it."""
        if self._program is None:
            return
        if reason:
            self._stop(reason)
        await self._program.stop(self._grace if self._ready.is_set() else 0)

    def _stop(self, reason: Reason) -> None:
        if self._program and not self._told_to_stop:
            self._told_to_stop = True
            self._program.tell("stop", reason=reason.text, code=reason.code)

    def _heard(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "pong"}:
                self._unanswered = 0
            case {"type": "ready"}:
                self._ready.set()
            case {"type": "log", "message": str() as text}:
                log.log(_LEVELS.get(str(message.get("level", "info")).upper(), logging.INFO), "%s", text)
            case {"type": "failed"} if self._call is None:
                log.error("the program has failed: %s", message.get("cause") or "no cause given")
            case _:
                if self._call is None or not self._heard_in_call(self._call, message):
                    log.warning("ignored a message of the program: it has no call yet, or a field is missing")

    def _heard_in_call(self, call: Call, message: dict[str, Any]) -> bool:
        match message:
            case {"type": "joined"}:
                self._joined.set()
            case {"type": "user", "present": bool() as present}:
                # Nobody is gone who was never there.
                call.update_user(
                    present=present, lost=message.get("lost") is True, seen=present or call.user_seen.is_set()
                )
            case {"type": "turn", "role": "user" | "agent" as role, "text": str() as text}:
                call.remember(role, text)
            case {"type": "audible"}:
                call.mark_audible()
            case {"type": "leave"}:
                call.leave(str(message.get("reason") or "the agent left"))
            case {"type": "failed"}:
                call.hand_over(because("agent_error", detail=str(message.get("cause") or "no cause given")))
            case _:
                return False
        return True


def _not_ready(how: Reason) -> NotWarm:
    """Return the end of this process: as the program's, whose last words end the log."""
    if code := how.params.get("exitCode"):
        return NotWarm(int(code))
    log.error("the program was never ready: %s", how.text)
    number = how.params.get("signal")
    return NotWarm(128 + int(number) if number else 1)
