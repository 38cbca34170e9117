"""Prints the fields of LiveKit's `ctx.log_context_fields`, and a job's own, after each line of the agent's log."""

import logging

from orchestrator.logs import PlainFormatter, facts_of


class FieldsFormatter(PlainFormatter):
    """The agents' log format, with each record's extra fields as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record; the fields end its first one."""
        first, *others = super().format(record).split("\n")
        fields = " ".join(f"{name}={value}" for name, value in facts_of(record, self._redact).items())
        return "\n".join((f"{first} {fields}" if fields else first, *others))


def show() -> None:
    """Print the fields from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, PlainFormatter):
            handler.setFormatter(FieldsFormatter())
