"""How stand-ins of hosted models fail."""

import asyncio
from typing import Literal

from aiohttp import web

#: An HTTP status, or: the connection is refused by a reset; nothing is answered; what is answered is no protocol;
#: the answer breaks off in its middle; no credit, as OpenAI says it.
Failure = Literal["401", "402", "404", "429", "500", "503", "529", "reset", "hang", "garbage", "cut", "quota"]
#: No log and no reason may contain this: providers do quote keys in their errors.
CANARY = "sk-canary-0123456789abcdef"
_GARBAGE = "<html>}{ this is no model's answer"


def abort(request: web.Request, stream: web.StreamResponse) -> web.StreamResponse:
    """Reset the connection in the middle of an answer."""
    assert isinstance(request.transport, asyncio.Transport)
    request.transport.abort()
    return stream


async def bad_answer(request: web.Request, how: str) -> web.StreamResponse:
    """Answer a request as the failure demands."""
    if how == "hang":
        await asyncio.sleep(3600)
    if how == "reset":
        return abort(request, web.Response())
    if how == "garbage":
        kind = "text/event-stream" if "audio" not in request.path else "application/json"
        return web.Response(text=f"data: {_GARBAGE}\n\n", content_type=kind)
    code, status = ("insufficient_quota", 429) if how == "quota" else ("error", int(how))
    error = {"message": f"Incorrect API key provided: {CANARY}", "type": code, "code": code}
    return web.json_response({"type": "error", "error": error}, status=status)


async def bad_websocket(request: web.Request, how: str) -> web.StreamResponse:
    """Open a WebSocket that fails."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    if how == "garbage":
        await socket.send_str(_GARBAGE)
    async for _ in socket:
        if how == "cut":
            break
    await socket.close(code=1011)
    return socket
