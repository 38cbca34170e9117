"""Signs LiveKit tokens with the fewest rights that a call needs."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import jwt
from livekit import api

#: Time limit for the first connect only; LiveKit renews the token of a connected participant.
TOKEN_LIFETIME = timedelta(minutes=15)
#: LiveKit's `limit.max_participant_identity_length`. Room names may have the same length, and identities contain them.
IDENTITY_BYTES = 256


class TokenMinter:
    """Signs tokens with one LiveKit key pair.

    Args:
        agent_name: our agents' name with LiveKit; they carry it as in a token that LiveKit makes for a job.
        agent_seconds: lifetime of an agent's token; a call may be taken over late.
        empty_seconds, departure_seconds: how long LiveKit keeps a room that no user has joined, or that all have left.
            The first participant creates the room, so every token contains both.
    """

    def __init__(
        self,
        api_key: str,
        api_secret: str,
        *,
        agent_name: str,
        agent_seconds: int,
        empty_seconds: int,
        departure_seconds: int,
    ) -> None:
        self._key, self._secret, self._agent_seconds = api_key, api_secret, agent_seconds
        self._agent_name = agent_name
        self._room = api.RoomConfiguration(empty_timeout=empty_seconds, departure_timeout=departure_seconds)
        # Every start signs a token: LiveKit's builder, which takes 0.1 ms, makes the claims only once.
        self._agent_claims: dict[str, Any] = jwt.decode(self._agent_token("-"), options={"verify_signature": False})

    def for_agent(self, room: str) -> str:
        """Return a token of kind `agent` for one room. The agent may set its own attributes (`lk.agent.state`)."""
        now = int(time.time())
        claims = self._agent_claims | {
            # One identity per room: when an agent takes over, LiveKit disconnects the dead one.
            "sub": agent_identity(room),
            "nbf": now,
            "exp": now + self._agent_seconds,
            "video": self._agent_claims["video"] | {"room": room},
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def for_api(self, room: str) -> str:
        """Return a token for LiveKit's API with the admin right of one room, and the right to dial into it.

        It lets no one join a room, and it names no participant.
        """
        now = int(time.time())
        claims = {
            "iss": self._key, "nbf": now, "exp": now + self._agent_seconds,
            "video": {"roomAdmin": True, "room": room}, "sip": {"call": True},
        }  # fmt: skip
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def of_agent(self, room: str) -> dict[str, str]:
        """Return the tokens that a room's agent is assigned with, by their names in the assignment."""
        return {"token": self.for_agent(room), "apiToken": self.for_api(room)}

    def _agent_token(self, room: str) -> str:
        grants = api.VideoGrants(
            room_join=True, room=room, can_publish=True, can_subscribe=True, can_publish_data=True,
            can_update_own_metadata=True,
        )  # fmt: skip
        # LiveKit's clients wait for an agent's state and for its first change, so the token already contains one.
        token = self._token(agent_identity(room), room, grants).with_kind("agent")
        return token.with_attributes({"lk.agent.state": "initializing", "lk.agent_name": self._agent_name}).to_jwt()

    def for_user(
        self,
        room: str,
        identity: str,
        *,
        name: str = "",
        metadata: str = "",
        attributes: Mapping[str, str] | None = None,
        dispatch: tuple[str, str] | None = None,
    ) -> str:
        """Return a token for the user of one room, who may speak, listen and send data, and has no admin right.

        `dispatch`: name and metadata of the agent that LiveKit requests when the user creates the room.
        """
        grants = api.VideoGrants(
            room_join=True, room=room, can_publish=True, can_subscribe=True, can_publish_data=True,
            can_publish_sources=["microphone"],
        )  # fmt: skip
        agents = [api.RoomAgentDispatch(agent_name=dispatch[0], metadata=dispatch[1])] if dispatch else []
        token = self._token(identity, room, grants, agents).with_name(name).with_metadata(metadata)
        return token.with_attributes(dict(attributes or {})).to_jwt()

    def _token(
        self, identity: str, room: str, grants: api.VideoGrants, agents: Sequence[api.RoomAgentDispatch] = ()
    ) -> api.AccessToken:
        config = api.RoomConfiguration(agents=agents)
        # guard: room-timeouts
        config.MergeFrom(self._room)
        token = api.AccessToken(self._key, self._secret).with_identity(identity)
        return token.with_grants(grants).with_ttl(TOKEN_LIFETIME).with_room_config(config)


def agent_identity(room: str) -> str:
    """Return the identity of a room's agent, the same for every process that serves the room."""
    return _bounded(f"agent-{room}")


def user_identity(room: str) -> str:
    """Return the identity of the user of a room."""
    return _bounded(f"user-{room.removeprefix('room_')}")


def _bounded(identity: str) -> str:
    """Keep an identity within LiveKit's limit; a hash replaces the end of a longer one."""
    raw = identity.encode()
    # guard: identity-bytes
    if len(raw) <= IDENTITY_BYTES:
        return identity
    end = hashlib.sha256(raw).hexdigest()[:32]
    return f"{raw[: IDENTITY_BYTES - 33].decode(errors='ignore')}-{end}"
