"""The requests of agents: each is one report of the agent that the connection is for, with its arguments checked."""

from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator.reasons import Reason
from orchestrator.store.agent_reports import AgentReports


def _pids(*values: object) -> list[int]:
    if not all(type(value) is int for value in values):
        raise TypeError("a pid is a number")
    return list(values)  # type: ignore[arg-type]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("this argument is a text")
    return value


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("this argument is an object")
    return value


def _reason(value: object) -> Reason:
    fields = _object(value)
    return Reason(_text(fields["code"]), _object(fields["params"]), _text(fields["text"]))


Call = Callable[..., Awaitable[object]]

#: How each request is carried out. Malformed arguments raise `ValueError`, `KeyError` or `TypeError`.
CALLS: dict[str, Call] = {
    "ready": lambda to, pid, *ancestors: to.ready(*_pids(pid, *ancestors)),
    "beat": lambda to: to.beat(),
    "register": lambda to, pid, node, session, *ancestors: to.register(
        *_pids(pid), _text(node), _object(session), *_pids(*ancestors)
    ),
    "joined": lambda to: to.joined(),
    "no_room": lambda to, words: to.no_room(_text(words)),
    "presence": lambda to, session, present, lost: to.presence(_text(session), present=bool(present), lost=bool(lost)),
    "first_audio": lambda to, session: to.first_audio(_text(session)),
    "turn": lambda to, session, turn: to.turn(_text(session), _object(turn)),
    "failed": lambda to, cause: to.failed(_reason(cause)),
    "stopped": lambda to, reason: to.stopped(_reason(reason)),
    "ended": lambda to, session, status, reason: to.ended(_text(session), _text(status), _reason(reason)),
    "leave": lambda to, reason: to.leave(_reason(reason)),
}


def carry_out(reports: AgentReports, op: object, args: object) -> Awaitable[object]:
    """Begin one request. Raises `ValueError`, `KeyError` or `TypeError` when it is malformed."""
    if not isinstance(op, str) or not isinstance(args, list):
        raise TypeError("a request has op and args")
    return CALLS[op](reports, *args)
