"""What is changed in Pipecat before the bot's file is imported, so that the file finds the session it is run for.

Each hook wraps one function of Pipecat. What a version does not have is left alone.
"""

import argparse
import contextlib
import functools
import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipecat.runner import livekit, utils
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.livekit import transport

log = logging.getLogger("agent.pipecat")

#: Whose parameters a bot without any for LiveKit is run with, the likest first.
_LIKE_LIVEKIT = ("webrtc", "daily")

#: The class of a pipeline's task, and of what runs tasks: the newest name first.
WORKERS = (("pipecat.pipeline.worker", "PipelineWorker"), ("pipecat.pipeline.task", "PipelineTask"))
RUNNERS = (("pipecat.workers.runner", "WorkerRunner"), ("pipecat.pipeline.runner", "PipelineRunner"))


def created(names: Sequence[tuple[str, str]], report: Callable[[Any], None]) -> None:
    """Report each object of a class of Pipecat once it is complete; of the first of these names that exists."""
    for module, name in names:
        with contextlib.suppress(ImportError, AttributeError):
            _after_init(getattr(importlib.import_module(module), name), report)
            return
    log.warning("this Pipecat has none of %s", names)


def _after_init(kind: type, report: Callable[[Any], None]) -> None:
    init = kind.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **named: Any) -> None:
        init(self, *args, **named)
        report(self)

    kind.__init__ = wrapped  # type: ignore[misc]


def room_for_main(where: Callable[[], tuple[str, str, str]]) -> None:
    """Let `configure()` return the session's address, token and room."""

    async def configure() -> tuple[str, str, str]:
        return where()

    async def configure_with_args(
        parser: argparse.ArgumentParser | None = None,
    ) -> tuple[str, str, str, argparse.Namespace]:
        url, token, room = where()
        parser = parser or argparse.ArgumentParser()
        parser.add_argument("-r", "--room", default=room)
        parser.add_argument("-u", "--url", default=url)
        return url, token, room, parser.parse_known_args([])[0]

    livekit.configure, livekit.configure_with_args = configure, configure_with_args


def params_of_others() -> None:
    """Give a bot that knows other transports only LiveKit's, with the parameters that it has for one of those."""
    original = utils._get_transport_params

    def params(key: str, known: Mapping[str, Callable[[], Any]]) -> Any:
        like = [*_LIKE_LIVEKIT, *known]
        if key == "livekit" and key not in known and (name := next((one for one in like if one in known), None)):
            wanted = known[name]()
            log.info("the bot has no parameters for LiveKit: it gets those for %s", name)
            common = {field: getattr(wanted, field) for field in TransportParams.model_fields if hasattr(wanted, field)}
            return transport.LiveKitParams(**common)
        return original(key, known)

    utils._get_transport_params = params


def users_who_are_there() -> None:
    """Tell a bot of a user who was in the room before it as it is told of one who comes: many greet only then."""
    kind = transport.LiveKitTransport
    on_connected, on_first = kind._on_participant_connected, kind._on_first_participant_joined

    async def connected(self: Any, identity: str) -> None:
        self.__dict__.setdefault("_told_of", set()).add(identity)
        await on_connected(self, identity)

    async def first(self: Any, identity: str) -> None:
        if identity not in self.__dict__.get("_told_of", ()):
            await connected(self, identity)
        await on_first(self, identity)

    kind._on_participant_connected, kind._on_first_participant_joined = connected, first
