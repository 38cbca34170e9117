"""Why something happened: a code and its parameters. Words are made of them at the edge, from reasons.toml.

A record holds the code, the parameters and the text that a program without this table reads. A record of the release
before holds the text alone: it is shown as it is, and has no code.

A row of the table:

- `kind`: `end` (the session ended as it should), `failure` (it failed), `boot` (an agent did not boot), `death` (an
  agent's process ended unbidden), `leave` (an agent was told to leave, or left as it should);
- `booting`: an agent that exits with it did not boot;
- `failing`: an agent gives it when it lives but can serve no more: the next agents may fail for the same reason;
- `text`: what the record says, `{signal}` and the like being parameters, `{cause}` the text of another code;
- `prefix`: what stands before the text; the code itself in a failure;
- `sentence`: what the operator reads of a session that failed with it, before the facts;
- `told_as`: the code that callers are told instead; their sentence and page are that code's;
- `caller`: the sentence for callers; `title` and `page`: the words of the page with the Talk button;
- `retry`: false where the same request cannot succeed later; `retry_after`: after so many seconds it may;
- `remedy`: what the operator can do, and `see`, where more is told: docs/troubleshooting.md is made of these.

In a template `[…]` is left out where one of its parameters is missing.

This module imports the standard library only: everything else may depend on it.
"""

import json
import re
import signal
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Self

Param = str | int | float
#: The code of a warning and the parameters that make it another one.
Subject = tuple[Param | None, ...]

#: Longest text that a record keeps, in characters: an exception's may be of any size, and is kept several times.
LONGEST = 1000
#: How a process ends: what its parent sees (`exit_of`).
PROCESS_ENDS = frozenset({"killed", "crashed", "finished", "process_gone"})
#: What callers are told of a session of which nothing else may be told.
OTHER = "other"
#: Parameters in which nothing is the operator's.
PUBLIC_PARAMS = frozenset({"seconds"})


@dataclass(frozen=True, slots=True)
class Row:
    """One reason of the table."""

    code: str
    kind: str
    text: str
    remedy: str
    sentence: str = ""
    prefix: str = ""
    booting: bool = False
    failing: bool = False
    told_as: str = ""
    caller: str = ""
    prefixed_for_callers: bool = False
    title: str = ""
    page: str = ""
    retry: bool = True
    retry_after: int | None = None
    see: str = ""

    @property
    def text_prefix(self) -> str:
        """What stands before the text of a record."""
        return self.prefix or (self.code if self.kind == "failure" else "")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is told of a request that was refused. `caller` is '' where the detail of the error is for everybody."""

    code: str
    title: str
    page: str
    remedy: str
    caller: str = ""
    retry: bool = True
    see: str = ""


@dataclass(frozen=True, slots=True)
class WarningRow:
    """One warning of the table. A row without `text` is one that callers get in place of others."""

    code: str
    text: str = ""
    remedy: str = ""
    symptom: str = ""
    caller: str = ""
    about: tuple[str, ...] = ()
    see: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The whole table, by code."""

    reasons: Mapping[str, Row]
    problems: Mapping[str, Problem]
    warnings: Mapping[str, WarningRow]
    events: Mapping[str, str]  #: the sentences of what happens in a session


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something happened. `code` is '' in a record of the release before, and may be unknown in one of the next."""

    code: str
    params: Mapping[str, Param] = field(default_factory=dict)
    recorded: str = ""  #: the text of its record; '' before it has one

    @property
    def text(self) -> str:
        """What a program without the table reads."""
        if self.recorded or self.row is None:
            return self.recorded or self.code
        return self._prefixed(_facts(self.row, self.params))

    @property
    def row(self) -> Row | None:
        """What the table says of it; None where it does not know the code."""
        return table().reasons.get(self.code)

    @property
    def facts(self) -> str:
        """What is known beside the code, for people: `killed by signal 9 (SIGKILL)`."""
        if self.row is None:
            return self.recorded
        number = self.params.get("signal")
        name = signals().get(number) if isinstance(number, int) else None
        return _facts(self.row, {**self.params, "signal": f"{number} ({name})"} if name else self.params)

    @property
    def words(self) -> str:
        """The text for people: as `text`, with the facts for people."""
        return self.recorded if self.row is None else self._prefixed(self.facts)

    def _prefixed(self, facts: str) -> str:
        row = self.row
        return ": ".join(filter(None, (row.text_prefix if row else "", facts))) or self.code

    def of(self, **params: Param) -> "Reason":
        """Return the same reason with further parameters."""
        return Reason(self.code, {**self.params, **params})

    def within(self, code: str) -> "Reason":
        """Return the reason `code` that this one is the cause of."""
        if not self.code:
            return Reason(code, {"detail": self.text})
        return Reason(code, {**self.params, "cause": self.code})

    def record(self) -> str:
        """Return it as the Lua scripts take it."""
        params = {name: value[:LONGEST] if isinstance(value, str) else value for name, value in self.params.items()}
        return json.dumps({"code": self.code, "params": params, "text": self.text[:LONGEST]}, ensure_ascii=False)

    @classmethod
    def recorded_as(cls, fields: Mapping[str, str], name: str) -> Self | None:
        """Return the reason that a hash or an event holds as `name`, `{name}Code` and `{name}Params`."""
        text = fields.get(name)
        return None if not text else cls(fields.get(f"{name}Code", ""), params(fields.get(f"{name}Params")), text)


@dataclass(frozen=True, slots=True)
class HealthWarning:
    """Something that the operator should look at."""

    code: str
    params: Mapping[str, Param] = field(default_factory=dict)

    def __str__(self) -> str:
        return filled(table().warnings[self.code].text, self.params)

    def as_json(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        return {"code": self.code, "params": dict(self.params)}

    @property
    def subject(self) -> Subject:
        """What two warnings have in common that are the same one, though a number or a cause in them has changed."""
        return warning_subject(self.code, self.params)


def warning_subject(code: str, parameters: Mapping[str, Param]) -> Subject:
    """Return the code of a warning with the parameters that make it another one."""
    row = table().warnings.get(code)
    return (code, *(parameters.get(name) for name in row.about)) if row else (code,)


def warn(code: str, **parameters: Param | None) -> HealthWarning:
    """Return a warning of the table. A parameter that is None is not set. Raises `KeyError` for an unknown code."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return HealthWarning(table().warnings[code].code, given)


def event_words(code: str, **parameters: Param | None) -> str:
    """Return the sentence of an event. A parameter that is None is not set. Raises `KeyError` for an unknown code."""
    return filled(table().events[code], {name: value for name, value in parameters.items() if value is not None})


def because(code: str, **parameters: Param) -> Reason:
    """Return a reason of the table. Raises `KeyError` where there is no such code."""
    return Reason(table().reasons[code].code, parameters)


def words(text: str) -> Reason:
    """Return what an agent's own code gives as the reason of its leaving."""
    return because(OTHER, detail=text)


def exit_of(exit_code: int | None, number: int | None) -> Reason:
    """Return how a process ended, by what its parent saw of it."""
    if number is not None:
        return because("killed", signal=number)
    if exit_code is None:
        return because("process_gone")
    return because("crashed" if exit_code else "finished", exitCode=exit_code)


def params(encoded: str | None) -> dict[str, Param]:
    """Return the parameters that a record holds as JSON; {} where they cannot be read."""
    try:
        decoded = json.loads(encoded or "{}")
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def for_callers(reason: Reason) -> Reason:
    """Return what a caller is told: a code and parameters that are no secret, with a fixed sentence."""
    row = table().reasons.get(reason.code) or table().reasons[OTHER]
    if row.told_as:
        row = table().reasons[row.told_as]
    public = {name: value for name, value in reason.params.items() if name in PUBLIC_PARAMS}
    prefixed = row.kind == "failure" or row.prefixed_for_callers
    sentence = filled(row.caller, public)
    return Reason(row.code, public, f"{row.code}: {sentence}" if prefixed else sentence)


@cache
def table() -> Table:
    """Return the table."""
    tables = tomllib.loads((resources.files("orchestrator") / "reasons.toml").read_text())
    again = tables["again"]

    def spelled(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value.replace("{again}", again) if name == "page" else value for name, value in row.items()}

    problems = tables["problem"]
    for row in problems.values():
        like = problems[row.pop("like")] if "like" in row else {}
        for name in ("title", "page", "retry"):
            if name in like:
                row.setdefault(name, like[name])
    return Table(
        {code: Row(code=code, **spelled(row)) for code, row in tables["reason"].items()},
        {code: Problem(code=code, **spelled(row)) for code, row in problems.items()},
        {
            code: WarningRow(code=code, **row | {"about": tuple(row.get("about", ()))})
            for code, row in tables["warning"].items()
        },
        tables["event"],
    )


class _Shown(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "?"


_NAME = re.compile(r"\{(\w+)\}")
_OPTIONAL = re.compile(r"\[([^\[\]]+)\]")


def filled(template: str, parameters: Mapping[str, Param]) -> str:
    """Return a text of the table with its parameters. One that is not there is a question mark; a part in brackets is
    left out then."""

    def kept(part: re.Match[str]) -> str:
        return part[1] if parameters.keys() >= set(_NAME.findall(part[1])) else ""

    return _OPTIONAL.sub(kept, template).format_map(_Shown((name, _shown(value)) for name, value in parameters.items()))


def _shown(value: Param) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _facts(row: Row, parameters: Mapping[str, Param]) -> str:
    cause = table().reasons.get(str(parameters.get("cause")))
    inner = filled(cause.text, parameters) if cause else ""
    parts = [filled(row.text, {**parameters, "cause": inner}), _shown(parameters.get("detail", ""))]
    attempts = f" (after {parameters['attempts']} attempts)" if "attempts" in parameters else ""
    return ": ".join(filter(None, parts)) + attempts


def signals() -> dict[int, str]:
    """Return the names of this system's signals by number."""
    return {number.value: number.name for number in signal.Signals}
