"""What every router's bodies and answers share. Bodies are camelCase."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from orchestrator.reasons import Param, Reason

SESSION = "prewarm_4f0c2a9d8b7e6f5a4b3c2d1e0f9a8b7c"

ROOM = "room_0d1c2b3a49586776859403a2b1c0d9e8"

WAITING = "session_9e8d7c6b5a4f3e2d1c0b9a8f7e6d5c4b"

#: Largest metadata of a start, as JSON, in bytes.
METADATA_BYTES = 4096

#: The code and the parameters of the reason whose text is in the field beside them.
Code = Annotated[str | None, Field(description="`GET /api/reasons` has words for it.")]
Params = Annotated[dict[str, Param] | None, Field(description="What belongs to the code: seconds, a signal, a detail.")]


def why(name: str, reason: Reason | None) -> dict[str, Any]:
    """Return the fields of an answer for a reason: its text, its code and its parameters."""
    if reason is None:
        return {}
    return {name: reason.text, f"{name}_code": reason.code or None, f"{name}_params": dict(reason.params) or None}


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


def wait_fields(seconds: float | None) -> dict[str, Any]:
    """Return the fields of an answer that say how long a session will wait: for people, and as a number."""
    if seconds is None:
        return {"estimated_wait": None, "estimated_wait_seconds": None}
    words = f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.2g}s"
    return {"estimated_wait": words, "estimated_wait_seconds": round(seconds, 3)}
