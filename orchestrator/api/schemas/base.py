"""What every router's bodies and answers share. Bodies are camelCase."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

SESSION = "prewarm_4f0c2a9d8b7e6f5a4b3c2d1e0f9a8b7c"

ROOM = "room_0d1c2b3a49586776859403a2b1c0d9e8"

WAITING = "session_9e8d7c6b5a4f3e2d1c0b9a8f7e6d5c4b"

#: Largest metadata of a start, as JSON, in bytes.
METADATA_BYTES = 4096

#: Largest number of fields of a body, known ones and others: pydantic would make an error of each.
FIELDS = 32


class Sent(BaseModel):
    """Base of everything that a caller sends."""

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, values: object) -> object:
        if isinstance(values, dict) and len(values) > FIELDS:
            raise ValueError(f"it has more than {FIELDS} fields; leave out unknown ones")
        return values


class Body(Sent):
    """Base of all camelCase bodies."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Reply(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    success: bool = True


def example(**fields: Any) -> ConfigDict:
    """Return a model configuration whose schema carries one example."""
    return ConfigDict(alias_generator=to_camel, populate_by_name=True, json_schema_extra={"examples": [fields]})


def in_words(seconds: float | None) -> str | None:
    """Return a wait for people to read."""
    return None if seconds is None else f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.2g}s"
