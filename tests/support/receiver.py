"""A receiver of webhooks on its own port, which verifies each request by the Standard Webhooks specification."""

import base64
import hashlib
import hmac
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Received:
    """One request."""

    id: str
    timestamp: int
    body: dict[str, Any]
    verified: bool


class Receiver:
    """Answers each request with the next of `statuses`, and repeats the last."""

    def __init__(self, secret: str, *statuses: int, location: str = "") -> None:
        self.messages: list[Received] = []
        self._statuses = list(statuses) or [204]
        key = base64.b64decode(secret.removeprefix("whsec_"))
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                message_id, timestamp = self.headers["webhook-id"], self.headers["webhook-timestamp"]
                signed = b".".join([message_id.encode(), timestamp.encode(), content])
                ours = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
                verified = hmac.compare_digest(self.headers["webhook-signature"], f"v1,{ours}")
                receiver.messages.append(Received(message_id, int(timestamp), json.loads(content), verified))
                self.send_response(receiver._next())
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def of(self, kind: str) -> list[Received]:
        """Return the messages of one type."""
        return [message for message in self.messages if message.body["type"] == kind]

    def _next(self) -> int:
        return self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
