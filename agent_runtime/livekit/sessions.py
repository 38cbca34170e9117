"""Follows LiveKit's AgentSessions: keeps what is said, and gives it back to the agent that takes a call over."""

from typing import Any

from livekit import rtc
from livekit.agents import AgentSession, CloseReason

from agent_runtime.context import AgentContext
from agent_runtime.watched_tasks import describe
from orchestrator.reasons import because

_ROLES = {"user": "user", "assistant": "agent"}


def follow(context: AgentContext) -> None:
    """Follow every AgentSession that this process starts in the session's room."""
    start = AgentSession.start
    followed: set[int] = set()

    async def start_followed(self: "AgentSession[Any]", agent: Any, *positional: Any, **options: Any) -> Any:
        room = options.get("room")
        # A second session, such as that of a person to whom the call is transferred, is in a room of its own.
        if id(self) not in followed and (not isinstance(room, rtc.Room) or room is context.room):
            followed.add(id(self))
            await _give_back(context, agent)
            _keep(context, self)
        return await start(self, agent, *positional, **options)

    AgentSession.start = start_followed  # type: ignore[method-assign]


async def _give_back(context: AgentContext, agent: Any) -> None:
    """Add the conversation until now to the agent's context, after a takeover."""
    if not context.takeovers or not context.conversation:
        return
    history = agent.chat_ctx.copy()
    for turn in context.conversation:
        history.add_message(role="user" if turn.role == "user" else "assistant", content=turn.text, created_at=turn.at)
    await agent.update_chat_ctx(history)


def _keep(context: AgentContext, session: "AgentSession[Any]") -> None:
    @session.on("conversation_item_added")
    def keep(event: Any) -> None:
        item = event.item
        role = _ROLES.get(getattr(item, "role", ""))
        if role and (text := item.text_content):
            # What people say is private: the log contains only its length.
            context.log.info("%s spoke, %d characters", role, len(text))
            context.remember(role, text)  # type: ignore[arg-type]

    @session.on("agent_state_changed")
    def listen(event: Any) -> None:
        if event.new_state == "speaking":
            context.mark_audible()

    @session.on("close")
    def closed(event: Any) -> None:
        # Nothing will answer the user any more.
        # guard: livekit-session-failed
        if event.reason == CloseReason.ERROR:
            cause = getattr(event.error, "error", event.error)
            what = describe(cause) if isinstance(cause, BaseException) else "an error that it does not name"
            context.hand_over(because("agent_error", detail=f"LiveKit closed the AgentSession: {what}"))
