"""One podman for the run, the image built in it, and a real Valkey and LiveKit server outside."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image import engine as engines
from tests.image.engine import HOSTED_IMAGE, IMAGE, NODE, PYTHON, Engine
from tests.support import livekit
from tests.support.node import REPOSITORY
from tests.support.processes import free_ports


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
def hosted_image(image: Engine) -> Engine:
    """The image without offline speech, built."""
    file = REPOSITORY / "Dockerfile.orchestrator"
    image.build(REPOSITORY, file, HOSTED_IMAGE, "--build-arg", "OFFLINE_VOICE=false")
    return image


@pytest.fixture(scope="session")
def livekit_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real LiveKit server."""
    with livekit.server(tmp_path_factory.mktemp("livekit")) as port:
        yield f"ws://127.0.0.1:{port}"


@pytest.fixture
def settings(valkey_url: str, livekit_url: str) -> dict[str, str]:
    """What a container is given."""
    return {
        "REDIS_URL": valkey_url, "LIVEKIT_URL": livekit_url, "LIVEKIT_PUBLIC_URL": livekit_url,
        "LIVEKIT_API_KEY": livekit.KEY, "LIVEKIT_API_SECRET": livekit.SECRET,
        "API_KEYS": "key-of-a-backend-of-the-tests", "PORT": str(free_ports()), "RATE_LIMIT": "1000/minute",
    }  # fmt: skip
