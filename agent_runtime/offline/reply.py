"""A small conversation without a language model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

_NAME = re.compile(r"\b(?:my name is|i am called|call me)\s+([a-z]+)", re.IGNORECASE)
_REPEAT = re.compile(r"\b(?:repeat after me|please repeat|repeat|say)\b[\s,:.]*(.+)", re.IGNORECASE)
_NUMBERS = "no one two three four five six seven eight nine ten".split()


@dataclass(slots=True)
class Conversation:
    """One conversation. `answer` is called once per thing the user said."""

    name: str | None = None
    turns: int = 0
    last_answer: str = ""
    over: bool = field(default=False)  #: the user said goodbye: hang up after the answer

    def resume(self, turns: Iterable[tuple[str, str]]) -> None:
        """Take over a conversation: `turns` are (`user` or `agent`, what they said), oldest first."""
        for role, text in turns:
            if role == "user":
                self.turns += 1
                if match := _NAME.search(text):
                    self.name = match[1].capitalize()
            else:
                self.last_answer = text

    def apology(self) -> str:
        """Return the first words of an agent that takes over a call."""
        return f"Sorry{', ' + self.name if self.name else ''}, we were cut off for a moment. I am back. Please go on."

    def greeting(self) -> str:
        """Return the first words."""
        self.last_answer = f"Hello{' ' + self.name if self.name else ''}. How can I help you?"
        return self.last_answer

    def answer(self, heard: str, now: datetime | None = None) -> str:
        """Return what to say to `heard`."""
        self.turns += 1
        said = self._answer(heard.strip(), now or datetime.now().astimezone())
        if "again" not in heard.lower():
            self.last_answer = said
        return said

    def _answer(self, heard: str, now: datetime) -> str:  # noqa: PLR0911 - a table of rules in order
        words = re.sub(r"[^a-z' ]", " ", heard.lower())
        friend = f" {self.name}" if self.name else ""
        if match := _NAME.search(heard):
            self.name = match[1].capitalize()
            return f"Nice to meet you, {self.name}."
        if re.search(r"\bgood ?bye?\b|\bbye\b|\bhang up\b|\bthat's all\b", words.replace("-", " ")):
            self.over = True
            return f"Goodbye{friend}. It was nice talking to you."
        if re.search(r"\btime\b", words):
            return f"It is {spoken_time(now)}."
        if re.search(r"\bhow many\b|\bcount\b|\bturns?\b", words):
            return f"You have spoken to me {_spoken_count(self.turns)}."
        if re.search(r"\b(?:say|repeat) (?:that|it) again\b|^ *again\b|\bpardon\b", words):
            return self.last_answer or "I have not said anything yet."
        if match := _REPEAT.search(heard):
            return match[1].strip()
        if re.search(r"\bwho am i\b|\bmy name\b", words):
            return (
                f"You are{friend}." if self.name else "I do not know your name yet. Tell me, my name is, and then it."
            )
        if re.search(r"\bhello\b|\bhi\b|\bhey\b", words):
            return f"Hello{friend}. I am listening."
        if re.search(r"\bhelp\b|\bwhat can you do\b|\bwho are you\b", words):
            return (
                "I am a small offline agent. I can tell the time, repeat what you say, count your turns, "
                "and say goodbye."
            )
        return f"I heard: {heard.rstrip('.?!')}. I can tell the time, repeat after you, count, or say goodbye."


def spoken_time(now: datetime) -> str:
    """Return the time of day as it is said: `10 41 in the evening`."""
    hour = now.hour % 12 or 12
    minute = "o'clock" if now.minute == 0 else f"oh {now.minute}" if now.minute < 10 else str(now.minute)
    return f"{hour} {minute} in the {'morning' if now.hour < 12 else 'afternoon' if now.hour < 18 else 'evening'}"


def _spoken_count(count: int) -> str:
    if count == 1:
        return "once"
    return f"{_NUMBERS[count] if count < len(_NUMBERS) else count} times"
