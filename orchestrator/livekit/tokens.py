"""Mints LiveKit tokens with the least that a call needs."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import jwt
from livekit import api

#: Only the first connect must happen within this time; LiveKit renews the token of whoever is connected.
TOKEN_LIFETIME = timedelta(minutes=15)
#: Longest identity that LiveKit takes, in bytes (its `limit.max_participant_identity_length`); a room's name may be as
#: long, and names are made from it.
IDENTITY_BYTES = 256


class TokenMinter:
    """Signs tokens with one LiveKit key pair.

    Args:
        agent_name: what LiveKit knows our agents by; they carry it, as in a token that LiveKit makes for a job.
        agent_seconds: how long an agent's is good: a call may be taken over late.
        empty_seconds, departure_seconds: how long LiveKit keeps a room to which no user has come, or which they have
            left. Whoever joins first makes the room, so every token says it.
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
        # One is signed in every start: LiveKit's own builder makes the claims once, here, and takes 0.1 ms for it.
        self._agent_claims: dict[str, Any] = jwt.decode(self._agent_token("-"), options={"verify_signature": False})

    def for_agent(self, room: str) -> str:
        """Return a token of kind `agent` for one room; it may set its own attributes (`lk.agent.state`)."""
        now = int(time.time())
        claims = self._agent_claims | {
            # One identity a room: an agent that takes over makes LiveKit drop the ghost of the one before.
            "sub": agent_identity(room),
            "nbf": now,
            "exp": now + self._agent_seconds,
            "video": self._agent_claims["video"] | {"room": room},
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def _agent_token(self, room: str) -> str:
        grants = api.VideoGrants(
            room_join=True, room=room, can_publish=True, can_subscribe=True, can_publish_data=True,
            can_update_own_metadata=True,
        )  # fmt: skip
        # It has a state from its first moment in the room; LiveKit's clients wait for one, and for its first change.
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
        """Return a token for the user of one room: speak, listen, send data; no admin right of any kind.

        `dispatch`: agent name and metadata of the agent that LiveKit is to ask for when the user makes the room.
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
        config.MergeFrom(self._room)
        token = api.AccessToken(self._key, self._secret).with_identity(identity)
        return token.with_grants(grants).with_ttl(TOKEN_LIFETIME).with_room_config(config)


def agent_identity(room: str) -> str:
    """Return the identity of a room's agent: one a room, whichever process it is."""
    return _bounded(f"agent-{room}")


def user_identity(room: str) -> str:
    """Return the identity of the user of a room."""
    return _bounded(f"user-{room.removeprefix('room_')}")


def _bounded(identity: str) -> str:
    """Keep an identity within LiveKit's limit: the end of a longer one is replaced by its hash."""
    raw = identity.encode()
    if len(raw) <= IDENTITY_BYTES:
        return identity
    end = hashlib.sha256(raw).hexdigest()[:32]
    return f"{raw[: IDENTITY_BYTES - 33].decode(errors='ignore')}-{end}"
