"""Arguments that several commands take."""

import re
from typing import Annotated

import typer

from orchestrator.errors import NotFound
from orchestrator.models import ID_PATTERN


def _complete_id(given: str, kind: str) -> str:
    if not re.match(ID_PATTERN, given):
        raise NotFound(f"there is no {kind} {given!r}: write its id in full, as `orchestrator sessions` shows it")
    return given


def _session_id(given: str) -> str:
    return _complete_id(given, "session")


def _log_id(given: str) -> str:
    return _complete_id(given, "session or agent")


SessionId = Annotated[str, typer.Argument(metavar="ID", help="Session id.", callback=_session_id)]
LogId = Annotated[str, typer.Argument(metavar="ID", help="Id of a session or of an agent.", callback=_log_id)]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="A name that `orchestrator nodes` lists.")]
