"""Gives a bot that takes over what was said before: its language model's context is as the dead one's was."""

import functools
import weakref
from collections.abc import Sequence
from typing import Any

from pipecat.frames.frames import LLMContextFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregator

#: After the conversation, so that a bot whose first words were a greeting does not greet again.
RESUME = (
    "The line was interrupted for a moment, and is back. The conversation so far is above. Do not greet again and do "
    "not introduce yourself again: say briefly that you are back, and go on where you were."
)
_ROLES = {"user": "user", "agent": "assistant"}


class Memory:
    """The conversation that a bot is given back. It is hooked in before the bot's file is imported."""

    def __init__(self) -> None:
        self.conversation: Sequence[dict[str, Any]] = ()
        #: Contexts of conversations, before their first use. A bot may have others, to sum up or to classify.
        self._waiting: weakref.WeakSet[LLMContext] = weakref.WeakSet()
        init_aggregator, init_frame = LLMContextAggregator.__init__, LLMContextFrame.__init__

        @functools.wraps(init_aggregator)
        def aggregator(made: Any, *args: Any, **named: Any) -> None:
            init_aggregator(made, *args, **named)
            self._waiting.add(made.context)

        @functools.wraps(init_frame)
        def frame(made: Any, *args: Any, **named: Any) -> None:
            init_frame(made, *args, **named)
            # What is said to be the user's turn, and may not be, is answered from a copy of the conversation's context.
            if made.context in self._waiting or (self._waiting and getattr(made, "speculation", False)):
                self._give_back(made.context)

        LLMContextAggregator.__init__ = aggregator
        LLMContextFrame.__init__ = frame

    def _give_back(self, context: LLMContext) -> None:
        """Put the conversation into a context that is about to be used for the first time.

        It comes after what the bot has put there by itself, its instructions and the request to greet, which the dead
        bot had too, and before what the user has said since.
        """
        self._waiting.discard(context)
        if self.conversation:
            messages = list(context.get_messages())
            at = next((at for at, one in enumerate(messages) if _is_said(one)), len(messages))
            context.set_messages([*messages[:at], *self._messages(), *messages[at:]])

    def _messages(self) -> list[dict[str, str]]:
        messages: list[dict[str, str]] = []
        for turn in self.conversation:
            role = _ROLES.get(str(turn["role"]), "user")
            if messages and messages[-1]["role"] == role:
                messages[-1]["content"] += f" {turn['text']}"
            else:
                messages.append({"role": role, "content": str(turn["text"])})
        return [*messages, {"role": "developer", "content": RESUME}]


def _is_said(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in {"user", "assistant"}
