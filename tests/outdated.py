"""`make outdated`: list what is pinned and behind the newest that there is.

python -m tests.outdated            a table: pinned, newest, and what holds it back where something does
python -m tests.outdated --json     the same as JSON

It exits with 0 whatever is behind: that is a fact to be read, and no fault. What nobody tells is listed as not known.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from orchestrator.node import livekit_server
from tests.support import pins

UV = Path(sys.executable).with_name("uv")
SECONDS = 300
LIVEKIT = "github.com/livekit/livekit-server"
#: Why an older one is pinned on purpose, by what is pinned.
HELD = {
    "livekit-server (make up)": "later versions have replace lines in go.mod, which go install refuses",
    "onnxruntime": "1.29 and later start a thread on import",
    "moonshine-voice": "the last wheel with its model inside",
}

#: Runs a command in a folder and returns its output, or None where it cannot be run.
Run = Callable[[list[str], Path], "str | None"]


@dataclass(frozen=True)
class Pin:
    """A pin, the newest version (None: unknown), and what holds it back."""

    name: str
    pinned: str
    newest: str | None
    held: str = ""

    @property
    def behind(self) -> bool:
        """Whether there is a newer one."""
        return self.newest is not None and Version(self.newest) > Version(self.pinned)


def run(command: list[str], folder: Path) -> str | None:
    """Run a command. What it prints counts, not how it ends: `npm outdated` exits with 1 when something is."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout or None


def newest(versions: Iterable[str], within: str = "") -> str | None:
    """Return the newest version that is no pre-release and begins with `within`."""
    plain = [each.removeprefix("v") for each in versions if re.fullmatch(r"v?\d+(\.\d+)+", each)]
    return max((each for each in plain if f"{each}.".startswith(within)), key=Version, default=None)


def python_packages(ask: Run) -> Iterator[Pin]:
    """What pip finds newer versions of, for this machine's Python: what is installed is what is pinned."""
    answer = ask([sys.executable, "-m", "pip", "list", "--outdated", "--format", "json"], pins.REPOSITORY)
    if answer is None:
        yield Pin("Python packages", "0", None)
        return
    pinned, ranges = pins.requirements(pins.CONSTRAINTS), _ranges()
    for row in json.loads(answer):
        name = row["name"].lower().replace("_", "-")
        if row["version"] in pinned.get(name, {}).values():
            held = HELD.get(name) or (f"pyproject.toml: {ranges[name]}" if name in ranges else "")
            yield Pin(name, row["version"], row["latest_version"], held)


def _ranges() -> dict[str, str]:
    project = tomllib.loads((pins.REPOSITORY / "pyproject.toml").read_text())["project"]
    every = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = [Requirement(line) for lines in every for line in lines]
    return {each.name: str(each.specifier) for each in wanted if each.specifier}


def npm_packages(ask: Run) -> Iterator[Pin]:
    """What npm finds newer versions of."""
    answer = ask(["npm", "outdated", "--json"], pins.REPOSITORY / "frontend")
    pinned = pins.packages()
    # Nothing is outdated: it prints {}. No npm, no registry: it prints nothing, or an error.
    found = json.loads(answer or "null")
    if not isinstance(found, dict) or "error" in found:
        yield Pin("npm packages", "0", None)
        return
    yield from (Pin(name, pinned[name], row["latest"]) for name, row in found.items() if name in pinned)


def servers(ask: Run) -> Iterator[Pin]:
    """The LiveKit server of `make up` and of the compose file."""
    found = newest(_go(ask, LIVEKIT))
    name = "livekit-server (make up)"
    yield Pin(name, livekit_server.VERSION, found, HELD[name])
    yield Pin("livekit-server (compose)", pins.version(pins.composed()["livekit"]), found)


def _go(ask: Run, module: str) -> list[str]:
    return (ask(["go", "list", "-m", "-versions", module], pins.REPOSITORY) or "").split()[1:]


def images(ask: Run) -> Iterator[Pin]:
    """The other images, by what is published beside them: uv knows CPython's versions, npm Node's, Go Prometheus's."""
    composed, arguments = pins.composed(), pins.build_arguments()
    python, node = (pins.version(arguments[name]) for name in ("PYTHON_IMAGE", "NODE_IMAGE"))
    minor = python.rpartition(".")[0]
    known = json.loads(
        ask(
            [str(UV), "python", "list", "--all-versions", "--only-downloads", "--output-format", "json", minor],
            pins.REPOSITORY,
        )
        or "[]"
    )
    yield Pin("image python", python, newest((row["version"] for row in known), f"{minor}."))
    major = node.partition(".")[0]
    answer = ask(["npm", "view", f"node@{major}", "version", "--json"], pins.REPOSITORY / "frontend")
    yield Pin("image node", node, newest(json.loads(answer or "[]"), f"{major}."))
    # Prometheus 3.16.0 is v0.316.0 as a Go module.
    modules = " ".join(_go(ask, "github.com/prometheus/prometheus"))
    published = (f"3.{int(minor)}.{patch}" for minor, patch in re.findall(r"\bv0\.3(\d\d)\.(\d+)\b", modules))
    yield Pin("image prometheus", pins.version(composed["prometheus"]), newest(published))
    yield Pin("image grafana", pins.version(composed["grafana"]), None)
    yield Pin("image valkey", pins.version(composed["valkey"]), None)


def every(ask: Run = run) -> list[Pin]:
    """Return the outdated pins, and those without an answer."""
    found = [pin for part in (python_packages, npm_packages, servers, images) for pin in part(ask)]
    return [pin for pin in found if pin.behind or pin.newest is None]


def lines(found: list[Pin]) -> Iterator[str]:
    """Yield the table."""
    behind, unknown = [pin for pin in found if pin.behind], [pin for pin in found if not pin.behind]
    width = max((len(pin.name) for pin in behind), default=0)
    yield f"{len(behind)} behind:" if behind else "Nothing is behind."
    for pin in behind:
        yield f"  {pin.name:{width}}  {pin.pinned} → {pin.newest}{pin.held and f'   ({pin.held})'}"
    if unknown:
        yield f"Not known: {', '.join(pin.name for pin in unknown)}."


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.outdated", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="as JSON")
    found = every()
    text = json.dumps([asdict(pin) for pin in found], indent=1) if parser.parse_args().json else "\n".join(lines(found))
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
