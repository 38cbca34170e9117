"""Runs all checks of Schemathesis on the API's OpenAPI document. `make fuzz` makes 25 times as many requests."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
import redis

from orchestrator.api.app import create
from orchestrator.store import Store
from tests.support.api import on_a_port, settings
from tests.support.pool import warm

pytestmark = pytest.mark.thorough

CASES = int(os.environ.get("FUZZ_CASES", "400"))
#: Approximate cases per unit of --max-examples: the first run makes fewer than CASES, the second makes the rest.
PER_EXAMPLE = 40
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(3600)
async def test_no_request_breaks_the_contract(store: Store, raw: redis.Redis, valkey_url: str, tmp_path: Path) -> None:
    app = create(settings(valkey_url, api_keys="a-key-of-16-characters", rate_limit="1000000/minute", max_sessions=5))
    cases, seed = 0, 0
    while cases < CASES:
        seed += 1
        raw.flushall()
        async with on_a_port(app) as http:
            # A request may drain one node, and starts must still be served.
            for node in ("node-1", "node-2", "api-test"):
                await store.beat_node(node, {"host": 1, "pid": 1, "lastBeat": 0, "canaryAge": 0}, 3600)
            await warm(store, valkey_url, 1, node="api-test")
            assert (await http.get("/readyz")).status_code == 200, "its node had a warm agent"
            examples = max(5, (CASES - cases) // PER_EXAMPLE)
            generated, output = await fuzz(str(http.base_url), examples, seed, tmp_path)
        assert generated, output
        cases += generated
    print(f"{cases} cases")  # noqa: T201


async def fuzz(url: str, examples: int, seed: int, folder: Path) -> tuple[int, str]:
    """Return the number of cases of one run, and its output. Fails with its findings."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run", f"{url}/openapi.json",
        "--header", "Authorization: Bearer a-token-for-tests", "--checks", "all", "--max-examples", str(examples),
        "--seed", str(seed), "--no-color", "--warnings", "off",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=folder,
    )  # fmt: skip
    try:
        output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output
    found = re.search(r"(\d+) generated", output)
    return int(found.group(1)) if found else 0, output
