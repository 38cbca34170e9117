"""A caller: does what a person with a microphone does, and measures it. Behind `orchestrator call` and e2e tests."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from secrets import token_hex
from typing import Annotated, Any, Self, TypeVar

import httpx
import numpy as np
import typer
from livekit import rtc
from rich.table import Table

from agent_runtime.offline import speech
from agent_runtime.patience import Patient
from orchestrator.call.microphone import FRAME, LOUD, RATE, Microphone
from orchestrator.call.utterance import Utterance
from orchestrator.machine.loopback import is_loopback
from orchestrator.node.api_client import admin_token
from orchestrator.node.output import FAILED, UNREACHABLE, Json, console, print_error, print_json, styled
from orchestrator.settings import Settings

#: A pause this long ends an utterance; between two sentences of one answer it is shorter.
PAUSE_SECONDS = 0.9
T = TypeVar("T")


class CallError(Exception):
    """The call did not go as it should."""


class Call:
    """One call, from the start request to hanging up. Times are seconds."""

    def __init__(
        self, url: str, user_id: str, *, metadata: dict[str, Any] | None = None, patience: float = 30, key: str = ""
    ) -> None:
        self._user_id, self._metadata, self._patience = user_id, metadata or {}, patience
        self._shown = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = Patient(patience, base_url=url, headers=self._shown, timeout=10, trust_env=not is_loopback(url))
        self._room = rtc.Room()
        self._utterances: asyncio.Queue[Utterance] = asyncio.Queue()
        self._first_sound: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._agent: asyncio.Future[rtc.RemoteParticipant] = asyncio.get_running_loop().create_future()
        self._gone = asyncio.Event()
        self._sounds = asyncio.Event()
        self.last_sound = 0.0  #: monotonic time of the agent's last sound
        self._listeners: list[asyncio.Task[None]] = []
        self._streams: list[rtc.AudioStream] = []
        self._microphone: Microphone
        self.session: dict[str, Any] = {}
        self.timings: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._start()
            await self._join()
        except BaseException:
            await self.hang_up()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()

    @property
    def session_id(self) -> str:
        """The session's id."""
        return str(self.session["sessionId"])

    @property
    def secret(self) -> str:
        """The session's client secret: as `key` of a second call by the same user it finds the same session."""
        return str(self._http.headers["Authorization"]).removeprefix("Bearer ")

    async def look(self) -> dict[str, Any]:
        """Return the session as the api sees it."""
        return await self._ask("GET", f"/api/session/{self.session_id}")

    async def why(self) -> str:
        """Return the reason of the session's state, in more detail if the caller began it with the admin token."""
        response = await self._ask("GET", f"/api/session/{self.session_id}", headers=self._shown)
        return str(response.get("reason") or response["status"])

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        answer = await self._http.request(method, path, json=body, headers=headers)
        response: dict[str, Any] = answer.json()
        if not answer.is_success:
            with_id = answer.is_server_error and "requestId" in response
            raise CallError(
                response.get("detail", answer.text) + (f" (request {response['requestId']})" if with_id else "")
            )
        return response

    async def _start(self) -> None:
        begun = time.monotonic()
        body, once = {"userId": self._user_id, "metadata": self._metadata}, {"Idempotency-Key": token_hex(8)}
        self.session = await self._ask("POST", "/api/session/start", body, once)
        self.timings["start answer"] = time.monotonic() - begun
        # From here on it is a user's browser.
        self._http.headers["Authorization"] = f"Bearer {self.session.pop('clientSecret')}"
        while self.session["status"] in {"starting", "queued"}:
            if time.monotonic() - begun > self._patience:
                raise CallError(f"no agent within {self._patience:.0f} s")
            await asyncio.sleep(0.05)
            self.session |= await self.look()
        if self.session["status"] not in {"ready", "active"}:
            raise CallError(f"the session is {self.session['status']}: {await self.why()}")
        self.timings["agent ready"] = time.monotonic() - begun
        self._begun = begun

    async def _join(self) -> None:
        token = await self._ask("POST", "/api/token", {"sessionId": self.session_id})
        self._room.on("participant_connected", lambda *_: self._look_for_agent())
        self._room.on("participant_attributes_changed", lambda *_: self._look_for_agent())
        self._room.on("track_subscribed", lambda track, *_: self._subscribed(track))
        self._room.on("disconnected", lambda *_: self._gone.set())
        await self._room.connect(token["server_url"], token["participant_token"])
        self.timings["user in room"] = time.monotonic() - self._begun
        self._microphone = Microphone()
        track = rtc.LocalAudioTrack.create_audio_track("microphone", self._microphone.source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        await self._room.local_participant.publish_track(track, options)
        self._look_for_agent()
        async with self._bound("the agent did not join the room"):
            await asyncio.shield(self._agent)

    def _look_for_agent(self) -> None:
        for participant in self._room.remote_participants.values():
            is_agent = participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
            if is_agent and participant.attributes.get("lk.agent.state") and not self._agent.done():
                self.timings["agent in room"] = time.monotonic() - self._begun
                self._agent.set_result(participant)

    def _subscribed(self, track: rtc.Track) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            self._listeners.append(asyncio.create_task(self._listen(track)))

    async def _listen(self, track: rtc.Track) -> None:
        """Cut what the agent's track carries into utterances."""
        utterance: Utterance | None = None
        quiet = 0.0
        stream = rtc.AudioStream(track, sample_rate=speech.STT_RATE, num_channels=1)
        self._streams.append(stream)
        # Until it is closed it stays subscribed to the sound of every room of this process.
        async with contextlib.aclosing(stream):
            async for event in stream:
                samples = np.frombuffer(event.frame.data, dtype=np.int16)
                if np.sqrt(np.mean(samples.astype(np.float32) ** 2)) > LOUD:
                    self.last_sound = time.monotonic()
                    self._sounds.set()
                    if utterance is None:
                        utterance = Utterance(time.monotonic())
                        if not self._first_sound.done():
                            self._first_sound.set_result(utterance.started)
                    quiet = 0.0
                else:
                    quiet += len(samples) / speech.STT_RATE
                if utterance is not None:
                    utterance.frames.append(samples.copy())
                    if quiet > PAUSE_SECONDS:
                        self._utterances.put_nowait(utterance)
                        utterance = None
        if utterance is not None:  # cut off by the end of the call
            self._utterances.put_nowait(utterance)

    async def heard(self) -> Utterance:
        """Return the next thing the agent says, once it has said it. Raises `CallError`."""
        utterance = await self._next(self._utterances, self._end_sound)
        self.timings.setdefault("first agent audio", utterance.started - self._begun)
        return utterance

    async def _next(self, said: asyncio.Queue[T], last_words: Callable[[asyncio.Task[T]], Awaitable[object]]) -> T:
        """Return the next thing from a queue of what the agent says. Raises `CallError`.

        `last_words` waits for what is still on its way when the room has ended.
        """
        async with self._bound("the agent said nothing"):
            spoken, gone = asyncio.create_task(said.get()), asyncio.create_task(self._gone.wait())
            try:
                await asyncio.wait((spoken, gone), return_when=asyncio.FIRST_COMPLETED)
                if not spoken.done():
                    await last_words(spoken)
                if not spoken.done():
                    raise CallError("the call was ended")
                return spoken.result()
            finally:
                spoken.cancel()
                gone.cancel()

    async def _end_sound(self, spoken: asyncio.Task[Utterance]) -> None:
        """Wait for what was said last in a room that has ended: its sound may stop without a pause."""
        await asyncio.wait((spoken,), timeout=PAUSE_SECONDS)
        if not spoken.done():
            await asyncio.gather(*(stream.aclose() for stream in self._streams))
            await asyncio.wait((spoken, *self._listeners), timeout=PAUSE_SECONDS)

    async def say(self, text: str) -> float:
        """Speak a sentence; returns the monotonic time of its end."""
        return await self._microphone.say(await asyncio.to_thread(speech.voice().speak, text))

    def hum(self) -> None:
        """Make a steady sound from now on, so that silence of an agent that echoes it can be measured."""
        wave = 4000 * np.sin(2 * np.pi * np.arange(FRAME) * (round(300 * FRAME / RATE) / FRAME))
        self._microphone.background = wave.astype(np.int16)

    async def sound(self) -> float:
        """Wait for the agent's first sound; returns the seconds since the start. Raises `CallError`."""
        async with self._bound("the agent made no sound"):
            return await asyncio.shield(self._first_sound) - self._begun

    async def next_sound(self) -> float:
        """Wait for the next sound of whichever agent is there; returns its monotonic time. Raises `CallError`."""
        self._sounds.clear()
        async with self._bound("no agent made a sound"):
            await self._sounds.wait()
        return self.last_sound

    async def gone(self) -> None:
        """Wait until the room is closed: an agent that leaves may be replaced. Raises `CallError`."""
        async with self._bound("the room was not closed"):
            await self._gone.wait()

    @contextlib.asynccontextmanager
    async def _bound(self, trouble: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._patience):
                yield
        except TimeoutError:
            raise CallError(f"{trouble} within {self._patience:.0f} s ({self._circumstances()})") from None

    def _circumstances(self) -> str:
        """Return what a caller can see of a call that goes wrong."""
        connection = rtc.ConnectionState.Name(self._room.connection_state).removeprefix("CONN_").lower()
        others = len(self._room.remote_participants)
        heard = sum(not listener.done() for listener in self._listeners)
        facts = [f"the room is {connection}", f"others in it: {others}", f"tracks heard: {heard}"]
        if hasattr(self, "_microphone") and (failure := self._microphone.failure):
            facts.append(f"the microphone has failed: {failure!r}")
        return ", ".join(facts)

    async def leave(self) -> None:
        """Leave the room without stopping the session, as a closed browser tab does."""
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)
        if hasattr(self, "_microphone"):
            await self._microphone.close()
        await self._room.disconnect()

    async def hang_up(self) -> None:
        """Leave and stop the session. Safe to call twice."""
        await self.leave()
        if self.session.get("sessionId") and not self._http.is_closed:
            with contextlib.suppress(CallError, httpx.HTTPError):
                await self._ask("POST", "/api/session/stop", {"sessionId": self.session_id})
        await self._http.aclose()


async def _converse(url: str, user: str, sentences: list[str], key: str) -> dict[str, Any]:
    begun = time.monotonic()
    await asyncio.to_thread(speech.warm_up)
    loaded = time.monotonic() - begun
    turns: list[dict[str, Any]] = []
    trouble = None
    async with Call(url, user, key=key) as call:
        try:
            await _talk(call, sentences, turns)
        except CallError as failure:
            trouble = str(failure)
        after, why = await call.look(), await call.why()
    return {
        "success": trouble is None,
        **({} if trouble is None else {"error": f"{trouble} ({why})"}),
        "takeovers": after["takeovers"],
        "sessionId": call.session_id,
        "prewarmed": call.session["prewarmed"],
        "latency": call.session["latency"],
        "turns": turns,
        "timings": {name: round(seconds, 3) for name, seconds in call.timings.items()},
        "speechModelsLoaded": round(loaded, 3),
    }


async def _talk(call: Call, sentences: list[str], turns: list[dict[str, Any]]) -> None:
    greeting = await call.heard()
    turns.append({"agent": await asyncio.to_thread(greeting.text)})
    for sentence in sentences:
        ended = await call.say(sentence)
        turns.append({"user": sentence})
        reply = await call.heard()
        turns[-1] |= {
            "agent": await asyncio.to_thread(reply.text),
            "reply after end of speech": round(reply.started - ended, 3),
        }


def call(
    say: Annotated[list[str], typer.Option(help="What to say; may be given several times.")],
    user: Annotated[str | None, typer.Option(help="User id; default: a new one.")] = None,
    url: Annotated[str | None, typer.Option(help="The api; default: this node's.")] = None,
    json: Json = False,
) -> None:
    """Call an agent as a real user: speak, listen, and show what was said and how long it took."""
    try:
        settings = Settings.load()
        key = admin_token(settings) or next(iter(settings.keys), "")
        result = asyncio.run(_converse(url or settings.base_url, user or f"caller-{token_hex(3)}", say, key))
    except (CallError, rtc.ConnectError) as failure:
        print_error(str(failure))
        raise typer.Exit(FAILED) from None
    except httpx.HTTPError as failure:
        print_error(f"no api answers ({failure}). Is it up? Start it with: make up")
        raise typer.Exit(UNREACHABLE) from None
    if json:
        print_json(result)
    else:
        _show(result)
    if "error" in result:
        if not json:
            print_error(result["error"])
        raise typer.Exit(FAILED)


def _show(result: dict[str, Any]) -> None:
    for turn in result["turns"]:
        if "user" in turn:
            console.print(styled(("you", "cyan"), f"    {turn['user']}"))
        if "agent" in turn:
            console.print(styled(("agent", "green"), f"  {turn['agent']}"))
    kind = "a warm agent" if result["prewarmed"] else "a new agent: the pool was empty"
    taken_over = f", taken over {result['takeovers']} times" if result["takeovers"] else ""
    console.print()
    console.print(f"Served by {kind}{taken_over}; the api took {result['latency']}.")
    table = Table("since the start request", "seconds", box=None, padding=(0, 2, 0, 0))
    for name, seconds in result["timings"].items():
        table.add_row(name, f"{seconds:.3f}")
    for turn in result["turns"]:
        if (reply := turn.get("reply after end of speech")) is not None:
            table.add_row("reply after end of speech", f"{reply:.3f}")
    console.print(table)
