"""A program beside an agent's process: what it is told, what it says, and that neither outlives the other."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_runtime.call import Call
from agent_runtime.kind import NotWarm
from agent_runtime.program import kind as program_kind
from agent_runtime.program.kind import ProgramKind
from agent_runtime.program.lines import MAX_LINE, LineReader, decode
from orchestrator.config.agent import AgentSettings
from orchestrator.reasons import because
from tests.support.node import REPOSITORY
from tests.support.processes import alive, poll

pytestmark = pytest.mark.thorough

ASSIGN = {
    "type": "assign", "sessionId": "s", "room": "r", "token": "t", "userId": "ada", "metadata": {"a": 1},
    "createdAt": 1, "takeovers": 1, "conversation": [{"role": "user", "text": "Grüezi", "at": 1.5}],
}  # fmt: skip
#: What every program here begins with: it speaks by its standard streams, or by the socket.
HEAD = """
import json, os, signal, sys, time
if "socket" in sys.argv:
    import socket
    link = socket.socket(fileno=int(os.environ["AGENT_FD"]))
    told, out = link.makefile("r"), link.makefile("w")
else:
    told, out = sys.stdin, sys.stdout
def say(kind, **fields):
    print(json.dumps({"type": kind, **fields}), file=out, flush=True)
def heard(kind):
    for line in told:
        message = json.loads(line)
        if message["type"] == "ping":
            say("pong", n=message["n"])
        if message["type"] == kind:
            return message
    sys.exit(9)
"""


async def begin(kind: ProgramKind, settings: AgentSettings) -> Call:
    """Assign a session to a warm program, and wait until it has joined the room."""
    call = kind.begin(ASSIGN, "ws://livekit", settings)
    async with asyncio.timeout(30):
        await kind.enter(call, _no_room)
    return call


async def _no_room(_: str) -> None: ...


Make = Callable[..., ProgramKind]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Make the kind of a program with this source; the program is gone afterwards."""
    made: list[ProgramKind] = []

    def new(source: str, *arguments: str, head: str = HEAD) -> ProgramKind:
        path = tmp_path / f"program{len(made)}.py"
        path.write_text(head + textwrap.dedent(source))
        command = " ".join([sys.executable, str(path), *arguments])
        made.append(ProgramKind(AgentSettings(agent_command=command, stop_grace_seconds=0.5)))
        return made[-1]

    yield new
    for kind in made:
        await kind.close(None)
        if kind._program:
            assert not alive(kind._program._popen.pid)


SERVES = """
print("loads its models")
say("ready")
session = heard("assign")
say("joined")
say("user", present=True)
say("turn", role="agent", text=json.dumps(session, ensure_ascii=False))
say("audible")
stop = heard("stop")
say("turn", role="agent", text=stop["reason"])
print("has left", file=sys.stderr)
"""


async def test_a_program_has_time_for_its_work_after_the_call(make: Make) -> None:
    """More than STOP_GRACE_SECONDS, which is the limit for a warm one."""
    kind = make("""
        say("ready")
        heard("assign")
        say("joined")
        heard("stop")
        time.sleep(1)
        sys.exit(7)
    """)
    await kind.warm_up()
    call = await begin(kind, AgentSettings())
    call.leave(because("stopped"))
    await kind.part(call)
    async with asyncio.timeout(30):
        await kind.wind_down(call)
    assert kind._program
    assert (await kind._program.exit).text == "exited with code 7"


@pytest.mark.parametrize("way", ["stdio", "socket"])
async def test_a_session_is_told_and_reported_by_lines(make: Make, way: str, capfd: pytest.CaptureFixture[str]) -> None:
    kind = make(SERVES, way)
    await kind.warm_up()
    call = await begin(kind, AgentSettings())
    async with asyncio.timeout(30):
        await call.user_present.wait()
        await call.audible.wait()
    told = json.loads((await call.unsaved.get()).text)
    assert told == {
        "type": "assign", "sessionId": "s", "room": "r", "url": "ws://livekit", "token": "t", "userId": "ada",
        "metadata": {"a": 1}, "takeovers": 1, "conversation": ASSIGN["conversation"],
    }  # fmt: skip
    call.leave(because("stopped"))
    await kind.part(call)
    await kind.close(None)
    assert (await call.unsaved.get()).text == "stopped by request"
    assert kind._program
    assert (await kind._program.exit).text == "exited with code 0"
    log = capfd.readouterr().err
    assert "loads its models\n" in log
    assert "has left\n" in log
    assert '"type"' not in log


async def test_presence_is_as_the_program_says(make: Make) -> None:
    kind = make("""
        say("ready"); heard("assign")
        say("user", present=False)
        say("joined"); heard("goodbye")
        say("user", present=True); say("user", present=False, lost=True); say("leave", reason="done")
        heard("stop")
    """)
    await kind.warm_up()
    call = await begin(kind, AgentSettings())
    assert not call.user_seen.is_set(), "nobody is gone who was never there"
    call.goodbye_seconds = 3.0
    (say,) = call.goodbyes
    async with asyncio.timeout(30):
        await say()
    assert call.leaving.result()[1].text == "done"
    assert (call.user_seen.is_set(), call.user_present.is_set(), call.user_lost) == (True, False, True)


async def test_what_is_no_message_is_its_log(
    make: Make, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    kind = make("""
        print('{"type": "other"}'); print('{broken'); print('["ready"]'); print("x" * 3_000_000)
        say("log", level="warning", message="mind the gap")
        say("turn", role="agent", text="too early")
        say("ready"); heard("assign")
        say("turn", role="nobody", text="?"); say("joined"); heard("stop")
    """)
    await kind.warm_up()
    call = await begin(kind, AgentSettings())
    assert call.unsaved.empty()
    log = capfd.readouterr().err
    assert '{"type": "other"}\n{broken\n["ready"]\n' in log
    assert "xxx" not in log
    said = [(record.levelname, record.message) for record in caplog.records if record.name == "agent.program"]
    assert said[:2] == [("WARNING", f"dropped a line of more than {MAX_LINE} bytes"), ("WARNING", "mind the gap")]
    assert len([text for _, text in said if text.startswith("ignored a message")]) == 2


async def test_who_speaks_by_the_socket_prints_what_it_likes(make: Make) -> None:
    kind = make('say("ready"); print(json.dumps({"type": "joined"}), flush=True); heard("stop")', "socket")
    await kind.warm_up()
    kind.begin(ASSIGN, "ws://livekit", AgentSettings())
    await kind.close(because("stopped"))
    assert not kind._joined.is_set()


@pytest.mark.parametrize(
    ("source", "code", "last"),
    [
        ("print('no model found'); sys.exit(3)", 3, "no model found"),
        ("pass", 1, "the program was never ready: exited with code 0"),
        ("os.kill(os.getpid(), 9)", 137, "the program was never ready: killed by signal 9"),
    ],
)
async def test_a_program_that_is_never_ready_ends_its_agent(  # noqa: PLR0917 - fixtures
    make: Make, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, source: str, code: int, last: str
) -> None:
    kind = make(source)
    with pytest.raises(NotWarm) as failure:
        await kind.warm_up()
    assert failure.value.code == code
    assert last in capfd.readouterr().err + caplog.text


async def test_a_program_that_is_not_there_is_named(caplog: pytest.LogCaptureFixture) -> None:
    kind = ProgramKind(AgentSettings(agent_command="./no-such-program --flag"))
    with pytest.raises(NotWarm):
        await kind.warm_up()
    assert "cannot start ./no-such-program: No such file or directory" in caplog.text
    await kind.close(None)


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ("sys.exit(0)", "agent_lost: exited with code 0"),
        ("sys.exit(4)", "agent_lost: exited with code 4"),
        ("os.kill(os.getpid(), 11)", "agent_lost: killed by signal 11"),
    ],
)
async def test_an_end_that_nobody_asked_for_is_a_failure(make: Make, ends: str, text: str) -> None:
    kind = make(f'say("ready"); heard("assign"); say("joined"); {ends}')
    await kind.warm_up()
    call = await begin(kind, AgentSettings())
    async with asyncio.timeout(30):
        assert (await kind.failure()).text == text
    assert not call.leaving.done()


async def test_what_it_says_last_counts_though_it_ends(make: Make) -> None:
    kind = make('say("ready"); heard("assign"); say("joined"); say("failed", cause="no tongue"); os._exit(1)')
    await kind.warm_up()
    call = await begin(kind, AgentSettings())
    async with asyncio.timeout(30):
        await kind.failure()
    outcome, reason = call.leaving.result()
    assert (outcome, reason.text) == ("lost", "agent_error: no tongue")


async def test_a_program_that_answers_no_ping_is_killed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_kind, "PING_SECONDS", 0.5)
    kind = make('say("ready"); heard("never") if sys.stdin is None else time.sleep(1000)')
    await kind.warm_up()
    async with asyncio.timeout(30):
        assert (await kind.failure()).text == "agent_lost: its program answered no ping for 0.5 s"
        assert kind._program
        assert (await kind._program.exit).text == "killed by signal 9"


async def test_a_program_that_answers_its_pings_lives(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_kind, "PING_SECONDS", 0.5)
    kind = make("""
        say("ready")
        for _ in range(12):
            say("pong", n=json.loads(told.readline())["n"])
        sys.exit(4)
    """)
    await kind.warm_up()
    async with asyncio.timeout(30):
        assert (await kind.failure()).text == "agent_lost: exited with code 4"


@pytest.mark.parametrize("ignores", ["pass", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
async def test_who_does_not_stop_is_stopped_with_all_that_it_has_started(make: Make, ignores: str) -> None:
    kind = make(f"""
        {ignores}
        import subprocess
        below = subprocess.Popen([sys.executable, "-c", "import time; {ignores.replace("signal.signal", "import signal; signal.signal")}; time.sleep(1000)"])
        say("log", level="info", message="up"); say("ready"); heard("stop")
        while True: time.sleep(1)
    """)  # noqa: E501
    await kind.warm_up()
    assert kind._program
    pids = [kind._program._popen.pid]
    pids += [child.pid for child in psutil.Process(pids[0]).children()]
    assert len(pids) == 2
    async with asyncio.timeout(30):
        await kind.close(because("stopped"))
    poll(lambda: not any(map(alive, pids)), "both are gone")


async def test_what_a_program_has_started_ends_with_it(make: Make) -> None:
    kind = make("""
        import subprocess
        subprocess.Popen(["sleep", "1000"])
        say("ready"); heard("stop")
    """)
    await kind.warm_up()
    assert kind._program
    (below,) = psutil.Process(kind._program._popen.pid).children()
    await kind.close(because("stopped"))
    assert (await kind._program.exit).text == "exited with code 0"
    poll(lambda: not alive(below.pid), "it is gone")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux")
def test_a_program_dies_with_its_agents_process(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(HEAD + 'say("ready")\nwhile True: time.sleep(1)\n')
    agent = textwrap.dedent(f"""
        import asyncio
        from agent_runtime.program.kind import ProgramKind
        from orchestrator.config.agent import AgentSettings
        async def live():
            kind = ProgramKind(AgentSettings(agent_command="{sys.executable} program.py"))
            await kind.warm_up()
            print(kind._program._popen.pid, flush=True)
            await asyncio.sleep(1000)
        asyncio.run(live())
    """)
    with subprocess.Popen(
        [sys.executable, "-c", agent], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.send_signal(signal.SIGKILL)
    poll(lambda: not alive(pid), "the program is gone")


def test_the_process_beside_a_program_does_not_load_livekit() -> None:
    check = (
        "import sys\nfrom agent_runtime import runtime\nruntime.preload('')\n"
        "sys.exit(' '.join(name for name in sys.modules if name.split('.')[0] in {'livekit', 'numpy', 'google'}))\n"
    )
    environment = os.environ | {"AGENT_COMMAND": "./program", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


async def test_lines_arrive_in_any_pieces() -> None:
    taken: list[bytes] = []
    reader = LineReader(taken.append)
    for piece in (b"a", b"b\nc", b"\n\nd", b"x" * MAX_LINE, b"y\ne\n", b"last"):
        reader.data_received(piece)
    reader.connection_lost(None)
    assert taken == [b"ab", b"c", b"", b"e", b"last"]
    assert reader.closed.done()


@pytest.mark.parametrize("line", [b"", b"ready", b"[1]", b'{"type": 1}', b'{"type": "assign"}', b"{" * 100_000])
def test_other_lines_say_nothing(line: bytes) -> None:
    assert decode(line) is None
    said: Any = decode(b' {"type": "pong", "n": 1}\r')
    assert said["n"] == 1
