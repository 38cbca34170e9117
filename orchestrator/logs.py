"""One way of logging for all of the orchestrator's programs: a static message and its facts, as text or as JSON.

What belongs to a request or a task (`begin`, `note`) stands on every line that is written on its behalf: in the api,
and in the Celery worker, since the id of a request travels with the tasks it queues.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from orchestrator.machine.printable import one_line

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data", "color_message"}
#: Characters of one fact that are kept.
_FACT = 300

#: Facts of the request or task that is being served; None outside of any.
_facts: ContextVar[dict[str, str] | None] = ContextVar("facts", default=None)


def begin(**facts: str) -> dict[str, str]:
    """Begin to serve a request or a task; returns its facts, to which `note` adds."""
    _facts.set(facts)
    return facts


def note(**facts: str) -> None:
    """Say more about the request or task that is being served."""
    if (known := _facts.get()) is not None:
        known.update(facts)


def end() -> None:
    """What is logged from now on belongs to no request or task."""
    _facts.set(None)


def request_id() -> str:
    """Return the id of the request on whose behalf this runs, '' outside of any."""
    return (_facts.get() or {}).get("request_id", "")


class TextFormatter(logging.Formatter):
    """Puts the facts behind the message. One record is one line; what follows (a traceback) is indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        facts = (
            f"{name}={value if _plain(value) else repr(str(value)[:_FACT])}"
            for name, value in _all_facts(record).items()
        )
        return one_line(" ".join((super().formatMessage(record), *facts)))

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"    {one_line(line)}" for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, the facts, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {name: value if _plain(value) else str(value)[:_FACT] for name, value in _all_facts(record).items()}
        told = facts | {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)  # non-ASCII is escaped, line ends of every kind with it


class Lossy:
    """A stream whose file may be on a full disk: what cannot be written is lost, and whoever prints is not ended."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose it."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line, or lose it."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered, or lose it."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lose_what_is_refused() -> None:
    """Have `print` and the log in this process never fail."""
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
    # Its line per request would be the second one, and has the query in it.
    logging.getLogger("uvicorn.access").disabled = True
    for noisy in ("httpx", "httpcore", "celery.redirected", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _all_facts(record: logging.LogRecord) -> dict[str, Any]:
    own = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return (_facts.get() or {}) | own


def _plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float)
