"""The log: nobody forges a line of it, and what belongs to a request stands on each of its lines."""

import asyncio
import json
import logging
import sys

import pytest

from orchestrator import logs
from orchestrator.logs import JsonFormatter, TextFormatter

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
def test_nobody_forges_a_line(formatter: logging.Formatter, forgery: str) -> None:
    for each in (record("said %s", forgery), record(forgery), record("said", cause=forgery)):
        line = formatter.format(each)
        assert line.isprintable(), line
        assert len(line.splitlines()) == 1


@pytest.mark.parametrize("forgery", FORGERIES)
def test_nobody_forges_a_line_by_an_exception(forgery: str) -> None:
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
        # What it leaves behind belongs to it too.
        return await asyncio.create_task(line())

    async def line() -> str:
        return JsonFormatter().format(record("said"))

    async def both() -> list[str]:
        return await asyncio.gather(request(1), request(2))

    found = [json.loads(text) for text in asyncio.run(both())]
    assert [(each["request_id"], each["session_id"]) for each in found] == [("r1", "s1"), ("r2", "s2")]
    logs.note(session_id="nobody's")
    assert "session_id" not in JsonFormatter().format(record("said"))


def test_a_task_that_is_over_leaves_nothing() -> None:
    logs.begin(task_id="t1")
    logs.end()
    assert "t1" not in TextFormatter().format(record("said"))
    assert logs.request_id() == ""


@pytest.mark.parametrize("style", ["text", "json"])
def test_uvicorn_logs_like_the_others(style: str, capsys: pytest.CaptureFixture[str]) -> None:
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


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
SECRETS = (
    TOKEN, "key-of-a-provider", "first-of-two", "second-of-two", "hunter2-of-redis", "sk-proj-****************wxyz",
    "sk-ant-api03-AbCdEfGh_1234",
)  # fmt: skip


@pytest.mark.parametrize("inner", [TextFormatter(), JsonFormatter(), logging.Formatter("%(message)s")])
def test_no_secret_in_a_message_a_fact_or_a_traceback_however_deep(
    inner: logging.Formatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPGRAM_API_KEY", "key-of-a-provider")
    monkeypatch.setenv("API_KEYS", "first-of-two, second-of-two")
    monkeypatch.setenv("MODEL_TOKEN", "yes")
    said = " ".join(SECRETS).replace("hunter2-of-redis", "redis://ada:hunter2-of-redis@127.0.0.1:6379/0")
    failure = raised(said)
    failure.__cause__ = raised(said)
    line = logs.WithoutSecrets(inner).format(record("refused: %s, yes", said, error=failure, detail=said))
    assert not [secret for secret in SECRETS if secret in line]
    assert "refused: (token) (secret) (secret) (secret) redis://ada:(secret)@127.0.0.1:6379/0 (key) (key)" in line
    assert "yes" in line, "a value this short is a word"


def test_what_is_no_secret_stays() -> None:
    text = "task-queue sk-1 ask-for-more-of-this http://127.0.0.1:8000/a:b@c room-1234 disk_usage_percent key"
    assert logs.WithoutSecrets(logging.Formatter()).format(record(text)) == text
