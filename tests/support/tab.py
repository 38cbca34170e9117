"""A caller in its own process, like a browser tab: `python -m tests.support.tab URL USER`.

It prints its session's id when it hears its agent, and then hums until it is killed.
"""

import asyncio
import sys

from orchestrator.call.caller import Call
from orchestrator.machine.ending import end_after


async def main(url: str, user: str) -> None:
    """Call."""
    async with Call(url, user, patience=60) as call:
        call.hum()
        await call.sound()
        print(call.session_id, flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    end_after(lambda: asyncio.run(main(*sys.argv[1:])))
