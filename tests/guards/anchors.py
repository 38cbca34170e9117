"""Finds a guard by its name in the code, and removes it.

A guard's name is in a separate comment, `guard: NAME`, above the guarded statement (of a compound statement: its
header), or, within a statement and in files that are not Python, above the guarded line.
"""

import ast
import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

REPOSITORY = Path(__file__).resolve().parents[2]
How = Literal["remove", "never", "always", "return", "replace"]
_NAME = re.compile(r"^\s*(?:#|--|//) guard: ([a-z0-9-]+)$")
#: Suffixes of the files that may contain guards.
_LANGUAGES = {".py", ".lua", ".js", ".conf", ".yml"}
_CONDITION = {
    ".py": (re.compile(r"\b(if|elif|while)\b.*?:(?=[ \t]*(?:#.*)?\n)", re.DOTALL), r"\1 {}:", "False", "True"),
    ".lua": (re.compile(r"\b(if|elseif|while)\b.*?\b(then|do)\b"), r"\1 {} \2", "false", "true"),
}


@functools.cache
def tracked(root: Path) -> tuple[Path, ...]:
    """Return the files of the project, including those not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout
    return tuple(root / name for name in filter(None, listed.split("\0")) if (root / name).is_file())


@functools.cache
def places() -> dict[str, list[tuple[str, int]]]:
    """Return the places of each name, as files and line numbers."""
    found: dict[str, list[tuple[str, int]]] = {}
    roots = [
        each for folder in ("orchestrator", "agent_runtime", "agents") for each in (REPOSITORY / folder).rglob("*")
    ]
    for path in [*roots, *REPOSITORY.iterdir()]:
        if path.is_file() and (path.suffix in _LANGUAGES or path.name.startswith("Dockerfile")):
            for number, line in enumerate(path.read_text().split("\n")):
                if match := _NAME.match(line):
                    found.setdefault(match[1], []).append((str(path.relative_to(REPOSITORY)), number))
    return found


@dataclass(frozen=True)
class Change:
    """The change to the code below a name; with `replace`, the replacement of a fragment."""

    name: str
    how: How
    old: str = ""
    new: str = ""

    @property
    def file(self) -> str:
        """The file with the name. Raises `ValueError` unless the name occurs exactly once."""
        found = places().get(self.name, [])
        if len(found) != 1:
            raise ValueError(f"guard: {self.name} stands in {len(found)} places: {found}")
        return found[0][0]

    def make(self, root: Path) -> None:
        """Change the copy of the file below `root`, to which other changes may have been made before."""
        path = root / self.file
        lines = path.read_text().splitlines(keepends=True)
        start = next(
            number for number, line in enumerate(lines) if (found := _NAME.match(line)) and found[1] == self.name
        )
        start += 1
        while re.match(r"\s*(#|--|//) ", lines[start]):
            start += 1
        end = _end(lines, start) if path.suffix == ".py" else start + 1
        changed = self._changed(
            "".join(lines[start:end]), path.suffix, whole=path.suffix == ".py" and _begins(lines, start)
        )
        path.write_text("".join([*lines[:start], changed, *lines[end:]]))

    def _changed(self, text: str, suffix: str, *, whole: bool) -> str:
        indent = re.match(r"\s*", text)[0]
        match self.how:
            case "remove":
                return f"{indent}pass\n" if whole else ""
            case "return":
                return f"{text}{indent}  if true then return end\n"
            case "never" | "always":
                pattern, by, never, always = _CONDITION[suffix]
                changed, count = pattern.subn(by.format(never if self.how == "never" else always), text, count=1)
            case "replace":
                count, changed = text.count(self.old), text.replace(self.old, self.new)
        if count != 1:
            raise ValueError(f"below guard: {self.name} there is {count} times what is replaced: {text}")
        return changed


def _nodes(lines: list[str]) -> list[ast.stmt | ast.ExceptHandler]:
    return [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, ast.stmt | ast.ExceptHandler)]


def _first(node: ast.stmt | ast.ExceptHandler) -> int:
    """The first line of a statement, with its decorators."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def _begins(lines: list[str], start: int) -> bool:
    return any(_first(node) == start + 1 for node in _nodes(lines))


def _end(lines: list[str], start: int) -> int:
    """Return the line after the statement that begins at `start`, or after its header; otherwise the next line."""
    for node in _nodes(lines):
        if _first(node) == start + 1:
            body = getattr(node, "body", None)
            return _first(body[0]) - 1 if isinstance(body, list) and body else node.end_lineno or start + 1
    return start + 1
