"""The log of the orchestrator's programs: a static message with its facts, as text or as JSON.

The facts of a request or a task (`begin`, `note`) are added to every line that is logged while it is served: in the
api, and in the Celery worker, because a request's id travels with the tasks that it queues.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from orchestrator.machine.printable import one_line
from orchestrator.machine.redaction import Redaction

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data", "color_message"}
#: Characters of one fact that are logged.
_FACT = 300

#: Facts of the current request or task; None outside of any.
_facts: ContextVar[dict[str, str] | None] = ContextVar("facts", default=None)


def begin(**facts: str) -> dict[str, str]:
    """Start the facts of a request or a task, and return them. `note` adds to them."""
    _facts.set(facts)
    return facts


def note(**facts: str) -> None:
    """Add facts to the current request or task."""
    if (current := _facts.get()) is not None:
        current.update(facts)


def end() -> None:
    """End the facts of the current request or task."""
    _facts.set(None)


def request_id() -> str:
    """Return the id of the current request; '' outside of any."""
    return (_facts.get() or {}).get("request_id", "")


class TextFormatter(logging.Formatter):
    """Appends the facts to the message. One record is one line; the lines of a traceback follow, indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._redact = Redaction()

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = self._redact(record.message)
        facts = (
            f"{name}={repr(value) if isinstance(value, str) else value}"
            for name, value in facts_of(record, self._redact).items()
        )
        return one_line(" ".join((super().formatMessage(record), *facts)))

    def formatException(self, ei: Any) -> str:
        lines = self._redact(super().formatException(ei)).split("\n")
        return "\n".join(f"    {one_line(line)}" for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, the facts, `exception`."""

    def __init__(self) -> None:
        super().__init__()
        self._redact = Redaction()

    def format(self, record: logging.LogRecord) -> str:
        fields = facts_of(record, self._redact) | {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redact(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = self._redact(self.formatException(record.exc_info))
        return json.dumps(fields)  # escapes all but ASCII, so that no character ends the line


class PlainFormatter(logging.Formatter):
    """The log of an agent, whose lines are text of any form."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._redact = Redaction()

    def format(self, record: logging.LogRecord) -> str:
        # guard: secrets-in-logs
        return self._redact(super().format(record))


class Lossy:
    """A stream that drops what it cannot write, for example to a full disk, instead of raising."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line, or drop it."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write the buffer, or drop it."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def never_fail_to_print() -> None:
    """Make `print` and the log in this process drop what cannot be written."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Lossy):
            setattr(sys, name, Lossy(stream))


def configure_logging(style: Literal["text", "json"] = "text") -> None:
    """Send the log to standard error, from level INFO on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for own in ("uvicorn", "uvicorn.error"):  # uvicorn has handlers of its own
        logging.getLogger(own).handlers.clear()
        logging.getLogger(own).propagate = True
    # Our own line per request replaces it; uvicorn's contains the query.
    logging.getLogger("uvicorn.access").disabled = True
    for noisy in ("httpx", "httpcore", "celery.redirected", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _all_facts(record: logging.LogRecord) -> dict[str, Any]:
    own = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return (_facts.get() or {}) | own


def facts_of(record: logging.LogRecord, redact: Callable[[str], str]) -> dict[str, Any]:
    """Return the facts of a record: numbers as they are, all else as text without secrets, cut when it has none."""
    return {
        name: value if value is None or isinstance(value, bool | int | float) else redact(str(value))[:_FACT]
        for name, value in _all_facts(record).items()
    }
