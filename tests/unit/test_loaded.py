"""Objects that a module created while it was loaded still work in a forked agent."""

import json
from pathlib import Path

import pytest

from tests.support.host import Host, code_host
from tests.support.processes import poll

pytestmark = pytest.mark.thorough

MODULE = """
import json, os, random, signal, socket, sys
os.environ["SET_AT_IMPORT"] = "yes"
os.environ["OPENAI_API_KEY"] = "the module's"
os.environ.pop("HOME")
held = [open(os.devnull) for _ in range(12)]
log = open("mine.log", "a", buffering=1)
near, far = socket.socketpair()
own = random.Random()
try:
    import numpy
    class Kept:
        generator = numpy.random.default_rng()
    draw_more = lambda: [float(Kept.generator.random()), float(numpy.random.random()), float(old.random_sample())]
    old = numpy.random.RandomState(7)
except ImportError:
    draw_more = lambda: []
def links(name):
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""
def prewarm():
    random.random(); draw_more()
def entrypoint(agent_id):
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
    log.write(f"{agent_id}\\n")
    near.send(b"x")
    print(json.dumps({
        "set": os.environ.get("SET_AT_IMPORT"), "key": os.environ["OPENAI_API_KEY"], "home": "HOME" in os.environ,
        "id": os.environ["AGENT_ID"], "clean": "AGENT_HOST_CLEAN" in os.environ,
        "received": far.recv(1).decode(), "draws": [own.random(), random.random(), *draw_more()],
        "fds": {name: links(name) for name in os.listdir("/proc/self/fd")},
    }), flush=True)
"""


async def test_agents_keep_environment_files_and_sockets_and_differ_in_random_numbers(short_folder: Path) -> None:
    host: Host = await code_host(short_folder, MODULE, OPENAI_API_KEY="the node's").connect()
    said = {}
    for agent_id in ("one", "two"):
        await host.client.spawn(agent_id)
        poll(lambda name=agent_id: host.log(name).endswith("}\n"), "it has spoken")
        said[agent_id] = json.loads(host.log(agent_id))
    for agent_id, seen in said.items():
        assert (seen["set"], seen["key"], seen["home"]) == ("yes", "the module's", False)
        assert (seen["id"], seen["clean"], seen["received"]) == (agent_id, False, "x")
        open_sockets = [target for target in seen["fds"].values() if target.startswith("socket:")]
        assert len(open_sockets) == 2, "the module's pair, and none of the host's"
        assert not [target for target in seen["fds"].values() if "eventpoll" in target or "pidfd" in target]
    assert (host.run_dir / "mine.log").read_text() == "one\ntwo\n"
    for first, second in zip(said["one"]["draws"], said["two"]["draws"], strict=True):
        assert first != pytest.approx(second, abs=1e-12)
    assert "leaves 2 socket(s) open when it is imported" in host.said()
    await host.end()
