"""LiveKit's refusals: its own message without the token that it quotes, and what that message means.

Agents and the orchestrator share these rules; the module imports no library.
"""

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from orchestrator.machine.redaction import without_tokens

#: Characters of LiveKit's message that are passed on.
MAX_CHARACTERS = 300
#: Characters of it that are read at all.
_READ = 8000
#: Largest difference between two clocks that LiveKit tolerates.
TOLERATED_SECONDS = 60.0

#: LiveKit's SDK reports the status with which the server answered a join in these words.
_ANSWERED = re.compile(r"client error: (\d{3})\b[^-]*(?:- (.*))?$", re.DOTALL)
_MEANINGS = {
    "token is not valid yet": "this machine's clock is ahead of LiveKit's (clock skew): set both by NTP",
    "token is expired": "this machine's clock is behind LiveKit's (clock skew), or the token is old: set both by NTP",
    "signature is invalid": "LIVEKIT_API_SECRET is not the secret of this LIVEKIT_API_KEY",
    "invalid API key": "LiveKit does not know this LIVEKIT_API_KEY",
}


def readable(text: str) -> str:
    """Return LiveKit's message as one short line without a token."""
    # guard: livekit-token-in-words
    return " ".join(without_tokens(text[:_READ]).split())[:MAX_CHARACTERS]


def explained(text: str, ahead: float = 0.0) -> str:
    """Return LiveKit's message, with its meaning if known. `ahead`: seconds that our clock is ahead of LiveKit's."""
    meaning = describe_skew(ahead) or next((meaning for words, meaning in _MEANINGS.items() if words in text), "")
    return ": ".join(filter(None, (readable(text), meaning)))


def skew(date: str | None, now: float | None = None) -> float:
    """Return the seconds that our clock is ahead of the server that sent this Date header; 0 without a header."""
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return 0.0
    return (time.time() if now is None else now) - theirs


def describe_skew(seconds: float) -> str:
    """Describe the difference between our clock and LiveKit's; '' if LiveKit tolerates it."""
    if abs(seconds) <= TOLERATED_SECONDS:
        return ""
    side = "ahead of" if seconds > 0 else "behind"
    return f"this machine's clock is {abs(seconds):.0f} s {side} LiveKit's (clock skew): set both by NTP"


@dataclass(frozen=True, slots=True)
class Refusal:
    """LiveKit's answer to a join that it refused."""

    status: int
    words: str

    @classmethod
    def read(cls, failure: BaseException) -> "Refusal | None":
        """Return what LiveKit answered; None when it did not answer."""
        match = _ANSWERED.search(str(failure))
        return cls(int(match[1]), explained(match[2] or "")) if match else None

    @property
    def no_room(self) -> bool:
        """Whether the room must be created first: LiveKit does not do it (`room.auto_create: false`)."""
        return self.status == 404 and "room does not exist" in self.words

    @property
    def permanent(self) -> bool:
        """Whether another attempt, or another agent, would be refused too. An HTML page comes from a proxy and says
        nothing about LiveKit."""
        return self.status in {400, 401, 403} and not self.words.startswith("<")
