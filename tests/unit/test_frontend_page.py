"""The page with the Talk button, as the api serves it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from orchestrator.api import frontend, problems
from orchestrator.settings import Settings
from tests.support.node import REPOSITORY


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>the page")
    (folder / "favicon.svg").write_text("<svg/>")
    (folder / "assets" / "index-Ab12.js").write_text("talk();" * 200)
    (tmp_path / "secret.txt").write_text("not for you")
    return folder


def client(dist: Path, **settings: object) -> TestClient:
    app = FastAPI()
    problems.install(app)
    frontend.install(app, Settings(frontend_dir=dist, **settings))  # type: ignore[arg-type]
    return TestClient(app)


@pytest.fixture
def page(dist: Path) -> Iterator[TestClient]:
    with client(dist, livekit_url="ws://127.0.0.1:7880", livekit_public_url="wss://calls.example") as found:
        yield found


def test_the_page_is_revalidated_and_its_files_are_cached(page: TestClient) -> None:
    found = page.get("/")
    assert found.text == "<!doctype html>the page"
    assert found.headers["cache-control"] == "no-cache"
    again = page.get("/", headers={"If-None-Match": found.headers["etag"]})
    assert again.status_code in {200, 304}
    script = page.get("/assets/index-Ab12.js", headers={"Accept-Encoding": "gzip"})
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert script.headers["content-encoding"] == "gzip"
    assert script.headers["content-type"].startswith("text/javascript")
    assert page.get("/favicon.svg").headers["content-type"] == "image/svg+xml"
    assert page.head("/").status_code == 200


def test_the_page_may_load_its_own_files_and_connect_only_to_livekit(page: TestClient) -> None:
    headers = page.get("/").headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["connect-src"] == "'self' ws: wss: https://calls.example"
    assert policy["frame-ancestors"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == page.get("/assets/index-Ab12.js").headers["x-content-type-options"]
    assert headers["referrer-policy"] == "no-referrer"


def test_allowed_origins_may_embed_the_page(dist: Path) -> None:
    with client(dist, cors_origins="https://one.example, https://two.example") as page:
        policy = page.get("/").headers["content-security-policy"]
    assert "frame-ancestors 'self' https://one.example https://two.example" in policy
    assert "connect-src 'self' ws: wss: https://one.example https://two.example" in policy


def test_an_unbuilt_page_below_a_root_path_links_the_documentation(tmp_path: Path) -> None:
    with client(tmp_path / "dist", root_path="/voice") as page:
        found = page.get("/")
    assert found.status_code == 503
    assert '<base href="/voice/" />' in found.text
    assert '<a href="docs">' in found.text


@pytest.mark.parametrize("path", ["/assets/none.js", "/assets/../index.html", "/assets/%2e%2e/%2e%2e/secret.txt"])
def test_an_unknown_file_is_not_found_and_not_cached(page: TestClient, path: str) -> None:
    found = page.get(path)
    assert found.status_code == 404
    assert "immutable" not in found.headers.get("cache-control", "")
    assert "not for you" not in found.text


def test_an_unbuilt_page_names_the_command_and_is_served_once_built(tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    with client(dist) as page:
        found = page.get("/")
        assert found.status_code == 503
        assert "make frontend" in found.text
        assert "Node 20" in found.text
        assert page.get("/favicon.svg").status_code == 404
        assert page.get("/assets/index.js").status_code == 404
        dist.mkdir()
        (dist / "index.html").write_text("built")
        assert page.get("/").text == "built"


def test_the_packages_come_from_the_users_registry() -> None:
    lock = json.loads((REPOSITORY / "frontend" / "package-lock.json").read_text())
    assert len(lock["packages"]) > 10
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
    assert "omit-lockfile-registry-resolved=true" in (REPOSITORY / "frontend" / ".npmrc").read_text()
