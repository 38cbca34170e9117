"""No program parses our sentences: it uses codes, parameters and fields."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import REPOSITORY

#: Files that parse texts of programs without codes: LiveKit, Redis, supervisord, pydantic.
FOREIGN = {
    "orchestrator/livekit/refusals.py", "orchestrator/livekit/rooms.py", "orchestrator/store/refusals.py",
    "orchestrator/store/rights.py", "orchestrator/node/configuration.py", "orchestrator/node/supervisor.py",
    "orchestrator/config/load.py", "orchestrator/api/problems.py",
    # These parse callers' speech, and a directive in a script.
    "agent_runtime/offline/reply.py", "orchestrator/store/loader.py",
}  # fmt: skip
_READERS = frozenset(
    "startswith endswith partition rpartition split rsplit removeprefix removesuffix find index count".split()
)
_PATTERNS = frozenset({"compile", "match", "fullmatch", "search", "sub", "split", "findall", "finditer"})


#: The authentication scheme in a header.
_NO_PROSE = frozenset({"Bearer "})


def is_prose(text: str) -> bool:
    """Return whether a text has a word and a space, unlike separators and codes."""
    return text not in _NO_PROSE and bool(re.search(r"[a-z]{2,} | [a-z]{2,}", text))


def _texts(node: ast.expr) -> Iterator[str]:
    for each in node.elts if isinstance(node, ast.Tuple | ast.Set | ast.List) else [node]:
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def read_back(source: str) -> list[str]:
    """Return each text with a space that a Python source compares with another text or searches in one."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(left=left, comparators=others):
                found += [text for each in (left, *others) for text in _texts(each)]
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=name), args=[first, *_]) if (
                name in _PATTERNS
            ):
                found += _texts(first)
            case ast.Call(func=ast.Attribute(attr=name), args=[first, *_]) if name in _READERS:
                found += _texts(first)
            case ast.MatchValue(value=value):
                found += _texts(value)
    return [text for text in found if is_prose(text)]


def read_back_by_page(source: str) -> list[str]:
    """Return the same for a JavaScript, TypeScript or Lua source."""
    quoted = r"[\"'`/]([^\"'`\n]+?)[\"'`/]"
    calls = (
        rf"(?:\.(?:includes|startsWith|endsWith|indexOf|match|split)|string\.(?:find|match|gmatch))\([^()\n]*?{quoted}"
    )
    compared = rf"[=!~]==? ?{quoted}"
    return [text for pattern in (calls, compared) for text in re.findall(pattern, source) if is_prose(text)]


def sources(*patterns: str) -> list[Path]:
    found = [path for pattern in patterns for path in REPOSITORY.glob(pattern) if ".test." not in path.name]
    assert found
    return [path for path in sorted(found) if str(path.relative_to(REPOSITORY)) not in FOREIGN]


def test_no_python_code_parses_prose() -> None:
    paths = sources("orchestrator/**/*.py", "agent_runtime/**/*.py", "agents/**/*.py")
    found = {str(path.relative_to(REPOSITORY)): read_back(path.read_text()) for path in paths}
    assert not {path: texts for path, texts in found.items() if texts}


def test_no_page_or_script_parses_prose() -> None:
    paths = sources(
        "orchestrator/web/*.js", "frontend/src/*.ts", "frontend/src/*.tsx", "orchestrator/store/lua/**/*.lua"
    )
    found = {str(path.relative_to(REPOSITORY)): read_back_by_page(path.read_text()) for path in paths}
    assert not {path: texts for path, texts in found.items() if texts}


@pytest.mark.parametrize(
    "source",
    [
        'last.startswith("[agent ")',
        '"did not boot" in reason',
        'reason == "room closed"',
        're.match("no heartbeat for", x)',
        'text.partition(" after ")',
        'match reason:\n    case "the agent hung up":\n        pass',
    ],
)
def test_code_that_parses_prose_is_detected(source: str) -> None:
    assert read_back(source)


@pytest.mark.parametrize(
    "source", ['reason.includes("did not boot")', 'if (text === "room closed")', "string.find(text, 'agent lost')"]
)
def test_a_page_or_script_that_parses_prose_is_detected(source: str) -> None:
    assert read_back_by_page(source)
