"""One podman for the run, the image built in it, and a real Valkey and LiveKit server outside."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli import livekit_server
from tests.image import engine as engines
from tests.image.engine import IMAGE, NODE, PYTHON, Engine
from tests.support.node import REPOSITORY
from tests.support.processes import free_ports, poll

KEY, SECRET = "devkey", "a-secret-of-the-tests-that-is-long-enough"


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Podman, of which nothing is left."""
    engines.required()
    found = Engine(Path(tempfile.mkdtemp(prefix="vao-image")))
    try:
        yield found
    finally:
        found.clear()


@pytest.fixture(scope="session")
def image(engine: Engine) -> Engine:
    """The image, built."""
    engine.base(PYTHON, "python")
    engine.base(NODE, "node")
    engine.build(REPOSITORY, REPOSITORY / "Dockerfile.orchestrator", IMAGE)
    return engine


@pytest.fixture(scope="session")
def livekit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real LiveKit server."""
    port, folder = free_ports(3), tmp_path_factory.mktemp("livekit")
    (folder / "livekit.yaml").write_text(
        f'port: {port}\nbind_addresses: ["127.0.0.1"]\nkeys: {{{KEY}: {SECRET}}}\n'
        f"rtc: {{tcp_port: {port + 1}, udp_port: {port + 2}, node_ip: 127.0.0.1, use_external_ip: false, "
        "enable_loopback_candidate: true}\nroom: {empty_timeout: 60, departure_timeout: 20}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(livekit_server.obtain()), "--config", str(folder / "livekit.yaml")], stdout=log, stderr=log
        )
    poll(lambda: "starting LiveKit server" in (folder / "log").read_text(), "the LiveKit server is up")
    yield f"ws://127.0.0.1:{port}"
    process.kill()  # told to stop, it would wait for its rooms to empty
    process.wait(10)


@pytest.fixture
def settings(valkey_url: str, livekit: str) -> dict[str, str]:
    """What a container is given."""
    return {
        "REDIS_URL": valkey_url, "LIVEKIT_URL": livekit, "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET,
        "API_KEYS": "key-of-a-backend-of-the-tests", "PORT": str(free_ports()), "RATE_LIMIT": "1000/minute",
    }  # fmt: skip
