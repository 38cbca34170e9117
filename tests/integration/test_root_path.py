"""ROOT_PATH: a node below a path of a reverse proxy, which removes the path or keeps it."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from orchestrator.api.app import create
from orchestrator.config.root_path import OWN
from orchestrator.settings import WEBHOOK_PATH
from orchestrator.store import Store
from tests.integration.test_slashes import paths
from tests.integration.test_status import Events
from tests.support.api import ADMIN, is_problem, on_a_port, serve, settings, start
from tests.support.path_proxy import PathProxy
from tests.support.pool import warm

ROOT = "/talk/voice"
WEBHOOK = {"Content-Type": "application/webhook+json"}
PAGE = '<head><script type="module" src="./assets/index.js"></script><link href="./favicon.svg"></head>'


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A minimal built page; the tests with a browser show that a real build uses relative URLs."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "favicon.svg").write_text("<svg/>")
    (tmp_path / "assets" / "index.js").write_text("talk();")
    return tmp_path


@pytest.fixture
async def app(store: Store, valkey_url: str, dist: Path) -> FastAPI:
    return create(settings(valkey_url, root_path=ROOT, frontend_dir=dist))


@pytest.fixture
async def direct(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client that connects to the node directly."""
    async with on_a_port(app) as client:
        yield client


@pytest.fixture(params=["stripped", "passed on"])
async def proxied(direct: httpx.AsyncClient, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """A client that connects through a proxy."""
    with PathProxy(str(direct.base_url).rstrip("/"), ROOT, strip=request.param == "stripped") as proxy:
        async with httpx.AsyncClient(base_url=f"{proxy.url}/", timeout=20) as client:
            yield client
        assert proxy.strays == []


def files(page: str) -> list[str]:
    """Return the URLs that a page loads."""
    return re.findall(r'(?:src|href)="([^"#]+)"', page)


@pytest.mark.parametrize(("path", "least"), [("", 2), ("status", 5), ("docs", 4)])
async def test_every_page_loads_its_files_below_the_root_path(
    proxied: httpx.AsyncClient, path: str, least: int
) -> None:
    page = await proxied.get(path)
    assert page.status_code == 200
    asked = [urljoin(str(page.url), file) for file in files(page.text)]
    assert len(asked) >= least
    for url in asked:
        assert urlsplit(url).path.startswith(f"{ROOT}/")
        assert (await proxied.get(url)).status_code == 200, url


async def test_the_api_and_its_streams_work_below_the_root_path(
    proxied: httpx.AsyncClient, store: Store, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    begun = (await start_below(proxied)).json()
    assert begun["status"] == "ready"
    shown = {"Authorization": f"Bearer {begun['clientSecret']}"}
    session = f"api/session/{begun['sessionId']}"
    assert (await proxied.get(session, headers=shown)).json()["userId"] == "ada"
    async with proxied.stream("GET", f"{session}/events", headers=shown) as answer:
        assert answer.status_code == 200
        await Events(answer).next("state", "status", "session")
    async with proxied.stream("GET", "api/status/events", headers=ADMIN) as answer:
        await Events(answer).next("snapshot")


async def start_below(http: httpx.AsyncClient) -> httpx.Response:
    return await http.post("api/session/start", json={"userId": "ada"})


async def test_a_problem_names_the_requested_path(proxied: httpx.AsyncClient) -> None:
    told = is_problem(await proxied.get("api/nowhere"), 404, "not_found")
    assert told["instance"] == f"{ROOT}/api/nowhere"


async def test_the_api_documentation_uses_the_root_path(proxied: httpx.AsyncClient) -> None:
    found = (await proxied.get("openapi.json")).json()
    assert found["servers"] == [{"url": ROOT}]
    assert (await proxied.get(urljoin(f"{proxied.base_url}", "openapi.json"))).status_code == 200


async def test_the_root_path_without_a_slash_serves_the_page_without_a_redirect(proxied: httpx.AsyncClient) -> None:
    for url in (urljoin(str(proxied.base_url), ROOT), f"{proxied.base_url}"):
        for method in ("GET", "HEAD"):
            answer = await proxied.request(method, url, headers={"Host": "evil.example"})
            assert answer.status_code == 200
            assert "evil.example" not in str(answer.headers) + answer.text
        assert f'<head>\n    <base href="{ROOT}/" />' in (await proxied.get(url)).text
    assert (await proxied.post(urljoin(str(proxied.base_url), ROOT))).status_code == 405
    assert "base-uri 'self'" in answer.headers["content-security-policy"]


async def test_the_node_is_reachable_without_the_root_path(direct: httpx.AsyncClient) -> None:
    """Probes, the command line, LiveKit's webhooks, and browsers that open the printed addresses use it directly."""
    for path in ("/livez", "/readyz", "/", "/status", "/assets/index.js"):
        assert (await direct.get(path)).status_code in {200, 503}, path
    assert (await start(direct, "ada")).status_code == 202
    for root in ("", ROOT):
        # A webhook's body may be larger than other bodies.
        answer = await direct.post(root + WEBHOOK_PATH, content=b"x" * 100_000, headers=WEBHOOK)
        assert answer.status_code == 401


@pytest.mark.parametrize(
    "path", [f"{ROOT}x", f"{ROOT}{ROOT}/livez", "/talk", "/talk/livez", f"/{ROOT}/livez", "/voice/livez"]
)
async def test_a_path_similar_to_the_root_path_is_not_found(direct: httpx.AsyncClient, path: str) -> None:
    assert (await direct.get(path)).status_code == 404


async def test_without_a_root_path_no_prefix_is_accepted(store: Store, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url))) as http:
        is_problem(await http.get(f"{ROOT}/livez"), 404, "not_found")
        assert "servers" not in (await http.get("/openapi.json")).json()


async def test_no_path_of_the_api_is_mistaken_for_a_root_path(store: Store, valkey_url: str) -> None:
    """ROOT_PATH may not be in OWN, nor above or below one of OWN, so OWN must cover each of the API's own paths."""
    for _, path in paths(create(settings(valkey_url))):
        assert path == "/" or any(path == own or path.startswith(f"{own}/") for own in OWN), path
