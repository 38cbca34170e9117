"""A program of one's own that speaks the lines of docs/agent-protocol.md: what AGENT_COMMAND may start."""

import json
import sys


def say(kind: str, **fields: object) -> None:
    """Say one line."""
    print(json.dumps({"type": kind, **fields}), flush=True)


if __name__ == "__main__":
    say("ready")
    for line in sys.stdin:
        match json.loads(line):
            case {"type": "ping", "n": n}:
                say("pong", n=n)
            case {"type": "assign", "userId": user}:
                print("own agent serves", user)
                say("joined")
            case {"type": "stop"}:
                sys.exit(0)
