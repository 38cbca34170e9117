"""An agent that repeats what it hears, sample by sample: for tests and for measuring without speech models."""

import asyncio
import contextlib

from livekit import rtc

from agent_runtime.context import AgentContext

RATE = 48_000


async def entrypoint(ctx: AgentContext) -> None:
    """Play the user's own microphone back to them."""
    source = rtc.AudioSource(RATE, 1)
    track = rtc.LocalAudioTrack.create_audio_track("echo", source)
    await ctx.set_state("initializing")
    await ctx.room.local_participant.publish_track(
        track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    )
    tracks: asyncio.Queue[rtc.Track] = asyncio.Queue()
    ctx.room.on("track_subscribed", lambda subscribed, *_: tracks.put_nowait(subscribed))
    user = await ctx.wait_for_user()
    for publication in user.track_publications.values():
        if publication.track is not None:
            tracks.put_nowait(publication.track)
    await ctx.set_state("listening")
    repeating: asyncio.Task[None] | None = None
    # Not a task alone: its failure would leave a silent agent in the call.
    async with asyncio.TaskGroup() as group:
        while True:
            heard = await tracks.get()
            if heard.kind != rtc.TrackKind.KIND_AUDIO:
                continue
            # After a lost connection the user has a new track, and the old one's stream does not end.
            if repeating:
                repeating.cancel()
            repeating = group.create_task(_repeat(ctx, heard, source))


async def _repeat(ctx: AgentContext, heard: rtc.Track, source: rtc.AudioSource) -> None:
    async with contextlib.aclosing(rtc.AudioStream(heard, sample_rate=RATE, num_channels=1)) as stream:
        async for event in stream:
            await source.capture_frame(event.frame)
            ctx.mark_audible()
