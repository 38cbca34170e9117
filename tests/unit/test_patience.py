"""A client that sends a request again when the api asks for that."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from agent_runtime.patience import Patient


class Busy(http.server.BaseHTTPRequestHandler):
    """Refuses the first requests."""

    refusals = 0
    headers_of_refusals = {"Retry-After": "0"}  # noqa: RUF012 - a class of one test
    bodies: list[bytes] = []  # noqa: RUF012 - as above

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        refused = len(self.bodies) <= self.refusals
        self.send_response(503 if refused else 200)
        for name, value in self.headers_of_refusals.items() if refused else ():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[tuple[type[Busy], str]]:
    handler = type("Handler", (Busy,), {"bodies": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield handler, f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("refusals", "headers", "patience", "status", "sent"),
    [
        (0, {"Retry-After": "0"}, 30, 200, 1),
        (2, {"Retry-After": "0"}, 30, 200, 3),
        (2, {"Retry-After": "60"}, 30, 503, 1),
        (2, {}, 30, 503, 1),
        (2, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 30, 503, 1),
    ],
)
async def test_a_refused_request_is_sent_again_while_there_is_time(  # noqa: PLR0917 - fixtures and cases
    server: tuple[type[Busy], str], refusals: int, headers: dict[str, str], patience: float, status: int, sent: int
) -> None:
    handler, url = server
    handler.refusals, handler.headers_of_refusals = refusals, headers
    async with Patient(patience) as client:
        response = await client.post(url, content=b"body")
    assert response.status_code == status
    assert handler.bodies == [b"body"] * sent


async def test_the_proxy_of_the_environment_is_used(
    server: tuple[type[Busy], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, url = server
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with Patient(30) as client:
        response = await client.post("http://host.invalid/api", content=b"by the proxy")
    assert response.is_success
    assert handler.bodies == [b"by the proxy"]
