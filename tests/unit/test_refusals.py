"""Which of Redis's errors are temporary and which are bugs of ours, in each form in which they occur."""

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser
from redis.asyncio.client import Pipeline

from orchestrator.errors import IllegalMove, OrchestratorError, StoreUnavailable
from orchestrator.store.refusals import translate

STATES = [
    "READONLY You can't write against a read only replica.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS Not enough good replicas to write.",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM User app has no permissions to run the 'evalsha' command",
    "DENIED Redis is running in protected mode because protected mode is enabled",
    "ERR max number of clients reached",
    "ERR max daily request limit exceeded. Limit: 10000",
    "ERR upstream failure",
    "ERR unknown command 'EVALSHA'",
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your "
    "configuration is correct?",
    "ERR DB index is out of range",
    "FAILOVER whatever comes next",
]
MISTAKES = [
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR syntax error",
    "ERR wrong number of arguments for 'set' command",
    "ERR value is not an integer or out of range",
    "ERR user_script:12: attempt to index a nil value script: 0a1b, on @user_script:12.",
    "ERR Error compiling script (new function): user_script:1: '=' expected near 'x'",
]


def plain(reply: str) -> exceptions.RedisError:
    return BaseParser.parse_error(reply)


def in_script(reply: str) -> exceptions.RedisError:
    return BaseParser.parse_error(f"{reply} script: 9d1a7f, on @user_script:3.")


def in_script_of_redis_6(reply: str) -> exceptions.RedisError:
    told = f"ERR Error running script (call to f_9d1a7f): @user_script:3: @user_script: 3: -{reply}"
    return BaseParser.parse_error(told)


def in_pipeline(reply: str) -> exceptions.RedisError:
    failure = BaseParser.parse_error(reply)
    Pipeline.annotate_exception(None, failure, 1, ("SET", "k", "of pipeline caused error: ('ERR syntax error',)"))
    return failure


def in_transaction(reply: str) -> exceptions.RedisError:
    return BaseParser.parse_error(f"EXECABORT Transaction discarded because of: {reply}")


@pytest.mark.parametrize("form", [plain, in_script, in_script_of_redis_6, in_pipeline, in_transaction])
@pytest.mark.parametrize("reply", STATES)
def test_an_error_about_the_servers_state_is_temporary(reply: str, form: object) -> None:
    if form is in_script_of_redis_6 and reply.startswith("ERR"):
        pytest.skip("Redis only repeats the code of an error that has its own")
    found = translate(form(reply))  # type: ignore[operator]
    assert isinstance(found, StoreUnavailable), found
    assert found.retry_after
    assert reply.partition(" ")[2][:20] in found.detail
    if not reply.startswith("ERR"):
        assert reply.partition(" ")[0] in found.detail, "Redis's own text"
    assert "script:" not in found.detail


@pytest.mark.parametrize("form", [plain, in_pipeline])
@pytest.mark.parametrize("reply", MISTAKES)
def test_a_wrong_command_is_not_temporary(reply: str, form: object) -> None:
    found = translate(form(reply))  # type: ignore[operator]
    assert not isinstance(found, StoreUnavailable)


@pytest.mark.parametrize(
    "failure",
    [
        exceptions.ConnectionError("Error 111 connecting to 127.0.0.1:1. Connect call failed."),
        exceptions.TimeoutError("Timeout reading from 127.0.0.1:1"),
        exceptions.InvalidResponse("Protocol Error: b'HTTP/1.1 400'"),
        exceptions.MaxConnectionsError("Too many connections"),
        exceptions.ConnectionError("No connection available."),
    ],
)
def test_a_missing_answer_is_temporary(failure: exceptions.RedisError) -> None:
    found = translate(failure)
    assert isinstance(found, StoreUnavailable)
    assert str(failure) in found.detail


def test_an_illegal_move_keeps_its_text() -> None:
    found = translate(in_script("ILLEGAL session s1: ended -> ready"))
    assert isinstance(found, IllegalMove)
    assert found.detail == "session s1: ended -> ready"


def test_an_error_of_the_client_library_is_not_temporary() -> None:
    assert type(translate(exceptions.DataError("Invalid input of type"))) is OrchestratorError
