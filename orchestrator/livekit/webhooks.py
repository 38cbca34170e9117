"""Verifies LiveKit's webhooks."""

import string
from dataclasses import dataclass

from livekit import api

from orchestrator.errors import WebhookRefused

#: Longest accepted id and name of an event; LiveKit's own have some 15 and 30 characters.
_MAX_LENGTH = 128
_NAME = frozenset(string.ascii_lowercase + "_")


@dataclass(frozen=True, slots=True)
class Webhook:
    """One event from LiveKit."""

    id: str
    event: str
    room: str  #: '' if the event concerns no room
    created_at: int  #: Unix seconds
    dropped: int  #: number of events that LiveKit failed to send before this one


class Webhooks:
    """Reads webhooks that are signed with one key pair."""

    def __init__(self, api_key: str, api_secret: str) -> None:
        self._verifier = api.TokenVerifier(api_key, api_secret)
        self._receiver = api.WebhookReceiver(self._verifier)

    def check(self, authorization: str) -> None:
        """Check the signature alone, before the body is read. Raises `WebhookRefused`."""
        try:
            # guard: webhook-scheme-first
            self._verifier.verify(authorization)
        except Exception as failure:  # its parsers raise many kinds
            raise WebhookRefused(f"This is not a webhook that is signed with our key: {failure}.") from failure

    def read(self, body: bytes, authorization: str) -> Webhook:
        """Verify the signature over the raw body, then parse it.

        Args:
            authorization: the header as received: the bare token, without a scheme.

        Raises:
            WebhookRefused: it is not signed with our key pair, or not a webhook.
        """
        try:
            # guard: webhook-scheme
            event = self._receiver.receive(body.decode(), authorization)
        except Exception as failure:  # LiveKit's receiver raises plain `Exception`; its parsers, many kinds
            raise WebhookRefused(f"This is not a webhook that is signed with our key: {failure}.") from failure
        if not 0 < len(event.id) <= _MAX_LENGTH or not 0 < len(event.event) <= _MAX_LENGTH or set(event.event) - _NAME:
            raise WebhookRefused("This webhook has no id or no event that could be LiveKit's.")
        return Webhook(event.id, event.event, event.room.name, event.created_at, event.num_dropped)
