"""The two routes that the drain program calls, on a real socket; and whether that program is asleep yet."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def asleep(pid: int) -> bool:
    """Return whether a drain program is waiting for its signal; a signal that comes sooner may kill it."""
    return "sigtimedwait" in Path(f"/proc/{pid}/wchan").read_text()


class DrainApi:
    """Gives `answers` in turn and repeats the last: a number of sessions, or, from 400 on, the status of an error."""

    def __init__(self, *answers: int | str) -> None:
        self.answers = list(answers)
        #: (method, path, authorization) of every request.
        self.asked: list[tuple[str, str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                self._answer(handler)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append((handler.command, handler.path, handler.headers.get("Authorization", "")))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        error = isinstance(answer, int) and answer >= 400
        body = json.dumps({"success": not error, "node": "n1", "draining": True, "sessions": answer, "agents": 5})
        handler.send_response(int(answer) if error else 200)
        handler.end_headers()
        handler.wfile.write(body.encode())

    def close(self) -> None:
        """Refuse connections from now on."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __enter__(self) -> "DrainApi":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
