"""The API's documentation page: works without the internet, and loads nothing from other hosts."""

import re
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from orchestrator.api.app import create
from orchestrator.settings import Settings


@pytest.fixture
def http() -> Iterator[TestClient]:
    app = create(Settings(_env_file=None))  # type: ignore[call-arg]
    http = TestClient(app)  # without its lifespan, as these routes do not need Redis
    yield http
    http.close()


def test_the_page_loads_only_our_own_files(http: TestClient) -> None:
    page = http.get("/docs")
    asked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "web/docs.js", "openapi.json"} <= set(asked)
    assert not [file for file in asked if file.startswith(("/", "http"))], "must be relative"
    assert re.findall(r"<(?:script|style)[^>]*>(?!</script>)", page.text) == [], "there are no inline scripts or styles"
    for answer in (page, *(http.get(f"/{file}") for file in asked)):
        assert answer.status_code == 200, answer.url
        if not answer.url.path.endswith("openapi.json"):
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'self';")
            assert "unsafe" not in policy
            assert "://" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-cache"
    script = http.get("/docs/swagger-ui-bundle.js")
    assert "SwaggerUIBundle" in script.text
    assert script.headers["content-encoding"] == "gzip"
    assert http.get("/docs/swagger-ui.css", headers={"If-None-Match": "x"}).headers["etag"]


@pytest.mark.parametrize(
    "path", ["/redoc", "/docs/oauth2-redirect", "/docs/none.js", "/docs/../main.py", "/docs/%2e%2e/main.py"]
)
def test_other_paths_are_not_found(http: TestClient, path: str) -> None:
    assert http.get(path).status_code == 404
