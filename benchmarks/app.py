"""The API with an additional route: the reference of P1 and P2."""

from fastapi import FastAPI

from orchestrator.api import app
from orchestrator.api.dependencies import ServicesDep
from orchestrator.api.health import Alive


def create() -> FastAPI:
    """Return the API with an additional route that does nothing but one PING of Redis."""
    api = app.create()

    @api.get("/ping")
    async def ping(parts: ServicesDep) -> Alive:
        await parts.store.ping()
        return Alive()

    return api
