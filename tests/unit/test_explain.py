"""`orchestrator explain`: its text for recorded sessions."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic.alias_generators import to_camel

from orchestrator.api.schemas.base import why
from orchestrator.cli.explain import story
from orchestrator.reasons import Reason, because, words

FLIGHTS = Path(__file__).parent / "flights"


def recorded(name: str) -> dict[str, Any]:
    """Return a recorded answer of a real node to `GET /api/session/{id}`."""
    found: dict[str, Any] = json.loads((FLIGHTS / f"{name}.json").read_text())
    return found


def told(record: dict[str, Any]) -> str:
    return "\n".join(story(record))


def test_a_normal_call_is_explained() -> None:
    assert (
        told(recorded("normal"))
        == """\
Session prewarm_f6699c9c90029d563a70406686620a39, ended, room room_612e2ff5bb5a7ecbc3f3ca43735e08ef

00:17:13.313     +0.000 s  ada asked for an agent, from 127.0.0.1 (2026-11-24, UTC).
00:17:13.313     +0.000 s  A warm agent was there at once: prewarm_f6699c9c… (pid 13465 on node-1).
00:17:14.149     +0.836 s  The agent joined the room.
00:17:16.845     +3.532 s  The user was there: the call began.
00:17:17.626     +4.313 s  The agent was heard for the first time, 4.313 s after the start.
00:18:20.635    +67.322 s  The user left the room.
00:18:20.660    +67.347 s  It ended: stopped by request.
00:18:20.750    +67.437 s  The process of prewarm_f6699c9c… ended: stopped by request.

Its agent
  prewarm_f6699c9c90029d563a70406686620a39 pid 13465 on node-1: exited with code 0 (stopped by request), \
peak memory 72 MiB"""
    )


def test_a_dispatched_call_is_explained() -> None:
    record = recorded("normal") | {"via": "dispatch", "dispatchId": "AD_nR3dFv7eKxYq", "jobId": "AJ_4fGh2kLm9pQr"}
    record["events"][0] |= {"via": "dispatch", "dispatchId": "AD_nR3dFv7eKxYq"}
    first, second = story(record)[2:4]
    assert first.endswith("LiveKit asked for an agent in this room, by dispatch AD_nR3dFv7eKxYq (2026-11-24, UTC).")
    assert second.endswith("A warm agent was there at once: prewarm_f6699c9c… (pid 13465 on node-1).")


def test_a_takeover_is_explained() -> None:
    assert (
        told(recorded("takeover"))
        == """\
Session prewarm_c6bafeefcaba29a1c0d9417467aac209, ended, room room_06058c1195b68ee504f3b85148009a08

00:18:20.990     +0.000 s  ada asked for an agent, from 127.0.0.1 (2026-11-24, UTC).
00:18:20.990     +0.000 s  A warm agent was there at once: prewarm_c6bafeef… (pid 13466 on node-1).
00:18:21.339     +0.349 s  The agent joined the room.
00:18:22.162     +1.172 s  The user was there: the call began.
00:18:22.329     +1.339 s  The agent was heard for the first time, 1.339 s after the start.
00:18:23.720     +2.730 s  The agent was lost (killed by signal 9 (SIGKILL)).
00:18:23.720     +2.730 s  prewarm_6e218d58… (pid 14732 on node-1) took over at once: it was warm.
00:18:24.112     +3.122 s  The agent joined the room. The user was without an agent for 0.392 s.
00:18:24.121     +3.131 s  The call went on.
00:18:25.531     +4.541 s  It ended: stopped by request.
00:18:25.638     +4.648 s  The process of prewarm_6e218d58… ended: stopped by request.

Its agents
  prewarm_c6bafeefcaba29a1c0d9417467aac209 pid 13466 on node-1: killed by signal 9 (SIGKILL), peak memory 72 MiB
  prewarm_6e218d58b364da0e8c057b0b43fc8ee5 pid 14732 on node-1: exited with code 0 (stopped by request), \
peak memory 72 MiB"""
    )


def test_a_boot_error_is_explained() -> None:
    assert (
        told(recorded("boot_error"))
        == """\
Session session_94dc0bda9068cf541a7d7576d3db6ec2, error, room room_8fe5a1f48b46fea37b04534853da90cc

00:19:02.577     +0.000 s  joan asked for an agent, from 127.0.0.1 (2026-11-24, UTC).
00:19:02.577     +0.000 s  No agent was warm: one was started for it.
00:19:09.709     +7.132 s  It failed: the agent that was started for it did not boot (exited with code 3: \
no such model: whisper).

Its agent
  session_94dc0bda9068cf541a7d7576d3db6ec2 pid 15314 on node-1: boot_error: exited with code 3: \
no such model: whisper, peak memory 27 MiB

The last that was logged
  loading
  no such model: whisper
  [agent exited with code 3]"""
    )


def test_a_boot_error_names_the_command_for_the_log() -> None:
    record = recorded("boot_error")
    first, second = record["sessionId"], "prewarm_" + "2" * 32
    record["events"][-1]["failedAgentId"] = second
    retried = {"at": 3.0, "state": "boot_retried", "agentId": second, "cause": "no model", "failedAgentId": first}
    record["events"].insert(-1, retried)
    text = told(record)
    assert f"did not boot (no model): another one was tried. See: orchestrator logs {first}\n" in text
    assert f"no such model: whisper). See: orchestrator logs {second}\n" in text


def test_a_user_who_left_the_queue_is_explained() -> None:
    assert (
        told(recorded("gave_up"))
        == """\
Session session_ab91335462a251f1ce9b622f2ec49e1f, error, room room_2d4b5b7c33da2a0df59593a430492651

00:18:18.160     +0.000 s  grace asked for an agent, from 127.0.0.1 (2026-11-24, UTC).
00:18:18.160     +0.000 s  All sessions were taken: it waited in line.
00:18:20.278     +2.118 s  It failed: it waited in line too long (no room within 2 s)."""
    )


def of(name: str, reason: Reason | None) -> dict[str, Any]:
    """Return the API's fields of a reason."""
    return {to_camel(field): value for field, value in why(name, reason).items() if value is not None}


def with_events(*events: tuple[float, str] | tuple[float, str, dict[str, Any]], **fields: Any) -> dict[str, Any]:
    shaped = [{"at": at, "state": state} | (more[0] if more else {}) for at, state, *more in events]
    return recorded("takeover") | {"events": shaped, "client": None} | fields


FIRST = {"agentId": "prewarm_c6bafeefcaba29a1c0d9417467aac209"}
SECOND = {"agentId": "prewarm_6e218d58b364da0e8c057b0b43fc8ee5"}


def test_a_queued_and_then_served_session_is_explained() -> None:
    text = told(with_events((0, "queued"), (4, "starting"), (5.5, "ready", FIRST), status="ready", lastLogLines=None))
    assert "ada asked for an agent (2026-11-24, UTC)." in text
    assert "+4.000 s  It was its turn." in text
    assert "It got an agent after 5.500 s, 4.000 s of them in line: prewarm_c6bafeef… (pid 13466 on node-1)." in text
    assert "It has an agent, and waits for the user." in text


def test_a_replacement_before_the_call_is_explained() -> None:
    crash = FIRST | of("cause", because("killed", signal=11))
    text = told(
        with_events(
            (0, "starting"), (0.25, "ready", FIRST), (1, "agent_exited", crash | {"toldNext": True}),
            (1, "replacement", crash), (1, "starting"), (1.5, "ready", SECOND),
            (2, "agent_joined", SECOND), (3, "active"), status="active",
        )
    )  # fmt: skip
    assert "No agent was warm: one was started for it." in text
    assert "It got an agent after 0.250 s: prewarm_c6bafeef…" in text
    assert "The agent was lost (killed by signal 11 (SIGSEGV)), before the call began." in text
    assert text.count("SIGSEGV") == 1, "the agent's exit and its loss are one event"
    assert "No warm agent was there to take over: one was started." in text
    assert "prewarm_6e218d58… (pid 14732 on node-1) took over after 0.500 s." in text
    assert "The room was without an agent for 1.000 s." in text
    assert text.count("the call began.") == 2
    assert "The call goes on." in text


def test_two_takeovers_in_a_row_are_explained() -> None:
    lost = of("cause", because("no_heartbeat", seconds=8))
    text = told(
        with_events(
            (0, "ready", FIRST), (1, "agent_joined", FIRST), (2, "active"), (10, "takeover", FIRST | lost),
            (10, "starting"), (10, "ready", SECOND), (14, "takeover", SECOND | lost), (14, "starting"),
            (20, "error", of("reason", because("start_timeout", seconds=30))), status="error",
        )
    )  # fmt: skip
    assert text.count("The agent was lost (no heartbeat for 8 s).") == 2
    # Eight of the seconds had passed before the silence was noticed.
    assert (
        "It failed: no agent was warm in time (no agent within 30 s). There had been no agent for 18.000 s." in text
    ), "8 of them before it was noticed"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"status": "queued", "position": 3, "estimatedWait": "40s"},
            "It waits in line: it is number 3, about 40s to go.",
        ),
        ({"status": "starting", "position": 1}, "It waits for an agent: it is number 1."),
    ],
)
def test_a_waiting_session_is_explained(fields: dict[str, Any], line: str) -> None:
    assert line in story(with_events((0, "queued"), agents=[], **fields))


@pytest.mark.parametrize(
    ("reason", "told_as"),
    [
        (because("user_gone", seconds=20), "It ended: user was gone for 20 s."),
        (
            because("killed", signal=9).within("agent_lost"),
            "It ended: its agent was lost (killed by signal 9 (SIGKILL)).",
        ),
        (because("spawn_not_queued"), "It ended: the start of an agent could not be queued."),
        (because("killed", signal=99).within("agent_lost"), "It ended: its agent was lost (killed by signal 99)."),
        (because("not_spawned", attempts=4), "It ended: its process was not started (not spawned (after 4 attempts))."),
        (words("own words: of an agent"), "It ended: own words: of an agent."),
        # Reasons of the previous release, and of a future one.
        (Reason("", {}, "agent_lost: killed by signal 9"), "It ended: agent_lost: killed by signal 9."),
        (Reason("of_tomorrow", {"n": 1}, "new words"), "It ended: new words."),
        (None, "It ended: nobody said why."),
    ],
)
def test_explain_prints_the_end_of_a_session(reason: Reason | None, told_as: str) -> None:
    record = with_events((1, "ended")) | dict.fromkeys(("reason", "reasonCode", "reasonParams")) | of("reason", reason)
    (line,) = [line for line in story(record) if "It ended" in line]
    assert line.endswith(told_as)


def test_unknown_values_and_events_are_omitted() -> None:
    """A session whose history is lost, and an event of a newer node."""
    assert "The call goes on." in story(recorded("takeover") | {"status": "active", "events": None, "agents": None})
    assert "unheard" not in told(with_events((0, "unheard-of")))
