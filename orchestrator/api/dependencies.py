"""What routes declare or call to get at the services, at the caller, and at the session that a path names.

The dependencies are coroutines, though they wait for nothing: FastAPI runs each plain function in a thread.
"""

from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.convertors import Convertor, register_url_convertor

from orchestrator.api.access import AFTERWARDS_SECONDS, Caller, Role
from orchestrator.api.services import Services
from orchestrator.errors import Forbidden, NotFound, Unauthorized
from orchestrator.models import ID_PATTERN, Session


def services_of(request: Request) -> Services:
    """Return the app's services."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    return services_of(request)


ServicesDep = Annotated[Services, Depends(_services)]


class SessionIdConvertor(Convertor[str]):
    """Session ids in paths. Any other text matches no route, and never reaches Redis."""

    regex = ID_PATTERN.strip("^$")

    def convert(self, value: str) -> str:
        """Return the id as it stands."""
        return value

    def to_string(self, value: str) -> str:
        """Return the id as it stands."""
        return value


register_url_convertor("session", SessionIdConvertor())
SessionPath = Annotated[str, Path(pattern=ID_PATTERN, examples=["prewarm_4f0c2a9d8b7e6f5a4b3c2d1e0f9a8b7c"])]


async def current_caller(request: Request, services: ServicesDep) -> Caller:
    """Return who sends a request; a client secret is not verified yet. Raises `Unauthorized`."""
    caller: Caller | None = getattr(request.state, "caller", None)  # set by a gate
    return caller or services.access.caller(request)


async def any_caller(request: Request) -> Caller:
    """Gate: return who sends a request. Raises `Unauthorized`."""
    return services_of(request).access.caller(request)


async def start_caller(request: Request) -> Caller:
    """Gate: return who sends a request that is about no session. Raises `Unauthorized`."""
    return services_of(request).access.starter(request)


async def administrator(request: Request) -> None:
    """Gate: let only the holder of the admin token pass. Raises `Unauthorized`, `Forbidden`."""
    try:
        role = services_of(request).access.caller(request).role
    except Unauthorized:
        role = Role.ANYBODY
    if role is Role.ANYBODY:
        raise Unauthorized("This route needs the admin token: send `Authorization: Bearer <ADMIN_TOKEN>`.")
    if role is not Role.ADMIN:
        raise Forbidden


async def visible_session(services: ServicesDep, caller: Caller, session_id: str) -> Session:
    """Return a session that a caller may see. Raises `NotFound`, whatever the reason is."""
    if not services.access.may_see(caller, session_id):
        raise NotFound
    session = await services.store.session(session_id)
    if session is None:
        raise NotFound
    ended = session.ended_at if caller.role is Role.CLIENT else None
    # guard: client-secret-expiry
    if ended is not None and await services.store.now() > ended + AFTERWARDS_SECONDS:
        raise NotFound
    return session


CallerDep = Annotated[Caller, Depends(current_caller)]


async def session_in_path(session_id: SessionPath, caller: CallerDep, services: ServicesDep) -> Session:
    """Return the session that a path names. Raises `NotFound`, `Unauthorized`."""
    return await visible_session(services, caller, session_id)


SessionDep = Annotated[Session, Depends(session_in_path)]
