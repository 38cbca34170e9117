"""The route that Prometheus scrapes."""

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from orchestrator.api.dependencies import ServicesDep
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.operations.metrics import Exposition

router = APIRouter(tags=["health"], responses=PROBLEM_RESPONSES)


_EXAMPLE = """\
# HELP orchestrator_pool_agents Warm agents that wait for a session.
# TYPE orchestrator_pool_agents gauge
orchestrator_pool_agents 3.0
"""
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE}}}
}


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response, responses=_TEXT)
async def metrics(request: Request, services: ServicesDep) -> Response:
    """Return all metrics, in Prometheus's text format or in OpenMetrics.

    Unless the api is open, it needs an api key or the admin token.
    """
    services.access.starter(request)
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(Exposition(await services.store.reading())), headers={"Content-Type": content_type})
