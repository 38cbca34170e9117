"""What an agent may do with LiveKit's API, and what it is told when it may not.

It has a token for the API of its own room, never the project's key: with that, one call could read and end all others.
"""

import functools
import os
from typing import Any

from livekit import api
from livekit.api import access_token, twirp_client

from agent_runtime.context import AgentContext

ADVICE = (
    "an agent here has a token for its own room, and not the project's key. Call LiveKit's API for other rooms from "
    "your backend, or give the agent a key of its own under another name by AGENT_ENV; LiveKit Inference reads "
    "LIVEKIT_INFERENCE_API_KEY and LIVEKIT_INFERENCE_API_SECRET (docs/agents.md, LiveKit's API)"
)
_REFUSED = frozenset({401, 403})


def grant(context: AgentContext) -> None:
    """Let `ctx.api` and `api.LiveKitAPI()` use the token of the session's room."""
    os.environ["LIVEKIT_URL"] = context.url
    if context.api_token:
        os.environ["LIVEKIT_TOKEN"] = context.api_token


def identity(context: AgentContext) -> str:
    """Return the identity with which the session's token joins the room."""
    return str(api.TokenVerifier().verify(context.token, verify_signature=False).identity)


def explain() -> None:
    """Say what to do wherever LiveKit, or its library, refuses what would need the project's key."""
    request = twirp_client.TwirpClient.request

    @functools.wraps(request)
    async def explained(*arguments: Any, **options: Any) -> Any:
        try:
            return await request(*arguments, **options)
        except api.ServerError as failure:
            if failure.status not in _REFUSED:
                raise
            words = f"{failure.message}: {ADVICE}"
            raise type(failure)(
                failure.code, words, status=failure.status, metadata=dict(failure.metadata)
            ) from failure

    twirp_client.TwirpClient.request = explained  # type: ignore[method-assign]
    access_token.AccessToken.__init__ = _explained(access_token.AccessToken.__init__)  # type: ignore[method-assign]


def _explained(function: Any) -> Any:
    @functools.wraps(function)
    def explained(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except ValueError as failure:
            raise ValueError(f"{failure}: {ADVICE}") from None

    return explained


def hint(failure: BaseException) -> str:
    """Return what to do if a library has asked for the project's key; '' for any other failure."""
    text = str(failure)
    return ADVICE if "LIVEKIT_API_KEY" in text or "LIVEKIT_API_SECRET" in text else ""
