"""One way of logging for all of the orchestrator's programs: a static message and its facts as key=value."""

import logging
import sys

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data", "color_message"}


class FactsFormatter(logging.Formatter):
    """Puts the `extra` facts behind the message."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        facts = " ".join(
            f"{name}={str(value)[:300]!r}" for name, value in vars(record).items() if name not in _STANDARD
        )
        return f"{text} {facts}" if facts else text


def configure_logging() -> None:
    """Send the log to standard error, from level INFO on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FactsFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("httpx", "httpcore", "celery.redirected", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
