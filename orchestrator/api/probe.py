"""Asks this node's api over HTTP whether it is well: `python -I orchestrator/api/probe.py /livez`.

For containers' health checks. Standard library alone, and no import of the package: it runs every few seconds for as
long as the node does.
"""

import http.client
import os
import sys

SECONDS = 2.5


def healthy(path: str, host: str, port: int) -> bool:
    """Return whether the api answers 200, and print the result."""
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        sys.stdout.write(f"{answer.status} {answer.read(300).decode(errors='replace')}\n")
        return answer.status == http.client.OK
    except (OSError, http.client.HTTPException) as failure:
        sys.stdout.write(f"http://{host}:{port}{path} does not answer: {failure}\n")
        return False
    finally:
        connection.close()


def main() -> None:
    """Ask for the path that is given, /livez by default. Exits with 1 when it is not well."""
    host = os.environ.get("HOST") or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    path = sys.argv[1] if len(sys.argv) > 1 else "/livez"
    sys.exit(0 if healthy(path, host, int(os.environ.get("PORT") or 8080)) else 1)


if __name__ == "__main__":
    main()
