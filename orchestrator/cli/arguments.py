"""Arguments that several commands take."""

import re
from typing import Annotated

import typer

from orchestrator.errors import NotFound
from orchestrator.models import ID_PATTERN


def _complete_id(text: str, kind: str) -> str:
    if not re.match(ID_PATTERN, text):
        raise NotFound(f"there is no {kind} {text!r}: write its id in full, as `orchestrator sessions` shows it")
    return text


def _session_id(text: str) -> str:
    return _complete_id(text, "session")


def _log_id(text: str) -> str:
    return _complete_id(text, "session or agent")


SessionId = Annotated[str, typer.Argument(metavar="ID", help="Session id.", callback=_session_id)]
LogId = Annotated[str, typer.Argument(metavar="ID", help="Id of a session or of an agent.", callback=_log_id)]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="A name that `orchestrator nodes` lists.")]
