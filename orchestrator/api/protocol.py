"""uvicorn's HTTP protocol with bounds: on what one connection may send, on how long it may take, on how many there are.

uvicorn has no bounds for headers, for connections that send nothing, or for clients that read nothing; and its parser
copies a value that arrives in pieces with each piece.

A client that breaks a bound is answered (400, 408, 413, 414, 431, 503), unless an answer has begun, and disconnected.
"""

import asyncio
import json
from enum import Enum
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from orchestrator.api.addresses import counted
from orchestrator.api.connections import Connections

#: Largest header of a request, in bytes and in lines, and the longest URL in it.
HEADER_BYTES, HEADER_LINES, URL_BYTES = 32_768, 100, 4096
#: Largest body on the wire, with the frames of its chunks: twice the largest that a route accepts.
BODY_BYTES = 524_288
#: Seconds until a header is complete, from the connection or the end of the last request; and then until the body is.
HEADER_SECONDS, BODY_SECONDS = 10.0, 20.0
#: Seconds for which a client may read nothing of its answer.
READ_SECONDS = 30.0
#: Seconds for which a refused client's bytes are still read: if it is cut off while it sends, it reads no answer.
LINGER_SECONDS = 1.0
#: Requests that one connection may send ahead of their answers.
PIPELINED = 16
#: Bytes that the parser gets at a time; bounds are checked in between.
_SLICE = 16_384
_NEVER = float("inf")

_HEADER_TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"The header is larger than {HEADER_BYTES} bytes, or has more than {HEADER_LINES} lines.",
)
_URL_TOO_LONG = HTTPStatus.REQUEST_URI_TOO_LONG, f"The URL is longer than {URL_BYTES} bytes."
_BODY_TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body came in more than {BODY_BYTES} bytes."


class _Refused(Exception):
    """A client breaks a bound."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class _Expects(Enum):
    """What the parser waits for."""

    REQUEST = "request"
    HEADER = "header"
    BODY = "body"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Each server gets a subclass with its own `bounds`, see `bounded_by`."""

    bounds: Connections

    host = peer = ""
    _expects = _Expects.REQUEST
    _due = _NEVER  #: when the client is late
    _came = 0  #: bytes since then
    _header_bytes = 0
    _unanswered = 0  #: requests whose header is complete
    _ignoring = False  #: nothing is parsed any more
    _unread = 0  #: bytes that the client had not read at the last check
    _read_at = 0.0  #: when it last read some

    # Opening, closing, time

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it when there are too many."""
        super().connection_made(transport)
        self.host = self.client[0] if self.client else ""
        self.peer = counted(self.host).narrow
        self._due = self.loop.time() + HEADER_SECONDS
        if not self.bounds.admit(self):
            self._ignoring = True
            self._answer(_Refused(HTTPStatus.SERVICE_UNAVAILABLE, "There are too many connections; try again later."))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        self.bounds.remove(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close it at once, whatever is in progress."""
        self.transport.abort()

    def check(self, now: float) -> None:
        """Disconnect a client that is late, or that does not read its answer."""
        unread = self.transport.get_write_buffer_size()
        if not unread or not self._unread or unread < self._unread:
            self._read_at = now
        self._unread = unread
        if now - self._read_at > READ_SECONDS:
            self.bounds.refusals.log("slow reader", f"{self.peer} does not read its answer")
            self.abort()
        # guard: request-seconds
        elif now > self._due:
            self._due = _NEVER
            self._late()

    def _late(self) -> None:
        if self._ignoring or self._expects is _Expects.REQUEST:
            self.transport.close()
        else:
            what = self._expects.value
            self._refuse(_Refused(HTTPStatus.REQUEST_TIMEOUT, f"The request's {what} was not complete in time."))

    # Parsing

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, as far as the bounds allow."""
        self._unset_keepalive_if_required()
        for start in range(0, len(data), _SLICE):
            piece = data if len(data) <= _SLICE else data[start : start + _SLICE]
            self._came += len(piece)
            if self._ignoring:
                if self._came > BODY_BYTES:
                    self.abort()
                return
            self._parse(piece)

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
            self._count()
        except httptools.HttpParserUpgrade:
            self._ignoring = True  # no other protocol is spoken here; the request itself is answered
            self.cycle.keep_alive = False
        except _Refused as refused:
            self._refuse(refused)
        except httptools.HttpParserError as failure:
            cause = failure.__context__
            self._refuse(
                cause if isinstance(cause, _Refused) else _Refused(HTTPStatus.BAD_REQUEST, "This is not HTTP.")
            )

    def _count(self) -> None:
        if self._expects is _Expects.BODY:
            if self._came > BODY_BYTES:
                raise _Refused(*_BODY_TOO_LARGE)
        # guard: header-bytes
        elif self._came > HEADER_BYTES:
            raise _Refused(*_HEADER_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._expect(_Expects.HEADER, _NEVER if self._unanswered else self.loop.time() + HEADER_SECONDS)

    def on_url(self, url: bytes) -> None:
        """Add a part of the URL."""
        super().on_url(url)
        if len(self.url) > URL_BYTES:
            raise _Refused(*_URL_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a line of the header. A trailer behind the body is dropped: nothing has checked it."""
        if self._expects is _Expects.BODY:
            return
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > HEADER_BYTES or len(self.headers) >= HEADER_LINES:
            raise _Refused(*_HEADER_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to serve a request, or queue it behind earlier ones."""
        if self._unanswered > PIPELINED:
            raise _Refused(HTTPStatus.BAD_REQUEST, "Too many requests were sent ahead of their answers.")
        super().on_headers_complete()
        self._unanswered += 1
        self._expect(_Expects.BODY, self.loop.time() + BODY_SECONDS)

    def on_message_complete(self) -> None:
        """Note that a request is complete."""
        super().on_message_complete()
        self._expect(_Expects.REQUEST, _NEVER if self._unanswered else self.loop.time() + self.timeout_keep_alive)
        if self._unanswered:
            self.bounds.mark_served(self)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._unanswered -= 1
        if self._unanswered:
            return
        self.bounds.mark_waiting(self)
        if self._expects is not _Expects.BODY:
            between = self._expects is _Expects.REQUEST
            self._due = self.loop.time() + (self.timeout_keep_alive if between else HEADER_SECONDS)

    def _expect(self, what: _Expects, due: float) -> None:
        self._expects, self._due, self._came = what, due, 0
        if what is _Expects.HEADER:
            self._header_bytes = 0

    # Refusing

    def _refuse(self, refused: _Refused) -> None:
        self.bounds.refusals.log(refused.status.phrase.lower(), f"{self.peer}: {refused.detail}")
        self._ignoring, self._came = True, 0
        if self._unanswered > 1 or (self._unanswered and self.cycle.response_started):
            self.abort()  # a refusal would end up in the middle of another answer
            return
        if self._unanswered:  # its route sees a client that is gone
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._answer(refused)
        self._due = self.loop.time() + LINGER_SECONDS

    def _answer(self, refused: _Refused) -> None:
        problem = {
            "success": False, "type": "about:blank", "title": refused.status.phrase, "status": int(refused.status),
            "detail": refused.detail, "code": refused.status.phrase.lower().replace(" ", "_").replace("-", "_"),
        }  # fmt: skip
        content = json.dumps(problem).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        lines = [STATUS_LINE[refused.status], *(name + b": " + value + b"\r\n" for name, value in headers), b"\r\n"]
        self.transport.write(b"".join([*lines, content]))


def bounded_by(connections: Connections) -> type[BoundedProtocol]:
    """Return the protocol class of one server."""
    return type("ServedProtocol", (BoundedProtocol,), {"bounds": connections})
