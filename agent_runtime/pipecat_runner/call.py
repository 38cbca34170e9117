"""The session as the runner sees it from outside the bot: its room, its pipelines, its failures."""

import logging
from collections.abc import Callable
from typing import Any

from livekit.rtc._ffi_client import FfiClient

from . import hooks
from .memory import Memory
from .room import Room, Send
from .words import Hearing, Words

log = logging.getLogger("agent.pipecat")


class Call:
    """One session. It is made before the bot's file is imported, and begins with the assignment."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._assignment: dict[str, Any] = {}
        self._workers: list[Any] = []
        self._runners: list[Any] = []
        self._memory = Memory()
        self._words: Words
        self.room: Room
        #: Whether the room was lost, rather than closed.
        self.lost = False
        #: Why the bot cannot go on, if one of its services has given up.
        self.failure = ""
        _ = FfiClient.instance  # starts the threads of LiveKit's native library now, not during the call
        hooks.created(hooks.WORKERS, self._on_worker)
        hooks.created(hooks.RUNNERS, self._runners.append)
        hooks.room_for_main(self._where)
        hooks.params_of_others()
        hooks.users_who_are_there()

    def begin(self, assignment: dict[str, Any], gone: Callable[[str, bool], None]) -> None:
        """Take the assignment. `gone` is told when the room is, and whether that was intended."""
        self._assignment = assignment

        def lost(why: str, ended: bool) -> None:
            self.lost = not ended
            gone(why, ended)

        self.room = Room(self._send, lost)
        self.room.watch(assignment["token"])
        self._words = Words(self._send, self.room)
        self._memory.conversation = assignment.get("conversation") or ()

    def _on_worker(self, worker: Any) -> None:
        self._workers.append(worker)
        worker.add_observer(Hearing(self._words))
        worker.add_event_handler("on_pipeline_error", self._on_error)

    async def _on_error(self, _: Any, error: Any) -> None:
        """Note an error after which the bot cannot go on; whether it then ends is the bot's decision."""
        if getattr(error, "fatal", False) or not getattr(error.processor, "is_usable", True):
            self.failure = f"pipeline_failed: {error.error}"

    @property
    def token(self) -> str:
        """The token for the room; empty before the assignment."""
        return str(self._assignment.get("token", ""))

    def _where(self) -> tuple[str, str, str]:
        return self._assignment["url"], self._assignment["token"], self._assignment["room"]

    @property
    def finished(self) -> bool:
        """Whether there were pipelines and all of them have ended."""
        return bool(self._workers) and all(worker.has_finished() for worker in self._workers)

    async def cancel(self) -> bool:
        """Cancel what runs the bot's pipelines; returns whether there was anything to cancel."""
        found = self._runners or self._workers
        for each in found:
            try:
                await each.cancel()
            except Exception:
                log.exception("could not cancel %s", each)
        return bool(found)
