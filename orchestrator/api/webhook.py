"""Webhooks from LiveKit. Each is recorded and makes a node reconcile its room; none changes a session by itself."""

import logging
import time
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.security import APIKeyHeader

from orchestrator.api.dependencies import ServicesDep
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas.webhook import WebhookReply
from orchestrator.errors import StoreUnavailable, WebhookRefused
from orchestrator.settings import WEBHOOK_PATH

log = logging.getLogger("orchestrator.api")

#: Largest webhook, in bytes.
BODY_BYTES = 262_144
_MEDIA_TYPES = ("application/webhook+json", "application/json")
#: LiveKit resends a webhook four times, after the seconds in `Retry-After`: long enough for a restart of Redis.
RETRY_SECONDS = 5
#: Seconds between two log lines about refused webhooks: any client can send some.
_LOG_SECONDS = 60.0

router = APIRouter(tags=["livekit"], responses=PROBLEM_RESPONSES)

_signature = APIKeyHeader(
    name="Authorization",
    scheme_name="LiveKit webhook",
    description="A token without a scheme, signed with LIVEKIT_API_SECRET; its `sha256` is the body's.",
    auto_error=False,
)
_EXAMPLE = {
    "event": "participant_joined",
    "id": "EV_pWyyBVAGqh3Y",
    "createdAt": "1771351907",
    "room": {"sid": "RM_VJcTZk5PYyXu", "name": "room_0f6f1f0a6b5c4d3e2f1a0b9c8d7e6f5a"},
    "participant": {"sid": "PA_8DbkXkQGpDYh", "identity": "user-ada", "state": "ACTIVE"},
}
_BODY = {
    "required": True,
    "content": {kind: {"schema": {"type": "object"}, "example": _EXAMPLE} for kind in _MEDIA_TYPES},
}


@router.post(WEBHOOK_PATH, summary="Receive a webhook from LiveKit", openapi_extra={"requestBody": _BODY})
async def webhook(
    request: Request, services: ServicesDep, authorization: Annotated[str | None, Depends(_signature)]
) -> WebhookReply:
    """Record one event, once. The answer is 200 only then: LiveKit sends it again after a 5xx, never after a 4xx."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _MEDIA_TYPES:
        detail = f"A webhook is {_MEDIA_TYPES[0]}, not {media_type[:64] or 'of no content type'}."
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
    try:
        services.webhooks.check(authorization or "")
        body = await request.body()
        event = services.webhooks.read(body, authorization or "")
    except WebhookRefused as failure:
        _log_refused(request, failure)
        raise
    try:
        result = await services.store.webhook(event.id, event.event, event.room, event.created_at, event.dropped)
    except StoreUnavailable as failure:
        raise StoreUnavailable(failure.detail, retry_after=RETRY_SECONDS) from failure
    log.debug("webhook", extra={"event": event.event, "room": event.room, "result": result})
    return WebhookReply(result=result)


def _log_refused(request: Request, failure: WebhookRefused) -> None:
    state, now = request.app.state, time.monotonic()
    if now - getattr(state, "webhook_refused_at", -_LOG_SECONDS) >= _LOG_SECONDS:
        state.webhook_refused_at = now
        log.warning("a webhook is refused; is LIVEKIT_API_KEY the one that signed it? %s", failure.detail)
