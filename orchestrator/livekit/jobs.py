"""What passes between the connection to LiveKit and the code that decides on jobs. Independent of the protocol."""

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class JobOffer:
    """A job that LiveKit offers: an agent is wanted in a room."""

    id: str
    dispatch_id: str
    room: str
    metadata: str
    whole: bytes = b""  #: the job as LiveKit sent it


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to an offer.

    Not available: LiveKit asks the next worker. Terminate: the job needs no agent, and LiveKit drops it.
    """

    available: bool
    identity: str = ""
    terminate: bool = False


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """How busy this worker is."""

    full: bool = True
    load: float = 1.0  #: 0 to 1: the share of our sessions that is in use
    jobs: int = 0
    draining: bool = False


class Outcome(Enum):
    """The state of a job as we report it."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


class JobHandler(Protocol):
    """Decides on jobs. The connection runs each call as a task of its own."""

    async def on_availability(self, offer: JobOffer) -> Answer:
        """Take a job or refuse it. Cancelled when LiveKit no longer waits for the answer."""

    async def on_assignment(self, offer: JobOffer) -> None:
        """LiveKit has assigned a job that we took."""

    async def on_termination(self, job_id: str) -> None:
        """LiveKit wants a job to end."""

    def running(self) -> list[str]:
        """Return the ids of the running jobs."""


@dataclass(slots=True)
class Registration:
    """The state of our registration with LiveKit."""

    worker_id: str = ""  #: empty while we are not registered
    error: str = ""  #: why the last connection ended or failed
    since: float = field(default_factory=time.monotonic)  #: time of the last change
