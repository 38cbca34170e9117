"""GET /api/reasons: the text for every code, callers' texts for everybody and operators' texts for the admin token."""

import pytest

from orchestrator import reasons
from orchestrator.api.app import create
from orchestrator.store import Store
from tests.support.api import ADMIN, is_problem, serve, settings

KEY = "first-key-of-16-and-more"


@pytest.mark.parametrize("keys", ["", KEY])
async def test_everyone_gets_texts_and_only_the_operator_gets_remedies(
    store: Store, valkey_url: str, keys: str
) -> None:
    async with serve(create(settings(valkey_url, api_keys=keys))) as http:
        for headers in ({}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": "Bearer cs_x"}):
            told = (await http.get("/api/reasons", headers=headers)).json()
            assert told["reasons"]["agent_lost"] == {
                "kind": "failure", "caller": "The agent was lost.", "title": "The agent was lost",
                "page": reasons.table().reasons["agent_lost"].page, "retryable": True,
            }  # fmt: skip
            assert told["problems"]["draining"]["caller"].startswith("The service is about to restart")
            assert "killed" not in told["reasons"]
            assert "signals" not in told
            assert "events" not in told
        whole = (await http.get("/api/reasons", headers=ADMIN)).json()
        assert whole["reasons"]["killed"]["text"] == "killed by signal {signal}"
        assert whole["reasons"]["killed"]["toldAs"] == "agent_lost"
        assert whole["reasons"]["agent_lost"]["remedy"]
        assert whole["signals"]["9"] == "SIGKILL"
        assert whole["events"]["user_left"] == "The user left the room."


async def test_an_open_api_refuses_foreign_host_names(store: Store, valkey_url: str) -> None:
    async with serve(create(settings(valkey_url))) as http:
        is_problem(await http.get("/api/reasons", headers={"Host": "evil.example"}), 403, "invalid_host")
