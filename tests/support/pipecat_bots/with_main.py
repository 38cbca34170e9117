"""A bot for LiveKit that asks for its room by itself and blocks, fails or ends when it is told to."""

import asyncio
import time

from offline_models import Voice
from pipecat.frames.frames import EndFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.livekit import configure
from pipecat.transports.livekit.transport import LiveKitParams, LiveKitTransport
from pipecat.workers.runner import WorkerRunner


async def main():
    (url, token, room_name) = await configure()
    transport = LiveKitTransport(url, token, room_name, LiveKitParams(audio_out_enabled=True))
    worker = PipelineWorker(Pipeline([transport.input(), Voice(), transport.output()]))
    told = asyncio.get_running_loop().create_future()

    @transport.event_handler("on_first_participant_joined")
    async def on_first_participant_joined(transport, participant_id):
        await worker.queue_frame(TTSSpeakFrame("Hello there."))

    @transport.event_handler("on_data_received")
    async def on_data_received(transport, data, participant_id):
        if b"block" in data:
            time.sleep(1000)
        told.set_result(data)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()
    if b"fail" in await told:
        raise ValueError("as it was told")


if __name__ == "__main__":
    asyncio.run(main())
