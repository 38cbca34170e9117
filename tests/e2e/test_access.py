"""A node with API keys and a secret in every setting that takes one: the operator's tools, and attacks by strangers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import operators, strangers
from tests.e2e.strangers import CANARIES
from tests.support.node import Node
from tests.support.receiver import Receiver
from tests.support.walk import walk


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver(CANARIES["ALERT_WEBHOOK_SECRET"], 500, 204) as found:
        yield found


@pytest.fixture(scope="module")
def node(short_folder: Path, receiver: Receiver) -> Iterator[Node]:
    folder = short_folder / "access"
    folder.mkdir()
    settings = {
        "POOL_TARGET": 2, "POOL_MAX": 20, "AGENT_MODULE": "agents/echo.py", "HEARTBEAT_SECONDS": 1,
        "LOG_FORMAT": "json", "AGENT_ENV": "OWN_KEY,ADMIN_TOKEN", "ALERT_WEBHOOK_URL": receiver.url,
    }  # fmt: skip
    node = Node(folder, **settings, **CANARIES)
    node.http.headers["Authorization"] = f"Bearer {CANARIES['ADMIN_TOKEN']}"
    with node:
        yield node


@pytest.mark.timeout(400)
async def test_operators_have_access_and_strangers_have_none(
    node: Node, receiver: Receiver, subtests: pytest.Subtests
) -> None:
    await walk(subtests, operators.STEPS + strangers.STEPS, node, receiver)
