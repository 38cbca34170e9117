"""What an agent's module has made while it was loaded, and a fork would share among all agents.

Random generators are seeded again in each agent, whatever their seed was: two agents that draw the same numbers give
two users the same code. Python does the same with its own global one. Connections cannot be replaced: they are logged.
"""

import gc
import importlib
import logging
import random
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("orchestrator.host")

_reseed: list[Callable[[], object]] = []


def sockets() -> set[str]:
    """Return what this process has open as sockets, by the kernel's names; none where the system does not say."""
    links = set()
    with suppress(OSError):
        for descriptor in list(Path("/proc/self/fd").iterdir()):
            with suppress(OSError):  # the folder's own
                links.add(str(descriptor.readlink()))
    return {target for target in links if target.startswith("socket:")}


def find_generators() -> None:
    """Find the random generators that there are, wherever they are kept. After gc.freeze none is seen any more."""
    _reseed.clear()
    ways: dict[type, Callable[[object], object]] = {random.Random: lambda one: one.seed()}  # type: ignore[attr-defined]
    if "numpy.random" in sys.modules:
        numpy = importlib.import_module("numpy.random")
        ways[numpy.RandomState] = lambda one: one.seed()  # type: ignore[attr-defined]
        ways[numpy.Generator] = _seed_generator
        _reseed.append(numpy.seed)
    if "torch" in sys.modules:
        torch = importlib.import_module("torch")
        ways[torch.Generator] = lambda one: one.seed()  # type: ignore[attr-defined]
        _reseed.append(lambda: torch.manual_seed(secrets.randbits(63)))
    for one in gc.get_objects():
        for kind, seed in ways.items():
            if issubclass(type(one), kind):
                _reseed.append(lambda one=one, seed=seed: seed(one))  # type: ignore[misc]


def reseed() -> None:
    """Seed the generators again, in the process that was forked. One that cannot be is logged."""
    for seed in _reseed:
        try:
            seed()
        except Exception as failure:
            log.warning("a random generator keeps the seed that all agents have: %r", failure)


def _seed_generator(generator: object) -> None:
    bits = generator.bit_generator  # type: ignore[attr-defined]
    bits.state = type(bits)().state
