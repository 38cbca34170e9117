"""Whether callers can reach LiveKit: impossible configurations cause a warning, explicit ones of an operator do not."""

from typing import Any

import pytest

from orchestrator.errors import Preflight
from orchestrator.operations import reach
from orchestrator.settings import Settings

#: Addresses that cannot be reached from another machine.
UNREACHABLE = (
    "ws://127.0.0.1:1", "ws://localhost:1", "wss://[::1]:1", "ws://LOCALHOST.:1", "ws://livekit:7880",
    "ws://livekit.default.svc:7880", "ws://livekit.voice.svc.cluster.local", "ws://livekit.railway.internal:1",
)  # fmt: skip
EVERYWHERE = {"host": "0.0.0.0", "api_keys": "a-key-of-sixteen-and-more"}


def told(environ: dict[str, str] | None = None, **settings: Any) -> list[str]:
    return [str(each) for each in reach.troubles(Settings(**settings), environ or {})]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (EVERYWHERE, "HOST=0.0.0.0: "),
        (EVERYWHERE | {"host": "::"}, "HOST=::: "),
        (EVERYWHERE | {"host": "192.0.2.1"}, "HOST=192.0.2.1: "),
        ({"trusted_proxy": "127.0.0.0/8"}, "TRUSTED_PROXY=127.0.0.0/8: "),
        ({"allowed_hosts": "localhost,talk.example"}, "ALLOWED_HOSTS names talk.example: "),
    ],
)
def test_a_loopback_livekit_url_for_remote_callers_causes_a_warning(settings: dict[str, Any], why: str) -> None:
    (embedded,) = told(**settings)
    assert embedded.startswith(why)
    assert "ws://127.0.0.1:7880" in embedded
    assert "Set LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET" in embedded
    # The settings as a node's programs get them; in any case sound uses only loopback.
    environ = {"EMBEDDED_LIVEKIT": "true"}
    assert told(environ, livekit_url="ws://127.0.0.1:7880", livekit_port=1, **settings) == [embedded]
    assert told(environ, livekit_url="ws://127.0.0.1:7880", livekit_public_url="wss://sound.example", **settings)
    for url in UNREACHABLE:
        (found,) = told(livekit_url=url, **settings)
        assert found.startswith(why)
        assert f"are given {url} as LiveKit's address" in found
        assert "Set LIVEKIT_PUBLIC_URL" in found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"host": "::1"},
        {"allowed_hosts": "localhost,127.0.0.1"},
        EVERYWHERE | {"livekit_url": "wss://p.livekit.cloud"},
        EVERYWHERE | {"livekit_url": "ws://192.0.2.1:7880"},
        EVERYWHERE | {"livekit_url": "ws://[2001:db8::1]:7880"},
        EVERYWHERE | {"livekit_url": "ws://livekit:7880", "livekit_public_url": "wss://sound.example"},
        # Compose publishes its ports on loopback.
        EVERYWHERE | {"livekit_url": "ws://livekit:7880", "livekit_public_url": "ws://localhost:7880"},
        {"livekit_url": "ws://livekit:7880"},
        {"cors_origins": "https://app.example", "livekit_url": "wss://p.livekit.cloud"},
        {"cors_origins": "https://app.example"},
    ],
)  # fmt: skip
def test_a_reachable_livekit_url_causes_no_warning(settings: dict[str, Any]) -> None:
    assert told(**settings) == []


def test_an_unspecified_address_causes_a_warning_for_all_callers() -> None:
    for url in ("ws://0.0.0.0:7880", "ws://[::]:7880"):
        assert f"as {url}, which nobody can connect to: set LIVEKIT_PUBLIC_URL" in told(livekit_url=url)[0]
        assert len(told(livekit_url="ws://127.0.0.1:1", livekit_public_url=url, **EVERYWHERE)) == 1


def test_an_https_page_with_a_ws_url_causes_a_warning() -> None:
    pages = {"cors_origins": "http://localhost:3000, https://app.example"}
    (found,) = told(livekit_url="ws://192.0.2.1:7880", **pages)
    assert "lets no page of https://app.example connect there" in found
    assert "set LIVEKIT_PUBLIC_URL to its wss:// address" in found


@pytest.mark.parametrize("name", ["LIVEKIT_URL", "LIVEKIT_PUBLIC_URL"])
@pytest.mark.parametrize(
    "url", ["livekit.example:7880", "livekit.example", "ws://", "redis://a:1", "wss://me:word@a.example"]
)
def test_an_invalid_livekit_url_is_refused(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(Preflight, match=f"^{name}") as refused:
        Settings.load()
    assert "word@" not in refused.value.detail, "a password is not shown"
