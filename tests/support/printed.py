"""Checks the commands, settings and requests that the documents print, without running any of them."""

import functools
import importlib.util
import json
import re
import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import typer
import yaml
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from starlette.routing import Match
from typer._click.exceptions import UsageError
from typer.core import TyperGroup

from orchestrator.api.app import create
from orchestrator.cli.main import app as command_line
from orchestrator.settings import Settings
from tests.support import api, documents, pins
from tests.support.documents import DOCUMENTS, REPOSITORY, Command

BIN = ".venv/bin/"
#: Programs of other projects, whose arguments are not checked.
FOREIGN = {"openssl", "echo", "railway", "lk", "uv"}
#: Variables that are not settings, with the program that reads them.
VARIABLES = {
    "OPENAI_API_KEY DEEPGRAM_API_KEY CARTESIA_API_KEY ELEVEN_API_KEY ANTHROPIC_API_KEY GOOGLE_API_KEY OPENAI_BASE_URL "
    "ANTHROPIC_BASE_URL DEEPGRAM_BASE_URL CARTESIA_BASE_URL ELEVEN_BASE_URL GOOGLE_GEMINI_BASE_URL "
    "VOICE_TEXT_INPUT": "the voice agent",
    "AGENT_ID AGENT_FD": "what an agent gets",
    "FAULT_LOG": "the tests",
    "CERT_REQUIRED": "redis-py",
    "CELERY_BROKER_URL CELERY_RESULT_BACKEND CELERY_CONFIG_MODULE": "Celery, and said to change nothing",
    "RAILWAY_DEPLOYMENT_ID RAILWAY_REPLICA_ID RAILWAY_DEPLOYMENT_DRAINING_SECONDS "
    "RAILWAY_DEPLOYMENT_OVERLAP_SECONDS": "Railway",
    "ORCHESTRATOR_URL VITE_START_URL VITE_API_URL NEXT_PUBLIC_CONN_DETAILS_ENDPOINT": "the build of a page",
    "VALKEY_PASSWORD": "the manifests of Kubernetes",
    "LIVEKIT_INFERENCE_API_KEY LIVEKIT_INFERENCE_API_SECRET": "LiveKit Agents",
    "API_KEY": "a variable of an example",
}
FOREIGN_VARIABLES = {name for names in VARIABLES for name in names.split()}
#: Files that documents name and that are not in the repository, with the command that creates them.
ELSEWHERE = {
    "my_agent.py rule.json": "the reader",
    "railway.json": "Railway",
    ".env .env.local": "the reader",
    "go.mod": "LiveKit",
    "secrets.json valkey.sock valkey.conf livekit.yaml host.sock relay.sock supervisor.sock .run/logs "
    "/var/lib/orchestrator/secrets.json": "the node, in RUN_DIR",
    ".venv/bin/activate frontend/dist": "make up",
    "out.json": "the benchmarks",
    "session.start": "LiveKit Agents",
}
MADE = {name for names in ELSEWHERE for name in names.split()}


def _orchestrator(command: Command, words: list[str]) -> str | None:
    """Check a command of ours with its own parser: subcommand, options, number of arguments."""
    group: Any = typer.main.get_command(command_line)
    name = ""
    while isinstance(group, TyperGroup):
        if not words:
            return None if not name else f"{name} needs a subcommand"
        name, *words = words
        if name == "call":  # the subcommand's module is imported here
            (plugin,) = (each for each in entry_points(group="orchestrator.commands") if each.name == name)
            alone = typer.Typer()
            alone.command()(plugin.load())
            group = typer.main.get_command(alone)
        elif name in group.commands:
            group = group.commands[name]
        else:
            return f"there is no command {name}"
    context = group.context_class(group)
    if context.ignore_unknown_options or name == "redis":
        return None
    try:
        values, rest, _ = group.make_parser(context).parse_args(list(words))
    except UsageError as failure:
        return failure.format_message()
    missing = [each.name for each in group.params if each.required and not values.get(each.name or "")]
    return f"too many words: {rest}" if rest else f"needs {missing}" if missing else None


def _make(command: Command, words: list[str]) -> str | None:
    text = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    unknown = [word for word in words if "=" not in word and word not in targets]
    return f"there is no target {unknown}" if unknown else None


def _python(command: Command, words: list[str]) -> str | None:
    if words[:1] != ["-m"]:
        return _files(command, [word for word in words if not word.startswith("-")])
    module, *rest = words[1:]
    if importlib.util.find_spec(module) is None:
        return f"there is no module {module}"
    return _pytest(rest) if module == "pytest" else None


def _pytest(words: list[str]) -> str | None:
    files = [word for word in words if word.startswith("tests/")]
    tests: list[str] = []
    for file in files:
        path, _, node = file.partition("::")
        where = REPOSITORY / path
        if not where.exists():
            return f"there is no {path}"
        text = "".join(each.read_text() for each in [where, *where.rglob("test_*.py")] if each.is_file())
        names = re.findall(r"(?:def |^class |^)(\w+)(?:\(|:| = )", text, re.MULTILINE)
        if node and not set(node.partition("[")[0].split("::")) <= set(names):
            return f"there is no test {node} in {path}"
        tests += names
    if "-k" in words:
        wanted = set(re.findall(r"\w+", words[words.index("-k") + 1])) - {"and", "or", "not"}
        lacking = [each for each in wanted if not any(each.lower() in name.lower() for name in tests)]
        return f"-k selects nothing by {lacking}" if lacking else None
    return None


def _pip(command: Command, words: list[str]) -> str | None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for word in words for match in re.findall(r"^\.\[(.+)\]$", word) for name in match.split(",")}
    if unknown := named - extras.keys():
        return f"there is no extra {unknown}"
    return _files(command, [words[at + 1] for at, word in enumerate(words) if word in {"-c", "-r"}])


def _npm(command: Command, words: list[str]) -> str | None:
    package = REPOSITORY / command.folder / "package.json"
    if not package.exists():
        return None if "-g" in words else f"{command.folder} has no package.json: cd frontend comes first"
    script = words[1] if words[0] == "run" else words[0] if words[0] == "test" else None
    return None if script is None or script in json.loads(package.read_text())["scripts"] else f"no script {script}"


def _files(command: Command, words: list[str]) -> str | None:
    folder = REPOSITORY / command.folder
    missing = [word for word in words if word not in MADE and (word[0] == "/" or not any(folder.glob(word)))]
    return f"there is no {missing}" if missing else None


def _docker(command: Command, words: list[str]) -> str | None:
    services = yaml.safe_load(pins.COMPOSE.read_text())["services"]
    given = {at: words[at + 1] for at, word in enumerate(words[:-1]) if word.startswith("-")}
    arguments = [value.partition("=")[0] for at, value in given.items() if words[at] == "--build-arg"]
    if unknown := set(arguments) - pins.build_arguments().keys() - {"OFFLINE_VOICE"}:
        return f"the Dockerfile has no argument {unknown}"
    for at, value in given.items():
        if words[at] == "-e" and (problem := setting(*value.partition("=")[::2])):
            return problem
        if words[at] == "--profile" and not any(value in service.get("profiles", ()) for service in services.values()):
            return f"there is no profile {value}"
    if words[:1] == ["compose"] and "exec" in words:
        service, *rest = words[words.index("exec") + 1 :]
        return _in_the_image(command, rest) if service in services else f"there is no service {service}"
    return _files(command, [value for at, value in given.items() if words[at] == "-f"])


def _in_the_image(command: Command, words: list[str]) -> str | None:
    """Check a command that runs in the image, where `orchestrator` is on PATH."""
    checks = {"orchestrator": _orchestrator, "cat": _files}
    return checks[words[0]](command, words[1:]) if words[0] in checks else f"not in the image: {words}"


def _kubectl(command: Command, words: list[str]) -> str | None:
    if "--" in words:
        return _in_the_image(command, words[words.index("--") + 1 :])
    wanted = [words[at + 1] for at, word in enumerate(words[:-1]) if word in {"-k", "-f"}]
    given = {re.sub(r"^--from-literal=(\w+)=.*", r"\1", word) for word in words if word.startswith("--from-literal=")}
    known = set(re.findall(r"\w+", (REPOSITORY / "deploy/kubernetes/secret.example.yaml").read_text()))
    return f"secret.example.yaml does not name {given - known}" if given - known else _files(command, wanted)


def _curl(command: Command, words: list[str]) -> str | None:
    (url,) = (word for word in words if re.match(r"(https?://)?(localhost|127\.0\.0\.1)[:/]", word))
    posts = any(word in {"-d", "--data", "--json"} for word in words)
    method = words[words.index("-X") + 1] if "-X" in words else "POST" if posts else "GET"
    return request(method, re.sub(r"^(https?://)?[^/]+", "", url))


def _plain(last: int) -> Callable[[Command, list[str]], str | None]:
    """Check that the last words are names of files."""
    return lambda command, words: _files(command, words[-last:] if last else [])


PROGRAMS: dict[str, Callable[[Command, list[str]], str | None]] = {
    "make": _make,
    "npm": _npm,
    "docker": _docker,
    "kubectl": _kubectl,
    "curl": _curl,
    "cd": _plain(1),
    "jq": _plain(1),
    "promtool": _plain(1),
    "grep": lambda command, words: None,
    "source": _plain(1),
    "cp": lambda command, words: _files(command, words[:1]),
    f"{BIN}orchestrator": _orchestrator,
    f"{BIN}python": _python,
    f"{BIN}pip": _pip,
    f"{BIN}pytest": lambda command, words: _pytest(words),
}
#: Programs that are only in .venv: the reader's PATH has none of them, or another version.
IN_VENV = {"orchestrator", "python", "python3", "pip", "pytest", "supervisorctl", "celery"}


def wrong(command: Command) -> str | None:
    """Return what is wrong with a command, or None."""
    problems = [setting(name, value) for name, value in command.variables.items()]
    if any(problems):
        return next(filter(None, problems))
    if not command.words:
        return None
    program, *words = command.words
    if command.activated and program in IN_VENV:
        program = f"{BIN}{program}"
    if program in FOREIGN:
        return None
    if program in IN_VENV:
        return f"{program} is not on PATH: {BIN}{program}"
    check = PROGRAMS.get(program)
    return check(command, words) if check else f"what is {program}? (a block that is no shell's says so: ```text)"


def commands() -> list[Command]:
    """Return every command that the documents print."""
    names = PROGRAMS.keys() | IN_VENV
    return [
        *(command for path in DOCUMENTS for command in documents.commands(path)),
        *(command for path in DOCUMENTS for command in documents.inline_commands(path, set(names))),
    ]


@functools.cache
def settings() -> frozenset[str]:
    composed = re.findall(r"\$\{(\w+):-", pins.COMPOSE.read_text())
    return frozenset({*(name.upper() for name in Settings.model_fields), *pins.build_arguments(), *composed})


def setting(name: str, value: str) -> str | None:
    """Return what is wrong with NAME=value."""
    if name not in settings() | FOREIGN_VARIABLES | {"FAULTS", "NAME"}:
        return f"there is no setting {name}"
    field = Settings.model_fields.get(name.lower())
    if field is None or "…" in value or "SUBSTITUTED" in value or not value:
        return None
    try:
        TypeAdapter(field.annotation).validate_python(value)
    except ValidationError as failure:
        return f"{name}={value}: {failure.errors()[0]['msg']}"
    return None


@functools.cache
def application() -> FastAPI:
    return create(api.settings("redis://127.0.0.1:1"))


def request(method: str, path: str) -> str | None:
    """Return what is wrong with a request in a document, or None."""
    plain = re.sub(r"[{<][^}>]*[}>]", f"prewarm_{0:032}", path.partition("?")[0].partition("#")[0])
    scope = {"type": "http", "method": method, "path": plain, "root_path": "", "headers": []}
    if any(route.matches(scope)[0] is Match.FULL for route in application().routes):
        return None
    return f"nothing answers {method} {path}"
