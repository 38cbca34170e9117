"""Runs one simulation from its seed."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

from tests.simulation.cluster import patched
from tests.simulation.valkey import Valkey
from tests.simulation.virtual_time import VirtualLoop
from tests.simulation.world import World

Scenario = Callable[[World], Awaitable[None]]


def run(world: World, valkey: Valkey, scenario: Scenario) -> World:
    """Run a scenario in virtual time; returns the world. Raises what the scenario raises."""
    loop = VirtualLoop()
    world.begin(loop, valkey)
    gc.disable()  # a schedule is short, so its garbage is collected once, at its end
    try:
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(lambda *_: None)  # warnings about the coroutines of killed processes
        with patched(world):
            loop.run_until_complete(scenario(world))
        return world
    finally:
        unfinished = asyncio.all_tasks(loop)
        for task in unfinished:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*unfinished, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
        gc.enable()
