"""Which proxies are trusted for a client's address, and which settings open an API to the world."""

import pytest
from starlette.requests import Request

from orchestrator.api.addresses import Address, client_address
from orchestrator.errors import Preflight
from orchestrator.settings import Settings


def address(peer: str, trusted: str = "", **headers: str) -> Address:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return client_address(Request({"type": "http", "client": (peer, 1), "headers": raw}), trusted)


@pytest.mark.parametrize(
    ("trusted", "peer", "headers", "found"),
    [
        ("", "198.51.100.7", {"x_real_ip": "203.0.113.1", "x_forwarded_for": "203.0.113.1"}, "198.51.100.7"),
        ("railway", "100.64.0.3", {"x_real_ip": "203.0.113.1", "x_forwarded_for": "6.6.6.6, 7.7.7.7"}, "203.0.113.1"),
        ("railway", "100.64.0.3", {"x_forwarded_for": "6.6.6.6"}, "100.64.0.3"),
        ("10.0.0.0/8", "10.0.0.1", {"x_forwarded_for": "203.0.113.1"}, "203.0.113.1"),
        ("10.0.0.0/8", "10.0.0.1", {"x_forwarded_for": "6.6.6.6, 203.0.113.1, 10.0.0.9"}, "203.0.113.1"),
        ("10.0.0.0/8", "10.0.0.1", {"x_real_ip": "203.0.113.1"}, "203.0.113.1"),
        ("10.0.0.0/8", "10.0.0.1", {}, "10.0.0.1"),
        ("10.0.0.0/8, 127.0.0.0/8", "127.0.0.1", {"x_forwarded_for": "203.0.113.1"}, "203.0.113.1"),
        ("10.0.0.0/8", "198.51.100.7", {"x_forwarded_for": "203.0.113.1"}, "198.51.100.7"),
        ("", "2001:db8:1:2:3:4:5:6", {}, "2001:db8:1:2::/64"),
        ("", "::ffff:198.51.100.7", {}, "198.51.100.7"),
    ],
)
def test_limits_use_the_address_given_by_trusted_proxies(
    trusted: str, peer: str, headers: dict[str, str], found: str
) -> None:
    assert address(peer, trusted, **headers).narrow == found


@pytest.mark.parametrize(
    ("same", "narrow", "wide"),
    [
        (["198.51.100.9", "198.51.100.9:50412", "::ffff:198.51.100.9", "[::ffff:198.51.100.9]:7", ' "198.51.100.9:1"',
          "::ffff:c633:6409", "2002:c633:6409::1", "2002:c633:6409:ffff::7", "[2002:c633:6409:1::]:80"],
         "198.51.100.9", "198.51.100.9"),
        (["2001:db8:1:2::1", "[2001:db8:1:2::1]", "[2001:db8:1:2::1]:443", '"[2001:db8:1:2:9:9:9:9]:1"',
          "2001:DB8:1:2::1", "2001:0db8:0001:0002::9%eth0"], "2001:db8:1:2::/64", "2001:db8:1::/48"),
        (["unknown", "_hidden", "x" * 300, "198.51.100.256", "1.2.3.4.5:6", "[zz", "0x7f.1"], "10.0.0.1", "10.0.0.1"),
    ],
)  # fmt: skip
def test_all_spellings_of_an_address_count_as_one(same: list[str], narrow: str, wide: str) -> None:
    for text in same:
        assert address("10.0.0.1", "10.0.0.0/8", x_forwarded_for=text) == (narrow, wide), text
        assert address("::ffff:10.0.0.1", "10.0.0.0/8", x_forwarded_for=f"6.6.6.6, {text}, 10.0.0.9:4") == (
            (narrow, wide) if narrow != "10.0.0.1" else ("10.0.0.1", "10.0.0.1")
        )
        assert address("10.0.0.1", "railway", x_real_ip=text) == (narrow, wide), text


def test_clients_without_an_address_share_one_limit() -> None:
    """Clients of a Unix socket have no address, so one limit applies to all of them."""
    request = Request({"type": "http", "client": None, "headers": []})
    assert client_address(request, "") == ("unknown", "unknown")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "app.example"])
def test_an_open_api_requires_open_access(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", host)
    with pytest.raises(Preflight, match=r"set API_KEYS .* or OPEN_ACCESS=true"):
        Settings.load()
    monkeypatch.setenv("OPEN_ACCESS", "true")
    assert Settings.load().host == host
    monkeypatch.setenv("OPEN_ACCESS", "false")
    monkeypatch.setenv("API_KEYS", "a-key-of-sixteen-and-more")
    assert Settings.load().keys == ("a-key-of-sixteen-and-more",)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_an_api_may_be_open(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", host)
    assert Settings.load().loopback


def test_a_short_key_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "a-key-of-sixteen-and-more,short-secret")
    with pytest.raises(Preflight, match="API_KEYS has a key of less than 16 characters") as refused:
        Settings.load()
    assert "short-secret" not in str(refused.value)
    monkeypatch.delenv("API_KEYS")
    monkeypatch.setenv("ADMIN_TOKEN", "short-secret")
    with pytest.raises(Preflight, match="ADMIN_TOKEN has less than 16 characters") as refused:
        Settings.load()
    assert "short-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALLOWED_HOSTS", "https://talk.example"), ("ALLOWED_HOSTS", "talk.example:80"), ("ALLOWED_HOSTS", "*"),
     ("TRUSTED_PROXY", "cloudflare"), ("TRUSTED_PROXY", "10.0.0.1/8"), ("CORS_ORIGINS", "app.example"),
     ("CORS_ORIGINS", "https://app.example/path"), ("AGENT_NAME", "")],
)  # fmt: skip
def test_bad_settings_are_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Preflight, match=name):
        Settings.load()
