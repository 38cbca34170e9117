"""Whose fault an error of Redis is: ours, or that of the server, which is away or does not serve just now.

A server that is read-only, full, loading, busy, failing over, out of connections, or that refuses our credentials will
serve the same command later: that is a wait. Only what the command itself is wrong by is a mistake of this code.
An error is named by its code, its first word. One inside a script or a pipeline is wrapped, in a way that differs from
version to version.
"""

import re

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orchestrator.errors import IllegalMove, OrchestratorError, StoreUnavailable

#: Seconds after which a refused client may ask again.
RETRY_SECONDS = 2

#: Error codes of a wrong command; every other code is about the state of Redis.
_MISTAKES = frozenset("ILLEGAL WRONGTYPE NOSCRIPT CROSSSLOT BUSYGROUP NOGROUP".split())
#: The same for what has no code of its own. What proxies and hosted servers add to `ERR` (quotas, their backends,
#: commands that they do not have) is not among it.
_MISTAKEN = re.compile(
    r"syntax error|wrong number of arguments|not an integer|not a valid float|index out of range|no such key"
    r"|unknown subcommand|unsupported option|running script|compiling script|user_script|lua|invalid expire",
    re.IGNORECASE,
)
#: Error codes of a server from which another one has taken over.
# guard: failover-codes
_ELSEWHERE = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})
_CODE = re.compile(r"([A-Z][A-Z0-9]{1,15}) ")
#: How Redis up to 6.2 wraps the error of a command in a script, and how redis-py does it for a pipeline.
_IN_SCRIPT = re.compile(r"@?user_script: ?\d+: -?(?=[A-Z]{2,16} )")
_IN_PIPELINE = re.compile(r".* of pipeline caused error: \((['\"])(?P<message>.*)\1,\)", re.DOTALL)
_WHERE = re.compile(r",? script: .*$", re.DOTALL)


def translate(failure: RedisError) -> OrchestratorError:
    """Return the orchestrator's own error for one of redis-py's."""
    message = redis_message(failure)
    if isinstance(failure, ResponseError) and "ILLEGAL" in message:
        return IllegalMove(message.partition("ILLEGAL ")[2])
    # guard: redis-away
    if isinstance(failure, RedisConnectionError) and not _code(failure, message):
        return StoreUnavailable(f"Redis does not answer ({message}); try again shortly.", retry_after=RETRY_SECONDS)
    if isinstance(failure, RedisTimeoutError):
        return StoreUnavailable(f"Redis does not answer ({message}); try again shortly.", retry_after=RETRY_SECONDS)
    if is_wait(failure):
        return StoreUnavailable(f"Redis refuses commands ({message}); try again shortly.", retry_after=RETRY_SECONDS)
    return OrchestratorError(f"Redis refused a command: {message}")


def is_wait(failure: BaseException) -> bool:
    """Whether an error means that Redis is away or does not serve now, and not that a command is wrong."""
    # guard: redis-away-cause
    if isinstance(failure, RedisConnectionError | RedisTimeoutError | InvalidResponse):
        return True
    if not isinstance(failure, ResponseError):
        return False
    message = redis_message(failure)
    code = _code(failure, message)
    # guard: redis-refusal
    return code not in _MISTAKES and not (code in {"", "ERR"} and _MISTAKEN.search(message))


def is_elsewhere(failure: BaseException) -> bool:
    """Whether an error means that another server may have taken over: the client must resolve the name again."""
    return isinstance(failure, ResponseError) and _code(failure, redis_message(failure)) in _ELSEWHERE


def redis_message(failure: BaseException) -> str:
    """Return Redis's message, without the text that a script or a pipeline puts around it."""
    text = str(failure)
    if match := _IN_PIPELINE.fullmatch(text):
        text = match["message"]
    # A refused transaction repeats the error of the command that caused it.
    text = text.removeprefix("EXECABORT ").removeprefix("Transaction discarded because of: ")
    if nested := _IN_SCRIPT.search(text):
        text = text[nested.end() :]
    text = _WHERE.sub("", text)
    status = getattr(failure, "status_code", None)
    return f"{status} {text}" if status and status not in {"ERR", "EXECABORT"} else text.removeprefix("ERR ")


def _code(failure: RedisError, message: str) -> str:
    match = _CODE.match(message)
    return match[1] if match else str(getattr(failure, "status_code", None) or "")
