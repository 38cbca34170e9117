"""Local stand-ins for the hosted models of OpenAI, Anthropic, Deepgram and Cartesia, used with LiveKit's real plugins.

They use the offline voice and the offline recogniser, so a whole hosted conversation works without a key and without
a network. Each part (`llm`, `stt`, `tts`) can be made to fail in many ways.
"""

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Literal, Self

import numpy as np
from aiohttp import WSMsgType, web
from livekit import rtc
from numpy.typing import NDArray

from agent_runtime.offline import speech
from agent_runtime.offline.reply import Conversation
from tests.support.hosted_failures import Failure, abort, bad_answer, bad_websocket
from tests.support.hosted_sound import STT_RATE, mp3, pieces, spoken, text_of_wav
from tests.support.processes import free_ports

Part = Literal["llm", "stt", "tts"]
_LOUD, _QUIET_SECONDS = 200.0, 0.35

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Hosted:
    """All stand-ins on one loopback port, served in a thread."""

    def __init__(self) -> None:
        self.port = free_ports()
        self.url = f"http://127.0.0.1:{self.port}"
        self.asked: list[tuple[str, str]] = []  #: the part and the path of every request
        self._failures: dict[str, tuple[Failure, int]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="hosted models")
        self._ready, self._over = threading.Event(), asyncio.Event()

    # For tests

    def environment(self, *vendors: Literal["openai", "anthropic", "deepgram", "cartesia"]) -> dict[str, str]:
        """Return the environment variables that make an agent use the stand-ins for these vendors."""
        found = {}
        for vendor in vendors:
            found[f"{vendor.upper()}_API_KEY"] = f"key-of-{vendor}"
            found[f"{vendor.upper()}_BASE_URL"] = f"{self.url}/v1" if vendor == "openai" else self.url
        return found

    def fail(self, part: Part, how: Failure, times: int = 1_000_000) -> None:
        """Make the next requests to a part fail."""
        self._failures[part] = how, times

    def mend(self) -> None:
        """Make all parts work again."""
        self._failures.clear()

    def used(self) -> set[str]:
        """Return the parts that received requests."""
        return {part for part, _ in self.asked}

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60), "the stand-ins did not start to listen"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    # The server

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=2**26)
        routes: list[tuple[str, str, Part, Handler]] = [
            ("POST", "/v1/chat/completions", "llm", self._openai_chat),
            ("POST", "/v1/audio/speech", "tts", self._openai_speech),
            ("POST", "/v1/audio/transcriptions", "stt", self._openai_transcription),
            ("POST", "/v1/messages", "llm", self._anthropic),
            ("GET", "/v1/listen", "stt", self._deepgram_listen),
            ("GET", "/v1/speak", "tts", self._deepgram_speak),
            ("POST", "/v1/speak", "tts", self._plain_speech),
            ("GET", "/tts/websocket", "tts", self._cartesia),
            ("POST", "/tts/bytes", "tts", self._plain_speech),
        ]
        for method, path, part, handler in routes:
            app.router.add_route(method, path, self._guarded(part, handler))
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        self._ready.set()
        await self._over.wait()
        await runner.cleanup()

    def _guarded(self, part: Part, handler: Handler) -> Handler:
        """Record the request, check its key, and fail here if the failure is one that comes before any answer."""

        async def answer(request: web.Request) -> web.StreamResponse:
            self.asked.append((part, request.path))
            names = ("Authorization", "x-api-key", "X-API-Key")
            given = next((request.headers[name] for name in names if name in request.headers), "")
            how = self._failing(part)
            if "key-of-" not in given:
                how = "401"
            request["how"] = how
            if how in {"garbage", "cut", "hang"} and request.headers.get("Upgrade"):
                return await bad_websocket(request, how)
            if how and how not in {"cut"}:
                return await bad_answer(request, how)
            return await handler(request)

        return answer

    def _failing(self, part: str) -> Failure | None:
        how, times = self._failures.get(part, (None, 0))
        if how is None or times <= 0:
            return None
        self._failures[part] = how, times - 1
        return how

    # OpenAI

    async def _openai_chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text, over = reply(body["messages"])
        stream = await _event_stream(request)
        about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}

        def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
            choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
            return f"data: {json.dumps(about | {'choices': choices})}\n\n"

        if over and body.get("tools"):
            call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "hang_up", "arguments": "{}"}}
            await stream.write(chunk({"role": "assistant", "tool_calls": [call]}).encode())
            await stream.write(chunk({}, "tool_calls").encode())
        else:
            for number, word in enumerate(text.split(" ")):
                await stream.write(chunk({"role": "assistant", "content": word + " "}).encode())
                if number and request["how"] == "cut":
                    return abort(request, stream)
            await stream.write(chunk({}, "stop").encode())
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        await stream.write(f"data: {json.dumps(about | {'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())
        await stream.write_eof()
        return stream

    async def _openai_speech(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        sound = await spoken(body["input"])
        coded = await asyncio.to_thread(mp3, sound)
        stream = await _event_stream(request)
        for start in range(0, len(coded), 4096):
            delta = base64.b64encode(coded[start : start + 4096]).decode()
            await stream.write(f"data: {json.dumps({'type': 'speech.audio.delta', 'audio': delta})}\n\n".encode())
            if request["how"] == "cut":
                return abort(request, stream)
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        await stream.write(f"data: {json.dumps({'type': 'speech.audio.done', 'usage': usage})}\n\n".encode())
        await stream.write_eof()
        return stream

    async def _openai_transcription(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        text = await asyncio.to_thread(text_of_wav, file.file.read())
        return web.json_response({"text": text})

    # Anthropic

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text, over = reply(body["messages"])
        stream = await _event_stream(request)

        async def event(kind: str, **fields: Any) -> None:
            await stream.write(f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode())

        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": body["model"],
            "stop_reason": None, "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        await event("message_start", message=message)
        if over and body.get("tools"):
            tool = {"type": "tool_use", "id": "toolu_1", "name": "hang_up", "input": {}}
            await event("content_block_start", index=0, content_block=tool)
            await event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": "{}"})
        else:
            await event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            for number, word in enumerate(text.split(" ")):
                await event("content_block_delta", index=0, delta={"type": "text_delta", "text": word + " "})
                if number and request["how"] == "cut":
                    return abort(request, stream)
        await event("content_block_stop", index=0)
        reason = {"stop_reason": "tool_use" if over else "end_turn", "stop_sequence": None}
        await event("message_delta", delta=reason, usage={"output_tokens": 1})
        await event("message_stop")
        await stream.write_eof()
        return stream

    # Deepgram

    async def _deepgram_listen(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        utterance: list[NDArray[np.int16]] = []
        quiet = 0.0
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                piece = np.frombuffer(message.data, dtype=np.int16)
                loud = piece.size and np.sqrt(np.mean(piece.astype(np.float32) ** 2)) > _LOUD
                if loud and not utterance:
                    await socket.send_json({"type": "SpeechStarted", "channel": [0], "timestamp": 0.0})
                if loud or utterance:
                    utterance.append(piece)
                quiet = 0.0 if loud else quiet + piece.size / STT_RATE
            asked = message.type == WSMsgType.TEXT and json.loads(message.data)["type"]
            if utterance and (quiet > _QUIET_SECONDS or asked in {"Finalize", "CloseStream"}):
                text = await asyncio.to_thread(speech.recogniser().hear, np.concatenate(utterance))
                utterance, quiet = [], 0.0
                await socket.send_json(_deepgram_result(text))
            if asked == "CloseStream":
                break
        await socket.close()
        return socket

    async def _deepgram_speak(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        text = ""
        async for message in socket:
            asked = json.loads(message.data)
            if asked["type"] == "Speak":
                text += asked["text"]
            elif asked["type"] == "Flush":
                for piece in pieces(await spoken(text)) if text.strip() else ():
                    await socket.send_bytes(piece)
                text = ""
                await socket.send_json({"type": "Flushed", "sequence_id": 0})
            elif asked["type"] == "Close":
                break
        await socket.close()
        return socket

    # Cartesia

    async def _cartesia(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            asked = json.loads(message.data)
            about = {"context_id": asked["context_id"], "status_code": 206, "done": False}
            if asked["transcript"].strip():
                sound = await spoken(asked["transcript"])
                for piece in pieces(sound):
                    await socket.send_json(about | {"type": "chunk", "data": base64.b64encode(piece).decode()})
            if not asked["continue"]:
                await socket.send_json(about | {"type": "done", "done": True, "status_code": 200})
        return socket

    async def _plain_speech(self, request: web.Request) -> web.StreamResponse:
        """Deepgram's and Cartesia's request for the whole sound of a text at once."""
        body = await request.json()
        sound = await spoken(body.get("text") or body["transcript"])
        return web.Response(body=sound.tobytes(), content_type="audio/pcm")


@contextlib.contextmanager
def hosted() -> Iterator[Hosted]:
    """Run the stand-ins."""
    with Hosted() as found:
        yield found


def reply(messages: list[dict[str, Any]]) -> tuple[str, bool]:
    """Return the model's answer to a conversation, and whether the answer is to hang up."""
    turns = [(message["role"], _text(message)) for message in messages if message["role"] in {"user", "assistant"}]
    turns = [(role, text) for role, text in turns if text]
    conversation = Conversation()
    heard = turns.pop()[1] if turns and turns[-1][0] == "user" else ""
    conversation.resume(("user" if role == "user" else "agent", text) for role, text in turns)
    return conversation.answer(heard), conversation.over


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content.strip()
    return " ".join(part["text"] for part in content if part.get("type") == "text").strip()


def _deepgram_result(text: str) -> dict[str, Any]:
    words = [
        {"word": word, "punctuated_word": word, "start": 0.0, "end": 0.1, "confidence": 1.0} for word in text.split()
    ]
    return {
        "type": "Results", "is_final": True, "speech_final": True, "start": 0.0, "duration": 1.0,
        "channel_index": [0, 1], "metadata": {"request_id": "1"},
        "channel": {"alternatives": [{"transcript": text, "confidence": 1.0, "words": words}]},
    }  # fmt: skip


async def _event_stream(request: web.Request) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-request-id": "1"})
    await stream.prepare(request)
    return stream


async def first_frames(stream: AsyncIterator[Any]) -> list[rtc.AudioFrame]:
    """Return the sound of a synthesis."""
    return [event.frame async for event in stream]
