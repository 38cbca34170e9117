"""The api's sockets: owner from the start, addresses, and the error when one is in use."""

import socket
from pathlib import Path

import httpx
import pytest

from orchestrator.api.sockets import listening
from orchestrator.errors import Preflight
from orchestrator.machine.loopback import is_loopback
from orchestrator.node.api_client import Api
from orchestrator.settings import Settings
from tests.support.processes import free_ports


def node(host: str, port: int, frontend_port: int = 0) -> Settings:
    access = {"api_keys": "a-key-of-the-tests"}
    return Settings(_env_file=None, host=host, port=port, frontend_port=frontend_port, **access)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", ["127.0.0.1"]), ("0.0.0.0", ["127.0.0.1"]), ("localhost", ["127.0.0.1"]), ("::1", ["::1"]),
        ("::", ["::1", "127.0.0.1"]),
    ],
)  # fmt: skip
def test_sockets_listen_before_the_app_is_loaded(host: str, reached: list[str]) -> None:
    port = free_ports()
    opened = listening(node(host, port))
    try:
        for address in reached:
            with socket.create_connection((address, port), timeout=5):
                pass
    finally:
        for sock in opened:
            sock.close()


@pytest.mark.parametrize("setting", ["PORT", "FRONTEND_PORT"])
def test_a_port_that_was_taken_meanwhile_is_named(setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken, free = holder.getsockname()[1], free_ports()
        port, page = (taken, 0) if setting == "PORT" else (free, taken)
        with pytest.raises(Preflight, match=f"^{setting}={taken} cannot be opened on .*already in use"):
            listening(node("127.0.0.1", port, page))
    with socket.create_server(("127.0.0.1", free)):
        pass  # a failed start leaves no socket open


def test_another_process_cannot_take_over_the_port() -> None:
    """Another process must not be able to take a port that is bound but not yet listened on."""
    port = free_ports()
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        opened = listening(node("127.0.0.1", port))
        try:
            with pytest.raises(OSError, match="in use"):
                bound.listen()
        finally:
            for sock in opened:
                sock.close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_a_host_address_of_another_machine_is_named(host: str) -> None:
    with pytest.raises(Preflight, match=f"HOST={host}"):
        listening(node(host, free_ports()))


def test_a_shared_port_is_opened_once(tmp_path: Path) -> None:
    port = free_ports()
    opened = listening(node("127.0.0.1", port, port))
    assert len(opened) == 1
    opened[0].close()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"), ("0.0.0.0", "http://127.0.0.1:8080"), ("::", "http://[::1]:8080"),
        ("::1", "http://[::1]:8080"), ("2001:db8::1", "http://[2001:db8::1]:8080"),
        ("node.local", "http://node.local:8080"),
    ],
)  # fmt: skip
def test_every_host_makes_a_url(host: str, url: str) -> None:
    settings = node(host, 8080)
    assert settings.base_url == url
    assert httpx.URL(settings.base_url).port == 8080
    assert settings.page_url.startswith(url.rpartition(":")[0])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1", True), ("http://127.9.9.9", True), ("http://[::1]:8080/x", True),
        ("ws://localhost:1", True),
        ("http://a.localhost", True), ("http://10.0.0.1", False), ("https://voice.example", False),
        ("http://localhost.example", False),
    ],
)  # fmt: skip
def test_loopback_addresses_are_recognised(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


def test_the_command_line_uses_no_proxy_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert Api(node("127.0.0.1", 8080))._client._mounts == {}
    assert Api(node("127.0.0.1", 8080), "http://voice.example")._client._mounts
