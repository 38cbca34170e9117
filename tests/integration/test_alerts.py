"""Messages to the operator's webhook, on a real Valkey: one for each change, though several nodes check."""

import asyncio
from typing import Any

import pytest
import redis

from orchestrator.reasons import Reason, because, words
from orchestrator.store import Store
from tests.support.agent_link import AgentLink
from tests.support.pool import assign, change, warm


@pytest.fixture
async def told(store: Store, raw: redis.Redis) -> "Told":
    await change(store, alert_webhooks=1)
    await store.beat_node("n1", {"host": 1}, 60)
    return Told(store, raw)


class Told:
    """Two nodes that check for alerts, and the messages that they must send."""

    def __init__(self, store: Store, raw: redis.Redis) -> None:
        self.store, self.raw = store, raw

    async def look(self) -> list[dict[str, Any]]:
        """Have both nodes check at once, and return the messages to send."""
        await asyncio.gather(*(self.store.check_alerts() for _ in range(2)))
        found = []
        for actions in await asyncio.gather(self.store.process_deadlines(), self.store.process_deadlines()):
            for action in actions:
                if action.what == "alert" and (alert := await self.store.alert(action.id)):
                    found.append(alert)
                    await self.store.alert_queued(action.id)
        return found

    async def kinds(self) -> list[str]:
        return [alert["type"] for alert in await self.look()]

    def wait(self, name: str, ms: int) -> None:
        """Make a condition appear to have lasted that long."""
        assert self.raw.hexists("alerts", f"{name}:since"), f"there is no condition {name} that lasts"
        self.raw.hincrby("alerts", f"{name}:since", -ms)


async def test_a_lasting_empty_pool_is_reported_once_and_its_end_once(told: Told, valkey_url: str) -> None:
    await told.store.set_target(1)
    assert await told.kinds() == [], "an agent may be booting"
    told.wait("pool", 20_000)
    (alert,) = await told.look()
    assert (alert["type"], alert["data"]) == ("pool.empty", {"target": 1, "warm": 0, "booting": 0})
    assert await told.kinds() == [], "the alert was sent already"
    assert await told.store.check_alerts() == ["pool"]
    await told.store.set_target(0)
    await warm(told.store, valkey_url, 1)
    assert await told.kinds() == []
    told.wait("pool", 20_000)
    (alert,) = await told.look()
    assert alert["type"] == "pool.filled"
    assert alert["data"]["lasted"] >= 0
    assert await told.kinds() == []
    assert await told.store.check_alerts() == []
    assert not told.raw.keys("alert:*")
    assert not [member for member in told.raw.zrange("deadlines", 0, -1) if member.startswith("alert|")]


async def test_a_pool_that_is_refilled_in_time_causes_no_alert(told: Told, valkey_url: str) -> None:
    await told.store.set_target(1)
    await told.look()
    await told.store.set_target(0)
    await warm(told.store, valkey_url, 1)
    await told.look()
    assert told.raw.hgetall("alerts") == {}


async def test_an_empty_pool_of_a_draining_node_causes_no_alert(told: Told) -> None:
    await told.store.set_target(1)
    await told.store.drain_node("n1", 10)
    await told.look()
    assert told.raw.hgetall("alerts") == {}


async def test_an_open_breaker_is_reported_immediately(told: Told, valkey_url: str) -> None:
    await told.store.set_target(0)
    for number in range(5):
        session = (await assign(told.store, f"user-{number}")).session_id
        await told.store.claim_agent(session, "n1")
        await told.store.record_exit(session, because("boot_error", detail="no microphone"))
    alerts = await told.look()
    assert [alert["type"] for alert in alerts] == ["breaker.opened"]
    assert alerts[0]["data"] == {
        "cause": "boot_error: no microphone", "causeCode": "boot_error", "failures": 5,
    }  # fmt: skip
    await told.store.close_breaker()
    assert await told.kinds() == ["breaker.closed"]


async def test_only_a_high_error_rate_is_reported(told: Told) -> None:
    async def over(status: str, count: int) -> None:
        for number in range(count):
            session = (await assign(told.store, f"{status}-{number}")).session_id
            await told.store.end_session(session, status, words("because"))

    await over("error", 1)
    assert await told.kinds() == [], "one session is too few for a rate"
    await over("ended", 9)
    assert await told.kinds() == [], "10 % is not above 10 %"
    await over("error", 1)
    (alert,) = await told.look()
    assert (alert["type"], alert["data"]) == ("error_rate.high", {"errors": 2, "sessions": 11, "minutes": 5})
    assert await told.kinds() == []
    for key in told.raw.keys("outcomes:*"):
        assert 0 < told.raw.ttl(key) <= 360
        told.raw.delete(key)
    assert await told.kinds() == []
    told.wait("error_rate", 90_000)
    assert await told.kinds() == ["error_rate.normal"]


async def test_failing_agents_are_reported_until_a_call_is_answered(told: Told, valkey_url: str) -> None:
    """Each call counts once, however many agents it loses; a greeting alone does not count as an answer."""
    refused = because("pipeline_failed", detail="the language model refuses the key (401)")

    async def call(user: str, *causes: Reason, say: str = "") -> None:
        """Run a call that loses its agents one by one, has the given turns, and ends."""
        await warm(told.store, valkey_url, len(causes) + 1)
        session = (await assign(told.store, user)).session_id
        for cause in causes:
            link = AgentLink(valkey_url, await serve(told, valkey_url, session))
            await link.failed(cause)
            await link.close()
        link = AgentLink(valkey_url, await serve(told, valkey_url, session))
        for role in say.split():
            await link.turn(session, {"role": role, "text": "…", "at": 0})
        await link.close()
        await told.store.end_session(session, "ended", because("stopped"))

    def agents(alerts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [alert for alert in alerts if alert["type"].startswith("agents.")]

    await call("ada", refused, refused, say="agent user")
    await call("bob", because("agent_error", detail="ValueError: no"), say="agent user")
    await call("eve", because("killed", signal=9), say="agent")
    assert agents(await told.look()) == []
    reading = await told.store.reading()
    assert (reading.failing_calls, reading.failing_cause) == (2, "agent_error: ValueError: no")
    await call("kim", refused, say="agent user agent")
    (alert,) = agents(await told.look())
    assert (alert["type"], alert["data"]) == (
        "agents.failing",
        {"calls": 3, "cause": refused.text, "causeCode": refused.code},
    )
    assert 0 < told.raw.ttl("pool:failing") <= 3600
    await call("lea", say="agent user agent")
    (alert,) = agents(await told.look())
    assert (alert["type"], alert["data"]["calls"]) == ("agents.serving", 0)
    assert (await told.store.reading()).failing_calls == 0


@pytest.mark.parametrize(("ttl", "counted"), [(60, 3), (5, 0)], ids=["live node", "node without a heartbeat"])
async def test_calls_with_running_and_silent_agents_count_as_failing(
    told: Told, valkey_url: str, ttl: int, counted: int
) -> None:
    """Silent agents are those whose event loop is blocked. The agents of a node that has vanished count as dead."""
    for user in ("ada", "bob", "eve"):
        await warm(told.store, valkey_url, 2)
        session = (await assign(told.store, user)).session_id
        agent = await serve(told, valkey_url, session)
        told.raw.expire("node:n1", ttl)
        told.raw.zadd("deadlines", {f"beat|{agent}": 0})
        await told.store.process_deadlines()
        told.raw.expire("node:n1", 60)
        found = await told.store.session(session)
        assert found is not None
        assert found.takeovers == 1
    reading = await told.store.reading()
    count, cause = reading.failing_calls, reading.failing_cause
    assert (count, cause.startswith("no heartbeat for")) == (counted, bool(counted))
    assert ("agents.failing" in await told.kinds()) == bool(counted)


async def test_a_takeover_is_reported_at_its_start_and_its_end(told: Told, valkey_url: str) -> None:
    await warm(told.store, valkey_url, 2)
    session = (await assign(told.store, "ada")).session_id
    first = await serve(told, valkey_url, session)
    await told.store.record_exit(first, because("killed", signal=9), None, 9)
    (alert,) = await told.look()
    assert alert["type"] == "takeover.started"
    assert alert["data"] == {
        "sessionId": session, "agentId": first, "cause": "killed by signal 9", "causeCode": "killed",
    }  # fmt: skip
    second = await serve(told, valkey_url, session)
    (alert,) = await told.look()
    assert (alert["type"], alert["data"]["agentId"]) == ("takeover.finished", second)
    assert alert["data"]["lasted"] >= 0
    await told.store.record_exit(second, because("killed", signal=9), None, 9)
    await told.store.end_session(session, "ended", because("stopped"))
    alerts = {alert["type"]: alert["data"] for alert in await told.look()}
    assert alerts.keys() == {"takeover.started", "takeover.failed"}
    assert alerts["takeover.failed"] == {
        "sessionId": session, "reason": "stopped by request", "reasonCode": "stopped",
    }  # fmt: skip


async def serve(told: Told, url: str, session: str) -> str:
    """Let the session's agent and the user join; returns the agent's id."""
    agent = str(told.raw.hget(f"session:{session}", "agentId"))
    link = AgentLink(url, agent)
    await link.joined()
    await link.presence(session, present=True)
    await link.close()
    return agent


async def test_an_alert_that_was_not_queued_is_delivered_again(told: Told, valkey_url: str) -> None:
    """The node that took the action died before it queued the delivery."""
    await warm(told.store, valkey_url, 2)
    session = (await assign(told.store, "ada")).session_id
    await told.store.record_exit(await serve(told, valkey_url, session), because("killed", signal=9), None, 9)
    (first,) = [action for action in await told.store.process_deadlines() if action.what == "alert"]
    assert not [action for action in await told.store.process_deadlines() if action.what == "alert"], "another has it"
    told.raw.zincrby("deadlines", -40_000, f"alert|{first.id}")
    (again,) = [action for action in await told.store.process_deadlines() if action.what == "alert"]
    assert again.id == first.id, "the receiver can recognise a repeated message by its id"


async def test_without_a_webhook_no_alert_is_recorded(told: Told, valkey_url: str) -> None:
    await change(told.store, alert_webhooks=0)
    await warm(told.store, valkey_url, 2)
    session = (await assign(told.store, "ada")).session_id
    await told.store.record_exit(await serve(told, valkey_url, session), because("killed", signal=9), None, 9)
    assert not told.raw.keys("alert:*")
    assert not [member for member in told.raw.zrange("deadlines", 0, -1) if member.startswith("alert|")]
