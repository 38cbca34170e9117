"""The warnings that `/api/health` can give, collected from the source: what `docs/troubleshooting.md` must explain."""

import ast
import re
from collections.abc import Iterator

from tests.support.documents import REPOSITORY

#: The functions that make warnings, by their names.
_MAKERS = re.compile(r"(trouble|warning|difference)s?$|^describe_health$")
#: What differs from one warning to the next, in a template.
HOLE = "…"


def templates() -> set[str]:
    """Return every warning, with `…` for each part that differs."""
    found: set[str] = set()
    modules = [ast.parse(path.read_text()) for path in sorted((REPOSITORY / "orchestrator").rglob("*.py"))]
    everywhere = {name: value for module in modules for name, value in _constants(module)}
    for module in modules:
        constants = everywhere | dict(_constants(module))
        for function in ast.walk(module):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and _MAKERS.search(function.name):
                found |= {tidy(text) for each in _made(function) for text in _texts(each, constants)}
    return {each for each in found if len(re.findall(r"[a-z]{2,}", each)) >= 2}


def tidy(text: str) -> str:
    """Return a template in one form: no hole beside a hole, none at the end that only a full stop follows."""
    return re.sub(rf"{HOLE}(?:[ ;,]*{HOLE})+", HOLE, " ".join(text.split()))


def _constants(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value


def _made(function: ast.AST) -> Iterator[ast.expr]:
    """Yield what a function yields, returns, or puts into a list of warnings."""
    for node in ast.walk(function):
        match node:
            case ast.Yield(value=ast.expr() as value) | ast.Return(value=ast.expr() as value):
                yield value
            case ast.Call(func=ast.Attribute(value=ast.Name(id="warnings"), attr="append"), args=[value]):
                yield value
            case ast.Assign(targets=[ast.Name(id="warnings")], value=value):
                yield value


def _texts(node: ast.expr, constants: dict[str, ast.expr]) -> Iterator[str]:
    """Yield the templates that an expression can have as its value; nothing where it is no text."""
    match node:
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            for part in parts:
                yield from _texts(part, constants)
        case ast.IfExp(body=body, orelse=other):
            yield from _texts(body, constants)
            yield from _texts(other, constants)
        case ast.BoolOp(values=parts):
            for part in parts:
                yield from _texts(part, constants)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in constants:
            yield from _texts(constants[name], {})
        case ast.Constant() | ast.JoinedStr() | ast.BinOp(op=ast.Add()):
            yield _template(node)


def _template(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_template, parts))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _template(left) + _template(right)
    return HOLE
