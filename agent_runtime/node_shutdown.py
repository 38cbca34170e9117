"""Makes an agent leave when its node stops while Redis, which would have reported it, is unavailable.

A warm agent leaves at once. An agent in a call says goodbye at the given time, and leaves when its time is over; sooner
if its user has left, because nothing else can decide that now.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from agent_runtime.call import Call
from orchestrator.machine import shutdown_notice
from orchestrator.reasons import Reason, because

#: Seconds between two reads of the notice.
POLL_SECONDS = 0.5
#: Seconds after which a user who has left does not come back: reloading a page takes less.
GONE_SECONDS = 5.0


async def follow(
    run_dir: Path,
    call: Callable[[], Call | None],
    leave_warm: Callable[[Reason], None],
    say_goodbye: Callable[[float], None],
) -> None:
    """Follow the node's notices, until cancelled.

    Args:
        call: returns the agent's session, None while it has none.
        leave_warm: stops an agent that has no session.
        say_goodbye: is given the seconds that are left.
    """
    said_goodbye, left_at = False, None
    while True:
        notice, context, now = shutdown_notice.read(run_dir), call(), time.monotonic()
        if notice is None:
            said_goodbye, left_at = False, None
        elif context is None:
            leave_warm(because("node_stopping"))
        else:
            if now >= notice.goodbye_at and not said_goodbye:
                said_goodbye = True
                # guard: parting-word
                say_goodbye(max(0.0, notice.over_at - now))
            left_at = (left_at or now) if _user_left(context) else None
            if now >= notice.over_at or (left_at and now - left_at >= GONE_SECONDS):
                context.leave(because("node_stopping"))
        await asyncio.sleep(POLL_SECONDS)


def _user_left(context: Call) -> bool:
    """Return whether the user was there and has left. A user whose connection was lost may come back."""
    return context.user_seen.is_set() and not context.user_present.is_set() and not context.user_lost
