"""LiveKit's standard token endpoint, with our additions."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator

from orchestrator.api.schemas.base import METADATA_BYTES, ROOM, SESSION, Sent
from orchestrator.models import SessionId

#: Largest number of a participant's attributes.
ATTRIBUTES = 256


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > ATTRIBUTES:
        raise ValueError(f"more than {ATTRIBUTES} attributes; send fewer")
    return value


Bounded = Annotated[str, StringConstraints(max_length=512)]


class Dispatch(Sent):
    """The agent that LiveKit is to dispatch."""

    model_config = ConfigDict(extra="forbid")
    agent_name: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="AGENT_NAME, or nothing."
    )
    metadata: str | None = Field(default=None, description="Passed to the agent, 4 KB at most.")
    deployment: Literal[""] | None = Field(default=None, description="LiveKit's clients send an empty one.")

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, metadata: str | None) -> str | None:
        if metadata and len(metadata.encode()) > METADATA_BYTES:
            raise ValueError(f"metadata is larger than {METADATA_BYTES} bytes")
        return metadata


class RoomConfig(Sent):
    """The part of a room's configuration that a client may choose."""

    model_config = ConfigDict(extra="forbid")
    agents: Annotated[list[Dispatch], Field(max_length=1)] | None = None


class TokenRequest(Sent):
    """LiveKit's token-endpoint request, and our `sessionId`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"sessionId": SESSION, "participant_name": "Ada"}]},
        populate_by_name=True,
    )
    session_id: SessionId | None = Field(default=None, alias="sessionId")
    room_name: Bounded | None = None
    participant_name: Bounded | None = None
    participant_identity: Bounded | None = None
    participant_metadata: Annotated[str, StringConstraints(max_length=4096)] | None = None
    participant_attributes: Annotated[dict[str, Bounded] | None, BeforeValidator(_few)] = None
    room_config: RoomConfig | None = None


class TokenReply(BaseModel):
    """LiveKit's token-endpoint answer (snake_case), and ours."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": True, "server_url": "ws://127.0.0.1:7880", "participant_token": "eyJhbGciOi…",
                    "room_name": ROOM, "participant_identity": "user-0d1c2b3a49586776859403a2b1c0d9e8",
                }
            ]
        }
    )  # fmt: skip
    success: bool = True
    server_url: str
    participant_token: str
    room_name: str
    participant_name: str | None = None
    participant_identity: str
