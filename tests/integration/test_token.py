"""LiveKit's contract for token endpoints: the fields that a client may send, and the grants that it never gets."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
import redis
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from orchestrator.api.app import create
from orchestrator.store import Store
from tests.support.api import is_problem, serve, settings, start
from tests.support.pool import warm

#: All fields that livekit-client 2.23 can send, verbatim.
EVERYTHING = {
    "room_name": "", "participant_name": "n", "participant_identity": "", "participant_metadata": "m",
    "participant_attributes": {"k": "v"},
    "room_config": {"agents": [{"agent_name": "voice-agent", "metadata": '{"a":1}', "deployment": ""}]},
}  # fmt: skip


@pytest.fixture
async def http(store: Store, valkey_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(create(settings(valkey_url, token_rate_limit="100000/minute"))) as client:
        yield client


def claims(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 201, answer.text
    body = answer.json()
    found: dict[str, Any] = jwt.decode(body["participant_token"], "s" * 40, algorithms=["HS256"])
    assert found["video"]["room"] == body["room_name"]
    assert found["sub"] == body["participant_identity"]
    return found


async def test_a_token_for_a_new_room_contains_the_dispatch(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/token", json={})
    body = answer.json()
    assert body["server_url"] == "ws://127.0.0.1:1"
    assert answer.headers["Cache-Control"] == "no-store"
    found = claims(answer)
    room = body["room_name"]
    assert room.startswith("room_")
    assert found.pop("exp") - found.pop("nbf") == 15 * 60
    assert found == {
        "iss": "key", "sub": f"user-{room[5:]}", "attributes": {},
        "video": {
            "roomJoin": True, "room": room, "canPublish": True, "canSubscribe": True, "canPublishData": True,
            "canPublishSources": ["microphone"],
        },
        "roomConfig": {
            "emptyTimeout": 120, "departureTimeout": 60, "agents": [{"agentName": "voice-agent"}],
        },
    }  # fmt: skip


async def test_every_field_of_livekits_client_is_accepted(http: httpx.AsyncClient) -> None:
    found = claims(await http.post("/api/token", json=EVERYTHING, headers={"X-Sandbox-Id": ""}))
    assert (found["name"], found["metadata"], found["attributes"]) == ("n", "m", {"k": "v"})
    assert found["roomConfig"]["agents"] == [{"agentName": "voice-agent", "metadata": '{"a":1}'}]


async def test_issuing_a_token_assigns_no_agent(
    http: httpx.AsyncClient, store: Store, raw: redis.Redis, valkey_url: str
) -> None:
    await warm(store, valkey_url, 2)
    rooms = {claims(await http.post("/api/token", json={}))["video"]["room"] for _ in range(20)}
    assert len(rooms) == 20
    assert raw.scard("pool:ready") == 2
    assert raw.keys("session:*") == []


async def test_a_token_for_a_session_contains_no_dispatch(
    http: httpx.AsyncClient, store: Store, valkey_url: str
) -> None:
    await warm(store, valkey_url, 1)
    session_id = (await start(http, "ada")).json()["sessionId"]
    room = (await http.get(f"/api/session/{session_id}")).json()["roomName"]
    body = {"sessionId": session_id} | EVERYTHING
    for asked in (body, body | {"room_name": room, "participant_identity": f"user-{room[5:]}"}):
        found = claims(await http.post("/api/token", json=asked))
        assert found["video"]["room"] == room
        assert "agents" not in found["roomConfig"], "the session has its agent already"
    await http.post("/api/session/stop", json={"sessionId": session_id})
    is_problem(await http.post("/api/token", json=body), 409, "session_over")


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"room_name": "room_of_others"}, "room_name"),
        ({"participant_identity": "agent-room"}, "participant_identity"),
        ({"participant_attributes": {"lk.agent.state": "listening"}}, "lk.agent.state"),
        ({"participant_attributes": {"LK.publish_on_behalf": "x"}}, "LK.publish_on_behalf"),
        ({"participant_attributes": {f"name{n}": "x" * 500 for n in range(20)}}, "participant_attributes"),
        ({"room_config": {"egress": {"room": {}, "participant": {"segments": 1}}}}, "egress"),
        ({"room_config": {"max_participants": 100}}, "max_participants"),
        ({"room_config": {"name": "x", "metadata": "y"}}, "room_config.metadata"),
        ({"room_config": {"agents": [{"agent_name": "another"}]}}, "'another'"),
        ({"room_config": {"agents": [{}, {}]}}, "at most 1 item"),
        ({"room_config": {"agents": ["voice-agent"]}}, "room_config.agents.0"),
        ({"room_config": {"agents": {"agent_name": "voice-agent"}}}, "room_config.agents"),
        ({"room_config": {"agents": [{"metadata": "x" * 4097}]}}, "4096 bytes"),
        ({"room_config": {"agents": [{"metadata": {"a": 1}}]}}, "agents.0.metadata"),
        ({"room_config": {"agents": [{"deployment": "prod"}]}}, "deployment"),
    ],
)
async def test_forbidden_fields_of_a_token_request_are_refused(
    http: httpx.AsyncClient, asked: dict[str, Any], named: str
) -> None:
    answer = await http.post("/api/token", json=asked)
    # The schema refuses most errors; it cannot express which names are reserved.
    typed = "room_config" in asked and named != "'another'"
    problem = is_problem(answer, 422, "malformed_request" if typed else "invalid_request")
    assert named in problem["detail"]
    assert len(problem["detail"]) < 300, "LiveKit's client shows it unchanged"


OURS = ("room_name", "participant_name", "participant_identity", "participant_metadata", "room_config", "sessionId",
        "participant_attributes")  # fmt: skip
THEIRS = ("attributes", "video", "grants", "roomName", "identity", "kind", "ttl")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
CONFIG = st.dictionaries(
    st.sampled_from(["agents", "egress", "name", "max_participants", "metadata", "tags"]),
    JSON | st.just([{"agent_name": "voice-agent", "metadata": "m"}]),
    max_size=2,
)
FULL = {"roomJoin", "room", "canPublish", "canSubscribe", "canPublishData", "canPublishSources"}


BODY = st.dictionaries(st.sampled_from(OURS), st.text(max_size=40), max_size=2) | st.dictionaries(
    st.sampled_from(OURS + THEIRS), JSON, max_size=3
)


@given(body=BODY, config=CONFIG | st.just({}))
@example(body={"room_name": "room_of_others"}, config={})
@example(body={"participant_identity": "user-of-others"}, config={})
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
async def test_no_request_gets_additional_grants(
    http: httpx.AsyncClient, body: dict[str, Any], config: dict[str, Any]
) -> None:
    answer = await http.post("/api/token", json={"room_config": config} | body)
    assert answer.status_code == 201 or 400 <= answer.status_code < 500, answer.text
    if answer.status_code != 201:
        return
    found = claims(answer)
    assert set(found["video"]) == FULL
    assert found["video"]["room"].startswith("room_")
    assert found["sub"] == "user-" + found["video"]["room"][5:]
    assert "kind" not in found
    assert not [name for name in found["attributes"] if name.lower().startswith("lk.")]
    assert set(found["roomConfig"]) == {"emptyTimeout", "departureTimeout", "agents"}
    (agent,) = found["roomConfig"]["agents"]
    assert set(agent) <= {"agentName", "metadata"}
    assert agent["agentName"] == "voice-agent"


async def test_tokens_are_rate_limited_by_address(store: Store, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url, token_rate_limit="3/day"))) as http:
        answers = [await http.post("/api/token", json={}) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 429, 429]
    assert int(answers[-1].headers["Retry-After"]) > 60
    assert json.loads(answers[-1].text)["code"] == "rate_limited"
