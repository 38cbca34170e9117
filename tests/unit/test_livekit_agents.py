"""What of agents for LiveKit's worker needs no node: how they are found, and what is refused."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from livekit import rtc
from livekit.agents import APIConnectionError, CloseReason

from agent_runtime import contract, incoming
from agent_runtime.context import AgentContext
from agent_runtime.entrypoint import EntrypointKind
from agent_runtime.livekit import discovery, kind, sessions
from orchestrator.errors import OrchestratorError

SERVER = """
from livekit.agents import AgentServer, JobContext, cli
{name} = AgentServer()
{decorator}
async def entrypoint(ctx: JobContext): ...
{run}
"""


def module(folder: Path, stem: str, **parts: str) -> Path:
    path = folder / f"{stem}.py"
    path.write_text(SERVER.format(**{"name": "server", "decorator": "", "run": ""} | parts))
    return path


@pytest.mark.parametrize("name", ["server", "app", "anything"])
def test_a_server_is_found_by_any_name(tmp_path: Path, name: str) -> None:
    path = module(tmp_path, f"found_{name}", name=name, decorator=f"@{name}.rtc_session()")
    assert isinstance(contract.load(str(path)), kind.LiveKitKind), "its function is called entrypoint, as ours are"


def test_a_server_is_found_in_a_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module(tmp_path, "found_by_name", decorator="@server.rtc_session()")
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(contract.load("found_by_name"), kind.LiveKitKind)


def test_what_a_program_gives_to_run_app_is_found() -> None:
    found = discovery.find(importlib.import_module("tests.unchanged.options"))
    assert found is not None
    assert found._entrypoint_fnc is not None


def test_a_server_without_a_session_function_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OrchestratorError, match="AgentServer without a session function: write one with @server"):
        contract.load(str(module(tmp_path, "found_empty")))
    run = "if __name__ == '__main__':\n    cli.run_app(server)"
    with pytest.raises(OrchestratorError, match=r"gives cli.run_app a server without a session function"):
        contract.load(str(module(tmp_path, "found_run", run=run)))


def test_a_file_that_only_imports_livekit_agents_is_one_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "ours.py"
    path.write_text("from livekit.agents import Agent\nasync def entrypoint(ctx): ...\n")
    assert isinstance(contract.load(str(path)), EntrypointKind)


def test_a_file_that_is_no_agent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nothing.py"
    path.write_text("x = 1\n")
    with pytest.raises(OrchestratorError, match=r"it has neither entrypoint\(ctx\) nor LiveKit's AgentServer"):
        contract.load(str(path))


def test_a_caller_may_send_these_agents_no_more_than_others() -> None:
    assert kind._bounded(rtc.RoomOptions(auto_subscribe=False)).data_stream == incoming.OPTIONS.data_stream


async def test_an_agent_whose_session_has_failed_hands_the_call_over() -> None:
    context = AgentContext(session_id="s", user_id="u", metadata={}, room=rtc.Room(), url="ws://x", token="")
    session: rtc.EventEmitter[str] = rtc.EventEmitter()
    sessions._keep(context, session)  # type: ignore[arg-type]
    session.emit("close", SimpleNamespace(reason=CloseReason.USER_INITIATED, error=None))
    assert not context.leaving.done(), "the agent has closed it: what it does next is its own affair"
    error = SimpleNamespace(error=APIConnectionError("no route"))
    session.emit("close", SimpleNamespace(reason=CloseReason.ERROR, error=error))
    outcome, reason = context.leaving.result()
    assert outcome == "lost"
    assert "LiveKit closed the AgentSession: APIConnectionError: no route" in reason.text
