"""An agent that the host must refuse to fork: its import starts a thread."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()


async def entrypoint(context: object) -> None:
    """Never reached."""
