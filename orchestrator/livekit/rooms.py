"""Deletes rooms on the LiveKit server, and asks whether it answers."""

import asyncio
from typing import Self

import aiohttp
from livekit import api

from orchestrator.errors import LiveKitUnavailable

#: Seconds that one request may take. The client's own time-out does not hold: it gives aiohttp None for each request.
REQUEST_SECONDS = 3.0


class Rooms:
    """LiveKit's room service."""

    def __init__(self, url: str, api_key: str, api_secret: str) -> None:
        http = url.replace("ws", "http", 1) if url.startswith("ws") else url
        self._api = api.LiveKitAPI(http, api_key, api_secret)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.aclose()

    async def delete(self, room: str) -> None:
        """Delete a room and put everybody out of it. A room that does not exist is deleted already.

        Raises:
            LiveKitUnavailable: whether it is deleted is not known; try again.
        """
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._api.room.delete_room(api.DeleteRoomRequest(room=room))
        except api.TwirpError as failure:
            if failure.code != api.TwirpErrorCode.NOT_FOUND:
                raise LiveKitUnavailable(f"LiveKit did not delete a room: {failure.message}") from failure
        except (aiohttp.ClientError, TimeoutError) as failure:
            raise LiveKitUnavailable(f"LiveKit does not answer: {failure!r}") from failure

    async def reachable(self) -> str | None:
        """Return None when LiveKit answers and takes our key pair, else why not."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._api.room.list_rooms(api.ListRoomsRequest(names=["-"]))
        except api.TwirpError as failure:
            return f"LiveKit refuses: {failure.message}"
        except (aiohttp.ClientError, TimeoutError) as failure:
            return f"LiveKit does not answer: {str(failure) or type(failure).__name__}"
        return None
