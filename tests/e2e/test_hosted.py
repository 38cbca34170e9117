"""Calls on a node with only hosted models, replaced by stand-ins, on a machine without offline speech."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosted import Hosted, hosted
from tests.support.hosted_failures import CANARY
from tests.support.node import Node
from tests.support.processes import poll
from tests.support.spoken import A_TIME, Call
from tests.support.walk import walk


@pytest.fixture(scope="module")
def models() -> Iterator[Hosted]:
    with hosted() as found:
        yield found


@pytest.fixture(scope="module")
def node(short_folder: Path, models: Hosted) -> Iterator[Node]:
    folder = short_folder / "hosted"
    folder.mkdir()
    keys = models.environment("deepgram", "anthropic", "cartesia")
    with Node(folder, POOL_TARGET=2, AGENT_MODULE="tests.support.hosted_agent", **keys) as found:
        yield found


async def an_agent_talks_apologises_for_a_failed_turn_and_hangs_up(node: Node, models: Hosted) -> None:
    models.asked.clear()
    async with Call(node.url, "grace") as call:
        assert "help you" in await call.read()
        await call.ask("What time is it?", A_TIME)
        assert models.used() == {"stt", "llm", "tts"}
        models.fail("llm", "529")
        await call.say("What time is it?")
        assert "say it again" in await call.read()
        models.mend()
        await call.ask("What time is it?", A_TIME)
        # The last words come from the tool that hangs up: their track ends with the room.
        await call.say("Okay, goodbye.")
        await call.gone()
    ended = node.session(call.session_id)
    assert (ended["status"], ended["reason"], ended["takeovers"]) == ("ended", "the agent hung up", 0)


async def a_refused_key_ends_the_call_with_a_sentence_and_the_reason(node: Node, models: Hosted) -> None:
    models.fail("llm", "401")
    async with Call(node.url, "ada") as call:
        await call.read()
        await call.say("What time is it?")
        assert "ends our call" in await call.read()
        await call.gone()
    models.mend()
    ended = poll(lambda: (found := node.session(call.session_id))["status"] == "error" and found, "the session is over")
    assert ended["reason"] == "pipeline_failed: the language model refuses the key (401)"
    assert ended["takeovers"] == 0, "another agent would fail too"
    logs = node.logs(call.session_id)
    assert any(ended["reason"] in line for line in logs)
    assert not [line for line in logs if CANARY in line]


STEPS = [
    an_agent_talks_apologises_for_a_failed_turn_and_hangs_up,
    a_refused_key_ends_the_call_with_a_sentence_and_the_reason,
]


@pytest.mark.timeout(240)
async def test_callers_talk_with_hosted_voices(node: Node, models: Hosted, subtests: pytest.Subtests) -> None:
    await walk(subtests, STEPS, node, models)
