"""What LiveKit says when it refuses: in its own words, without the token that it repeats, and what they mean.

Standard library only: agents and the orchestrator read LiveKit's refusals by the same rule.
"""

import logging
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

#: Longest text of LiveKit's that is passed on, in characters.
LONGEST = 300
#: A clock that is this far from LiveKit's, in seconds: LiveKit tolerates a minute.
TOLERATED_SECONDS = 60.0

_TOKEN = re.compile(r"\beyJ[\w-]*\.[\w-]+(?:\.[\w-]*)?")
#: How LiveKit's SDK tells that the server answered the join with a status.
_ANSWERED = re.compile(r"client error: (\d{3})\b[^-]*(?:- (.*))?$", re.DOTALL)
_MEANINGS = {
    "token is not valid yet": "this machine's clock is ahead of LiveKit's (clock skew): set both by NTP",
    "token is expired": "this machine's clock is behind LiveKit's (clock skew), or the token is old: set both by NTP",
    "signature is invalid": "LIVEKIT_API_SECRET is not the secret of this LIVEKIT_API_KEY",
    "invalid API key": "LiveKit does not know this LIVEKIT_API_KEY",
}


def told(text: str) -> str:
    """Return LiveKit's words for people: no token, one line, not too long."""
    return " ".join(_TOKEN.sub("(token)", text).split())[:LONGEST]


def explained(text: str, ahead: float = 0.0) -> str:
    """Return LiveKit's words, with what they mean where that is known. `ahead`: seconds that our clock is ahead."""
    meaning = skewed(ahead) or next((meaning for words, meaning in _MEANINGS.items() if words in text), "")
    return ": ".join(filter(None, (told(text), meaning)))


def skew(date: str | None, now: float | None = None) -> float:
    """Return the seconds that our clock is ahead of the server that sent this Date header; 0 when it sent none."""
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return 0.0
    return (time.time() if now is None else now) - theirs


def skewed(seconds: float) -> str:
    """Say how far our clock is from LiveKit's; '' when that is tolerated."""
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
        found = _ANSWERED.search(str(failure))
        return cls(int(found[1]), explained(found[2] or "")) if found else None

    @property
    def no_room(self) -> bool:
        """Whether the room must be made first: LiveKit makes none by itself (`room.auto_create: false`)."""
        return self.status == 404 and "room does not exist" in self.words

    @property
    def permanent(self) -> bool:
        """Whether another try, or another agent, would be refused as well. A page of a proxy between says nothing."""
        return self.status in {400, 401, 403} and not self.words.startswith("<")


class WithoutTokens(logging.Filter):
    """Keeps tokens out of a log: LiveKit's SDK logs refusals as they come."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Take tokens out of a record."""
        if "eyJ" in (text := record.getMessage()):
            record.msg, record.args = _TOKEN.sub("(token)", text), None
        return True
