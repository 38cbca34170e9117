"""An HTTP client that does as the api asks its clients to: on a 503 it sends the request again after `Retry-After`."""

import asyncio
import time
from typing import Any

import httpx


class Patient(httpx.AsyncClient):
    """Sends a request again for at most so many seconds. One that changes something needs an Idempotency-Key."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = seconds

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Return the first answer that is no 503, or the last 503."""
        deadline = time.monotonic() + self._seconds
        while True:
            response = await super().send(request, **options)
            pause = response.headers.get("Retry-After", "")
            refused = response.status_code == httpx.codes.SERVICE_UNAVAILABLE and pause.isdigit()
            if not refused or time.monotonic() + int(pause) > deadline:
                return response
            await response.aclose()
            await asyncio.sleep(int(pause))
