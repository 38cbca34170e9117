"""A path with an extra slash is answered with 404: no answer redirects to the request's Host header."""

from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from orchestrator.api.app import create
from orchestrator.models import new_id
from orchestrator.store import Store
from tests.support.api import ADMIN, is_problem, serve, settings, start

FORGED = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}


def paths(app: Any) -> set[tuple[str, str]]:
    """Return (method, path) of everything that an app serves, including static files."""
    found, routes = set(), list(app.routes)
    while routes:
        route = routes.pop()
        if isinstance(route, Mount):
            found.add(("GET", route.path))
        elif isinstance(route, Route | APIRoute):
            path = route.path_format
            for name in ("session_id", "agent_id"):
                path = path.replace(f"{{{name}}}", new_id("session"))
            path = path.replace("{node}", "n").replace("{reload_id}", "0" * 16)
            found |= {(method, path) for method in route.methods or ()}
        else:
            routes += getattr(route, "routes", []) or getattr(route, "original_router", route).routes
    return found


@pytest.mark.parametrize("headers", [{}, ADMIN])
async def test_no_route_redirects(store: Store, valkey_url: str, headers: dict[str, str]) -> None:
    app = create(settings(valkey_url))
    seen = paths(app)
    assert {("POST", "/api/session/start"), ("GET", "/status"), ("GET", "/web"), ("GET", "/docs")} <= seen
    async with serve(app) as http:
        for method, path in seen:
            for asked in (f"{path}/", f"{path}//", f"/{path}", f"//evil.example{path}/", f"{path}/?to=//evil.example"):
                answer = await http.request(method, f"http://127.0.0.1{asked}", headers=FORGED | headers)
                assert not answer.is_redirect, (method, asked, dict(answer.headers))
                assert "evil.example" not in str(answer.headers), (method, asked)


async def test_a_trailing_slash_is_named_in_the_error(store: Store, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url))) as http:
        body = {"userId": "ada"}
        told = is_problem(await http.post("/api/session/start/", json=body), 404, "not_found")
        assert "without the trailing slash" in told["detail"]
        told = is_problem(await http.get("/no/such/page"), 404, "not_found")
        assert "slash" not in told["detail"]
        assert (await start(http, "ada")).status_code == 202
