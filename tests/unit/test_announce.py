"""When `orchestrator up` prints that the node is up."""

import httpx

from orchestrator.node.announce import poll


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
