"""The command line's client of the api."""

from typing import Any

import httpx

from orchestrator.errors import HostUnavailable, NotFound, OrchestratorError, StoreUnavailable, Unauthorized
from orchestrator.machine import private
from orchestrator.machine.loopback import is_loopback
from orchestrator.settings import Settings


class Api:
    """A client of one node's api. It raises the error that an answer names."""

    def __init__(self, settings: Settings, url: str | None = None) -> None:
        headers = {}
        if token := admin_token(settings):
            headers["Authorization"] = f"Bearer {token}"
        self._url = url or settings.base_url
        self._client = httpx.Client(
            base_url=self._url, headers=headers, timeout=10, trust_env=not is_loopback(self._url)
        )

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """GET a JSON document."""
        return self._request("GET", path, params=params)

    def poll(self, path: str) -> dict[str, Any] | None:
        """GET a JSON document; None while Redis is unavailable, which does not stop the work that is waited for."""
        try:
            return self.get(path)
        # guard: wait-without-redis
        except StoreUnavailable:
            return None

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST a JSON document."""
        return self._request("POST", path, json=body)

    def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, **options)
        except httpx.HTTPError as failure:
            raise HostUnavailable(
                f"no api answers at {self._url} ({failure}). Is it up? Start it with: make up"
            ) from None
        try:
            body: dict[str, Any] = answer.json()
        except ValueError:
            raise OrchestratorError(f"{self._url} is not an orchestrator: it answered {answer.status_code}") from None
        if answer.is_success:
            return body
        detail = str(body.get("detail", answer.text))
        if body.get("code") == StoreUnavailable.code:
            raise StoreUnavailable(detail)
        kinds = {404: NotFound, 401: Unauthorized}
        raise kinds.get(answer.status_code, OrchestratorError)(detail)


def admin_token(settings: Settings) -> str | None:
    """Return ADMIN_TOKEN, or the token that `orchestrator up` has generated here. Raises `Preflight`."""
    if settings.admin_token:
        return settings.admin_token.get_secret_value()
    return private.load_or_empty(settings.secrets_file).get("ADMIN_TOKEN")
