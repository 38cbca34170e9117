"""README.md and docs/*.md: every command works as printed, from the root of the repository after `make up`; every
file, setting, request and link in them exists; and their lists are complete."""

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer
import yaml
from livekit.agents import JobContext
from typer.core import TyperGroup
from typer.testing import CliRunner

from orchestrator import __version__, reasons
from orchestrator.cli.main import app as command_line
from orchestrator.errors import OrchestratorError
from orchestrator.settings import Settings
from orchestrator.store import keys
from orchestrator.store.loader import sources
from tests import reference
from tests.support import documents, fenced, printed
from tests.support.documents import DOCUMENTS, LARGEST_PICTURE, REPOSITORY, Command
from tests.support.printed import BIN, FOREIGN_VARIABLES, MADE, wrong

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"


def none(found: Iterable[str]) -> None:
    """Assert that a list is empty; the message shows all of it."""
    listed = sorted(found)
    assert not listed, "\n".join(["", *listed])


# Commands


def test_every_command_works_as_it_is_printed() -> None:
    found = printed.commands()
    assert len(found) > 60
    none(f"{command}: {problem}" for command in found if (problem := wrong(command)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("orchestrator status", "not on PATH"),
        ("supervisorctl restart api", "not on PATH"),
        ("make fly", "no target"),
        (".venv/bin/orchestrator explain", "needs ['session_id']"),
        (".venv/bin/orchestrator drain a --now", "No such option"),
        (".venv/bin/orchestrator agents restart", "no command restart"),
        (".venv/bin/orchestrator stop a b", "too many"),
        (".venv/bin/orchestrator call --sing x", "No such option"),
        (".venv/bin/python -m pytest tests/unit/test_nothing.py", "there is no tests/unit/test_nothing.py"),
        (".venv/bin/python -m pytest tests/unit/test_documents.py -k promises", "selects nothing"),
        (".venv/bin/python -m pytest tests/unit/test_documents.py::test_x", "no test test_x"),
        (".venv/bin/python -m orchestrator.nothing", "no module"),
        (".venv/bin/pip install -e '.[voices]'", "no extra"),
        ("docker compose -f compose.yml up", "there is no ['compose.yml']"),
        ("docker compose --profile metrics up", "no profile"),
        ("docker compose exec api orchestrator status", "no service"),
        ("docker compose exec orchestrator supervisorctl status", "not in the image"),
        ("docker compose exec orchestrator cat /var/lib/orchestrator/secret.json", "there is no"),
        ("docker run -e POOL_SIZE=1 voice-agent-orchestrator", "POOL_SIZE"),
        ("docker build --build-arg VOICE=1 .", "no argument"),
        ("kubectl apply -k deploy/k8s", "there is no"),
        ("curl localhost:8080/api/session/start", "GET /api/session/start"),
        ("curl -X POST localhost:8080/api/sessions", "POST /api/sessions"),
        ("npm test", "no package.json"),
        ("cd frontend && npm run serve", "no script serve"),
        ("POOL_TARGET=many make up", "POOL_TARGET=many"),
        ("POOL_SIZE=3 make up", "POOL_SIZE"),
        ("TOKEN=$(python3 -c 1) make up", "TOKEN"),
        ("fly deploy", "what is fly?"),
    ],
)
def test_a_broken_command_is_detected(text: str, problem: str) -> None:
    assert problem in "; ".join(found for each in documents.parsed("here", text) if (found := wrong(each)))


def test_every_fenced_command_is_run_or_has_a_reason_why_not() -> None:
    """tests/e2e/test_documents.py runs the commands without a reason here, including all new ones."""
    lines = [line for block in fenced.blocks() for line in block.lines]
    assert len([line for line in lines if fenced.reason(line) is None]) > 15
    assert fenced.START in lines
    none(
        f"no document prints {each} any more"
        for each in fenced.NOT_RUN
        if not any(fenced.begins(line, each) for line in lines)
    )


def test_each_reason_not_to_run_a_command_names_existing_tests() -> None:
    named = {file for why in fenced.NOT_RUN.values() for file in re.findall(r"tests/[\w/]+\.py", why)}
    none(file for file in named if not (REPOSITORY / file).exists())


def test_each_promise_names_existing_tests() -> None:
    table = (DOCS / "testing.md").read_text().partition("\n## What is promised")[2].partition("\n## ")[0]
    found = [cells[1].strip("`").split() for cells in documents.rows(table) if "tests/" in cells[1]]
    assert len(found) > 10
    commands = [Command("docs/testing.md", (f"{BIN}python", "-m", "pytest", *words)) for words in found]
    none(f"{each}: {problem}" for each in commands if (problem := wrong(each)))


def test_each_reported_fault_names_existing_tests() -> None:
    """The name of a file may be followed by the words of a test's name."""
    text = (REPOSITORY / "docs/testing.md").read_text().partition("\n## Reported faults")[2]
    missing = []
    for file, words in re.findall(r"`((?:unit|integration|e2e|chaos|image)/test_\w+\.py)`(?: ([a-z][^|,;`]*))?", text):
        path, name = REPOSITORY / "tests" / file, "_".join(["test", *re.findall(r"\w+", words)])
        if not path.exists() or (words.strip() and f"def {name}(" not in path.read_text()):
            missing.append(f"{file} {name}")
    none(missing)


# Settings and variables


def test_every_named_setting_exists() -> None:
    named = [(where, name) for path in DOCUMENTS for where, name in documents.in_capitals(path)]
    none(f"{where}: {name}" for where, name in named if name not in printed.settings() | FOREIGN_VARIABLES)
    none(f"no document names {name} any more" for name in FOREIGN_VARIABLES - {name for _, name in named})


def test_every_written_value_of_a_setting_is_valid() -> None:
    written = [
        (where, *match)
        for path in DOCUMENTS
        for where, text in documents.spans(path)
        for match in re.findall(r"^([A-Z][A-Z0-9_]+)=(\S+)$", text)
    ]
    none(problem for _, name, value in written if (problem := printed.setting(name, value)))


def test_the_table_of_settings_shows_the_defaults() -> None:
    shown = 0
    for names, text in documents.rows((DOCS / "settings.md").read_text()):
        for name in re.findall(r"`([A-Z_]+)`", names):
            field = Settings.model_fields.get(name.lower())
            default = field.default if field else None
            if isinstance(default, int | float) and not isinstance(default, bool):
                shown += 1
                assert re.search(rf"(?<![\d.]){default:g}(?![\d.]\d)", text), f"{name} is {default:g}"
    assert shown >= 8


# Requests


def test_every_named_request_is_answered() -> None:
    others = {("POST", "/your/path")}
    named = [
        (where, *what) for path in DOCUMENTS for where, *what in documents.requests(path) if tuple(what) not in others
    ]
    assert len(named) > 20
    none(f"{where}: {problem}" for where, *what in named if (problem := printed.request(*what)))


# The command line


def test_the_documents_list_every_command() -> None:
    listed = [
        Command("docs/cli.md", (f"{BIN}orchestrator", *re.sub(r"[`\[\]]", "", cells[0]).split()))
        for cells in documents.rows((DOCS / "cli.md").read_text())
        if cells[0].startswith("`")
    ]
    none(f"{each}: {problem}" for each in listed if (problem := wrong(each)))
    group = typer.main.get_command(command_line)
    assert isinstance(group, TyperGroup)
    every = {
        f"{name} {inner}" if inner else name
        for name, command in group.commands.items()
        for inner in (command.commands if isinstance(command, TyperGroup) else [""])
    } | {plugin.name for plugin in entry_points(group="orchestrator.commands")}
    named = [" ".join(each.words[1:]) for each in listed]
    none({command for command in every if not any(f"{each} ".startswith(f"{command} ") for each in named)})


def test_the_documents_say_which_commands_have_no_json() -> None:
    text = " ".join((DOCS / "cli.md").read_text().split())
    named = set(re.findall(r"`(\w+)`", text.partition("Every command but ")[2].partition(" takes `--json`")[0]))
    group = typer.main.get_command(command_line)
    assert isinstance(group, TyperGroup)
    leaves = {name: command for name, command in group.commands.items() if not isinstance(command, TyperGroup)}
    without = {name for name, command in leaves.items() if not any(each.name == "json" for each in command.params)}
    assert named == without


def test_the_help_of_the_command_line_names_every_command() -> None:
    group = typer.main.get_command(command_line)
    assert isinstance(group, TyperGroup)
    shown = CliRunner().invoke(command_line, ["--help"]).stdout
    none(name for name in group.commands if not re.search(rf"│ {name} +[A-Z]", shown))
    none(name for name, command in group.commands.items() if not command.help)


#: Files with commands for the operator, beside the documents and the programs' own texts.
_READ = ("deploy/prometheus/alerts.yml", ".env.celery.example", "supervisord.conf", "orchestrator/web/status.html")


def _program_texts() -> Iterator[tuple[str, str]]:
    """Yield every line of every text in the programs, including docstrings, because some are help texts."""
    for path in (
        each for folder in ("orchestrator", "agent_runtime", "agents") for each in (REPOSITORY / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from ((f"{path.relative_to(REPOSITORY)}:{node.lineno}", line) for line in node.value.splitlines())
    for file in _READ:
        yield from ((file, line) for line in (REPOSITORY / file).read_text().splitlines())


def test_every_command_named_by_a_program_exists() -> None:
    """Texts name the command without a path, because it is on PATH in a container."""
    pattern = re.compile(r"(?:`|<code>|\b(?:by|see):? |\()(orchestrator [a-z]+(?: --?[a-z-]+| [A-Z]+)*)")
    found = [(where, command) for where, text in _program_texts() for command in pattern.findall(text)]
    assert len(found) > 20
    none(
        f"{where}: {problem}"
        for where, command in found
        if (problem := wrong(Command(where, tuple(f"{BIN}{command}".split())))) and "needs" not in problem
    )
    none(f"{where}: {text}" for where, text in _program_texts() if re.search(r"(?<!\.venv/bin/)\bpip install", text))


# Redis's keys


def _table_of_keys() -> str:
    return (REPOSITORY / "docs/redis.md").read_text().partition("## What is in it")[2].partition("\n## ")[0]


def _documented_keys() -> set[str]:
    """Return the keys of its rows, and further ones in a row's text, with `{}` for the variable parts."""
    rows = list(documents.rows(_table_of_keys()))
    named = {key for cells in rows for key in re.findall("`([^`]+)`", cells[0])}
    beside = {key for cells in rows for key in re.findall("`([a-z]+:[^` ]*}[^` ]*)`", cells[2])}
    return {re.sub(r"\{\w+\}|\*", "{}", key) for key in named | beside}


def _keys_of_python() -> set[str]:
    constants = {value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}
    tree = ast.parse(Path(keys.__file__).read_text())
    functions = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    return constants | {getattr(keys, each.name)(*["{}"] * len(each.args.args)) for each in functions}


def test_docs_redis_names_every_key_that_python_uses() -> None:
    none(_keys_of_python() - _documented_keys())


def test_docs_redis_names_every_field_that_is_read_or_written() -> None:
    python = "".join((REPOSITORY / "orchestrator" / file).read_text() for file in ("models.py", "store/records.py"))
    fields = set(re.findall(r'fields(?:\.get\(|\[)"(\w+)"', python))
    fields |= {f"{name}{part}" for name in ("reason", "cause") for part in ("", "Code", "Params")}
    fields |= set(re.findall(r"'HSET(?:NX)?', [^,]+, '(\w+)'", "\n".join(sources().values())))
    assert len(fields) > 50
    none(fields - set(re.findall(r"`(\w+)`", _table_of_keys())))


def test_docs_redis_names_every_key_that_the_scripts_use() -> None:
    code = re.sub(r"--.*", "", "\n".join(sources().values()))
    parts = set(re.findall(r"'([a-z_]*:[a-z_:]*)'", code)) - {":"}
    alone = set(re.findall(r"redis\.call\('[A-Z]+', '([a-z_:]+)'[,)]", code))
    every, page = _documented_keys(), _table_of_keys()
    none(key for key in sorted(alone) if key not in every)
    none(part for part in sorted(parts) if not re.search(rf"`{part}|}}:?{part}", page))


def test_each_key_of_docs_redis_exists() -> None:
    written = "".join(path.read_text() for path in (REPOSITORY / "orchestrator").rglob("*.py")) + "".join(
        sources().values()
    )
    none(key for key in sorted(_documented_keys()) if key.partition("{}")[0] not in written)


# Other lists


@pytest.mark.parametrize(("document", "name"), reference.PARTS)
def test_generated_parts_are_up_to_date(document: str, name: str) -> None:
    path = REPOSITORY / document
    assert path.read_text() == reference.renewed(path, name, reference.PARTS[document, name]()), "run: make docs"


def _explained(*headings: str) -> set[str]:
    """Return the codes of docs/troubleshooting.md, from its tables whose second column is one of `headings`."""
    found: set[str] = set()
    heading = ""
    for first, second, *_ in documents.rows((DOCS / "troubleshooting.md").read_text()):
        if not first.startswith("`"):
            heading = second
        elif heading in headings:
            found.add(first.strip("`"))
    return found


def test_every_warning_is_explained() -> None:
    rows = [row for row in reasons.table().warnings.values() if row.text]
    none(row.code for row in rows if not row.remedy)
    assert _explained("warning") == {row.code for row in rows}


def test_every_code_of_a_reason_or_an_error_is_explained() -> None:
    def below(error: type[OrchestratorError]) -> set[type[OrchestratorError]]:
        return {error}.union(*map(below, error.__subclasses__()))

    table = reasons.table()
    none({each.code for each in below(OrchestratorError)} - table.problems.keys())
    none(code for code, each in (*table.problems.items(), *table.reasons.items()) if not each.remedy)
    assert _explained("means") == table.reasons.keys()
    assert _explained("what to do") == table.problems.keys()


def test_the_glossary_defines_fifty_words_at_most() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert 30 < len(words) <= 50
    assert words == sorted(words)


def test_the_names_that_may_be_scripted_against_are_keys() -> None:
    stable = (DOCS / "redis.md").read_text().partition("You may script against")[2].partition("\n\n")[0]
    named = {re.sub(r"\{\w+\}|\*", "{}", key) for key in re.findall("`([^`]+)`", stable)}
    assert len(named) == 13
    none(named - _documented_keys())


def test_the_readme_is_short() -> None:
    prose = re.sub(r"```.*?```|\]\([^)]*\)", "", README.read_text(), flags=re.DOTALL)
    assert len(re.findall(r"\w[\w'.-]*", prose)) < 900


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__]


def test_the_index_names_every_document() -> None:
    linked = {target for _, target in documents.links(DOCS / "README.md")}
    none(path.name for path in DOCS.glob("*.md") if path.name not in linked | {"README.md"})


def test_the_pictures_of_the_readme_exist_and_are_small() -> None:
    """`make pictures` takes them."""
    pictures = re.findall(r"^!\[.+\]\((docs/pictures/.+)\)$", README.read_text(), re.MULTILINE)
    assert len(pictures) == 2
    assert {REPOSITORY / each for each in pictures} == set((DOCS / "pictures").iterdir())
    assert all((REPOSITORY / each).stat().st_size < LARGEST_PICTURE for each in pictures)


def test_docs_states_names_every_deadline() -> None:
    """All deadlines and no others: each has a function of its name for the timeout."""
    table = (REPOSITORY / "docs/states.md").read_text().partition("\n## Deadlines")[2].partition("\n## ")[0]
    named = {name for cells in documents.rows(table) for name in re.findall("`(\\w+)`", cells[0])}
    assert named == set(re.findall(r"^function on_timeout\.(\w+)", sources()["process_deadlines"], re.MULTILINE))


def test_each_named_part_of_ctx_exists() -> None:
    written = "".join((REPOSITORY / "agent_runtime" / name).read_text() for name in ("call.py", "context.py"))
    named = {name for path in DOCUMENTS for name in re.findall(r"\bctx\.(\w+)", path.read_text())}
    assert len(named) > 10
    ours = {name for name in named if re.search(rf"(?:def |self\.){name}\b|, self\.{name}\b", written)}
    none(name for name in named - ours if not hasattr(JobContext, name))


def test_each_example_can_be_parsed() -> None:
    read: dict[str, Callable[[str], object]] = {"python": ast.parse, "json": json.loads, "yaml": yaml.safe_load}
    for path in DOCUMENTS:
        for _where, language, text in documents.blocks(path):
            assert language in {"", "sh", "text", "ts", "html", "http", "ini", "nginx", *read}, (
                "shell blocks have no language"
            )
            read.get(language, str)(text)


# Files and links


def test_every_named_file_exists() -> None:
    folders = ("", "tests", "orchestrator", "orchestrator/web", "frontend", "deploy/kubernetes", "benchmarks")
    kinds = r"py|lua|md|ya?ml|json|ts|txt|toml|conf|sh|css|js|html|example|sock|mod"
    missing = []
    for path in DOCUMENTS:
        for where, text in documents.spans(path):
            for word in text.split():
                if not re.fullmatch(
                    rf"[\w./-]+\.({kinds})|(tests|docs|deploy|orchestrator|agent_runtime|agents|frontend)/[\w./-]*",
                    word,
                ):
                    continue
                there = [path.parent / word, *(REPOSITORY / folder / word for folder in folders)]
                if word.rstrip("/") not in MADE and not any(each.exists() for each in there):
                    missing.append(f"{where}: {word}")
    none(missing)


def test_every_link_has_a_target() -> None:
    broken = []
    for path in DOCUMENTS:
        for where, target in documents.links(path):
            file, _, anchor = target.partition("#")
            if "://" in target:
                continue
            there = (path.parent / file).resolve() if file else path
            if not there.exists() or (anchor and anchor not in documents.anchors(there)):
                broken.append(f"{where}: {target}")
    none(broken)
