"""When `orchestrator up` prints that the node is up."""

import time
from pathlib import Path

import httpx
import pytest

from orchestrator.node import announce
from orchestrator.node.announce import poll
from orchestrator.node.output import Terminal
from orchestrator.settings import Settings


def test_a_pool_is_not_full_before_the_store_is_set_up() -> None:
    """A node that may start no agent is ready immediately, as the API sets the store up between two requests."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        set_up = len(asked) > 1
        if request.url.path == "/readyz":
            return httpx.Response(200 if set_up else 503)
        nodes = {"n1": {"host": True, "lastBeat": 100}}
        sessions = {"pool": 0, "target": 2 if set_up else 0}
        return httpx.Response(200, json={"sessions": sessions, "nodes": nodes, "livekit": {"ok": True}})

    with httpx.Client(base_url="http://node", transport=httpx.MockTransport(answer)) as client:
        for _ in range(3):
            up, health = poll(client, "n1", 99)
            assert not up, (asked, health)
    assert set(asked) == {"/readyz", "/api/health"}


def test_a_serving_node_with_a_full_pool_is_up() -> None:
    nodes = {"n1": {"host": True, "lastBeat": 100}}
    told = {"sessions": {"pool": 2, "target": 2}, "nodes": nodes, "livekit": {"ok": True}}
    with httpx.Client(
        base_url="http://node", transport=httpx.MockTransport(lambda _: httpx.Response(200, json=told))
    ) as client:
        assert poll(client, "n1", 99) == (True, told)
        assert poll(client, "n1", 101)[0] is False, "its record is from before this start"
        assert poll(client, "n2", 99)[0] is False


def test_a_node_that_is_late_is_announced_when_it_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    health = {
        "sessions": {"pool": 2, "target": 2, "max": 5}, "access": "keys",
        "nodes": {"n1": {"host": True, "lastBeat": time.time() + 60}}, "livekit": {"ok": True},
    }  # fmt: skip
    answers = iter([503, 503, 503])

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(next(answers, 200) if request.url.path == "/readyz" else 200, json=health)

    monkeypatch.setattr(announce, "PATIENCE", 0.0)
    monkeypatch.setattr(announce, "POLL", 0.01)
    monkeypatch.setattr(announce.clients, "refusal", lambda _: None)
    settings = Settings(node_id="n1", run_dir=tmp_path, redis_url="redis://r", livekit_url="ws://l")
    with httpx.Client(base_url="http://node", transport=httpx.MockTransport(answer)) as client:
        announce.follow(client, settings, Terminal(soft_wrap=True))
    printed = capsys.readouterr().out
    assert printed.count("Not all up after 0 s.") == 1
    assert printed.index("Not all up") < printed.index("Up after") < printed.index("Ctrl-C stops everything.")
