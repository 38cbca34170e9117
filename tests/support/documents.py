"""Parses README.md and docs/*.md: their commands, names of files and settings, links, requests."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("README.md", "docs/*.md", "benchmarks/*.md", "deploy/**/*.md", "tests/**/*.md")
    for path in REPOSITORY.glob(pattern)
)

#: Maximum size of a picture in docs/pictures, in bytes.
LARGEST_PICTURE = 100_000

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_ASSIGNED = re.compile(r"^([A-Z][A-Z0-9_]*)=(.*)$", re.DOTALL)
#: Tokens that end one simple command and begin another.
_BETWEEN = {"&&", "||", "|", ";", "&"}


@dataclass(frozen=True)
class Command:
    """One simple command: its place in the document, its words, the variables before them, its working directory, and
    whether .venv is activated there."""

    where: str
    words: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)
    folder: str = "."
    activated: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {' '.join(self.words)}"


def _name(path: Path, text: str, position: int) -> str:
    return f"{path.relative_to(REPOSITORY)}:{text.count(chr(10), 0, position) + 1}"


def blocks(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the place, the language and the text of each fenced block of a document."""
    text = path.read_text()
    for match in _FENCE.finditer(text):
        yield _name(path, text, match.start(2)), match[1], match[2]


def spans(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place of each inline code of a document, and its text in one line."""
    text = path.read_text()
    prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in _SPAN.finditer(prose):
        yield _name(path, prose, match.start()), " ".join(match[1].split())


def links(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the target of each link of a document."""
    text = path.read_text()
    for match in re.finditer(r"\]\(([^)\s]+)\)", text):
        yield _name(path, text, match.start()), match[1]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(path: Path) -> Iterator[Command]:
    """Yield every command of the shell blocks (those without a language), without a leading `$ `."""
    for where, language, text in blocks(path):
        lines = text.replace("\\\n", " ").splitlines()
        shown = [line[2:] for line in lines if line.startswith("$ ")]
        if language in {"", "sh"}:
            yield from parsed(where, "\n".join(shown or lines))


def parsed(where: str, text: str) -> Iterator[Command]:
    """Yield the simple commands of a shell text, including those in `$( … )`. A `cd` applies to all later ones."""
    folder, activated = ".", False
    inner: list[str] = []

    def taken_out(match: re.Match[str]) -> str:
        inner.append(match[1])
        return "SUBSTITUTED"

    whole = re.sub(r"\$\(([^()]*)\)", taken_out, text.replace("\\\n", " "))
    for line in whole.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";<>|&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _BETWEEN:
                words.append(word)
                continue
            if words:
                command = _simple(where, words, folder, activated)
                yield command
                if command.words[:1] == ("cd",):
                    folder = f"{folder}/{command.words[1]}"
                activated = activated or command.words == ("source", ".venv/bin/activate")
            words = []
    for each in inner:
        yield from parsed(where, each)


def _simple(where: str, words: list[str], folder: str, activated: bool) -> Command:
    variables: dict[str, str] = {}
    rest = [word for word in words if word != "nohup"]
    while rest and (match := _ASSIGNED.match(rest[0])):
        variables[match[1]] = match[2]
        rest = rest[1:]
    return Command(where, tuple(rest), variables, folder, activated)


def inline_commands(path: Path, programs: set[str]) -> Iterator[Command]:
    """Yield each inline code that is a command: the name of a program, and something after it."""
    for where, text in spans(path):
        words = text.split()
        while words and _ASSIGNED.match(words[0]):
            words = words[1:]
        named = words[0] if words else ""
        if (named in programs and len(words) > 1) or named == "make" or named.startswith(".venv/bin/"):
            optional = " ".join(word.removeprefix("[").removesuffix("]") for word in text.split())
            yield from parsed(where, optional)


def requests(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the place, the method and the path of each request in inline code."""
    for where, text in spans(path):
        if match := re.match(r"^(GET|POST|PUT|PATCH|DELETE) (/\S*)", text):
            yield where, match[1], match[2]


def in_capitals(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place of each name of a setting or variable: words in capitals with an underscore in them."""
    text = path.read_text()
    for match in re.finditer(r"(?<![\w<-])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![\w>])", text):
        yield _name(path, text, match.start()), match[0]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables of a text."""
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
