"""What goes to the operator's webhook, by the Standard Webhooks specification: the body, its signature, one attempt."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from orchestrator.errors import NotDelivered

#: About five seconds in all: a receiver that hangs must not keep the threads that boot agents.
PATIENCE = httpx.Timeout(3.0, connect=2.0)


def body(alert: Mapping[str, Any]) -> str:
    """Return what is sent: `type`, `timestamp` (of the event) and `data`, as JSON."""
    at = datetime.fromtimestamp(alert["at"] / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": alert["type"], "timestamp": at, "data": alert["data"]})


def signature(secret: str, message_id: str, timestamp: int, content: str) -> str:
    """Return the header `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.{content}".encode()
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def deliver(url: str, secret: str, message_id: str, content: str) -> None:
    """Send one message. Redirects are not followed: the receiver is the one that was set.

    Raises:
        NotDelivered: why; the same message may be sent again, its receiver knows it by its id.
    """
    timestamp = int(time.time())
    headers = {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, message_id, timestamp, content),
    }
    try:
        # The body of the answer is not needed, and may be endless.
        with httpx.stream("POST", url, content=content, headers=headers, timeout=PATIENCE) as answer:
            status = answer.status_code
    except httpx.HTTPError as failure:
        raise NotDelivered(f"the webhook's receiver does not answer ({type(failure).__name__})") from None
    if not 200 <= status < 300:
        raise NotDelivered(f"the webhook's receiver answered {status}")
