"""Reads the pinned versions from the files that pin them: Python and npm packages, images, the LiveKit server."""

import json
import re
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "Dockerfile.orchestrator"
COMPOSE = REPOSITORY / "docker-compose.celery.yml"
CONSTRAINTS = REPOSITORY / "constraints.txt"
#: What the tests run Pipecat bots with.
PIPECAT = REPOSITORY / "requirements/pipecat.txt"
#: The packages that the image installs, by the value of OFFLINE_VOICE.
HASHED = {"true": REPOSITORY / "requirements/offline.txt", "false": REPOSITORY / "requirements/hosted.txt"}
#: The image that is built here: its version is not pinned.
OWN = "voice-agent-orchestrator"

_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)(?: ; ([^\\]+))?")


def requirements(path: Path) -> dict[str, dict[str, str]]:
    """Return the versions in a requirements file, by name and marker. Raises `ValueError` if a line pins no version."""
    found: dict[str, dict[str, str]] = {}
    for line in path.read_text().replace("\\\n", " ").splitlines():
        match = _REQUIREMENT.match(line)
        if match is None:
            raise ValueError(f"{path.name} does not pin: {line}")
        name, version, marker = match.groups()
        found.setdefault(name.lower(), {})[(marker or "").split("--hash")[0].strip()] = version
    return found


def hashes(path: Path) -> dict[str, list[str]]:
    """Return the hashes of each line of a requirements file."""
    lines = path.read_text().replace("\\\n", " ").splitlines()
    return {line.split(" ")[0]: re.findall(r"--hash=(\S+)", line) for line in lines}


def packages() -> dict[str, str]:
    """Return the versions of npm's packages that package.json names, from the lock file."""
    lock = json.loads((REPOSITORY / "frontend/package-lock.json").read_text())["packages"]
    own = lock[""]
    return {name: lock[f"node_modules/{name}"]["version"] for name in own["dependencies"] | own["devDependencies"]}


def build_arguments() -> dict[str, str]:
    """Return the Dockerfile's arguments and their defaults."""
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE))


def composed() -> dict[str, str]:
    """Return the default images of the compose file, by service."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    images = {name: re.sub(r"^\$\{\w+:-(.+)\}$", r"\1", service["image"]) for name, service in services.items()}
    return {name: image for name, image in images.items() if image != OWN}


def images() -> dict[str, list[str]]:
    """Return every image that is pulled, by the file in which it is named."""
    kubernetes = [
        image
        for path in sorted((REPOSITORY / "deploy/kubernetes").glob("*.yaml"))
        for image in re.findall(r"^\s*image: (\S+)$", path.read_text(), re.MULTILINE)
        if image != OWN
    ]
    template = json.loads((REPOSITORY / "deploy/railway/template.json").read_text())["services"].values()
    code = (REPOSITORY / ".railway/railway.py").read_text()
    return {
        "Dockerfile.orchestrator": [image for name, image in build_arguments().items() if name.endswith("_IMAGE")],
        "docker-compose.celery.yml": list(composed().values()),
        "deploy/kubernetes": kubernetes,
        "deploy/railway/template.json": [
            each["source"]["image"] for each in template if "image" in each.get("source", {})
        ],
        ".railway/railway.py": re.findall(r'image\("([^"]+)"', code),
    }


def program(image: str) -> str:
    """Return the name of an image without its registry, owner, tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def tag(image: str) -> str:
    """Return the tag of an image, without a digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def version(image: str) -> str:
    """Return the version at the beginning of a tag."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", tag(image))
    return match[1] if match else ""
