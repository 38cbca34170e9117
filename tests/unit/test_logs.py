"""The log: lines cannot be forged, and each line of a request has the request's fields."""

import asyncio
import json
import logging
import sys

import pytest

from orchestrator import logs
from orchestrator.logs import JsonFormatter, PlainFormatter, TextFormatter
from orchestrator.machine.redaction import Redaction

FORGERIES = [
    "x\n2026-01-01 00:00:00,000 INFO root all is well", "x\r\nINFO", "\x1b[2J\x1b[31mred", "a\x00b", "a\x85b",
    "a\u2028b", 'x", "level": "info', "tab\there", "\x7f",
]  # fmt: skip


def record(message: str, *args: object, error: BaseException | None = None, **facts: object) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    found = logging.LogRecord("orchestrator.test", logging.WARNING, __file__, 1, message, args, exc_info)
    vars(found).update(facts)
    return found


def raised(text: str) -> BaseException:
    with pytest.raises(ValueError) as failure:  # noqa: PT011 - it is what is wanted
        int(f"no number: {text}")
    return failure.value


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_message_cannot_forge_a_log_line(formatter: logging.Formatter, forgery: str) -> None:
    for each in (record("said %s", forgery), record(forgery), record("said", cause=forgery)):
        line = formatter.format(each)
        assert line.isprintable(), line
        assert len(line.splitlines()) == 1


@pytest.mark.parametrize("forgery", FORGERIES)
def test_an_exception_cannot_forge_a_log_line(forgery: str) -> None:
    text = TextFormatter().format(record("failed", error=raised(forgery)))
    first, *rest = text.split("\n")
    assert first.endswith("failed")
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    found = JsonFormatter().format(record("failed", error=raised(forgery)))
    assert len(found.splitlines()) == 1
    assert json.loads(found)["exception"].startswith("Traceback")


def test_a_json_line_has_its_fields_and_its_facts() -> None:
    found = json.loads(JsonFormatter().format(record("agent exited", agent_id="a1", count=3, level="forged")))
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "warning", "logger": "orchestrator.test", "message": "agent exited", "agent_id": "a1", "count": 3,
    }  # fmt: skip


def test_a_long_fact_is_cut() -> None:
    for formatter in (TextFormatter(), JsonFormatter()):
        assert len(formatter.format(record("said", cause="x" * 10_000))) < 1000


def test_facts_of_a_request_stand_on_its_lines_and_on_no_other() -> None:
    async def request(number: int) -> str:
        logs.begin(request_id=f"r{number}")
        await asyncio.sleep(0)
        logs.note(session_id=f"s{number}")
        # Tasks that outlive the request have its fields too.
        return await asyncio.create_task(line())

    async def line() -> str:
        return JsonFormatter().format(record("said"))

    async def both() -> list[str]:
        return await asyncio.gather(request(1), request(2))

    found = [json.loads(text) for text in asyncio.run(both())]
    assert [(each["request_id"], each["session_id"]) for each in found] == [("r1", "s1"), ("r2", "s2")]
    logs.note(session_id="nobody's")
    assert "session_id" not in JsonFormatter().format(record("said"))


def test_a_finished_task_leaves_no_fields() -> None:
    logs.begin(task_id="t1")
    logs.end()
    assert "t1" not in TextFormatter().format(record("said"))
    assert logs.request_id() == ""


@pytest.mark.parametrize("style", ["text", "json"])
def test_uvicorn_uses_our_log_format(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logging.getLogger("uvicorn").addHandler(logging.StreamHandler(sys.stdout))
        logging.getLogger("uvicorn").propagate = False
        logs.configure_logging(style)  # type: ignore[arg-type]
        logging.getLogger("uvicorn.error").info("Started")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.endswith('"message": "Started"}\n' if style == "json" else "INFO uvicorn.error Started\n")


FORMATTERS = [TextFormatter, JsonFormatter, PlainFormatter]
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
#: The environment of a process.
ENVIRONMENT = {
    "DEEPGRAM_API_KEY": "key-of-a-provider", "API_KEYS": "first-of-two, second-of-two", "ADMIN_TOKEN": "12345678",
    "LIVEKIT_KEYS": "devkey: secret-of-livekit", "MODEL_TOKEN": "yes", "MONKEY": "banana-split",
    "DB_PASSWORD": 'pässwört "quoted" \\ here', "REDIS_URL": "redis://ada:of%2Dredis%21@127.0.0.1/0",
    "CACHE_URL": "redis://127.0.0.1/0?password=of-the-cache",
}  # fmt: skip
SECRETS = (
    TOKEN, "key-of-a-provider", "first-of-two", "second-of-two", "secret-of-livekit", 'pässwört "quoted" \\ here',
    "of%2Dredis%21", "of-redis!", "of-the-cache", "sk-proj-****************wxyz", "sk_live_abcdefghijklmnop",
)  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("kind", FORMATTERS)
def test_no_secret_in_a_message_a_fact_or_a_traceback_however_deep(
    kind: type[logging.Formatter], secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    formatter = kind()
    for said in (f"refused: {secret}, yes", f"answer:\n{secret}\nyes", f"{'x' * 290} {secret}", f'"{secret}"'):
        failure = raised(said)
        failure.__cause__ = raised(said)
        line = formatter.format(record("%s", said, error=failure, detail=said, pid=12345678))
        text = " ".join(map(str, json.loads(line).values())) if kind is JsonFormatter else line
        shortest = len(secret) if kind is PlainFormatter else 12
        assert not [at for at in range(len(secret) - shortest + 1) if secret[at : at + shortest] in text], text
        assert kind is PlainFormatter or "12345678" in text, "a number is not a secret"


@pytest.mark.parametrize("kind", FORMATTERS)
def test_text_without_secrets_is_unchanged(kind: type[logging.Formatter], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    text = "task-queue sk-1 ask-for-more http://127.0.0.1:8000/a:b@c room-1234 key yes banana-split"
    assert text in kind().format(record(text))


def test_passwords_in_addresses_are_hidden_however_they_are_mistyped() -> None:
    redact = Redaction()
    for address in ("redis://:pa/ss@h", "redis://ada:pa@ss@h:6379/0", "postgresql://bot:pa@ss@db", "unix://:pa?ss@/s"):
        assert "pa" not in redact(f"cannot reach {address}"), address


def test_a_caller_cannot_make_the_redaction_slow() -> None:
    """A pattern that reads the text once for each of its parts would not end within the time limit of a test."""
    redact = Redaction()
    for part in ("-eyJ", "eyJ.", "sk-", "redis://:", "://a:", "?password="):
        assert isinstance(redact(part * 300_000), str)
