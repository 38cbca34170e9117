"""The offline conversation as a language model of LiveKit Agents. Hosted voices may speak it."""

from typing import Any

from livekit.agents import APIConnectOptions, llm, utils
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS

from agent_runtime.offline.reply import Conversation


class RuleBasedLLM(llm.LLM[str]):
    """Answers by the rules of a `Conversation`, by default a new one, instead of a language model."""

    def __init__(self, conversation: Conversation | None = None) -> None:
        super().__init__()
        self.conversation = conversation or Conversation()

    def chat(
        self,
        *,
        chat_ctx: llm.ChatContext,
        tools: list[llm.Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        **_: Any,
    ) -> llm.LLMStream:
        """Return the answer to the last thing the user said."""
        return _Answer(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class _Answer(llm.LLMStream):
    async def _run(self) -> None:
        assert isinstance(self._llm, RuleBasedLLM)
        spoken = [message for message in self._chat_ctx.messages() if message.role == "user"]
        heard = (spoken[-1].text_content or "") if spoken else ""
        text = self._llm.conversation.answer(heard)
        delta = llm.ChoiceDelta(role="assistant", content=text)
        self._event_ch.send_nowait(llm.ChatChunk(id=utils.shortuuid(), delta=delta))
