"""A whole node in folders with characters that mean something to somebody, on a terminal that is closed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from orchestrator.node.livekit_server import cached, obtain
from tests.support.chaos import busy
from tests.support.node import REPOSITORY, Node
from tests.support.processes import poll
from tests.support.terminal import Terminal

NAME = "it's 100%s naïve [x]"


def _checkout(folder: Path) -> Path:
    """Return the Python of a checkout there, with an environment of its own, as `make up` leaves both."""
    for part in ("orchestrator", "agents", "supervisord.conf"):
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    venv = folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (venv / "lib").symlink_to(Path(sys.prefix) / "lib")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
    return venv / "bin" / "python"


def test_a_node_lives_in_folders_of_any_name_and_goes_with_its_terminal(short_folder: Path) -> None:
    place = short_folder / NAME
    (place / "page").mkdir(parents=True)
    (place / "page" / "index.html").write_text("the page")
    python = _checkout(place)
    cache = place / "cache" / "voice-agent-orchestrator"
    cache.mkdir(parents=True)
    (cache / cached().name).symlink_to(obtain())
    for folder in ("home", "tmp", "run"):
        (place / folder).mkdir()
    node = Node(
        place / "run", POOL_TARGET=1, AGENT_MODULE="agents.echo", PYTHONPATH=place, FRONTEND_DIR=place / "page",
        HOME=place / "home", TMPDIR=place / "tmp", XDG_CACHE_HOME=place / "cache",
    )  # fmt: skip
    (place / ".env").write_text(f'RUN_DIR="{place / "run"}"\nAGENT_ENV=NOTHING # of a comment\n')
    node.environment["PATH"] = os.pathsep.join(
        part for part in node.environment["PATH"].split(os.pathsep) if not (Path(part) / "livekit-server").exists()
    )
    terminal = Terminal()
    try:
        command = [str(python), "-c", "from orchestrator.cli import main; main()", "up"]
        node.process = subprocess.Popen(
            command, env=node.environment, cwd=place, start_new_session=True, **terminal.popen
        )
        terminal.started()
        try:
            poll(lambda: "Ctrl-C stops everything." in terminal.said(), "the node is up", 60 * busy())
        except AssertionError as failure:
            failure.add_note(terminal.said())
            raise
        assert f"{place}/run/logs" in terminal.said()
        assert node.http.get("/").text == "the page"
        session_id = node.begin("ada")["sessionId"]
        poll(lambda: "agentJoined" in node.session(session_id)["timings"], "the agent is in the room")
        assert str(node.info("host")["logfile"]) == f"{place}/run/logs/host.log"
        terminal.close()
        assert node.process.wait(30) == 0
        poll(lambda: not node.pids(), "nothing of it is left", 5)
    finally:
        terminal.close()
        node.stop()
