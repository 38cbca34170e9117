"""No class over 250 lines, no module over 350, no function over 50: what is larger has more than one job.

The tests keep to this too, but for modules of tests and the table of guards, which are lists.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import REPOSITORY

MOST = {"class": 250, "module": 350, "function": 50}
#: Exceptions, with their number of lines. The list may only shrink, and no entry may grow.
LARGER: dict[str, int] = {}
FOLDERS = ("orchestrator", "agent_runtime", "agents", "tests")


def _lines(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - min([node.lineno, *(each.lineno for each in node.decorator_list)]) + 1


def _sizes(path: Path) -> Iterator[tuple[str, str, int]]:
    text, name = path.read_text(), str(path.relative_to(REPOSITORY))
    if not (name.startswith("tests/") and path.name.startswith("test_")) and name != "tests/guards/table.py":
        yield "module", name, len(text.splitlines())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            yield "class", f"{name} {node.name}", _lines(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield "function", f"{name} {node.name}", _lines(node)


def _too_large() -> dict[str, int]:
    found = {}
    for folder in FOLDERS:
        for path in (REPOSITORY / folder).rglob("*.py"):
            found |= {name: lines for kind, name, lines in _sizes(path) if lines > MOST[kind]}
    return found


def test_nothing_is_too_large() -> None:
    found = _too_large()
    grown = {name: lines for name, lines in found.items() if lines > LARGER.get(name, 0)}
    assert not grown, f"larger than {MOST} lines: {grown}"


def test_each_exception_is_still_too_large() -> None:
    assert not LARGER.keys() - _too_large().keys(), "take these out of LARGER"


@pytest.mark.parametrize("kind", MOST)
def test_each_kind_is_measured(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.REPOSITORY", tmp_path)
    body = "\n".join("    x = 1" for _ in range(MOST[kind]))
    text = {"class": f"class A:\n{body}\n", "function": f"async def a():\n{body}\n", "module": "x = 1\n" * 351}[kind]
    for number, folder in enumerate(FOLDERS, start=1):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text(text)
        assert len(_too_large()) == number
