"""LiveKit's standard token endpoint: its own clients (`TokenSource.endpoint`, the starter apps) work with it unchanged.

A token takes no agent: those apps fetch one when their page mounts, again on the click, and again after a call. A token
for a fresh room carries LiveKit's dispatch instead: once its user joins, LiveKit requests an agent from this
orchestrator. Rooms, identities and the room's configuration are chosen here; requests for others are refused.
"""

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from orchestrator.api.access import Caller, Role
from orchestrator.api.addresses import Address, client_address
from orchestrator.api.dependencies import CallerDep, ServicesDep, any_caller, visible_session
from orchestrator.api.gate import Limit, gated
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas.token import RoomConfig, TokenReply, TokenRequest
from orchestrator.api.services import Services
from orchestrator.errors import InvalidRequest, RateLimited, SessionOver
from orchestrator.livekit.tokens import user_identity
from orchestrator.models import new_id

#: Largest sum of all names and values of a participant's attributes, in bytes.
ATTRIBUTES_BYTES = 4096

router = APIRouter(
    prefix="/api",
    tags=["sessions"],
    route_class=gated(any_caller, Limit("tokens", lambda settings: settings.token_rate)),
    responses=PROBLEM_RESPONSES,
)


@router.post("/token", status_code=201, summary="Get a LiveKit token")
async def token(
    body: TokenRequest, request: HttpRequest, services: ServicesDep, caller: CallerDep, response: Response
) -> TokenReply:
    """Return a token by LiveKit's token-endpoint contract: for a session's room, or for a fresh one. It takes no agent.

    The token is good for one room and for 15 minutes, which bounds the first connect only. In a fresh room LiveKit
    dispatches `AGENT_NAME` as soon as the user joins. While no agent is available, no token for a fresh room is given.
    """
    response.headers["Cache-Control"] = "no-store"
    dispatch: tuple[str, str] | None = _dispatch(body.room_config, services.settings.agent_name)
    if body.session_id is None:
        address = await _may_get_room(request, services)
        if not services.rooms.auto_create:
            raise InvalidRequest(
                "sessionId: LiveKit does not create rooms by itself here (room.auto_create is off) and would dispatch "
                "no agent: start a session (POST /api/session/start) and send its sessionId."
            )
        room = new_id("room")
        await services.store.room_asked_for(room, *(address or ()))
    else:
        session = await visible_session(services, caller, body.session_id)
        if not session.live:
            reason = session.reason.text if session.reason else session.status
            raise SessionOver(f"The session is over ({reason}); start a new one.")
        room, dispatch = session.room_name, None
        await services.rooms.ensure(room)
    # guard: one-identity
    identity = user_identity(room)
    # guard: room-chosen
    if body.room_name not in {None, "", room}:
        raise InvalidRequest("room_name: rooms are chosen by the server; leave it out.")
    if body.participant_identity not in {None, "", identity}:
        raise InvalidRequest("participant_identity: identities are chosen by the server; leave it out.")
    jwt = services.minter.for_user(
        room,
        identity,
        name=body.participant_name or "",
        metadata=body.participant_metadata or "",
        attributes=_attributes(body.participant_attributes or {}),
        dispatch=dispatch,
    )
    return TokenReply(
        server_url=services.settings.livekit_public_url or services.settings.livekit_url or "",
        participant_token=jwt,
        room_name=room,
        participant_name=body.participant_name,
        participant_identity=identity,
    )


async def _may_get_room(request: HttpRequest, services: Services) -> Address | None:
    """Return the address that limits count the call by; None for a backend, which has no such limits."""
    caller: Caller = services.access.starter(request)
    # LiveKit dispatches nothing to us while we are full: the user would be alone in the room.
    if refusal := await services.assigner.refusal():
        raise refusal
    if caller.role is not Role.ANYBODY:
        return None
    rate, address = services.settings.token_rate, client_address(request, services.settings.trusted_proxy)
    wait = await services.store.take_rate_limit("tokens", *address, rate.amount, rate.get_expiry() * 1000)
    if wait:
        limit = services.settings.token_rate_limit.replace("/", " tokens a ")
        raise RateLimited(f"More than {limit} from this address", retry_after=wait)
    return address


def _attributes(wanted: dict[str, str]) -> dict[str, str]:
    # guard: livekit-attributes
    if reserved := next((name for name in wanted if name.lower().startswith("lk.")), None):
        raise InvalidRequest(f"participant_attributes: {reserved[:64]} is LiveKit's own; leave it out.")
    if sum(len(text.encode()) for pair in wanted.items() for text in pair) > ATTRIBUTES_BYTES:
        raise InvalidRequest(f"participant_attributes: more than {ATTRIBUTES_BYTES} bytes; send less.")
    return wanted


def _dispatch(config: RoomConfig | None, agent_name: str) -> tuple[str, str]:
    """Return (agent name, metadata) of the dispatch that a client may ask for. Raises `InvalidRequest`."""
    wanted = next(iter(config.agents or ()), None) if config else None
    if wanted is None:
        return agent_name, ""
    if wanted.agent_name not in {None, "", agent_name}:
        raise InvalidRequest(f"room_config.agents: there is no agent {wanted.agent_name!r}; it is {agent_name!r}.")
    return agent_name, wanted.metadata or ""
