"""Writes what the documents repeat from the code: `make docs`. A test holds that every one of them is up to date.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator import reasons
from orchestrator.operations import metrics
from orchestrator.reasons import because
from tests.guards.table import GUARDS
from tests.support import printed, state_tables
from tests.support.documents import REPOSITORY

Schema = Mapping[str, Any]


def routes() -> str:
    """Return every route of the API, from its OpenAPI document: an overview, then what goes in and comes out."""
    document = printed.application().openapi()
    found = [
        (f"{verb.upper()} {_braces(path)}", route)
        for path, verbs in document["paths"].items()
        for verb, route in verbs.items()
    ]
    lines = ["| route | credentials | |", "|---|---|---|"]
    lines += [f"| [`{name}`](#{_anchor(name)}) | {_credentials(route)} | {route['summary']} |" for name, route in found]
    for name, route in found:
        lines += ["", f"### {name}", "", *_route(route, document["components"]["schemas"])]
    return "\n".join(lines)


def _braces(path: str) -> str:
    """Return a path as people write it: `/api/session/{id}`."""
    return re.sub(r"\{(session|agent|reload)_id\}", "{id}", path)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _credentials(route: Schema) -> str:
    (scheme,) = (name for each in route.get("security", [{"none": []}]) for name in each)
    return {"key": "caller", "admin": "admin token"}.get(scheme, scheme)


def _route(route: Schema, schemas: Schema) -> Iterator[str]:
    yield f"{route['summary']}. Credentials: {_credentials(route)}."
    yield ""
    yield " ".join(route["description"].split())
    fields = [
        (each["name"], each["in"], each["schema"], each.get("description") or each["schema"].get("description", ""))
        for each in route.get("parameters", [])
        if each["in"] != "path"
    ]
    body = _schema(route.get("requestBody", {}), schemas)
    fields += [(name, "body", each, each.get("description", "")) for name, each in body.get("properties", {}).items()]
    if fields:
        yield from ("", "| parameter | in | type | |", "|---|---|---|---|")
        yield from (
            f"| `{name}` | {where} | {_type(each, schemas)} | {_cell(text)} |" for name, where, each, text in fields
        )
    shown: Schema = {}
    for status, response in sorted(route["responses"].items()):
        if status.startswith("2"):
            yield from _answer(status, response, schemas, shown)
            shown = _schema(response, schemas)


def _answer(status: str, response: Schema, schemas: Schema, shown: Schema) -> Iterator[str]:
    """Yield the fields of an answer; `shown` is the schema that is printed above it already."""
    meaning = "" if response["description"] == "Successful Response" else f" {response['description']}"
    kinds = ", ".join(f"`{kind}`" for kind in response.get("content", {}) if kind != "application/json")
    schema = _schema(response, schemas)
    same = " The same fields." if schema and schema == shown else ""
    yield ""
    yield f"**{status}**{meaning}{f' {kinds}.' if kinds else ''}{same}"
    fields = {} if same else {name: each for name, each in schema.get("properties", {}).items() if name != "success"}
    if fields:
        yield from ("", "| field | type | |", "|---|---|---|")
        yield from (
            f"| `{name}` | {_type(each, schemas)} | {_cell(each.get('description', ''))} |"
            for name, each in fields.items()
        )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _schema(part: Schema, schemas: Schema) -> Schema:
    """Return the schema of a body or an answer, with its reference looked up."""
    found: Schema = part.get("content", {}).get("application/json", {}).get("schema", {})
    for each in [found, *found.get("anyOf", [])]:
        if reference := each.get("$ref"):
            named: Schema = schemas[reference.rpartition("/")[2]]
            return named
    return found


def _type(schema: Schema, schemas: Schema) -> str:
    """Return a type in one or two words."""
    if several := schema.get("anyOf"):
        return " or ".join(each for each in (_type(option, schemas) for option in several) if each != "null")
    if reference := schema.get("$ref"):
        named: Schema = schemas[reference.rpartition("/")[2]]
        inner = ", ".join(f"`{name}`" for name in named.get("properties", {}))
        return f"object: {inner}" if inner else _type(named, schemas)
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`" if schema["const"] else "empty"
    if schema.get("type") == "array":
        inner = _type(schema["items"], schemas)
        return f"list of {'objects' + inner.removeprefix('object') if inner.startswith('object') else inner}"
    return str(schema.get("type", "any"))


def guards() -> str:
    """Return every guard, where it is and the test that fails without it."""
    return "\n".join(["| guard | where | test |", "|---|---|---|", *(guard.row for guard in GUARDS)])


#: By kind of a reason, the heading of its table.
KINDS = {
    "failure": "Sessions that failed",
    "boot": "Agents that did not boot",
    "death": "Agents whose process ended",
    "end": "Sessions that ended as they should",
    "leave": "Agents that left, or were told to",
}


def remedies() -> str:
    """Return every reason, what it says and what to do about it."""
    lines: list[str] = []
    for kind, heading in KINDS.items():
        lines += ["", f"### {heading}", "", "| code | means | what to do |", "|---|---|---|"]
        found = (row for row in reasons.table().reasons.values() if row.kind == kind)
        lines += [f"| `{row.code}` | {_means(row)} | {_printed(row)} |" for row in found]
    return "\n".join(lines[1:])


def _means(row: reasons.Row) -> str:
    return re.sub(r"\{\w+\}", "…", _cell(row.sentence or row.text or row.caller))


def warnings(symptom: str) -> str:
    """Return the warnings of a section, what each says and what to do about it."""
    lines = ["| code | warning | what to do |", "|---|---|---|"]
    for row in reasons.table().warnings.values():
        if row.symptom == symptom:
            text = re.sub(r"\{\w+\}", "…", row.text)
            lines.append(f"| `{row.code}` | `{_cell(text)}` | {_printed(row)} |")
    return "\n".join(lines)


def problems() -> str:
    """Return every code of an error, and what to do about it."""
    rows = [f"| `{code}` | {_printed(each)} |" for code, each in reasons.table().problems.items()]
    return "\n".join(["| code | what to do |", "|---|---|", *rows])


def _printed(row: reasons.Row | reasons.Problem | reasons.WarningRow) -> str:
    """Return a remedy as a document prints it: a command works from the root of the repository."""
    text = re.sub(r"(?<!`)\b[A-Z]+(?:_[A-Z]+)+\b(?!`)", r"`\g<0>`", row.remedy)
    text = text.replace("`orchestrator ", "`.venv/bin/orchestrator ")
    return _cell(f"{text} ({row.see})" if row.see else text)


def _told(row: reasons.Row) -> str:
    """Return the callers' text of a reason, or the code that replaces it."""
    return f"`{row.told_as}`" if row.told_as else reasons.for_callers(because(row.code, seconds="N")).text


def told(*kinds: str) -> str:
    """Return a table of reasons, what callers read of each and what its record says."""
    lines = ["| code | callers read | the operator reads |", "|---|---|---|"]
    for row in reasons.table().reasons.values():
        if row.kind in kinds:
            facts = ": ".join(filter(None, (row.text_prefix, row.text.replace("{cause}", "") or "…")))
            lines.append(f"| `{row.code}` | {_told(row)} | {facts} |")
    return "\n".join(lines)


#: By document and name of the part: what writes it.
PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("docs/api.md", "routes"): routes,
    ("docs/errors.md", "failures"): lambda: told("failure"),
    ("docs/errors.md", "ends"): lambda: told("end"),
    ("docs/errors.md", "agents"): lambda: told("boot", "death", "leave"),
    ("docs/metrics.md", "metrics"): metrics.table,
    ("docs/states.md", "rows"): state_tables.tables,
    ("docs/testing.md", "guards"): guards,
    **{
        ("docs/troubleshooting.md", f"warnings: {symptom}"): partial(warnings, symptom)
        for symptom in ("start", "boot", "silent", "break", "node", "redis", "memory")
    },
    ("docs/troubleshooting.md", "reasons"): remedies,
    ("docs/troubleshooting.md", "problems"): problems,
}


def renewed(path: Path, name: str, part: str) -> str:
    """Return the text of a document with a generated part as it is to be."""
    marker, end = f"<!-- generated: {name} -->\n", "<!-- end -->"
    before, found, rest = path.read_text().partition(marker)
    assert found, f"{path} has no part {name}"
    assert end in rest, f"the part {name} of {path} has no end"
    return f"{before}{marker}{part}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    """Write them all."""
    for (document, name), make in PARTS.items():
        path = REPOSITORY / document
        path.write_text(renewed(path, name, make()))


if __name__ == "__main__":
    main()
