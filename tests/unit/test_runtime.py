"""An agent's runtime without Redis and LiveKit: whatever ends in it, the call goes on elsewhere."""

import asyncio
import functools
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from livekit import rtc

from agent_runtime import contract, node_shutdown, runtime
from agent_runtime.context import AgentContext
from agent_runtime.entrypoint import EntrypointKind
from agent_runtime.runtime import INBOX_SECONDS, Runtime
from orchestrator import reasons
from orchestrator.config.agent import AgentSettings
from orchestrator.errors import OrchestratorError, StoreUnavailable
from orchestrator.machine.shutdown_notice import Notice, NoticeWriter
from orchestrator.machine.shutdown_notice import read as read_notice
from orchestrator.reasons import Reason, because
from tests.support.node import REPOSITORY

ASSIGN = {
    "type": "assign", "sessionId": "s", "room": "r", "token": "t", "userId": "u", "metadata": {}, "createdAt": 1,
    "takeovers": 0, "conversation": [],
}  # fmt: skip


async def reaches(count: Callable[[], int], more: int) -> None:
    """Wait until a count has grown."""
    before = count()
    async with asyncio.timeout(60):
        while count() < before + more:  # noqa: ASYNC110 - what counts tells nobody
            await asyncio.sleep(0.005)


class VirtualTime:
    """Stands in for `time` where an agent measures: it stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Reads:
    """Counts how often an agent reads its node's notice."""

    def __init__(self) -> None:
        self.count = 0

    def read(self, run_dir: Path) -> Notice | None:
        self.count += 1
        return read_notice(run_dir)

    async def acted_upon(self) -> None:
        """Wait until the agent has acted upon what the notice says now, and has read it again."""
        await reaches(lambda: self.count, 2)


class Link:
    """What an agent says, in place of Redis."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.said: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.broken_beat: BaseException | None = None
        self.beats = 0

    async def next_message(self) -> dict[str, Any]:
        message = await self.inbox.get()
        if isinstance(message, BaseException):
            raise message
        return message  # type: ignore[no-any-return]

    async def beat(self) -> str:
        self.beats += 1
        if self.broken_beat:
            raise self.broken_beat
        return "running"

    async def beaten(self) -> None:
        """Wait until a heartbeat that has begun from now on is over."""
        await reaches(lambda: self.beats, 2)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        async def say(*args: object) -> None:
            if name in {"failed", "ended", "stopped", "leave"}:
                self.said.put_nowait((name, *(arg.text if isinstance(arg, Reason) else arg for arg in args)))

        return say


@pytest.fixture
def link() -> Link:
    return Link()


def test_what_every_agent_reads_is_read_before_the_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_preloaded", None)
    monkeypatch.setattr(runtime, "_settings", None)
    reasons.table.cache_clear()
    runtime.preload("agents/echo.py")
    read = reasons.table.cache_info().misses
    # What an agent does first.
    reasons.table()
    assert read == 1 == reasons.table.cache_info().misses


@pytest.mark.thorough
def test_an_agent_has_no_client_of_redis() -> None:
    code = "import sys, agent_runtime.runtime; print({'redis', 'orchestrator.store'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "set()"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    found = VirtualTime()
    monkeypatch.setattr("agent_runtime.runtime.time", found)
    monkeypatch.setattr(node_shutdown, "time", found)
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found = Reads()
    monkeypatch.setattr(node_shutdown.shutdown_notice, "read", found.read)
    return found


async def live(
    link: Link,
    entrypoint: Callable[[AgentContext], Awaitable[None]],
    monkeypatch: Any,
    run_dir: Path | None = None,
) -> Runtime:
    """Start an agent; the caller assigns it."""

    async def connect(*_: object) -> None: ...

    monkeypatch.setattr("agent_runtime.room_kind._connect", connect)
    settings = AgentSettings(heartbeat_seconds=0.05, run_dir=run_dir or Path(".run"))
    runtime = Runtime(settings, "ws://127.0.0.1:1", "agent", EntrypointKind(entrypoint))
    runtime._link = link  # type: ignore[assignment]
    link.running = asyncio.create_task(runtime.run())  # type: ignore[attr-defined]
    return runtime


async def end(link: Link) -> tuple[Any, ...]:
    """Return the agent's report of its end, once its process would end."""
    async with asyncio.timeout(60):
        said = await link.said.get()
        await link.running  # type: ignore[attr-defined]
        return said


async def waits(_: AgentContext) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RuntimeError("told to"), "agent_error: RuntimeError: told to"),
        (asyncio.CancelledError(), "agent_error: CancelledError: it was cancelled"),
        (SystemExit(3), "agent_error: SystemExit: 3"),
        (KeyboardInterrupt(), "agent_error: KeyboardInterrupt: "),
        (GeneratorExit(), "agent_error: GeneratorExit: "),
        (BaseExceptionGroup("all", [KeyError("x"), SystemExit(1)]), "agent_error: KeyError: 'x'"),
    ],
)
async def test_however_an_entrypoint_ends_by_force_the_call_goes_on_elsewhere(
    link: Link, monkeypatch: pytest.MonkeyPatch, failure: BaseException, reason: str
) -> None:
    async def entrypoint(_: AgentContext) -> None:
        raise failure

    await live(link, entrypoint, monkeypatch)
    link.inbox.put_nowait(ASSIGN)
    assert await end(link) == ("failed", reason)


async def test_a_secret_in_an_exception_is_in_no_reason(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be stored, shown, and sent to the operator's webhook."""
    monkeypatch.setenv("MODEL_API_KEY", "key-of-a-provider")

    async def entrypoint(_: AgentContext) -> None:
        raise ValueError("Incorrect API key provided: key-of-a-provider, or sk-abcdefgh12345678")

    await live(link, entrypoint, monkeypatch)
    link.inbox.put_nowait(ASSIGN)
    words = "agent_error: ValueError: Incorrect API key provided: (secret), or (key)"
    assert await end(link) == ("failed", words)


async def test_an_entrypoint_whose_inner_task_is_cancelled_is_not_silent(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def entrypoint(_: AgentContext) -> None:
        inner = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(inner.cancel)
        await inner

    await live(link, entrypoint, monkeypatch)
    link.inbox.put_nowait(ASSIGN)
    assert await end(link) == ("failed", "agent_error: CancelledError: it was cancelled")


@pytest.mark.parametrize("assigned", [False, True])
@pytest.mark.parametrize("which", ["inbox", "beat"])
async def test_the_death_of_a_helper_is_the_agents(
    link: Link, monkeypatch: pytest.MonkeyPatch, which: str, assigned: bool
) -> None:
    in_call = asyncio.Event()

    async def entrypoint(_: AgentContext) -> None:
        in_call.set()
        await asyncio.Event().wait()

    await live(link, entrypoint, monkeypatch)
    if assigned:
        link.inbox.put_nowait(ASSIGN)
        await in_call.wait()
    if which == "inbox":
        link.inbox.put_nowait(KeyError("x"))
    else:
        link.broken_beat = ValueError("x")
    how, reason = await end(link)
    assert how == ("failed" if assigned else "leave")
    assert reason.startswith(
        "agent_error: reading the inbox ended" if which == "inbox" else "agent_error: the heartbeat"
    )


async def test_returning_does_not_end_the_session(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    returned = asyncio.Event()

    async def entrypoint(_: AgentContext) -> None:
        returned.set()

    runtime = await live(link, entrypoint, monkeypatch)
    link.inbox.put_nowait(ASSIGN)
    await returned.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert runtime._served is not None
    assert not runtime._served.context.leaving.done()
    runtime._served.context.leave("enough")
    assert await end(link) == ("ended", "s", "ended", "enough")


async def test_each_drain_has_its_goodbye_and_rubbish_is_left_aside(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node was undrained in between; by then the agent has something to say."""
    said = asyncio.Event()

    async def say() -> None:
        said.set()

    runtime = await live(link, waits, monkeypatch)
    rubbish: list[Any] = [{}, {"type": "goodbye"}, {"type": "goodbye", "seconds": "x"}, {"type": "stop"}, {"type": []}]
    for message in [ASSIGN, {"type": "goodbye", "seconds": 5}, *rubbish, ASSIGN, {"type": "goodbye", "seconds": 5}]:
        link.inbox.put_nowait(message)
    while not link.inbox.empty() or runtime._goodbyes.qsize():  # noqa: ASYNC110 - two queues
        await asyncio.sleep(0.01)
    assert runtime._served is not None
    assert not runtime._served.context.leaving.done()
    runtime._served.context.on_goodbye(say)
    link.inbox.put_nowait({"type": "goodbye", "seconds": 5})
    assert await end(link) == ("ended", "s", "ended", "the node is stopping")
    assert said.is_set()


async def in_call(link: Link, monkeypatch: pytest.MonkeyPatch, folder: Path) -> AgentContext:
    """Return the session of an agent that follows the shutdown notice in this folder."""
    monkeypatch.setattr(node_shutdown, "POLL_SECONDS", 0.02)
    runtime = await live(link, waits, monkeypatch, folder)
    link.inbox.put_nowait(ASSIGN)
    async with asyncio.timeout(60):
        while runtime._served is None:  # noqa: ASYNC110 - it is set in the agent
            await asyncio.sleep(0.01)
    return runtime._served.context


STOPPING = because("node_stopping").text
ENDED = ("ended", "s", "ended", STOPPING)


async def test_without_redis_an_agent_parts_by_its_nodes_word(
    link: Link, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: VirtualTime, reads: Reads
) -> None:
    said = asyncio.Event()

    async def say() -> None:
        said.set()

    with NoticeWriter(tmp_path) as speaker:
        context = await in_call(link, monkeypatch, tmp_path)
        context.on_goodbye(say)
        speaker.publish(Notice(clock.now + 10, clock.now + 1000))
        clock.now += 9
        await reads.acted_upon()
        assert not said.is_set(), "it has time"
        speaker.withdraw()
        await reads.acted_upon()
        speaker.publish(Notice(clock.now + 10, clock.now + 1000))
        clock.now += 9
        await reads.acted_upon()
        assert not said.is_set(), "it has time again"
        clock.now += 1
        assert await end(link) == ENDED
        assert said.is_set()


async def test_who_has_no_goodbye_goes_when_its_time_is_over(
    link: Link, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: VirtualTime, reads: Reads
) -> None:
    with NoticeWriter(tmp_path) as speaker:
        context = await in_call(link, monkeypatch, tmp_path)
        speaker.publish(Notice(clock.now + 5, clock.now + 10))
        clock.now += 9
        await reads.acted_upon()
        assert not context.leaving.done()
        clock.now += 1
        assert await end(link) == ENDED


@pytest.mark.parametrize("lost", [False, True], ids=["has left", "has lost the connection"])
async def test_a_call_whose_user_has_left_does_not_hold_up_its_node(
    link: Link, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: VirtualTime, reads: Reads, *, lost: bool
) -> None:
    with NoticeWriter(tmp_path) as speaker:
        context = await in_call(link, monkeypatch, tmp_path)
        context.user_seen.set()
        context.user_lost = lost
        speaker.publish(Notice(clock.now + 1000, clock.now + 1000))
        await reads.acted_upon()
        assert not context.leaving.done(), "has just gone"
        clock.now += node_shutdown.GONE_SECONDS
        if lost:
            await reads.acted_upon()
            assert not context.leaving.done(), "may be on the way back"
            context.leave(because("node_stopping"))
        assert await end(link) == ENDED


async def test_a_warm_agent_goes_by_its_nodes_word(
    link: Link, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: VirtualTime, reads: Reads
) -> None:
    monkeypatch.setattr(node_shutdown, "POLL_SECONDS", 0.02)
    with NoticeWriter(tmp_path) as speaker:
        runtime = await live(link, waits, monkeypatch, tmp_path)
        await reads.acted_upon()
        assert not runtime._stop.done()
        speaker.publish(Notice(clock.now + 1000, clock.now + 1000))
        assert await end(link) == ("leave", STOPPING)


async def test_the_user_is_let_go_though_the_end_cannot_be_recorded(
    link: Link, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("agent_runtime.served_session.LEAVE_SECONDS", 0.1)
    left, recorded = asyncio.Event(), asyncio.Event()

    async def disconnect(_: rtc.Room) -> None:
        left.set()

    async def ended(*_: object) -> None:
        if not left.is_set():
            raise StoreUnavailable("away")
        recorded.set()

    monkeypatch.setattr(rtc.Room, "disconnect", disconnect)
    link.ended = ended  # type: ignore[attr-defined]
    context = await in_call(link, monkeypatch, tmp_path)
    context.leave("enough")
    async with asyncio.timeout(60):
        await link.running  # type: ignore[attr-defined]
    assert recorded.is_set()


@pytest.mark.parametrize("warm", [True, False])
async def test_a_warm_agent_that_beats_and_does_not_hear_goes(
    link: Link, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: VirtualTime, warm: bool
) -> None:
    """It would not hear its assignment. In a call there is little to hear, and another agent gains nothing."""
    deaf = StoreUnavailable("Redis does not answer (Error 24: too many open files)")

    async def next_message() -> dict[str, Any]:
        if not warm and link.inbox.qsize():
            return await link.inbox.get()  # type: ignore[no-any-return]
        raise deaf

    link.next_message = next_message  # type: ignore[method-assign]
    link.broken_beat = deaf
    runtime = await live(link, waits, monkeypatch, tmp_path)
    if not warm:
        link.inbox.put_nowait(ASSIGN)
    await link.beaten()
    clock.now += INBOX_SECONDS + 1
    await link.beaten()
    assert not runtime._stop.done(), "it is Redis that is away"
    link.broken_beat = None
    await link.beaten()
    clock.now += INBOX_SECONDS + 1
    if warm:
        assert await end(link) == ("leave", "agent_error: the inbox cannot be read, though Redis answers")
    else:
        await link.beaten()
        assert runtime._served is not None
        assert not runtime._served.context.leaving.done()
        runtime._served.context.leave("enough")
        assert await end(link) == ("ended", "s", "ended", "enough")


# Checks when an agent is loaded


async def _right(ctx: object) -> None: ...


class _Called:
    async def __call__(self, ctx: object) -> None: ...


def _sync(ctx: object) -> None: ...


async def _none() -> None: ...


async def _generator(ctx: object) -> Any:
    yield


@functools.wraps(_right)
def _wrapped(*args: Any) -> Any:
    return _right(*args)


@pytest.mark.parametrize("fit", [_right, _Called(), functools.partial(_right), _wrapped])
def test_what_an_entrypoint_may_be(fit: object) -> None:
    contract.check(fit, "mine.entrypoint")


@pytest.mark.parametrize(
    ("unfit", "why"),
    [(_sync, "is not async"), (_generator, "is not async"), (7, "is no function"), (_none, "must take one argument")],
)
def test_what_it_may_not_be(unfit: object, why: str) -> None:
    with pytest.raises(OrchestratorError, match=f"mine.entrypoint {why}"):
        contract.check(unfit, "mine.entrypoint")


def test_an_async_prewarm_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "warms_async.py").write_text(
        "import asyncio\nran = False\n"
        "async def prewarm():\n    global ran\n    await asyncio.sleep(0)\n    ran = True\n"
        "async def entrypoint(ctx): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    contract.load("warms_async")
    assert sys.modules["warms_async"].ran


def test_an_agent_is_loaded_by_the_path_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours can be imported, and its name may be that of a module that is loaded already."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "neighbour_of_mine.py").write_text("ran = []\n")
    source = "import neighbour_of_mine\nasync def entrypoint(ctx):\n    neighbour_of_mine.ran.append(ctx)\n"
    for name in ("mine/an_agent.py", "mine/json.py"):
        (tmp_path / name).write_text(source)
        asyncio.run(contract.load(name).serve(name))  # type: ignore[arg-type]
    assert sys.modules["neighbour_of_mine"].ran == ["mine/an_agent.py", "mine/json.py"]
    assert sys.modules["json"] is json


def test_a_file_that_is_not_there_or_breaks_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(OrchestratorError, match=r"there is no file mine/bot.py"):
        contract.load("mine/bot.py")
    (tmp_path / "breaks_at_import.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        contract.load(str(tmp_path / "breaks_at_import.py"))
    assert "breaks_at_import" not in sys.modules


@pytest.mark.thorough
def test_an_agents_process_ends_without_exit_handlers(tmp_path: Path) -> None:
    """Native libraries abort in theirs."""
    (tmp_path / "mine.py").write_text("import atexit\natexit.register(print, 'handler')\ndef entrypoint(ctx): ...\n")
    environment = {"PYTHONPATH": str(REPOSITORY), "AGENT_ID": "a", "AGENT_MODULE": "mine.py"}
    done = subprocess.run(
        [sys.executable, "-m", runtime.__name__],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "mine.py.entrypoint is not async" in done.stderr
    assert "handler" not in done.stdout
