"""Parts from the user when the node stops and Redis is away, which would have said so.

A warm agent goes. One in a call says goodbye at its time, and goes when its time is over; sooner when its user has
left, for nobody else can decide that now.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from agents.context import AgentContext
from orchestrator.node import parting

#: Seconds between two looks.
LOOK_SECONDS = 0.5
#: Seconds after which a user who has left does not come back: reloading a page takes less.
GONE_SECONDS = 5.0
REASON = "the node is stopping"


async def follow(
    run_dir: Path,
    call: Callable[[], AgentContext | None],
    leave_warm: Callable[[str], None],
    say_goodbye: Callable[[float], None],
) -> None:
    """Do what the node's word asks for, as often as it is said. `call`: the agent's session, None while it has none.

    `leave_warm` leaves an agent in a call alone; `say_goodbye` is told how many seconds are left.
    """
    said, left_at = False, None
    while True:
        word, context, now = parting.heard(run_dir), call(), time.monotonic()
        if word is None:
            said, left_at = False, None
        elif context is None:
            leave_warm(REASON)
        else:
            if now >= word.goodbye_at and not said:
                said = True
                # guard: parting-word
                say_goodbye(max(0.0, word.over_at - now))
            left_at = (left_at or now) if _has_left(context) else None
            if now >= word.over_at or (left_at and now - left_at >= GONE_SECONDS):
                context.leave(REASON)
        await asyncio.sleep(LOOK_SECONDS)


def _has_left(context: AgentContext) -> bool:
    """Whether the user was there and has gone; one whose connection was lost may be on the way back."""
    return context.user_seen.is_set() and not context.user_present.is_set() and not context.user_lost
