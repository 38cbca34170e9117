"""All errors that the orchestrator raises on purpose. An error without a message has its docstring as the message."""

import math
from collections.abc import Sequence
from http import HTTPStatus

from orchestrator.reasons import HealthWarning, Reason

#: Exit code of a program that can never run with its settings (EX_CONFIG of sysexits.h): it is not started again. After
#: any other exit code a program that has run is always started again.
CANNOT_RUN = 78


class OrchestratorError(Exception):
    """Something went wrong in the orchestrator."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal_error"
    #: Whether `detail` concerns only the request, in our own words, so that its sender may read it. Any other detail is
    #: for the operator; callers get the sentence of the code instead.
    about_request = False

    def __init__(
        self, detail: str = "", *, retry_after: float | None = None, warnings: Sequence[HealthWarning] = ()
    ) -> None:
        self.detail = detail or " ".join((self.__doc__ or "").split())
        #: Seconds after which the same request may succeed.
        self.retry_after = retry_after
        #: The warnings whose sentences are in `detail`.
        self.warnings = warnings
        super().__init__(self.detail)


class NotFound(OrchestratorError):
    """There is no such session."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"
    about_request = True


class InvalidRequest(OrchestratorError):
    """The request asks for something that is not allowed."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invalid_request"
    about_request = True


class Unauthorized(OrchestratorError):
    """This route needs a key: send `Authorization: Bearer <one of API_KEYS, or the session's clientSecret>`."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthorized"
    about_request = True


class TooManyAttempts(OrchestratorError):
    """Too many wrong keys or tokens from this address; try again later."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_attempts"
    about_request = True


class Forbidden(OrchestratorError):
    """This route is the operator's: send `Authorization: Bearer <ADMIN_TOKEN>`."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"
    about_request = True


class InvalidHost(OrchestratorError):
    """This api does not serve that host name."""

    status = HTTPStatus.FORBIDDEN
    code = "invalid_host"
    about_request = True


class TooManyListeners(OrchestratorError):
    """Too many streams are open; close some, or poll."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_listeners"
    about_request = True


class WebhookRefused(OrchestratorError):
    """This webhook is not signed with our LiveKit key pair."""

    status = HTTPStatus.UNAUTHORIZED
    code = "webhook_refused"


class SessionOver(OrchestratorError):
    """The session is over; start a new one."""

    status = HTTPStatus.CONFLICT
    code = "session_over"


class UserHasSession(OrchestratorError):
    """This user has a live session that somebody else began: send its clientSecret as `Authorization: Bearer`, or use
    another userId."""

    status = HTTPStatus.CONFLICT
    code = "user_has_session"
    about_request = True


class RateLimited(OrchestratorError):
    """Too many starts from this address."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate_limited"
    about_request = True

    def __init__(self, limit: str = "Too many starts from this address", *, retry_after: float = 1.0) -> None:
        #: The limit in words, without the time to wait.
        self.limit = limit
        super().__init__(f"{limit}; try again in {math.ceil(retry_after)} s.", retry_after=retry_after)


class TooManySessions(OrchestratorError):
    """This address has as many sessions as one may have; end one, or try later."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_sessions"
    about_request = True


class AtCapacity(OrchestratorError):
    """All session slots are taken."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "at_capacity"


class StoreUnavailable(OrchestratorError):
    """Redis does not answer; try again shortly."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "store_unavailable"


class KeyReused(OrchestratorError):
    """This Idempotency-Key was sent with another request before; use a new key for a new request."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "idempotency_key_reused"
    about_request = True


class RoomTaken(OrchestratorError):
    """The room has a session already."""

    status = HTTPStatus.CONFLICT
    code = "room_taken"


class BootsFail(OrchestratorError):
    """Agents do not boot."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "agents_do_not_boot"


class Draining(OrchestratorError):
    """The node is stopping and takes no more sessions."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "draining"


class NotSetUp(OrchestratorError):
    """No node has told Redis its settings yet: one is starting, or Redis has lost its data. Try again shortly."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "not_set_up"


class IllegalMove(OrchestratorError):
    """The state table does not allow this move."""

    status = HTTPStatus.CONFLICT
    code = "illegal_move"


class HostUnavailable(OrchestratorError):
    """The agent host of this node does not answer."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "host_unavailable"


class NotTheAgent(OrchestratorError):
    """This process is neither the one that the agent host has started nor a descendant of it."""

    code = "not_the_agent"


class SpawnFailed(OrchestratorError):
    """The agent process could not be started."""

    code = "spawn_failed"

    def __init__(self, detail: str = "", *, reason: Reason | None = None) -> None:
        #: How the boot of its agent ended, where that is known.
        self.reason = reason
        super().__init__(detail or (reason.text if reason else ""))


class LiveKitUnavailable(OrchestratorError):
    """The LiveKit server does not answer."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "livekit_unavailable"


class NotDelivered(OrchestratorError):
    """A webhook's receiver did not take the message."""

    code = "not_delivered"


class NotWarm(OrchestratorError):
    """No agent of this node is warm yet."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "not_warm"


class BootElsewhere(OrchestratorError):
    """Another node has a smaller load, and is to boot the agent."""

    def __init__(self, node: str) -> None:
        self.node = node
        super().__init__()


class SpawnAbandoned(SpawnFailed):
    """The agent was given up before it was spawned; the waiting session gets another."""

    code = "given_up"


class SchemaMismatch(OrchestratorError):
    """Another release, which this one cannot share Redis with, has written there."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "schema_mismatch"


class Preflight(OrchestratorError):
    """The node cannot start on this machine as it is."""

    code = "preflight"
