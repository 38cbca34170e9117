"""A program of one's own that speaks the lines of docs/agent-protocol.md: what AGENT_COMMAND may start."""

import json
import sys


def say(kind: str, **fields: object) -> None:
    """Say one line."""
    sys.stdout.write(json.dumps({"type": kind, **fields}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    say("ready")
    for line in sys.stdin:
        match json.loads(line):
            case {"type": "ping", "n": n}:
                say("pong", n=n)
            case {"type": "assign", "userId": user}:
                sys.stderr.write(f"own agent serves {user}\n")
                say("joined")
            case {"type": "stop"}:
                sys.exit(0)
