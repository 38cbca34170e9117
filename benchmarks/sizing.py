"""P7: memory and processor time of a node, for sizing: at rest, per warm agent and per call."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from statistics import mean

import psutil

from agent_runtime.offline import speech
from benchmarks.memory import pss, steady, uss
from benchmarks.support import Figure, note, short_folder
from orchestrator.call.caller import Call
from tests.support.node import Node
from tests.support.processes import poll

WARM = 5
CALLS = 3
TURNS = 4
WINDOW_SECONDS = 30.0  #: duration of a measurement of processor time in a steady state
#: The programs of a container with an external Redis and LiveKit; `main` is supervisord.
PROGRAMS = ("host", "relay", "worker", "beat", "api", "drain")
SENTENCE = "repeat after me, the quick brown fox jumps over the lazy dog and then it goes home to sleep all day"
MINUTE = "CPU s/min"


class Spent:
    """Processor seconds, and the duration of the work that used them."""

    def __init__(self) -> None:
        self._processor = self._seconds = 0.0

    def add(self, processor: float, seconds: float) -> None:
        """Add a period of time."""
        self._processor += processor
        self._seconds += seconds

    @property
    def per_minute(self) -> float:
        """Processor seconds per minute."""
        return 60 * self._processor / self._seconds


def processor(pids: Iterable[int]) -> float:
    """Return the processor seconds that processes have used so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(found.user + found.system for found in times)


class _Sizing:
    """One node, measured in several states."""

    def __init__(self, node: Node) -> None:
        assert node.process
        self.node = node
        self.programs = {name: pid for name in PROGRAMS if (pid := node.program(name))} | {"main": node.process.pid}
        assert len(self.programs) == len(PROGRAMS) + 1, self.programs
        self.listening, self.speaking, self.turns = Spent(), Spent(), Spent()

    def agents(self) -> list[int]:
        return [int(agent["pid"]) for agent in self.node.agents()]

    def memory(self) -> float:
        """Return the memory of programs and agents once it is steady."""
        pids = [*self.programs.values(), *self.agents()]
        steady(pids)
        return pss(pids)

    async def window(self, *groups: Iterable[int]) -> list[float]:
        """Return the processor seconds per minute of each group of processes in a steady state."""
        begun, before = time.monotonic(), [processor(pids) for pids in groups]
        await asyncio.sleep(WINDOW_SECONDS)  # the length of the measurement, not a wait for something
        taken = time.monotonic() - begun
        return [60 * (processor(pids) - first) / taken for pids, first in zip(groups, before, strict=True)]

    async def talk(self, call: Call) -> None:
        """Have a conversation, and measure the agent's processor time for hearing and for speaking."""
        agent = [int((await call.look())["agentPid"])]
        programs = self.programs.values()
        await call.heard()  # the greeting
        for _ in range(TURNS):
            begun, before, around = time.monotonic(), processor(agent), processor(programs)
            ended = await call.say(SENTENCE)
            answered = await call.next_sound()
            heard = processor(agent)
            await call.heard()
            done, spoken = time.monotonic(), processor(agent)
            # Recognition after the end of the sentence still belongs to the sentence.
            self.listening.add(heard - before, ended - begun)
            self.speaking.add(spoken - heard, done - answered)
            self.turns.add(spoken - before + processor(programs) - around, done - begun)

    async def measure(self, name: str, begin: Callable[[Call], Awaitable[None]], during: str) -> list[Figure]:
        """Measure it without agents, with warm ones, and with calls. `begin` starts each call, which then continues."""
        programs, redis = self.programs.values(), [self.node.program("valkey") or 0]
        note(f"P7: {name}: at rest, without an agent")
        bare = await asyncio.to_thread(self.memory)
        each = {program: pss([pid]) for program, pid in self.programs.items()}
        valkey = pss(redis)
        at_rest, redis_at_rest = await self.window(programs, redis)

        note(f"P7: {name}: {WARM} warm agents")
        await asyncio.to_thread(self.node.resize, WARM)
        warm = await asyncio.to_thread(self.memory)
        waiting = self.agents()
        assert len(waiting) == WARM, waiting
        private_warm = mean(uss(waiting))
        of_waiting, with_waiting = await self.window(waiting, programs)

        async with contextlib.AsyncExitStack() as stack:
            calls = []
            for number in range(CALLS):
                note(f"P7: {name}: call {number + 1} of {CALLS}")
                calls.append(await stack.enter_async_context(Call(self.node.url, f"sizing-{number}")))
                await begin(calls[-1])
            in_calls = [int((await call.look())["agentPid"]) for call in calls]
            full = WARM + CALLS
            await asyncio.to_thread(poll, lambda: len(self.agents()) == full, "the pool is full again", 30)
            busy = await asyncio.to_thread(self.memory)
            private_busy = uss(in_calls)
            note(f"P7: {name}: {CALLS} calls, {during}")
            of_calls, with_calls, redis_with_calls = await self.window(in_calls, programs, redis)

        return [
            Figure(f"{name}: programs without an agent, memory (PSS)", bare, "MiB"),
            *(Figure(f"  of it {program}", value, "MiB") for program, value in each.items()),
            Figure(f"{name}: a warm agent adds (PSS)", (warm - bare) / WARM, "MiB"),
            Figure("  of it private (USS)", private_warm, "MiB"),
            Figure(f"{name}: a call adds (PSS)", (busy - warm) / CALLS, "MiB"),
            Figure("  an agent in a call, private (USS), mean", mean(private_busy), "MiB"),
            Figure("  an agent in a call, private (USS), largest", max(private_busy), "MiB"),
            Figure("Valkey, where it is embedded (PSS)", valkey, "MiB"),
            Figure("programs at rest", at_rest, MINUTE),
            Figure(f"  with {WARM} warm agents", with_waiting, MINUTE),
            Figure(f"  with {WARM} warm agents and {CALLS} calls", with_calls, MINUTE),
            Figure("a warm agent", of_waiting / WARM, MINUTE),
            Figure(f"an agent in a call, {during}", of_calls / CALLS, MINUTE),
            Figure("Valkey at rest", redis_at_rest, MINUTE),
            Figure(f"  with {WARM} warm agents and {CALLS} calls", redis_with_calls, MINUTE),
        ]


def measure() -> list[Figure]:
    """Measure a node with the voice agent and its offline models, and one with an agent that has no models."""
    speech.warm_up()  # the callers are not part of the node
    return [*_on_a_node("agents/voice.py"), *_on_a_node("agents/echo.py")]


def _on_a_node(module: str) -> list[Figure]:
    with short_folder() as folder, contextlib.ExitStack() as stack:
        (folder / "node").mkdir()
        note(f"P7: starts a node with {module}")
        node = stack.enter_context(Node(folder / "node", POOL_TARGET=0, AGENT_MODULE=module))
        return asyncio.run(_voice(node) if module == "agents/voice.py" else _echo(node))


async def _voice(node: Node) -> list[Figure]:
    sizing = await asyncio.to_thread(_Sizing, node)
    figures = await sizing.measure("offline voice", sizing.talk, "nobody speaks")
    return [
        *figures,
        Figure("an agent in a call, the user speaks", sizing.listening.per_minute, MINUTE),
        Figure("an agent in a call, it speaks", sizing.speaking.per_minute, MINUTE),
        Figure("a conversation: its agent, and all programs", sizing.turns.per_minute, MINUTE),
    ]


async def _echo(node: Node) -> list[Figure]:
    async def hum(call: Call) -> None:
        call.hum()
        await call.sound()

    sizing = await asyncio.to_thread(_Sizing, node)
    return await sizing.measure("agent without models", hum, "sound both ways")
