"""The echo agent, which also stores the turns of conversation in its session's metadata and in messages."""

from livekit import rtc

from agent_runtime.context import AgentContext
from agents import echo


async def entrypoint(ctx: AgentContext) -> None:
    """Store the metadata's `turns` as the conversation, then echo. A message is a turn, or `leave`."""

    def on_message(packet: rtc.DataPacket) -> None:
        text = packet.data.decode()
        if text == "leave":
            ctx.leave("told to leave")
        else:
            ctx.remember("user", text)

    ctx.room.on("data_received", on_message)
    for text in ctx.metadata.get("turns", []):
        ctx.remember("user", text)
    await echo.entrypoint(ctx)
