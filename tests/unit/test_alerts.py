"""Messages to the operator's webhook: signed as in the specification's example, in time, and to no other address."""

import json
import re
import socket
import time

import pytest

from orchestrator.errors import NotDelivered, Preflight
from orchestrator.settings import Settings
from orchestrator.worker import alerts
from tests.support.receiver import Receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_signature_is_that_of_the_specification() -> None:
    content = '{"test": 2432232314}'
    signature = alerts.signature(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, content)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_body_names_the_event_its_time_and_its_facts() -> None:
    found = json.loads(alerts.body({"type": "pool.empty", "at": 1_700_000_000_123, "data": {"target": 3}}))
    assert found == {"type": "pool.empty", "timestamp": "2023-11-14T22:13:20.123Z", "data": {"target": 3}}


def test_a_message_arrives_signed() -> None:
    with Receiver(SECRET) as receiver:
        began = time.time()
        alerts.deliver(receiver.url, SECRET, "m1", '{"type": "pool.empty"}')
        ended = time.time()
        (message,) = receiver.messages
    assert (message.id, message.body) == ("m1", {"type": "pool.empty"})
    assert message.verified
    assert int(began) <= message.timestamp <= ended


@pytest.mark.parametrize("status", [301, 307, 400, 410, 500])
def test_any_other_status_than_success_fails_the_delivery(status: int) -> None:
    """Redirects are not followed either: only the configured receiver gets messages."""
    with Receiver(SECRET, status) as elsewhere, Receiver(SECRET, status, location=elsewhere.url) as receiver:
        with pytest.raises(NotDelivered, match=str(status)):
            alerts.deliver(receiver.url, SECRET, "m1", "{}")
        assert len(receiver.messages) == 1
        assert not elsewhere.messages


def test_the_error_of_an_unreachable_receiver_hides_its_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        port = taken.getsockname()[1]
        with pytest.raises(NotDelivered, match="does not answer") as failure:
            alerts.deliver(f"http://127.0.0.1:{port}/canary", SECRET, "m1", "{}")
    assert "canary" not in str(failure.value)


def test_a_hung_receiver_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NotDelivered, match="Timeout"):
        alerts.deliver(f"http://127.0.0.1:{silent.getsockname()[1]}", SECRET, "m1", "{}")


@pytest.mark.parametrize(
    "secret",
    ["hello", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64 at all, not at all", SECRET.removeprefix("whsec_")],
)
def test_an_invalid_secret_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "https://example.com/canary")
    monkeypatch.setenv("ALERT_WEBHOOK_SECRET", secret)
    with pytest.raises(Preflight, match=r"ALERT_WEBHOOK_SECRET.*openssl rand") as failure:
        Settings.load()
    assert "canary" not in failure.value.detail
    assert f"{secret!r}" not in failure.value.detail


def test_a_url_without_a_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "https://example.com/canary")
    with pytest.raises(Preflight, match="ALERT_WEBHOOK_SECRET is not") as failure:
        Settings.load()
    assert "canary" not in failure.value.detail


def test_an_invalid_address_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "example.com/canary")
    with pytest.raises(Preflight, match=re.escape("http:// or https://")) as failure:
        Settings.load()
    assert "canary" not in failure.value.detail


def test_the_policy_contains_whether_an_alert_webhook_is_set() -> None:
    assert Settings().policy["alert_webhooks"] == 0
    listened = Settings(alert_webhook_url="https://example.com", alert_webhook_secret=SECRET)
    assert listened.policy["alert_webhooks"] == 1
    assert "example.com" not in repr(listened)
